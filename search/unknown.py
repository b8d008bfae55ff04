"""What stands where a specification has a field that its model has not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

#: Names that are listed; of more, the nearest alone is named.
MOST_NAMES = 24


def unknown_field(model: type[BaseModel], location: Sequence[str | int]) -> str:
    """What to say of the field at ``location``, a validator's, which ``model`` has not there: the names that it has.

    >>> from collegium.search.spec import SearchSpec
    >>> unknown_field(SearchSpec, ("budgets",)).partition(";")[0]
    "there is no such field, did you mean 'budget'?"
    """
    names = list(dict.fromkeys(name for each in _models_at(model, location[:-1]) for name in each.model_fields))
    near = get_close_matches(str(location[-1])[:64], names, n=1)
    said = f"there is no such field, did you mean '{near[0]}'?" if near else "there is no such field"
    if not 0 < len(names) <= MOST_NAMES:
        return said
    return f"{said}{'' if near else ' here'}; the fields are {', '.join(names)}"


def _models_at(model: type[BaseModel], location: Sequence[str | int]) -> list[type[BaseModel]]:
    """The models that may stand at a location; its steps are fields, indices, keys, and tags of unions."""
    models = [model]
    for step in location:
        fields = [each.model_fields[str(step)] for each in models if step in each.model_fields]
        if fields:
            models = [found for each in fields for found in _models_in(each.annotation)]
        else:
            models = [each for each in models if _is_tagged(each, step)] or models
    return models


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model that an annotation names, through unions, tuples and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _is_tagged(model: type[BaseModel], step: str | int) -> bool:
    """Whether a step of a location stands for this member of a union: its class, or a literal of its fields."""
    return step == model.__name__ or any(step in _literals(each) for each in model.model_fields.values())


def _literals(field: FieldInfo) -> tuple[Any, ...]:
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
