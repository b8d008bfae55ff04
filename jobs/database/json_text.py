"""JSON as it is stored: text that keeps the order of keys, without NaN and Infinity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from collegium.jobs.errors import NotStorable


@dataclass(frozen=True)
class Encoded:
    """A JSON object in both of its texts: ``text`` as it is stored, ``canonical`` as ``digest`` reads it."""

    text: str
    canonical: str


def encode_once(value: Mapping[str, Any]) -> Encoded:
    """Both texts of an object, for which a long array of numbers is encoded once. Raises NotStorable.

    >>> encode_once({"b": 1, "a": ["é"]})
    Encoded(text='{"b":1,"a":["é"]}', canonical='{"a":["\\\\u00e9"],"b":1}')
    """
    wrong = [key for key in value if not isinstance(key, str)]
    if wrong:
        raise NotStorable(f"not storable as JSON: the key {wrong[0]!r} is no text")
    try:
        members = {key: _encode_once(member) for key, member in value.items()}
    except RecursionError as error:
        raise NotStorable(f"not storable as JSON: {error}") from error
    return Encoded(
        encode_object({key: member.text for key, member in members.items()}),
        _canonical_object({key: member.canonical for key, member in members.items()}),
    )


def _encode_once(value: Any) -> Encoded:
    if isinstance(value, dict):
        return encode_once(value)
    text = encode(value)
    # Without a quote there is neither a key to sort nor a character to escape.
    return Encoded(text, _canonical(value) if '"' in text else text)


def encode(value: Any) -> str:
    """Compact text. Done before a transaction begins, as a large result takes its time. Raises NotStorable."""
    if isinstance(value, Encoded):
        return value.text
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise NotStorable(f"not storable as JSON: {error}") from error


def encode_object(members: Mapping[str, str]) -> str:
    """The text that ``encode`` has for an object, from those of its members.

    >>> encode_object({"a": encode([1, 2]), "b": encode(None)})
    '{"a":[1,2],"b":null}'
    """
    return "{" + ",".join(f"{encode(name)}:{text}" for name, text in members.items()) + "}"


def decode(text: str) -> Any:
    """What ``encode`` was given."""
    return json.loads(text)


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys, in hex. Raises NotStorable.

    An item of an array and a member of an object may be ``Encoded``.

    >>> digest({"b": encode_once({"d": 2, "c": 1}), "a": 0}) == digest({"a": 0, "b": {"c": 1, "d": 2}})
    True
    """
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def _canonical_object(members: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{members[name]}" for name in sorted(members)) + "}"


def _canonical(value: Any) -> str:
    if isinstance(value, Encoded):
        return value.canonical
    if isinstance(value, list) and any(isinstance(item, Encoded) for item in value):
        return "[" + ",".join(map(_canonical, value)) + "]"
    if isinstance(value, dict) and any(isinstance(member, Encoded) for member in value.values()):
        return _canonical_object({name: _canonical(member) for name, member in value.items()})
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"), sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise NotStorable(f"not storable as JSON: {error}") from error
