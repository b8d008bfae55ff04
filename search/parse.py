"""From a document, as JSON or Python has it, to a specification."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from collegium.search.errors import InvalidSpec
from collegium.search.locations import without_tags

Model = TypeVar("Model", bound=BaseModel)


def parse_spec(model: type[Model], document: Mapping[str, Any]) -> Model:
    """``document`` as a ``model``. Raises ``InvalidSpec`` with the path of the first field that is wrong.

    Specifications are strict, and strictness depends on the form: an array of JSON is a tuple of the model, while a
    Python list is not. So whatever comes from outside takes the way through JSON, and means the same everywhere.
    """
    text = json.dumps(document, default=_plain)
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        location = without_tags(first["loc"], json.loads(text), missing=first["type"] == "missing")
        raise InvalidSpec(location, first["msg"].removeprefix("Value error, ")) from error


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
