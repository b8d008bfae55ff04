"""Names of extensions in specifications. Nothing here loads torch."""

from __future__ import annotations

from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from collegium.registry import BrokenExtension, Registry, UnknownExtension


class NameIn:
    """Annotation of a string that is the name of a usable extension: ``Annotated[str, NameIn(METHODS)]``.

    Another name is refused with the names that there are, or with the reason why that extension cannot be used.
    """

    def __init__(self, registry: Registry[Any]) -> None:
        self._registry = registry

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._usable, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "enum": [name for name, _ in self._registry.usable()]}

    def _usable(self, name: str) -> str:
        try:
            self._registry[name]
        except (UnknownExtension, BrokenExtension) as error:
            raise ValueError(str(error)) from None
        return name
