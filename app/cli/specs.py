"""A specification as named on the command line: a file, standard input, or a preset."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel
from rich.markup import escape

from collegium.app.cli.errors import USAGE, Stop, err
from collegium.app.http.document import parse_json, parse_model
from collegium.app.http.problems import Problem
from collegium.search.errors import InvalidSpec, readable

Model = TypeVar("Model", bound=BaseModel)
LARGEST = 8 << 20


def read_text(source: str) -> bytes:
    """The bytes of a file, or of standard input for ``-``. Stops the command where there are none."""
    if source == "-":
        return sys.stdin.buffer.read(LARGEST + 1)
    path = Path(source)
    if not path.is_file():
        raise Stop(USAGE, f"there is no file {source}")
    if path.stat().st_size > LARGEST:
        raise Stop(USAGE, f"{source} is larger than {LARGEST} bytes")
    return path.read_bytes()


def read_object(source: str) -> dict[str, Any]:
    """A JSON object from a file or standard input."""
    document = stopping(lambda: parse_json(read_text(source)))
    if not isinstance(document, dict):
        raise Stop(USAGE, "a specification is a JSON object")
    return document


def validated(document: dict[str, Any], model: type[Model], check: Callable[[Model], object]) -> Model:
    """The document as a checked model. Stops the command, naming each wrong field."""
    import json

    def build() -> Model:
        spec = parse_model(json.dumps(document).encode(), model)
        check(spec)
        return spec

    return stopping(build)


def stopping(action: Callable[[], Any]) -> Any:
    """Run an action; a problem of its input ends the command with the fields' names."""
    try:
        return action()
    except Problem as problem:
        for location, message in problem.errors:
            _print_error(readable(location), message)
        raise Stop(USAGE, "the specification is invalid" if problem.errors else problem.detail) from problem
    except InvalidSpec as error:
        for location, message in error.errors:
            _print_error(readable(location), message)
        raise Stop(USAGE, "the specification is invalid") from error


def _print_error(path: str, message: str) -> None:
    err.print(f"[bold]{escape(path)}[/]: {escape(message)}", soft_wrap=True)


def put_input(document: dict[str, Any], shape: str | None) -> None:
    """Give a preset samples of a shape such as ``3x32x32``. Stops the command where there is no preset."""
    if shape is None:
        return
    baseline = document.get("baseline")
    if not isinstance(baseline, dict) or "preset" not in baseline:
        raise Stop(USAGE, "--input goes with a preset: other baselines have fields of their own for it")
    sizes = shape.replace("×", "x").split("x")
    if not all(size.isdecimal() and len(size) < 10 for size in sizes):
        raise Stop(USAGE, f"--input is a shape such as 3x32x32, not {shape!r}")
    baseline["input"] = [int(size) for size in sizes]


def put(document: dict[str, Any], path: str, value: Any) -> None:
    """Set a field by its dotted path, unless the value is None."""
    if value is None:
        return
    *outer, last = path.split(".")
    for key in outer:
        document = document.setdefault(key, {})
    document[last] = value
