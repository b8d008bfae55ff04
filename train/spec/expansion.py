"""``expansion``: the options of a training's method, read by the method's own model.

A training gives the options of its method; a study may give options for all its methods at once, of which each takes
those that it has. Either may be the bare number of copies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import GetJsonSchemaHandler, SerializeAsAny
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError

from collegium.search.fields import wrong_fields
from collegium.train.methods import METHODS
from collegium.train.methods.method import MethodOptions
from collegium.train.spec.extension import NameIn

#: What earlier specifications stored for every method, whether it has these options or not.
_FORMER_DEFAULTS = {"copies": 3, "correct_scale": False, "patterns": [], "soup": "greedy"}


MethodName = Annotated[str, NameIn(METHODS)]


class _OptionsSchema:
    """The options of any one method, or the bare number of copies, as a JSON schema."""

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        models = dict.fromkeys(method.Options for _, method in METHODS.usable())
        return {"anyOf": [_COUNT, *(handler(options.__pydantic_core_schema__) for options in models)]}


class _SharedSchema:
    """Options of all methods together, or the bare number of copies, as a JSON schema."""

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        properties: dict[str, list[JsonSchemaValue]] = {}
        for _, method in METHODS.usable():
            for name, schema in method.Options.model_json_schema().get("properties", {}).items():
                kinds = properties.setdefault(name, [])
                kinds += [schema] if schema not in kinds else []
        together = {name: kinds[0] if len(kinds) == 1 else {"anyOf": kinds} for name, kinds in properties.items()}
        return {"anyOf": [_COUNT, {"type": "object", "properties": together, "additionalProperties": False}]}


_COUNT = {"type": "integer", "minimum": 1, "maximum": 64}
Options = Annotated[SerializeAsAny[MethodOptions], _OptionsSchema()]
SharedOptions = Annotated[dict[str, Any], _SharedSchema()]


def read_options(method: str, value: Any) -> MethodOptions:
    """``value`` as the options of ``method``: an object, or the bare number of copies.

    Raises ``ValidationError`` naming the option that is wrong, or that the method does not have.
    """
    model = METHODS[method].Options
    if isinstance(value, MethodOptions):
        value = value.model_dump(exclude_unset=True)
    given = as_object(value)
    if given.keys() >= _FORMER_DEFAULTS.keys():
        given = {name: v for name, v in given.items() if name in model.model_fields or v != _FORMER_DEFAULTS.get(name)}
    foreign = [name for name in given if name not in model.model_fields]
    if foreign:
        raise wrong_fields({(name,): _foreign(method, name) for name in foreign})
    return model.model_validate(given)


def take_options(method: str, shared: Mapping[str, Any]) -> MethodOptions:
    """Of the options of all methods, those that ``method`` has. Raises ``ValidationError``."""
    fields = METHODS[method].Options.model_fields
    return read_options(method, {name: value for name, value in shared.items() if name in fields})


def check_shared_options(value: Any, methods: Iterable[str] | None) -> dict[str, Any]:
    """Options for ``methods`` together; None where these are wrong themselves.

    Raises ``ValidationError`` for an option that is wrong, or that none of the methods has.
    """
    given = as_object(value)
    owners = {name: [n for n, method in METHODS.usable() if name in method.Options.model_fields] for name in given}
    unknown = [name for name, found in owners.items() if not found]
    if unknown:
        raise wrong_fields({(name,): "no method has this option: leave it out" for name in unknown})
    if methods is None:
        return given
    used = set(methods)
    for method in used:
        take_options(method, given)
    unused = {name: found for name, found in owners.items() if not used & set(found)}
    if unused:
        message = "no method of this study takes it, which {} would without an expansion of its own: leave it out"
        raise wrong_fields({(name,): message.format(" or ".join(found)) for name, found in unused.items()})
    return given


def as_object(value: Any) -> dict[str, Any]:
    """The bare number of copies as an object; an object as it is. Raises ``PydanticCustomError`` for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"copies": value}
    if not isinstance(value, Mapping):
        raise PydanticCustomError("options_type", "give an object of options, or the number of copies")
    return dict(value)


def _foreign(method: str, option: str) -> str:
    having = [name for name, other in METHODS.usable() if option in other.Options.model_fields]
    only = f"only {', '.join(having)}" if having else "nor has any other"
    return f"{method} has no such option, {only}: leave it out"
