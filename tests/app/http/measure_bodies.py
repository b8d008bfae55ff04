"""Posts bodies that are wrong in every array and object of a specification, and prints what each costs the API.

``python measure_bodies.py HOME`` prints one JSON object a line; ``--help`` lists options. The application is
called without a client or a socket, so that what is measured is its own.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from collegium.app.main import create_app
from collegium.app.settings import load_settings
from collegium.search.spec import SearchSpec
from collegium.train.spec.study import StudySpec
from collegium.train.spec.training import TrainingSpec

ROUTES = {"/v1/searches": SearchSpec, "/v1/trainings": TrainingSpec, "/v1/studies": StudySpec}
#: What an array is filled with; each member of an object gets the first.
FILLINGS = ('"a"', "1", "1.5", "null", "[]", "{}", '["a","a"]', '{"type":"x"}', '"\\ud83d\\ude00"', "[[1],[1]]")
PLACE = "@"
LIMIT = 8 << 20

Schema = dict[str, Any]


def places(
    schema: Schema, definitions: Schema, path: str = "", around: str = PLACE, seen: tuple[str, ...] = ()
) -> Iterator[tuple[str, str, Schema]]:
    """Paths at which an array or an object may stand, a small document that has ``PLACE`` there, and what may."""
    reference = schema.get("$ref", "").rpartition("/")[2]
    if reference and reference not in seen:
        yield from places(definitions[reference], definitions, path, around, (*seen, reference))
    for branch in _branches(schema):
        yield from places(branch, definitions, path, around, seen)
    if schema.get("type") in ("array", "object"):
        yield path, around, schema
    if schema.get("type") == "array":
        yield from places(_item(schema), definitions, f"{path}[0]", around.replace(PLACE, f"[{PLACE}]"), seen)
    for name, inner in schema.get("properties", {}).items():
        below = around.replace(PLACE, "{" + _tags(schema, name) + f"{json.dumps(name)}:{PLACE}" + "}")
        yield from places(inner, definitions, f"{path}.{name}".removeprefix("."), below, seen)


def _branches(schema: Schema) -> list[Schema]:
    return [branch for keyword in ("anyOf", "oneOf", "allOf") for branch in schema.get(keyword, ())]


def _item(schema: Schema) -> Schema:
    return schema.get("items") or schema["prefixItems"][0]


def _tags(schema: Schema, besides: str) -> str:
    """The constants that choose this branch of a union."""
    tags = {name: field["const"] for name, field in schema.get("properties", {}).items() if "const" in field}
    return "".join(f"{json.dumps(name)}:{json.dumps(tag)}," for name, tag in tags.items() if name != besides)


def overlong(size: int, fillings: tuple[str, ...], turn: int | None = None) -> Iterator[str]:
    """What is put at a place: arrays of each filling and objects of unknown names, of about ``size`` bytes.

    With a ``turn``, it is one array and one object, of which those of the next turns are others.
    """
    members = [(FILLINGS[0], 12), ('{"a":[1]}', 18)]
    for filling in fillings if turn is None else [fillings[turn % len(fillings)]]:
        yield "[" + ",".join([filling] * (size // (len(filling) + 1))) + "]"
    for member, length in members if turn is None else [members[turn % len(members)]]:
        yield unknown_names(member, size // length)


@functools.cache
def unknown_names(member: str, count: int) -> str:
    """An object of members alike; made once, which takes longer than its refusal."""
    return "{" + ",".join(f'"{index:x}":{member}' for index in range(count)) + "}"


def allowed(schema: Schema, definitions: Schema, leaf: str, budget: int) -> str:
    """A document that is as long as its schema allows, up to ``budget`` bytes, with ``leaf`` for every value."""
    if "$ref" in schema:
        return allowed(definitions[schema["$ref"].rpartition("/")[2]], definitions, leaf, budget)
    if _branches(schema):
        return max((allowed(branch, definitions, leaf, budget) for branch in _branches(schema)), key=len)
    if schema.get("type") == "array":
        item = allowed(_item(schema), definitions, leaf, budget)
        return "[" + ",".join([item] * max(1, min(schema.get("maxItems", 1), budget // (len(item) + 1)))) + "]"
    if schema.get("type") == "object":
        left, members = budget, []
        fields = schema.get("properties") or {f"k{index}": {} for index in range(schema.get("maxProperties", 1))}
        for name, field in fields.items():
            value = json.dumps(field["const"]) if "const" in field else allowed(field, definitions, leaf, left)
            if len(value) < left:
                members.append(f"{json.dumps(name)}:{value}")
                left -= len(members[-1])
        return "{" + ",".join(members) + "}"
    return leaf


def _bare(schema: Any) -> Any:
    """What of a schema decides whether a value is valid."""
    if isinstance(schema, dict):
        words = ("title", "description", "default", "examples")
        return {key: _bare(value) for key, value in schema.items() if key not in words}
    return [_bare(item) for item in schema] if isinstance(schema, list) else schema


def distinct(routes: list[str]) -> dict[str, list[tuple[str, str]]]:
    """Paths and documents of each route; of places that validate alike, wherever they are, one, of the last route."""
    found: dict[str, tuple[str, str, str]] = {}
    for route in routes:
        schema = ROUTES[route].model_json_schema()
        for path, place, value in places(schema, schema.get("$defs", {})):
            found[json.dumps(_bare(value), sort_keys=True)] = route, path, place
    return {route: [(path, place) for own, path, place in found.values() if own == route] for route in routes}


def bodies(routes: list[str], size: int, fillings: tuple[str, ...], in_turn: bool) -> Iterator[tuple[str, str, bytes]]:
    """Routes, paths at which the body is wrong, and bodies."""
    turns = itertools.count()
    for route, found in distinct(routes).items():
        schema = ROUTES[route].model_json_schema()
        for path, place in found:
            for filling in overlong(size, fillings, next(turns) if in_turn else None):
                yield route, path, place.replace(PLACE, filling).encode()
        for leaf in FILLINGS[:4]:
            yield route, "", allowed(schema, schema.get("$defs", {}), leaf, size - 10_000).encode()


def accepted() -> Iterator[tuple[str, str, bytes]]:
    """The largest specifications that are right, each long in another array."""
    positions = 1024
    rows = (",".join("2.0" if row == column else "1.0" for column in range(positions)) for row in range(positions))
    gram = ",".join(f"[{row}]" for row in rows)
    layers = [{"type": "conv", "out": "n", "kernel": 32, "padding": 0}, {"type": "relu"}, {"type": "dense", "out": 4}]
    image = {"channels": 3, "height": 32, "width": 32}
    block = {"family": "block", "input": image, "layers": layers, "widths": {"n": 8}}
    yield "/v1/searches", "", f'{{"baseline":{json.dumps(block)},"inputs":{{"gram":[{gram}]}}}}'.encode()
    deep = {"family": "mlp", "inputs": 64, "hidden": [8] * 64, "outputs": 10}
    widths = [[1 + index % 1000] * 64 for index in range(4096)]
    yield "/v1/searches", "", json.dumps({"baseline": deep, "space": {"mode": "vector", "widths": widths}}).encode()
    study = {
        "architectures": [{"name": f"a{index}", "architecture": {"baseline": deep}} for index in range(64)],
        "methods": [{"name": f"m{index}", "method": "majority"} for index in range(32)],
        "recipes": [{"name": name, "recipe": {"name": "digits"}} for name in ("a", "b")],
        "data": "digits",
        "seeds": 1,
    }
    yield "/v1/studies", "", json.dumps(study).encode()


async def post(app: Any, route: str, body: bytes) -> tuple[int, bytes]:
    """Status and content of the answer."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": route, "raw_path": route.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def unit_of_time() -> float:
    """Processor seconds that this machine takes to write and read 5,000 small objects twenty times."""
    rows = [{"name": str(number), "values": [number, number / 3]} for number in range(5000)]
    times = []
    for _ in range(20):
        began = time.process_time()
        json.loads(json.dumps(rows))
        times.append(time.process_time() - began)
    return len(times) * statistics.median(times)


def resident(name: str) -> int:
    """``VmRSS``, bytes in memory, or ``VmHWM``, the most of them: since ``exec``, unlike ``ru_maxrss``, whose first
    value is what the process that started this one had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def begin_peak() -> int:
    """Bytes in memory now, from which ``VmHWM`` rises again."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


async def main(home: Path, wanted: Iterator[tuple[str, str, bytes]]) -> None:
    app = create_app(load_settings(home=home))
    for route in ROUTES:
        await post(app, route, b"{}")
    unit = unit_of_time()
    gc.freeze()  # what there is now need not be looked through before each body
    for route, path, body in wanted:
        before, began = begin_peak(), time.process_time()
        status, answer = await post(app, route, body)
        seconds = time.process_time() - began
        measured = {"seconds": seconds, "units": seconds / unit, "bytes": resident("VmHWM") - before}
        paths = [error["path"] for error in json.loads(answer).get("errors", ())]
        row = {"route": route, "path": path, "body": body[:200].decode(), "size": len(body)}
        print(json.dumps({**row, "status": status, "answer": len(answer), "paths": paths, **measured}))


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("home", type=Path)
    options.add_argument("--route", choices=list(ROUTES), action="append")
    options.add_argument("--filling", action="append", help="what arrays are filled with; all kinds, if none is given")
    options.add_argument("--accepted", action="store_true", help="the largest bodies that are right instead")
    options.add_argument("--megabytes", type=float, default=1.0)
    options.add_argument("--in-turn", action="store_true", help="one filling at each place, instead of each at all")
    given = options.parse_args()
    fillings = tuple(given.filling or FILLINGS)
    wrong = bodies(given.route or list(ROUTES), min(int(given.megabytes * 1e6), LIMIT), fillings, given.in_turn)
    asyncio.run(main(given.home, accepted() if given.accepted else wrong))
