"""From a document, as JSON or Python has it, to a specification."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from collegium.search.errors import InvalidSpec, Location, without_tags
from collegium.search.unknown import unknown_field

Model = TypeVar("Model", bound=BaseModel)
#: Wrong places whose message lists the fields that are there; of further ones it says that they are none.
MOST_LISTED = 8
#: Levels of a document in which a value without a form in JSON is looked for.
MOST_DEEP = 64


def parse_spec(model: type[Model], document: Any) -> Model:
    """``document`` as a ``model``. Raises ``InvalidSpec``, which lists every field that is wrong.

    Specifications are strict, and strictness depends on the form: an array of JSON is a tuple of the model, while a
    Python list is not. So whatever comes from outside takes the way through JSON, and means the same everywhere.
    """
    try:
        text = json.dumps(document, default=_plain)
    except (TypeError, ValueError) as error:
        raise InvalidSpec(*_without_form(document, ()) or ((), str(error))) from error
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise refusal(error, model, document) from error


def refusal(error: ValidationError, model: type[BaseModel], document: Any) -> InvalidSpec:
    """What ``parse_spec`` raises for the ``document`` in which pydantic found this error."""
    first, *others = _field_errors(error, model, document)
    return InvalidSpec(*first, others)


def _field_errors(error: ValidationError, model: type[BaseModel], document: Any) -> list[tuple[Location, str]]:
    """One entry for each wrong place in ``document``; the branches of a union that all failed there are joined."""
    found: dict[Location, dict[str, None]] = {}
    short: set[Location] = set()
    listed = 0
    for item in error.errors(include_url=False, include_input=False):
        location = without_tags(item["loc"], document, missing=item["type"] == "missing")
        message = _message(item)
        if item["type"] == "extra_forbidden":
            message = unknown_field(model, item["loc"]) if listed < MOST_LISTED else "there is no such field"
            listed += 1
        found.setdefault(location, {})[message] = None
        if item["type"] == "too_short":
            short.add(location)
    # Wrong items are not counted, so that an array of them is called too short as well.
    for location in short:
        if any(len(other) > len(location) and other[: len(location)] == location for other in found):
            del found[location]
    return [(location, ", or ".join(messages)) for location, messages in found.items()]


def _message(item: ErrorDetails) -> str:
    if item["type"] in ("too_short", "too_long"):
        context = item.get("ctx", {})
        at_least = item["type"] == "too_short"
        count = context["min_length" if at_least else "max_length"]
        return f"{'at least' if at_least else 'at most'} {counted_items(count)} expected here"
    return item["msg"].removeprefix("Value error, ")


def counted_items(count: int) -> str:
    """``count`` and the words that follow it, as in ``at most 3 items are expected here``."""
    return "1 item is" if count == 1 else f"{count} items are"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if type(value).__module__ == "numpy":  # its numbers and arrays
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _without_form(value: Any, place: Location) -> tuple[Location, str] | None:
    """The place of the first value that JSON does not have, and what is wrong with it; None where there is none."""
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, list | tuple):
        inner = enumerate(value)
    for key, each in inner:
        if len(place) < MOST_DEEP and (found := _without_form(each, (*place, key))) is not None:
            return found
    if inner:
        return None
    try:
        json.dumps(value, default=_plain)
    except (TypeError, ValueError) as error:
        return place, str(error)
    return None
