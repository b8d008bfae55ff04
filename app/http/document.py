"""Strict JSON as a model: bounded before it is built, and each refusal names the place.

A byte of JSON may become a hundred of memory, and an item of an array a kilobyte of error. So the text is scanned
before anything is made of it: depth, lengths of arrays and objects (by the model's schema), repeated keys and halves
of surrogate pairs are found there, and what is left is parsed and validated whole.

JSON Schema calls ``1.0`` an integer and pydantic's strict mode does not. The documents published at
``/openapi.json`` are JSON Schema, so a number with an integral value counts as an integer here too. A text without
such a number, arrays of real numbers aside, is validated as it was written: that takes a third of the time.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from collegium.app.http.bounds import Bounds, bounds_of
from collegium.app.http.problems import Problem
from collegium.search.errors import ROOT, InvalidSpec, Location, readable
from collegium.search.parse import Model, counted_items, parse_spec, refusal

Fault = tuple[Location, str]

#: Deepest nesting of arrays and objects; specifications need nine.
MAX_DEPTH = 32
#: Most values below a place where no array or object belongs.
MAX_STRAY = 1000
_LARGEST_EXACT = 2**53
_UNKNOWN = "there is no such field"
_MISPLACED = "neither an array nor an object is expected here"

# An unterminated string matches too, to the end of the text: else each of its escaped quotes would be tried in turn.
# An array of scalars alone is one token, so that a matrix costs a step for each row; its strings have no comma, since
# commas count its items, and no escape.
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|\[(?:[^"\[\]{}]++|"[^"\\,]*+")*+\]|[\[\]{},:]', re.DOTALL)
#: Digits of which an integer may be too long; without any, the parser's own integers are those of ``_integer``.
_LONG_INTEGER = re.compile(r"(?<![.0-9])[0-9]{20}")
_FRACTION = re.compile(r"(?<![.0-9])[0-9]++(?:\.[0-9]++(?:[eE][-+]?[0-9]++)?+|[eE][-+]?[0-9]++)")
#: What may be minus zero, which as an integer has no sign.
_NEGATIVE_ZERO = re.compile(r"-(?:0(?:\.0*+)?+(?![0-9])|0\.0{300}|[0-9.]++[eE]-[0-9]{3})")
#: Most fractions outside of arrays of real numbers at which it is worth while to look for integral ones.
_MOST_FRACTIONS = 1000
#: Characters from which on an array is looked at by itself.
_LONG_ARRAY = 16
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_ESCAPED_PAIR = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")


def parse_model(raw: bytes, model: type[Model]) -> Model:
    """Strict JSON bytes as a ``model``. Raises 400 and 422 problems."""
    text = _decoded_body(raw)
    if _scanned(text, bounds_of(model)):
        try:
            return model.model_validate_json(text)
        except ValidationError as error:
            raise spec_problem(refusal(error, model, _parsed(text)).errors) from error
    try:
        return parse_spec(model, _parsed(text))
    except InvalidSpec as error:
        raise spec_problem(error.errors) from error


def parse_json(raw: bytes, bounds: Bounds | None = None) -> Any:
    """A JSON document within ``bounds``, without repeated keys or deep nesting. Raises 400 and 422 problems.

    NaN and Infinity are kept, so that the model can name the field that holds one.
    """
    text = _decoded_body(raw)
    _scanned(text, bounds)
    return _parsed(text)


def _decoded_body(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Problem("malformed-json", f"the body is not UTF-8: byte {error.start}") from error


def _scanned(text: str, bounds: Bounds | None) -> bool:
    """Whether the text means the same where integral numbers are not made integers. Raises a 422 problem."""
    scan = Scan(text, bounds)
    fault = scan.first_fault()
    if fault is not None and text.lstrip()[:1] in ("{", "["):  # or it is no JSON, which the parser says at once
        raise spec_problem([fault])
    return scan.is_plain


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_float=_number, parse_int=_integer if _LONG_INTEGER.search(text) else None)
    except json.JSONDecodeError as error:
        detail = f"{error.msg} at line {error.lineno}, column {error.colno}" if text.strip() else "it is empty"
        raise Problem("malformed-json", detail) from error


def spec_problem(errors: Sequence[Fault]) -> Problem:
    """The 422 problem of a specification with these wrong fields."""
    location, message = errors[0]
    more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
    return Problem("invalid-spec", f"{readable(location)}: {message}{more}", errors=errors)


def _number(literal: str) -> float | int:
    value = float(literal)
    return int(value) if value.is_integer() and abs(value) <= _LARGEST_EXACT else value


def _has_integral(text: str) -> bool:
    """Whether there may be a number of which ``_number`` makes an integer."""
    found = [match.group() for match in itertools.islice(_FRACTION.finditer(text), _MOST_FRACTIONS)]
    return len(found) == _MOST_FRACTIONS or any(isinstance(_number(literal), int) for literal in found)


def _integer(literal: str) -> float | int:
    """An integer too long to be a width is kept as a float: no quadratic conversion, and a model refuses it."""
    return int(literal) if len(literal) <= 20 else float(literal)


class _Open:
    """An array or object that the scan is inside of: ``key`` is the present index or name."""

    __slots__ = ("bounds", "is_array", "key", "names")

    def __init__(self, is_array: bool, bounds: Bounds | None) -> None:
        self.is_array = is_array
        self.bounds = bounds
        self.key: int | str | None = 0 if is_array else None
        self.names: dict[str, None] = {}


class Scan:
    """One pass over a JSON text, which stops at the first fault. Without ``bounds`` any length is allowed.

    The text need not be JSON: what is malformed is left to the parser.
    """

    def __init__(self, text: str, bounds: Bounds | None) -> None:
        self._text = text
        self._root = bounds
        self._open: list[_Open] = []
        self._string = ""
        self._stray = 0
        self._has_surrogates = _ESCAPED_SURROGATE.search(text) is not None
        self._read_until = 0
        self._has_integral = False

    def first_fault(self) -> Fault | None:
        """The place and the message of the first fault; None where there is none."""
        for match in _TOKEN.finditer(self._text):
            token = match.group()
            fault = None
            match token[0]:
                case '"':
                    self._string = token
                    fault = self._read_string(token) if self._has_surrogates else None
                case "[" if len(token) > 1:
                    fault = self._read_flat_array(token, match.start())
                case "[" | "{" as bracket:
                    fault = self._enter(bracket == "[")
                case "]" | "}":
                    if self._open:
                        self._open.pop()
                case ",":
                    fault = self._next()
                case _:
                    fault = self._name()
            if fault is not None:
                return fault
        self._read_numbers(len(self._text))
        return None

    @property
    def is_plain(self) -> bool:
        """Whether each number with an integral value is written as an integer or stands in an array of real numbers.

        To be asked when there was no fault.
        """
        return not (self._has_integral or _LONG_INTEGER.search(self._text) or _NEGATIVE_ZERO.search(self._text))

    def _read_numbers(self, until: int) -> None:
        """What comes before ``until``, and was not read yet, holds no array of real numbers."""
        self._has_integral = self._has_integral or _has_integral(self._text[self._read_until : until])

    def _enter(self, is_array: bool) -> Fault | None:
        bounds = self._place()
        if bounds is not None and (bounds.items if is_array else bounds.members) is None:
            bounds = None
        self._open.append(_Open(is_array, bounds))
        if len(self._open) > MAX_DEPTH:
            keys = [ROOT if opened.key is None else opened.key for opened in self._open]
            return tuple(keys[: _readable_prefix(keys)]), f"nested deeper than {MAX_DEPTH} levels"
        return self._count_stray(1)

    def _read_flat_array(self, token: str, start: int) -> Fault | None:
        fault = self._enter(is_array=True)
        last = token.count(",")
        if len(token) > _LONG_ARRAY and self._reads_as_written(token):
            self._read_numbers(start)
            self._read_until = start + len(token)
        if fault is None and last:
            self._open[-1].key = last - 1
            fault = self._next(last)
        self._open.pop()
        return fault

    def _reads_as_written(self, token: str) -> bool:
        """Whether the array that is open has real numbers, or none with a fraction or an exponent."""
        bounds = self._open[-1].bounds
        if bounds is not None and bounds.holds_reals:
            return True
        return not any(letter in token for letter in ".eE")

    def _next(self, count: int = 1) -> Fault | None:
        """After a comma, or after the last of ``count``."""
        if not self._open:
            return None
        inner = self._open[-1]
        if not inner.is_array:
            inner.key = None
            return self._count_stray(count)
        assert isinstance(inner.key, int)
        inner.key += 1
        if inner.bounds is not None and inner.bounds.items is not None and inner.key >= inner.bounds.items:
            return self._path()[:-1], f"at most {counted_items(inner.bounds.items)} expected here"
        return self._count_stray(count)

    def _name(self) -> Fault | None:
        """After a colon: the string before it is a member's name."""
        if not self._open or self._open[-1].is_array:
            return None
        inner = self._open[-1]
        inner.key = _decoded(self._string)
        if inner.key in inner.names:
            return self._path(), "the key occurs more than once"
        inner.names[inner.key] = None
        if inner.bounds is None or inner.bounds.members is None or len(inner.names) <= inner.bounds.members:
            return None
        unknown = [name for name in inner.names if inner.bounds.member(name) is None]
        if unknown:
            return (*self._path()[:-1], unknown[0]), _UNKNOWN
        return self._path()[:-1], f"at most {inner.bounds.members} members are expected here"

    def _read_string(self, token: str) -> Fault | None:
        """A string that is no text: JSON can write half of a surrogate pair."""
        if not _ESCAPED_SURROGATE.search(_ESCAPED_PAIR.sub("", token)):
            return None
        if any("\ud800" <= letter <= "\udfff" for letter in _decoded(token)):
            return self._path(), "half of a surrogate pair is no character"
        return None

    def _place(self) -> Bounds | None:
        """The bounds of the value that comes next."""
        if not self._open:
            return self._root
        inner = self._open[-1]
        if inner.bounds is None:
            return None
        return inner.bounds.item if inner.is_array else inner.bounds.member(str(inner.key))

    def _count_stray(self, count: int) -> Fault | None:
        """Values below a place where the schema has neither an array nor an object."""
        if self._root is None or self._open[-1].bounds is not None:
            return None
        self._stray += count
        if self._stray <= MAX_STRAY:
            return None
        depth = next(index for index, opened in enumerate(self._open) if opened.bounds is None)
        return self._path()[:depth], _UNKNOWN if depth and self._is_unknown(self._open[depth - 1]) else _MISPLACED

    def _is_unknown(self, outer: _Open) -> bool:
        return outer.bounds is not None and not outer.is_array and outer.bounds.member(str(outer.key)) is None

    def _path(self) -> Location:
        return tuple(opened.key for opened in self._open if opened.key is not None)


def _decoded(token: str) -> str:
    """The text of a string's token, as far as it is one."""
    if "\\" in token:
        try:
            return json.loads(token)
        except json.JSONDecodeError:
            pass
    return token[1:-1]


def _readable_prefix(keys: list[str | int]) -> int:
    """Steps up to the first array directly inside an array; there the nesting has begun to run away."""
    for depth, (outer, inner) in enumerate(itertools.pairwise(keys)):
        if isinstance(outer, int) and isinstance(inner, int):
            return depth
    return 4
