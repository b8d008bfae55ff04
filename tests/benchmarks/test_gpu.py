"""The script for a GPU runs on a processor, and what goes wrong in a section stays there."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from collegium.jobs.subprocesses import environment

BENCHMARKS = Path(__file__).absolute().parent.parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a module of ``benchmarks`` as its scripts do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def options():
    return argparse.Namespace(device="cpu", tiny=True, seconds=480.0)


def test_a_section_that_fails_says_why_and_keeps_its_rows(benchmark, options):
    gpu = benchmark("gpu")
    found = gpu._in_process(gpu.Section("nowhere", "No such section", 30), options, 30)
    assert found["status"] == "failed"
    assert "invalid choice: 'nowhere'" in found["reason"]
    assert found["rows"] == []


def test_a_section_that_takes_too_long_is_stopped(benchmark):
    gpu = benchmark("gpu")
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    began = time.monotonic()
    assert gpu._wait(sleeper, 0.2) is None
    assert time.monotonic() - began < 20
    assert sleeper.returncode is not None


def test_a_section_is_skipped_once_the_budget_is_spent(benchmark, options, capsys):
    gpu = benchmark("gpu")
    found = gpu._measure(gpu.SECTIONS["jobs"], options, time.monotonic() - 470)
    assert (found["status"], found["rows"]) == ("skipped", [])
    assert "skipped: 10 s are left of 480" in capsys.readouterr().out


def test_what_needs_a_gpu_is_skipped_on_a_processor(benchmark, options):
    gpu = benchmark("gpu")
    assert gpu._measure(gpu.SECTIONS["marked_tests"], options, time.monotonic())["reason"] == "needs a GPU"


def test_sections_and_their_ends_fit_into_eight_minutes(benchmark):
    gpu = benchmark("gpu")
    assert sum(section.seconds for section in gpu.SECTIONS.values()) <= 480


def test_rows_are_kept_as_they_come_and_make_a_table(benchmark, tmp_path):
    section = benchmark("accelerator.section")
    bench = section.Bench("cpu", True, 10, tmp_path / "rows")
    bench.row(case="a|b", rate=12345.6)
    bench.row(case="c", ratio=0.25, given=True, memory=None)
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert section.markdown(rows).splitlines() == [
        "| case | rate | ratio | given | memory |",
        "| :-- | --: | --: | --: | --: |",
        "| a\\|b | 12,346 | – | – | – |",
        "| c | – | 0.25 | yes | – |",
    ]


def test_files_of_marked_tests_are_found(benchmark):
    found = benchmark("accelerator.marked_tests").marked_files(BENCHMARKS.parent / "tests" / "train")
    assert "test_draw.py" in {path.name for path in found}
    assert "test_metrics.py" not in {path.name for path in found}


def test_wheels_are_those_that_the_other_machine_lacks(benchmark):
    wheels = benchmark("accelerator.wheels")
    project = ["torch>=2.6", "scikit-learn", "celery[redis]>=5.4"]
    found = wheels.closure(project, ["torch", "scikit-learn"], "3.12")
    assert {"celery", "kombu", "redis"} <= set(found)
    assert not {"torch", "sympy", "scikit-learn", "joblib"} & set(found)
    assert "redis" not in wheels.closure(["celery"], [], "3.12")
    assert {"scikit-learn", "joblib"} <= set(wheels.closure(project, ["torch"], "3.12"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_script_runs_on_a_processor(tmp_path):
    """One run of all sections, which takes a minute; ``report`` is what it wrote, and what it printed."""
    output = tmp_path / "gpu.json"
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cpu", "--tiny", "--output", str(output)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(output.read_text()), done.stdout
    check_every_section_runs_on_a_processor(report)
    check_both_ways_of_sampling_have_rates(report)
    check_steps_of_all_contenders_have_times(report)
    check_whole_networks_are_measured(report)
    check_a_search_by_latency_measures_nothing_again(report)
    check_ensembles_have_a_throughput(report)
    check_jobs_end_as_they_must(report)


def rows_of(report, name):
    assert report[0]["sections"][name]["status"] == "ok"
    return report[0]["sections"][name]["rows"]


def check_every_section_runs_on_a_processor(report):
    found, printed = report
    assert found["tiny"]
    assert found["machine"]["memory_bytes"] is None
    statuses = {name: section["status"] for name, section in found["sections"].items()}
    assert statuses == {
        "marked_tests": "skipped", "sampling": "ok", "steps": "ok", "throughput": "ok", "networks": "ok",
        "latency": "ok", "jobs": "ok",
    }  # fmt: skip
    assert printed.startswith(f"# {found['machine']['device']}")
    assert all(f"## {section['title']}\n" in printed for section in found["sections"].values())


def check_both_ways_of_sampling_have_rates(report):
    rows = rows_of(report, "sampling")
    assert len(rows) == 2
    for row in rows:
        assert row["ratio"] == pytest.approx(row["collegium /s"] / row["vmap(grad) /s"])
        assert row["ln r"] > 0
    assert [row["law drawn /s"] is None for row in rows] == [True, False]


def check_steps_of_all_contenders_have_times(report):
    every = rows_of(report, "steps")
    rows, profiles = [row for row in every if "precision" in row], [row for row in every if "contender" in row]
    assert len(rows) + len(profiles) == len(every)
    assert [row["contender"] for row in profiles] == ["plain", "majority", "not fused", "obvious", "without Triton"]
    assert all(row["ms a step"] > 0 and row["operators"] > 0 for row in profiles)
    assert [(row["network"].split()[0], row["precision"]) for row in rows] == [
        ("ResNet-50", "bf16"), ("T5-small,", "bf16"), ("fully", "fp32"), ("fully", "fp32"),
    ]  # fmt: skip
    for row in rows:
        assert all(row[f"{name} ms"] > 0 for name in ("plain", "majority", "not fused", "obvious"))
        assert row["majority %"] == pytest.approx(100 * (row["majority ms"] / row["plain ms"] - 1))


def check_whole_networks_are_measured(report):
    rows = rows_of(report, "networks")
    assert [row["m × n"] for row in rows] == ["1×32", "9×8", "5×8"]
    assert [row["ratio"] == 1 for row in rows] == [True, False, False]
    assert all(row["draws"] >= 2 and row["ms a draw"] > 0 for row in rows)


def check_a_search_by_latency_measures_nothing_again(report):
    rows = rows_of(report, "latency")
    assert {"primal", "dual"} <= {name for row in rows for name in row["answer"].split(", ")}
    for row in rows:
        assert row["ms"] > 0
        assert row["again s"] < row["cold s"]


def check_ensembles_have_a_throughput(report):
    rows = rows_of(report, "throughput")
    assert [row["ensemble"] for row in rows] == ["1×64d", "12×10d", "15×8d", "32×4d"]
    assert all(math.isfinite(row["images/s"]) and row["images/s"] > 0 for row in rows)
    parameters = [row["parameters"] for row in rows]
    assert parameters == sorted(parameters, reverse=True)


def check_jobs_end_as_they_must(report):
    rows = rows_of(report, "jobs")
    assert [row.get("status") for row in rows] == [None, "succeeded", "succeeded", "succeeded", "running", "cancelled"]
    assert [row["device"] for row in rows[1:3]] == ["cpu", "cpu"]
