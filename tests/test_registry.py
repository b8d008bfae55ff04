"""Registries: built-in extensions, those of other packages, and those that cannot be used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from collegium.registry import Registry, UnknownExtension

SHOW = """
from collegium.registry import BrokenExtension, Registry
registry = Registry("toy", "collegium.toys", {"join": "os.path:join"})
print(registry.names)
print([name for name, _ in registry.usable()])
for name, reason in registry.broken().items():
    print(name, "|", reason)
"""


def install(folder: Path, module: str, **points: str) -> None:
    """A package of one module, as an installer leaves it: the module and its metadata."""
    (folder / "toy_package.py").write_text(module)
    metadata = folder / "toy_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-package\nVersion: 1.0\n")
    lines = "".join(f"{name} = {target}\n" for name, target in points.items())
    (metadata / "entry_points.txt").write_text(f"[collegium.toys]\n{lines}")


def show(folder: Path) -> list[str]:
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", SHOW], env={"PYTHONPATH": f"{root}:{folder}"}, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_a_built_in_extension_is_imported_when_it_is_asked_for() -> None:
    registry: Registry[object] = Registry(
        "toy", "collegium.no-such-group", {"here": "os.path:join", "not": "nowhere:x"}
    )
    assert registry.names == ("here", "not")
    assert "here" in registry
    assert "other" not in registry
    assert callable(registry["here"])


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    registry: Registry[object] = Registry("toy", "collegium.no-such-group", {"one": "os:sep", "two": "os:sep"})
    with pytest.raises(UnknownExtension, match="no toy is called 'three'; there are one, two"):
        registry["three"]


def test_another_package_adds_one_and_cannot_take_a_built_in_name(tmp_path: Path) -> None:
    install(tmp_path, "mine = 1", mine="toy_package:mine", join="toy_package:mine")
    assert show(tmp_path) == ["('join', 'mine')", "['join', 'mine']"]


def test_what_one_prints_is_not_part_of_an_answer(tmp_path: Path) -> None:
    install(tmp_path, "print('hello')\nmine = 1", mine="toy_package:mine")
    assert show(tmp_path) == ["('join', 'mine')", "['join', 'mine']"]


def test_one_that_cannot_be_imported_is_left_out_and_says_why(tmp_path: Path) -> None:
    install(tmp_path, "raise OSError('no licence')", broken="toy_package:mine")
    names, usable, reason = show(tmp_path)
    assert (names, usable) == ("('join', 'broken')", "['join']")
    assert reason == "broken | the toy 'broken' of toy-package cannot be imported: OSError: no licence"


def test_one_that_loads_torch_is_left_out_with_the_remedy(tmp_path: Path) -> None:
    install(tmp_path, "import torch\nmine = 1", heavy="toy_package:mine")
    _, usable, reason = show(tmp_path)
    assert usable == "['join']"
    assert "import torch inside the functions that use it" in reason
