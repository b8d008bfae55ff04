"""The tests that need a GPU, each as a row."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from accelerator.section import Bench

ROOT = Path(__file__).absolute().parent.parent.parent


def run(bench: Bench) -> None:
    """Run every test marked ``gpu``; raises ``SystemExit`` unless some ran and all of them passed."""
    os.chdir(ROOT)
    # A warning of a card, a driver or a torch that the project has not met yet is printed; it is no failure here.
    options = ["-m", "gpu", "-q", "-W", "default", "-p", "no:cacheprovider", "-p", "no:randomly"]
    recorder = Recorder(bench)
    code = pytest.main([*options, *map(str, marked_files(ROOT / "tests"))], plugins=[recorder])
    if code or not recorder.passed:
        raise SystemExit(f"pytest ended with status {int(code)}, {recorder.passed} tests passed")


def marked_files(folder: Path) -> list[Path]:
    """The files with such tests: others may import what this machine does not have."""
    return sorted(path for path in folder.rglob("test_*.py") if "mark.gpu" in path.read_text())


class Recorder:
    """A pytest plug-in that adds each test to the table as it ends."""

    def __init__(self, bench: Bench) -> None:
        self._bench, self.passed = bench, 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            path, _, name = report.nodeid.partition("::")
            self._bench.row(test=name, file=path, outcome=report.outcome, seconds=round(report.duration, 2))
            self.passed += report.when == "call" and report.outcome == "passed"
