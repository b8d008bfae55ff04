"""Checkouts of collegium beside each other, in turns."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*words):
    command = [sys.executable, str(ROOT / "benchmarks" / "versions.py"), "--seconds", "0", "--threads", "1", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_a_checkout_beside_itself():
    done = run("--hidden", "4", "--", ".", ".")
    assert done.returncode == 0, done.stderr
    head, *rows, end = done.stdout.splitlines()
    assert head.split()[:2] == ["plain", "majority"]
    assert end == "turns: 1"
    figures = [[float(number) for number in re.findall(r"[+-]?\d+\.\d+", row)] for row in rows]
    assert len(figures) == 2
    for plain, majority, ratio, added, _ in figures:
        assert plain > 0
        assert majority > 0
        assert abs(added - (majority - plain)) < 0.02
        assert abs(ratio - 100 * (majority / plain - 1)) < 100 * 0.02 * (1 + ratio / 100) / plain  # two digits
    assert figures[0][4] == 0


def test_a_folder_that_is_no_checkout_is_named(tmp_path):
    done = run(str(tmp_path))
    assert done.returncode != 0
    assert f"{tmp_path} is no checkout of collegium" in done.stderr
