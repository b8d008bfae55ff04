"""For schemathesis: of the bodies that its coverage phase makes for the large specifications, those that are distinct.

A specification contains others, as a study contains a training, and most of its places are an object of one schema
that stands at several. What is wrong (or at its limit) in such an object is tried where the object stands first. Of
the kinds of value that are wrong at a place, every other one is tried, and the others at the next place.
"""

from __future__ import annotations

import itertools
from typing import Any

import schemathesis

LARGE = {"/v1/searches", "/v1/trainings", "/v1/studies"}

#: What is tried, the operation and the place that try it, and a count that begins at 0 and 1 in turn.
_tried: dict[tuple[str, ...], tuple[str, str, itertools.count[int]]] = {}


def place(document: dict[str, Any], model: str, location: str) -> tuple[str, str]:
    """The schema by name that a JSON pointer of a specification leads through last, and the rest of the pointer."""
    schemas, rest = document["components"]["schemas"], list[str]()
    node: Any = schemas[model]
    for word in location.replace("/allOf/0", "").split("/")[1:]:  # an ``allOf`` of one is schemathesis's own
        rest.append(word)
        node = _inner(node, word)
        while isinstance(node, dict) and "$ref" in node:
            model, rest = node["$ref"].rpartition("/")[2], []
            node = schemas[model]
    return model, "/".join(rest)


def _inner(node: Any, word: str) -> Any:
    """What a word of a pointer leads to; nothing where schemathesis has written a schema differently."""
    if isinstance(node, list):
        return node[int(word)] if word.isdigit() and int(word) < len(node) else None
    return node.get(word) if isinstance(node, dict) else None


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Whether this request is sent."""
    operation, phase = case.operation, case.meta.phase
    found = phase.data
    if operation.path not in LARGE or phase.name != "coverage" or found.parameter_location != "body":
        return True
    if found.location is None:
        steps = found.description.split(": ")
        key, where = (found.scenario.value, *steps[-2:]), found.description
    else:
        document = operation.schema.raw_schema
        body = document["paths"][operation.path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        key = (found.scenario.value, *place(document, body["$ref"].rpartition("/")[2], found.location))
        where = found.location
    *first, count = _tried.setdefault(key, (operation.path, where, itertools.count(len(_tried) % 2)))
    if first != [operation.path, where]:
        return False
    return found.scenario.value != "incorrect_type" or next(count) % 2 == 0
