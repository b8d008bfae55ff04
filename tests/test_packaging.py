"""The list of packages names every folder with code, and the wheel holds these and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
BUILT = Path(sysconfig.get_config_var("EXT_SUFFIX")).suffix
FOLDERS: dict[str, str] = SETTINGS["package-dir"]


def code_files(suffix: str = "") -> Iterator[Path]:
    """Files below the mapped folders, relative to the repository; links are not followed, what is built is left out."""
    for folder in FOLDERS.values():
        for path in (ROOT / folder).rglob(f"*{suffix}"):
            inner = path.relative_to(ROOT)
            below_link = any((ROOT / parent).is_symlink() for parent in (inner, *inner.parents))
            if path.is_file() and not below_link and "__pycache__" not in inner.parts and inner.suffix != BUILT:
                yield inner


def package_of(folder: Path) -> str:
    """The import name of a folder."""
    return ".".join(folder.parts if folder.parts[0] == "collegium" else ("collegium", *folder.parts))


def test_every_folder_with_code_is_listed_as_a_package() -> None:
    listed = SETTINGS["packages"]
    assert listed == sorted(listed)
    assert set(listed) == {package_of(path.parent) for path in code_files(".py")}


def test_every_package_has_an_init() -> None:
    initialised = {path.parent for path in code_files(".py") if path.name == "__init__.py"}
    assert {path.parent for path in code_files(".py")} == initialised


def test_the_links_for_tools_and_the_mapping_for_packaging_agree() -> None:
    links = {path.name: path.resolve() for path in (ROOT / "collegium").iterdir() if path.is_symlink()}
    mapped = {name.partition(".")[2]: (ROOT / folder).resolve() for name, folder in FOLDERS.items() if "." in name}
    assert links == mapped


def test_every_other_file_is_package_data() -> None:
    """A file that no pattern names would be missing from the wheel without an error."""
    patterns = SETTINGS["package-data"]
    for path in code_files():
        if path.suffix != ".py":
            assert any(
                path.relative_to(FOLDERS[package]).match(pattern)
                for package, found in patterns.items()
                if path.is_relative_to(FOLDERS[package])
                for pattern in found
            ), path


def test_the_image_is_built_from_every_folder() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for folder in FOLDERS.values():
        assert f"COPY {folder} {folder}" in dockerfile
        assert f"!{folder}" in ignored
    assert "!setup.py" in ignored
    assert "COPY pyproject.toml setup.py README.md LICENSE ./" in dockerfile
    assert any("install" in line and " gcc " in line for line in dockerfile)  # what setup.py builds is optional


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of the files in the wheel, built from a copy in which the links are links."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in FOLDERS.values():
        left_out = shutil.ignore_patterns("__pycache__", f"*{BUILT}")
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=left_out)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", out, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    with ZipFile(path) as archive:
        return archive.namelist()


@pytest.mark.slow
def test_the_wheel_has_one_top_level_name(wheel: list[str]) -> None:
    names = {name.partition("/")[0] for name in wheel}
    assert {name for name in names if not name.endswith(".dist-info")} == {"collegium"}


@pytest.mark.slow
def test_the_wheel_holds_every_file_once(wheel: list[str]) -> None:
    expected = {f"{package_of(path.parent).replace('.', '/')}/{path.name}" for path in code_files()}
    expected.add("collegium/train/majority/native/_kernels" + sysconfig.get_config_var("EXT_SUFFIX"))
    held = [name for name in wheel if name.startswith("collegium/")]
    assert sorted(held) == sorted(expected)
    for name in ("collegium/py.typed", "collegium/migrations/alembic.ini", "collegium/migrations/script.py.mako"):
        assert name in held
    assert "collegium/app/web/index.html" in held
