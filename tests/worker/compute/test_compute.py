"""A job on this machine alone: ``python -m collegium.worker.compute --once``."""

import json
import subprocess
import sys

import pytest

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
        said = [protocol.decode(line) for line in process.stdout]
        process.stdin.close()
        process.stdout.close()
        assert process.wait(timeout=20) == 0
        return said

    return run


def test_it_answers_and_ends(once):
    said = once({"do": "answer", "value": 5})
    assert isinstance(said[0], protocol.Ready)
    assert said[-1].result["answer"] == 5


def test_a_failure_is_an_answer_too(once):
    assert once({"do": "refuse"})[-1] == protocol.Failure(
        "user_error", "no data set is called 'nothing'", "Name another one."
    )


def test_estimates_lie_in_a_folder(once, tmp_path):
    cache = ["--cache", str(tmp_path / "cache")]
    assert once({"do": "estimate", "key": "k", "value": {"r": 2.0}}, *cache)[-1].result["before"] is None
    assert once({"do": "estimate", "key": "k"}, *cache)[-1].result["before"] == {"r": 2.0}
    (written,) = (tmp_path / "cache").iterdir()
    assert json.loads(written.read_text()) == {"r": 2.0}
    written.write_text("{broken")
    assert once({"do": "estimate", "key": "k"}, *cache)[-1].result["before"] is None


def test_without_a_folder_nothing_is_kept(once):
    assert once({"do": "estimate", "key": "k"})[-1].result == {"before": None, "after": None}


def test_children_run_within_it(once):
    children = [{"key": f"c{i}", "kind": "shard", "spec": {"do": "answer", "value": i}} for i in range(6)]
    children[3]["spec"] = {"do": "refuse"}
    said = once({"do": "parent", "children": children})
    outcomes = said[-1].result["outcomes"]
    assert [outcome["key"] for outcome in outcomes] == [f"c{i}" for i in range(6)]
    assert [outcome["status"] for outcome in outcomes].count("failed") == 1
    assert outcomes[3]["failure"]["message"] == "no data set is called 'nothing'"
    assert [outcomes[i]["result"]["answer"] for i in (0, 1, 2, 4, 5)] == [0, 1, 2, 4, 5]


def test_other_jobs_are_nowhere(once):
    assert once({"do": "look_up", "job": "x"})[-1].result == {"found": None}


def test_it_ends_when_nobody_listens(settings, tmp_path):
    command = [sys.executable, "-m", "collegium.worker.compute", "--once", "--preload", "json"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    process.stdin.close()
    assert process.wait(timeout=20) == 1
    process.stdout.close()


def test_nothing_but_a_computing_process_loads_torch():
    modules = ["celery_app", "embedded", "supervisor", "runner", "local", "compute", "handlers"]
    program = ";".join(f"import worker.{name}" for name in modules) + ";import sys;sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
