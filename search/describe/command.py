"""``collegium describe``: the baseline of a module that is named, as a table or as the specification of a search.

The user's code is imported here, in a process of its own on the user's machine; a service is sent what it prints.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import resources
from pathlib import Path

from collegium.search.describe.describe import describe
from collegium.search.describe.sources import FORMS, Sample, SourceError, load
from collegium.search.errors import NotTraceable, SampleMismatch

_FAILED, _USAGE = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Describe one module: 0, or 1 where it cannot be described, or 2 where the arguments are wrong."""
    given = _parser().parse_args(arguments)
    try:
        # What the user's code prints is not part of what is printed here.
        with _modules_of_the_user(), redirect_stdout(sys.stderr):
            model, example = load(given.source, Sample(given.input, given.tokens))
            baseline = describe(model, example, name=given.name or given.source)
    except SourceError as error:
        return _said(error, _USAGE)
    except (NotTraceable, SampleMismatch) as error:
        return _said(error, _FAILED)
    document = json.dumps({"baseline": baseline.model_dump(mode="json", exclude_defaults=True)}, indent=1)
    if given.to is not None:
        try:
            given.to.write_text(document + "\n", encoding="utf-8")
        except OSError as error:
            return _said(f"--to {given.to}: {error.strerror}", _USAGE)
    print(document if given.json else baseline)
    return 0


@contextmanager
def _modules_of_the_user() -> Iterator[None]:
    """Modules of the working directory are imported, after every installed one; a checkout's own folders are not.

    A checkout that this package is imported from has folders ``train``, ``app`` and others beside the package.
    """
    root = Path(str(resources.files("collegium"))).absolute().parent
    before = list(sys.path)
    if (root / "pyproject.toml").is_file():
        sys.path[:] = [folder for folder in before if Path(folder).absolute() != root]
    sys.path.append(os.getcwd())
    try:
        yield
    finally:
        sys.path[:] = before


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="collegium describe", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", help=FORMS)
    parser.add_argument("--input", type=_shape, help="shape of one sample, such as 3x224x224")
    parser.add_argument("--tokens", type=_count, help="token ids of one sample")
    parser.add_argument("--name", help="name of the baseline")
    parser.add_argument("--to", type=Path, help="write the specification of a search here, as JSON")
    parser.add_argument("--json", action="store_true", help="print the specification instead of the table")
    return parser


def _shape(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.replace("×", "x").split("x"))


def _count(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if not 1 <= value <= 10**9:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give whole numbers, such as 3x224x224")
    return value


def _said(error: object, status: int) -> int:
    print(f"error {error}", file=sys.stderr)
    return status
