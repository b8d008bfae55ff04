"""The most that each place of a document can hold, read from the JSON schema of its model.

A validator looks at every item before it reports the first, so what is too long has to be refused before it is
validated. :mod:`collegium.app.http.document` does so while it reads a document, by these bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from typing import Any

from pydantic import BaseModel

Schema = Mapping[str, Any]
#: Items or members of an array or object whose schema has no maximum of its own.
DEFAULT_MAXIMUM = 4096
_ALTERNATIVES = ("anyOf", "oneOf", "allOf")
#: Types beside which a number is a real one.
_REALS = ("number", "array")


class Bounds:
    """The bounds of one place: those of the most permissive of the schemas that may stand there.

    >>> bounds = Bounds([{"type": "array", "maxItems": 3, "items": {"type": "object", "properties": {"out": {}}}}])
    >>> bounds.items
    3
    >>> bounds.item.names
    frozenset({'out'})
    >>> bounds.member("out") is None
    True
    """

    def __init__(self, schemas: list[Schema], definitions: Mapping[str, Schema] | None = None) -> None:
        self._definitions = definitions or {}
        self._schemas = list(self._flattened(schemas, ()))
        self._members: dict[str, Bounds | None] = {}

    @cached_property
    def items(self) -> int | None:
        """Most items of an array; None where none may stand."""
        return _largest(schema.get("maxItems", DEFAULT_MAXIMUM) for schema in self._schemas if _is(schema, "array"))

    @cached_property
    def item(self) -> Bounds:
        """The bounds of an array's items."""
        found = [schema["items"] for schema in self._schemas if isinstance(schema.get("items"), Mapping)]
        found += [item for schema in self._schemas for item in schema.get("prefixItems", ())]
        return self._below(found)

    @cached_property
    def holds_reals(self) -> bool:
        """Whether it is certain that a number among an array's items is a real number, so that 1 and 1.0 are one.

        >>> Bounds([{"type": "array", "items": {"type": "number"}}]).holds_reals
        True
        >>> Bounds([{"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "number"}]}}]).holds_reals
        False
        """
        found = [
            schema for schema in self.item._schemas if not any(word in schema for word in ("$ref", *_ALTERNATIVES))
        ]
        return bool(found) and all(schema.get("type") in _REALS for schema in found)

    @cached_property
    def names(self) -> frozenset[str]:
        """The names that members of an object may have, where it is not a map."""
        return frozenset(name for schema in self._objects for name in schema.get("properties", ()))

    @cached_property
    def members(self) -> int | None:
        """Most members of an object; None where none may stand."""
        return _largest(
            schema.get("maxProperties", DEFAULT_MAXIMUM) if _is_map(schema) else len(self.names)
            for schema in self._objects
        )

    def member(self, name: str) -> Bounds | None:
        """The bounds of an object's member; None where no schema has a member of this name."""
        if name in self.names:
            if name not in self._members:
                found = [schema["properties"][name] for schema in self._objects if name in schema.get("properties", ())]
                self._members[name] = self._below(found)
            return self._members[name]
        return self._other

    @cached_property
    def _other(self) -> Bounds | None:
        maps = [schema for schema in self._objects if _is_map(schema)]
        values = [value for schema in maps for value in _values(schema)]
        return self._below(values) if maps else None

    @cached_property
    def _objects(self) -> list[Schema]:
        return [schema for schema in self._schemas if _is(schema, "object")]

    def _below(self, schemas: list[Schema]) -> Bounds:
        return Bounds(schemas, self._definitions)

    def _flattened(self, schemas: list[Schema], seen: tuple[str, ...]) -> Iterator[Schema]:
        """The schemas themselves, in place of references and alternatives."""
        for schema in schemas:
            name = str(schema.get("$ref", "")).rpartition("/")[2]
            if name and name not in seen:
                yield from self._flattened([self._definitions[name]], (*seen, name))
            for keyword in _ALTERNATIVES:
                yield from self._flattened(schema.get(keyword, []), seen)
            yield schema


@cache
def bounds_of(model: type[BaseModel]) -> Bounds:
    """The bounds of a document that is to become a ``model``."""
    schema = model.model_json_schema()
    return Bounds([schema], schema.get("$defs", {}))


def _is(schema: Schema, kind: str) -> bool:
    return schema.get("type") == kind


def _is_map(schema: Schema) -> bool:
    return bool(schema.get("additionalProperties", "properties" not in schema)) or "patternProperties" in schema


def _values(schema: Schema) -> Iterator[Schema]:
    extra = schema.get("additionalProperties")
    yield extra if isinstance(extra, Mapping) else {}
    yield from schema.get("patternProperties", {}).values()


def _largest(maxima: Iterator[int]) -> int | None:
    return max(maxima, default=None)
