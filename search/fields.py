"""The closed, immutable, strictly typed model of which specifications are made, and the types of their fields.

A file of its own, since families of baselines are built of it and a search's specification of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

from collegium.search.errors import Location

MAX_WIDTH = 1_000_000
MAX_LAYERS = 64


def _end_arrays_early(schema: Any) -> None:
    if isinstance(schema, list | tuple):
        for part in schema:
            _end_arrays_early(part)
    elif isinstance(schema, dict):
        if schema.get("type") in ("tuple", "list"):
            schema["fail_fast"] = True
        for key, part in schema.items():
            if key not in ("default", "metadata", "serialization"):
                _end_arrays_early(part)


class Strict(BaseModel):
    """A closed, immutable, strictly typed model.

    Validation of an array ends at its first wrong item: a long one would else become as many errors as it has items.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _end_arrays_early(schema)
        return schema


def wrong_fields(messages: Mapping[Location, str], *, missing: bool = False) -> ValidationError:
    """What a validator of a whole model raises where the model's fields do not go together: errors by field.

    A plain ``ValueError`` would be an error of the model, which for a specification is the whole document. Paths are
    relative to the model, in whatever it is nested; ``missing`` fields are those that it does not have.

    >>> error = wrong_fields({("stages", 1, "width"): "give 'widths' in its place"})
    >>> error.errors()[0]["loc"], error.errors()[0]["msg"]
    (('stages', 1, 'width'), "give 'widths' in its place")
    """
    kind = "missing" if missing else "value_error"
    details = [
        InitErrorDetails(type=PydanticCustomError(kind, "{reason}", {"reason": message}), loc=path, input=None)
        for path, message in messages.items()
    ]
    return ValidationError.from_exception_data("fields", details)


def each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Validator of a list in which a second mention has no meaning. Raises ``ValidationError`` at its index."""
    twice: dict[Location, str] = {
        (index,): f"{value!r} is there already" for index, value in enumerate(values) if value in values[:index]
    }
    if twice:
        raise wrong_fields(twice)
    return values


Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1, max_length=MAX_LAYERS, strict=False)]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
