"""A small study from the command line: run, killed, resumed, in shards, reported."""

import json
import os
import signal
import subprocess
import sys

import pytest

from collegium.train.reproduce.experiments import main
from collegium.train.reproduce.majority import command
from collegium.train.reproduce.majority.cells import Cell
from collegium.train.reproduce.majority.entrants import ENTRANTS
from collegium.train.reproduce.majority.training import Training, run

SMALL = ["--seeds", "2", "--tuning-seeds", "1", "--only", "A1", "Adam", "1000"]


def rows(folder):
    """What is recorded, without what a repetition changes."""
    lines = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def options(images, folder):
    return ["--data-dir", str(images), "--records", str(folder / "records"), "--output", str(folder / "out")]


def test_a_small_study_runs_and_is_not_repeated(images, tmp_path, capsys):
    words = ["majority", *options(images, tmp_path), *SMALL, "20%", "majority, independent"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "2 of 2 methods × settings" in printed.out
    assert "| A1 Adam 1000 20% | majority, independent |" in printed.out
    assert "test " in printed.err
    assert (tmp_path / "out" / "majority-curves.svg").read_bytes().startswith(b"<?xml")
    assert (tmp_path / "out" / "majority.md").read_text().strip() == printed.out.strip()
    found = rows(tmp_path / "records")
    assert len({json.dumps(row) for row in found}) == len(found)
    assert all(row["accuracy"][2] > 0.3 for row in found if not row["tuning"])  # ten classes
    majority = [row for row in found if row["method"] == "majority, independent" and not row["tuning"]]
    assert all(row["sharpness"] >= 0 and len(row["sampled"]) == 3 for row in majority)
    assert main([*words[:7], "--report", *words[7:]]) == 0
    assert main(words) == 0
    assert rows(tmp_path / "records") == found


def test_no_test_image_is_seen_in_choosing(make_images, images):
    training = Training(Cell("A1", "Adam", 1000, 0.2), "majority, independent", 1e-3, 8, 1000, tuning=True)
    assert training.spec().data.test_limit == 1
    found = [run(training, folder) for folder in (images, make_images(test_seed=2))]
    assert not {"accuracy", "loss", "test"} & set(found[0])
    assert {**found[0], "seconds": 0} == {**found[1], "seconds": 0}


@pytest.mark.slow
def test_a_killed_study_goes_on_where_it_was_and_ends_in_the_same_rows(images, tmp_path, wait_until):
    words = [*SMALL, "20%", "vanilla"]
    arguments = [
        sys.executable,
        "-m",
        "collegium.train.reproduce",
        "majority",
        *options(images, tmp_path / "killed"),
        *words,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    file = tmp_path / "killed" / "records" / "shard-1-of-1.jsonl"
    wait_until(lambda: file.exists() and file.read_bytes().count(b"\n") >= 3, "three trainings have ended")
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = file.read_bytes()
    assert main(["majority", *options(images, tmp_path / "whole"), *words]) == 0
    assert main(["majority", *options(images, tmp_path / "killed"), *words]) == 0
    assert file.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    assert rows(tmp_path / "killed" / "records") == rows(tmp_path / "whole" / "records")


@pytest.mark.slow
def test_shards_and_processes_give_the_rows_of_one_process(images, tmp_path):
    words = [*SMALL, "20%", "0%", "vanilla"]
    for part in ("1/2", "2/2"):
        shared = ["--shard", part, "--processes", "2"]
        assert main(["majority", *options(images, tmp_path / "shards"), *shared, *words]) == 0
    assert main(["majority", *options(images, tmp_path / "whole"), *words]) == 0
    whole, shards = (sorted(map(json.dumps, rows(tmp_path / name / "records"))) for name in ("whole", "shards"))
    assert shards == whole
    assert len(list((tmp_path / "shards" / "records").glob("*.jsonl"))) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "A9"], "--only: no setting is called 'A9'"),
        (["--shard", "3/2"], "'3/2' is not K/N"),
        (["--only", "A1", "Adam", "1000", "20%", "--shard", "2/2"], "--shard: there are fewer settings than parts"),
        (["--report", "--shard", "161/161"], "--shard: there are fewer settings than parts"),
        (["--only", "A1", "majority"], "no setting is called 'majority'; there are, each as one word, A1, "),
        (["--only", "A1", "majority"], "0%, 20%, 40%, 10%; vanilla, 'majority, independent', "),
        (["--processes", "0"], "no whole number above 0"),
        (["--minutes", "nan"], "--minutes: 'nan' is no number from 0 on"),
        (["--minutes", "-3"], "--minutes: '-3' is no number from 0 on"),
        (["--minutes", "soon"], "--minutes: 'soon' is no number from 0 on"),
        (["--seeds", "1001"], "--seeds: at most 1000"),
        (["--report"], "has no file of records"),
    ],
)
def test_wrong_arguments_are_named(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as raised:
        main(["majority", "--records", str(tmp_path / "records"), *words])
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


def test_missing_images_say_where_they_can_be_had(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "DEBIAN", tmp_path / "nowhere")
    with pytest.raises(SystemExit):
        main(["majority", "--data-dir", str(tmp_path), "--records", str(tmp_path / "records")])
    assert "Debian's package dataset-fashion-mnist" in capsys.readouterr().err


def test_a_folder_that_is_named_and_has_no_images_is_not_passed_over(images, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "DEBIAN", images)
    words = ["majority", "--records", str(tmp_path / "records"), "--output", str(tmp_path), "--minutes", "0", *SMALL]
    with pytest.raises(SystemExit):
        main([*words, "--data-dir", str(tmp_path / "empty")])
    assert f"the images are not in {tmp_path / 'empty' / 'fashion-mnist'}: install" in capsys.readouterr().err
    monkeypatch.setenv("COLLEGIUM_DATA_DIR", str(tmp_path / "empty"))
    assert main(words) == 0


def test_records_of_another_run_are_not_written_to(images, tmp_path, capsys):
    held = command.Records(tmp_path / "records", "shard-1-of-1.jsonl")
    with pytest.raises(SystemExit):
        main(["majority", *options(images, tmp_path), *SMALL])
    assert "another process writes to" in capsys.readouterr().err
    held.close()


@pytest.mark.parametrize("name", ENTRANTS)
def test_every_method_leaves_a_row_of_its_choice_and_one_of_its_test(images, name):
    cell = Cell("A1", "SGD", 1000, 0.4)
    tuning, compared = (run(Training(cell, name, 0.05, 4, 0, tuning=tuning), images) for tuning in (True, False))
    assert set(tuning["validation"]) == ({"2", "4"} if ENTRANTS[name].reads_curve(cell) else {"4"})
    assert len(compared["accuracy"]) == len(compared["loss"]) == 3
    assert compared["accuracy"][1] == tuning["validation"]["4"][0]
    assert [point[0] for point in compared["curve"]] == ([1, 2, 3, 4] if compared["curve"] else [])


@pytest.mark.parametrize("architecture", ["A3", "CNN"])
def test_larger_architectures_are_trained(images, architecture):
    row = run(Training(Cell(architecture, "Adam", 1000, 0.2), "majority, independent", 1e-3, 1, 0, tuning=True), images)
    assert 0 <= row["validation"]["1"][0] <= 1
