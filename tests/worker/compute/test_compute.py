"""A job on this machine alone: ``python -m collegium.worker.compute --once``."""

import json
import pkgutil
import subprocess
import sys

import pytest

import collegium.worker
from collegium.worker import protocol


@pytest.fixture
def once(settings, tmp_path):
    """Runs one job and returns its messages."""

    def run(spec, *arguments, kind="search"):
        command = [sys.executable, "-m", "collegium.worker.compute", "--once", "--preload", "json"]
        command += ["--handlers", "job_doubles:HANDLERS", *arguments]
        order = protocol.Run("local", kind, spec, str(tmp_path / "work"), str(tmp_path / "checkpoints"))
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        process.stdin.write(protocol.encode(order).decode())
        process.stdin.flush()
        messages = [protocol.decode(line) for line in process.stdout]
        process.stdin.close()
        process.stdout.close()
        assert process.wait(timeout=20) == 0
        return messages

    return run


def test_it_answers_and_ends(once):
    messages = once({"do": "answer", "value": 5})
    assert isinstance(messages[0], protocol.Ready)
    assert messages[-1].result["answer"] == 5


def test_a_failure_is_an_outcome_too(once):
    assert once({"do": "refuse"})[-1] == protocol.JobFailed(
        "user_error", "no data set is called 'nothing'", "Name another one."
    )


def test_estimates_are_kept_in_a_folder(once, tmp_path):
    cache = ["--cache", str(tmp_path / "cache")]
    assert once({"do": "estimate", "key": "k", "value": {"r": 2.0}}, *cache)[-1].result["before"] is None
    assert once({"do": "estimate", "key": "k"}, *cache)[-1].result["before"] == {"r": 2.0}
    (written,) = (tmp_path / "cache").iterdir()
    assert json.loads(written.read_text()) == {"r": 2.0}
    written.write_text("{broken")
    assert once({"do": "estimate", "key": "k"}, *cache)[-1].result["before"] is None


def test_a_job_does_not_fail_for_estimates_that_cannot_be_kept(once, tmp_path):
    (tmp_path / "file").touch()
    cache = ["--cache", str(tmp_path / "file" / "cache")]
    assert once({"do": "estimate", "key": "k", "value": {"r": 2.0}}, *cache)[-1].result["after"] == {"r": 2.0}


def test_without_a_folder_nothing_is_kept(once):
    assert once({"do": "estimate", "key": "k"})[-1].result == {"before": None, "after": None}


def test_children_run_within_it(once):
    children = [{"key": f"c{i}", "kind": "shard", "spec": {"do": "answer", "value": i}} for i in range(6)]
    children[3]["spec"] = {"do": "refuse"}
    messages = once({"do": "parent", "children": children})
    outcomes = messages[-1].result["outcomes"]
    assert [outcome["key"] for outcome in outcomes] == [f"c{i}" for i in range(6)]
    assert [outcome["status"] for outcome in outcomes].count("failed") == 1
    assert outcomes[3]["failure"]["message"] == "no data set is called 'nothing'"
    assert [outcomes[i]["result"]["answer"] for i in (0, 1, 2, 4, 5)] == [0, 1, 2, 4, 5]


def test_it_ends_when_its_input_ends(settings, tmp_path):
    command = [sys.executable, "-m", "collegium.worker.compute", "--once", "--preload", "json"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    process.stdin.close()
    assert process.wait(timeout=20) == 1
    process.stdout.close()


def test_no_module_of_the_worker_loads_torch():
    modules = [found.name for found in pkgutil.walk_packages(collegium.worker.__path__, "collegium.worker.")]
    modules = [name for name in modules if not name.endswith("__main__")]
    assert "collegium.worker.compute.handlers" in modules
    program = ";".join(f"import {name}" for name in modules) + ";import sys;sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
