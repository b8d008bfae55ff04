"""Wheels for a machine that has torch, and no network: what collegium needs beyond that, as it is installed here.

    python benchmarks/accelerator/wheels.py [--folder .wheels] [--have torch transformers …] [--python 3.12]

Requirements are followed from ``pyproject.toml`` through the packages of this environment, whose versions are taken;
packages that the other machine has are left out, with what they alone require. ``run.sh`` installs the folder there.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).absolute().parent.parent.parent
HAVE = ("torch", "transformers", "numpy", "scipy", "scikit-learn", "matplotlib")
TESTS = ("pytest", "pytest-timeout", "hypothesis")
GLIBC = (28, 27, 17, 5)  # manylinux versions that pip does not derive from one another
MOST_BYTES = 60 * 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / ".wheels")
    parser.add_argument("--have", nargs="*", default=list(HAVE), metavar="NAME", help="packages that are there")
    parser.add_argument("--python", default="3.12", help="the other machine's version of Python")
    options = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = closure([*project["dependencies"], *TESTS], options.have, options.python)
    shutil.rmtree(options.folder, ignore_errors=True)
    download(found, options.folder, options.python)
    sizes = {path.name: path.stat().st_size for path in options.folder.glob("*.whl")}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:8]:
        print(f"{size / 2**20:7.2f} MiB  {name}")
    print(f"{sum(sizes.values()) / 2**20:7.2f} MiB in {len(sizes)} wheels in {options.folder}")
    if sum(sizes.values()) > MOST_BYTES:
        raise SystemExit(f"more than {MOST_BYTES / 2**20:.0f} MiB: name more packages that the machine has with --have")


def closure(requirements: list[str], have: list[str], python: str) -> dict[str, str]:
    """Name → version of everything that ``requirements`` need under this version of Python, without ``have``."""
    left_out = {canonicalize_name(name) for name in have}
    waiting = [Requirement(text) for text in requirements]
    found: dict[str, str] = {}
    followed: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in left_out:
            continue
        installed = distribution(name)
        found[name] = installed.version
        for extra in {"", *requirement.extras} - {seen for key, seen in followed if key == name}:
            followed.add((name, extra))
            environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": extra}
            own = [Requirement(text) for text in installed.requires or ()]
            waiting += [item for item in own if item.marker is None or item.marker.evaluate(environment)]
    return found


def download(packages: dict[str, str], folder: Path, python: str) -> None:
    """The wheels for x86-64 Linux. Raises ``CalledProcessError`` where one is not to be had."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, "--dest", str(folder)]
    command += [part for minor in GLIBC for part in ("--platform", f"manylinux_2_{minor}_x86_64")]
    command += ["--platform", "manylinux2014_x86_64", "--platform", "manylinux1_x86_64"]
    subprocess.run([*command, *(f"{name}=={version}" for name, version in sorted(packages.items()))], check=True)


if __name__ == "__main__":
    main()
