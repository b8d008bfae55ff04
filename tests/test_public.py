"""The public interface: what ``import collegium`` offers, what it costs, and that every example in it runs."""

from __future__ import annotations

import ast
import doctest
import json
import subprocess
import sys
from pathlib import Path

import pytest

import collegium

SOURCE = Path(str(collegium.__file__))
HEAVY = ("torch", "numpy", "scipy", "pydantic", "sqlalchemy", "fastapi", "httpx", "celery")


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout


def test_importing_loads_nothing_of_weight() -> None:
    program = "import collegium, json, sys; print(json.dumps([collegium.__name__, *sys.modules]))"
    loaded = json.loads(run(program))
    assert not {name for name in loaded if name.split(".")[0] in HEAVY}
    assert [name for name in loaded if name.startswith("collegium.")] == []


def test_specifications_and_searches_are_there_without_torch() -> None:
    program = (
        "import sys, collegium; collegium.SearchSpec, collegium.TrainingSpec, collegium.StudySpec, collegium.Client, "
        "collegium.find_ensemble, collegium.run_training, collegium.build_model, collegium.InvalidSpec; "
        "print('torch' in sys.modules)"
    )
    assert run(program).strip() == "False"


def test_every_public_name_is_there_typed_and_documented() -> None:
    typed = {
        alias.name
        for node in ast.walk(ast.parse(SOURCE.read_text(encoding="utf-8")))
        if isinstance(node, ast.If)
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert typed == set(collegium.__all__) == set(collegium._EXPORTS)
    assert sorted(collegium.__all__) == collegium.__all__
    for name in collegium.__all__:
        public = getattr(collegium, name)
        assert public.__name__ == name
        assert public.__doc__
        assert name in dir(collegium)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'find_ensembel'"):
        _ = collegium.find_ensembel  # pyright: ignore[reportAttributeAccessIssue]


def test_the_version_is_that_of_the_distribution() -> None:
    assert collegium.__version__.count(".") == 2


@pytest.mark.parametrize("name", ["collegium", *collegium.__all__])
def test_the_example_of_every_public_name_runs(name: str, service_url: str) -> None:
    public = collegium if name == "collegium" else getattr(collegium, name)
    text = (public.__doc__ or "").replace("http://127.0.0.1:8321", service_url)
    examples = doctest.DocTestParser().get_doctest(text, {"__name__": "__main__"}, name, None, None)
    assert examples.examples, f"{name} has no example"
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    runner.run(examples, out=report.append)
    assert not report, "".join(report)
