"""`make test` and `make test-slow` run every test once between them, and what is marked slow is in the second alone."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = {
    "test_plain.py": "def test_plain(): ...\n",
    "test_one.py": "import pytest\n@pytest.mark.slow\ndef test_marked(): ...\ndef test_beside_it(): ...\n",
    "test_all.py": "import pytest\npytestmark = pytest.mark.slow\ndef test_in_a_marked_file(): ...\n",
    "test_part.py": (
        "import pytest\n"
        "@pytest.mark.parametrize('size', ['small', pytest.param('large', marks=pytest.mark.slow)])\n"
        "def test_size(size): ...\n"
    ),
    "test_gpu.py": "import pytest\n@pytest.mark.gpu\ndef test_on_an_accelerator(): ...\n",
}


def selected(target: str, folder: Path) -> set[str]:
    """The tests below the folder that the make target would run."""
    options = f"--collect-only -q -p no:cacheprovider -p timeout -c {ROOT / 'pyproject.toml'} {folder}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PYTEST_"))}
    run = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
    planned = run(["make", "--no-print-directory", "-n", target, f"PYTEST_ARGS={options}"], env=environment).stdout
    _, *arguments = shlex.split(planned.splitlines()[-1])
    listed = run([sys.executable, *arguments], env=environment | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    names = {line.rpartition("::")[2] for line in listed.stdout.splitlines() if "::" in line}
    assert names, planned + listed.stdout + listed.stderr
    return names


@pytest.fixture(scope="module")
def tiers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    folder = tmp_path_factory.mktemp("marked")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return {target: selected(target, folder) for target in ("test", "test-slow")}


def test_what_is_marked_slow_is_run_by_its_own_target_alone(tiers: dict[str, set[str]]) -> None:
    slow = {"test_marked", "test_in_a_marked_file", "test_size[large]"}
    assert tiers["test-slow"] == slow
    assert tiers["test"] == {"test_plain", "test_beside_it", "test_size[small]", "test_on_an_accelerator"}


def test_the_whole_check_runs_both_after_the_others() -> None:
    lines = (ROOT / ".ci/run").read_text().splitlines()
    targets = [line.split()[1] for line in lines if line.startswith("make ")]
    assert targets == ["check", "test", "test-slow"]
