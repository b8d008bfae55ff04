"""The commands, run in this process against a service behind a real socket."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from collegium.app.cli.root import COMMANDS, app, load_command
from collegium.app.services.services import Services
from collegium.jobs.record import Failure

Live = Callable[..., tuple[str, Services]]
FakeWorker = Callable[..., None]


pytestmark = pytest.mark.usefixtures("environment")


def run(*arguments: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


@pytest.fixture
def served(live: Live, monkeypatch: pytest.MonkeyPatch) -> Services:
    """A service that the commands find by themselves."""
    url, services = live()
    monkeypatch.setenv("COLLEGIUM_SERVER", url)
    return services


def commands() -> list[tuple[str, ...]]:
    """The words of every command and group of commands."""
    found: list[tuple[str, ...]] = [()]
    for name in COMMANDS:
        below = getattr(load_command(name), "commands", {})
        found += [(name,), *((name, inner) for inner in below)]
    return found


def test_every_command_helps_and_names_the_exit_statuses() -> None:
    found = commands()
    assert {("search",), ("data", "add"), ("keys", "revoke"), ("serve",)} <= set(found)
    for path in found:
        if path != ("reproduce",):
            result = run(*path, "--help")
            assert result.exit_code == 0, path
            assert len(result.output) > 200
    assert "Exit status" in run("search", "--help").output
    assert "collegium 0." in run("--version").output


@pytest.mark.parametrize("name", list(COMMANDS))
def test_the_table_of_commands_has_the_first_line_of_each_docstring(name: str) -> None:
    text = load_command(name).help
    assert COMMANDS[name].summary == text.splitlines()[0]
    assert COMMANDS[name].summary in run("--help").output


def test_usage_errors_are_status_2() -> None:
    for arguments in (("dance",), ("search", "resnet50", "--colour", "red"), ("jobs", "--limit", "0"), ("show",)):
        assert run(*arguments).exit_code == 2, arguments


def test_a_search_runs_here(mlp: dict[str, Any], tmp_path: Path) -> None:
    spec = mlp | {"estimator": {"method": "exact"}}
    result = run("search", "-", "--json", "--plot", tmp_path / "figure.svg", stdin=json.dumps(spec))
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["method"] == "exact"
    assert (tmp_path / "figure.svg").read_bytes().startswith(b"<?xml")


def test_a_search_here_measures_whole_networks(mlp: dict[str, Any]) -> None:
    spec = mlp | {"network": {"relative_error": 0.5, "max_seconds": 5}}
    result = run("search", "-", "--verify-network", stdin=json.dumps(spec))
    assert result.exit_code == 0
    assert "whole network" in result.stdout
    assert "relative variance over initializations" in " ".join(result.stdout.split())
    wrong = run("search", "-", "--verify-network", stdin=json.dumps(mlp | {"network": {"pixels": 8}}))
    assert (wrong.exit_code, "network.pixels" in wrong.stderr) == (2, True)


def test_a_search_here_shows_a_table(mlp: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(mlp))
    result = run("search", "spec.json", "--alpha", "1.6", "--plot", "figure.png")
    assert result.exit_code == 0, result.output
    for word in ("primal", "dual", "m × n", "α", "near optimum"):
        assert word in result.output
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_the_activation_of_an_mlp_can_be_named_and_its_gains_are_shown(mlp: dict[str, Any]) -> None:
    result = run("search", "mlp-digits-6x100", "--activation", "elu", "--alpha", "1.6", "--json")
    answer = json.loads(result.stdout)
    assert answer["title"] == "ELU (1) MLP 64→[100, 100, 100, 100, 100]→10"
    assert [layer["activation"] for layer in answer["gains"]] == [*["elu(1)"] * 5, "identity"]
    table = run("search", "mlp-digits-6x100", "--activation", "elu", "--alpha", "1.6").output
    assert "elu(1); weights of variance g / fan-in with g = 1, 1.551 (5 layers)" in " ".join(table.split())
    assert "fan-in" not in run("search", "-", "--alpha", "1.6", stdin=json.dumps(mlp)).output


@pytest.mark.parametrize(
    ("arguments", "stdin", "words"),
    [
        (("nothing-like-it",), None, ["neither a file nor a preset", "collegium presets"]),
        (("-",), "{", ["error"]),
        (("-",), "[]", ["a specification is a JSON object"]),
        (("-",), '{"baseline": {"family": "mlp", "inputs": 8, "hidden": [0]}}', ["baseline.hidden[0]"]),
        (("-",), '{"baseline": {"preset": "none"}}', ["baseline.preset", "resnet50"]),
        (("resnet50", "--seed", "-1"), None, ["estimator.seed"]),
        (("resnet50", "--correlation", "2"), None, ["inputs.correlation"]),
        (("resnet50", "--activation", "gelu"), None, ["baseline.activation"]),
        (("mlp-digits-6x100", "--activation", "gelu", "--space", "vector"), None, ["space.mode"]),
        (("mlp-digits-6x100", "--activation", "swish"), None, ["swish", "gelu"]),
        (("resnet50", "--plot", "figure.jpg"), None, ["figure.jpg", ".svg"]),
        (("resnet50", "--input", "3x32x32"), None, ["baseline.input", "of its family resnext"]),
        (("torchvision:vgg16", "--input", "3x8x8"), None, ["baseline.input", "too small"]),
        (("torchvision:vgg16", "--input", "3x-8"), None, ["a shape such as 3x32x32", "'3x-8'"]),
        (("-", "--input", "3x8x8"), '{"baseline": {"family": "mlp"}}', ["--input goes with a preset"]),
    ],
)
def test_wrong_input_names_the_field_and_is_status_2(
    arguments: tuple[str, ...], stdin: str | None, words: list[str]
) -> None:
    result = run("search", *arguments, stdin=stdin)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert all(word in result.stderr for word in words), result.stderr


def test_a_computation_that_fails_is_status_1(mlp: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collegium.jobs.subprocesses.sys.executable", "/bin/false")
    result = run("search", "-", stdin=json.dumps(mlp))
    assert result.exit_code == 1
    assert "ended without a result" in result.stderr


def test_a_search_at_a_service(
    live: Live, fake_worker: FakeWorker, answer: dict[str, Any], mlp: dict[str, Any], tmp_path: Path
) -> None:
    url, services = live()
    fake_worker(services, answer)
    result = run("search", "-", "--server", url, "--plot", "there.svg", stdin=json.dumps(mlp))
    assert result.exit_code == 0, result.stderr
    assert "primal" in result.stdout
    assert (tmp_path / "there.svg").exists()
    as_json = run("search", "-", "--server", url, "--json", stdin=json.dumps(mlp))
    assert json.loads(as_json.stdout) == answer


@pytest.mark.parametrize(
    ("end", "status", "word"),
    [(Failure("timeout", "It took too long.", "Ask for less."), 1, "Ask for less."), (None, 5, "was cancelled")],
)
def test_the_exit_status_is_that_of_the_job(
    live: Live, fake_worker: FakeWorker, mlp: dict[str, Any], end: Failure | None, status: int, word: str
) -> None:
    url, services = live()
    fake_worker(services, end)
    result = run("search", "-", "--server", url, stdin=json.dumps(mlp))
    assert result.exit_code == status
    assert word in result.stderr
    job = services.store.list().items[0]
    assert run("watch", job.id, "--server", url).exit_code == status


def test_a_failed_connection_is_status_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLEGIUM_SERVER", "http://127.0.0.1:9")
    for arguments in (("jobs",), ("show", "x"), ("watch", "x"), ("cancel", "x"), ("download", "x"), ("data", "list")):
        result = run(*arguments)
        assert result.exit_code == 3, arguments
        assert "collegium serve" in result.stderr


def test_refusals_are_status_4(served: Services) -> None:
    for arguments in (("show", "x"), ("watch", "x"), ("cancel", "x"), ("download", "x"), ("data", "delete", "x")):
        assert run(*arguments).exit_code == 4, arguments
    _, secret = served.store.add_key("me")
    refused = run("jobs")
    assert refused.exit_code == 4
    assert "COLLEGIUM_API_KEY" in refused.stderr
    assert run("jobs", "--key", secret).exit_code == 0


def test_jobs_are_listed_shown_watched_and_cancelled(
    served: Services, answer: dict[str, Any], mlp: dict[str, Any]
) -> None:
    assert "no jobs" in run("jobs").output
    job, _ = served.store.create("search", mlp, queue="search")
    other, _ = served.store.create("training", {"method": "vanilla", "data": {"name": "digits"}}, queue="train")
    assert job.id in run("jobs").output
    page = json.loads(run("jobs", "--limit", "1", "--json").stdout)
    assert [item["id"] for item in page["items"]] == [other.id]
    assert f"--cursor {page['next_cursor']}" in run("jobs", "--limit", "1").output
    rest = run("jobs", "--cursor", page["next_cursor"], "--kind", "search", "--status", "queued")
    assert job.id in rest.output
    cancelled = run("cancel", other.id, "--wait")
    assert "is cancelled" in cancelled.output
    assert run("watch", other.id).exit_code == 5
    claimed = served.store.claim(job.id, "worker", 60)
    assert claimed is not None
    served.store.succeed(job.id, 1, answer)
    shown = run("show", job.id)
    assert "succeeded" in shown.output
    assert "primal" in shown.output
    assert json.loads(run("show", job.id, "--json").stdout)["result"] == answer
    lines = run("watch", job.id, "--json").stdout.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["state", "state", "state"]
    assert run("watch", job.id).exit_code == 0


def test_files_are_downloaded_into_a_folder(served: Services, mlp: dict[str, Any], tmp_path: Path) -> None:
    job, _ = served.store.create("search", mlp, queue="search")
    refused = run("download", job.id)
    assert refused.exit_code == 4
    assert "no files; it is queued" in refused.stderr
    served.store.claim(job.id, "worker", 60)
    (tmp_path / "left").write_bytes(b"content")
    artifacts = [served.artifacts.put_file(job.id, 1, name, tmp_path / "left") for name in ("a.txt", "b.txt")]
    served.store.succeed(job.id, 1, {}, artifacts)
    assert run("download", job.id).exit_code == 0
    assert {path.name for path in (tmp_path / job.id).iterdir()} == {"a.txt", "b.txt"}
    assert run("download", job.id, "--to", "only", "--only", "b.txt").exit_code == 0
    assert [path.read_bytes() for path in (tmp_path / "only").iterdir()] == [b"content"]
    missing = run("download", job.id, "--only", "c.txt")
    assert (missing.exit_code, "no file c.txt" in missing.stderr) == (4, True)


TRAINED = {
    "accuracy": {"train": 0.999, "validation": None, "test": 0.975},
    "loss": {"train": 0.01, "validation": None, "test": 0.1},
    "parameters": 47_000,
    "multiplicity": 21,
    "widths": [16] * 5,
    "seconds": 3.5,
    "sampled": {"accuracy": {"train": 0.9, "validation": None, "test": 0.9}},
    "diagnostics": {"sharpness": 0.25, "spread": None},
    "notes": [{"kind": "stopped", "message": "It stopped early."}],
    "artifacts": [{"name": "model.safetensors", "bytes": 7, "sha256": "0" * 64}],
}


def test_a_training_is_posted_followed_and_downloaded(
    served: Services, fake_worker: FakeWorker, tmp_path: Path
) -> None:
    fake_worker(served, TRAINED, {"model.safetensors": b"weights"})
    options = ("--preset", "mlp-digits-6x100", "--width", "16", "--multiplicity", "21", "--data", "digits")
    result = run("train", *options, "--method", "majority", "--epochs", "2", "--recipe", "digits", "--to", "model")
    assert result.exit_code == 0, result.output
    for word in ("97.5 %", "as sampled", "sharpness 0.25", "It stopped early."):
        assert word in result.output
    assert (tmp_path / "model/model.safetensors").read_bytes() == b"weights"
    spec = served.store.list().items[0].spec
    assert (spec["method"], spec["recipe"]["epochs"], spec["recipe"]["name"]) == ("majority", 2, "digits")
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    later = run("train", "spec.json", "--seed", "7", "--no-wait")
    assert served.store.get(later.stdout.strip()).spec["seed"] == 7


def test_a_preset_is_trained_at_another_input(served: Services) -> None:
    posted = run("train", "--preset", "torchvision:resnet18", "--input", "3x8x8", "--data", "digits", "--no-wait")
    job = served.store.get(posted.stdout.strip())
    assert job.spec["architecture"]["baseline"] == {"preset": "torchvision:resnet18", "input": [3, 8, 8]}
    assert run("train", "--search", "some", "--input", "3x8x8", "--data", "digits").exit_code == 2


def test_a_training_needs_an_architecture_and_data(served: Services) -> None:
    assert run("train", "--data", "digits").exit_code == 2
    assert run("train", "--preset", "resnet50").exit_code == 2
    wrong = run("train", "--preset", "none", "--data", "digits")
    assert (wrong.exit_code, "architecture.baseline.preset" in wrong.stderr) == (2, True)
    unknown = run("train", "--search", "nothing", "--data", "digits")
    assert (unknown.exit_code, "architecture.search" in unknown.stderr) == (2, True)


def test_the_stages_of_a_network_are_grouped_each_in_its_own_way(served: Services, fake_worker: FakeWorker) -> None:
    stages = [{"widths": [8, 8], "multiplicity": 19}, {"widths": [14, 20], "multiplicity": 20}]
    fake_worker(served, TRAINED | {"multiplicity": None, "widths": None, "stages": stages})
    options = ("--preset", "resnext29-1x128d", "--data", "digits", "--stages")
    result = run("train", *options, "19x8, 20×14:20,26x21")
    assert result.exit_code == 0, result.output
    assert "19 × 8, 20 × (14, 20)" in result.output
    posted = served.store.list().items[0].spec["architecture"]["stages"]
    assert [(stage["width"], stage["widths"], stage["multiplicity"]) for stage in posted] == [
        (8, None, 19),
        (None, [14, 20], 20),
        (21, None, 26),
    ]
    few = run("train", *options, "19x8,20x14")
    assert (few.exit_code, "architecture.stages" in few.stderr, "3 stages" in few.stderr) == (2, True, True)
    for text in ("19x8,20", "19x8,", "x8", "19x8.5", "-19x8", "19x8x3"):
        wrong = run("train", *options, text)
        assert (wrong.exit_code, "a stage is MxN" in wrong.stderr) == (2, True), wrong.stderr


CELL = {
    "architecture": "split", "method": "majority", "recipe": "default", "parameters": 47_000, "multiplicity": 21,
    "widths": [16] * 5, "chosen": {"learning_rate": 0.003}, "runs": [{}, {}, {}], "succeeded": 2,
    "test_accuracy": 0.9712, "test_accuracy_error": 0.0021, "test_loss": 0.1, "test_loss_error": None,
}  # fmt: skip


def test_a_study_shows_its_table(served: Services, fake_worker: FakeWorker) -> None:
    lost = CELL | {"test_accuracy": None, "test_loss": None, "widths": None, "chosen": {}, "succeeded": 0}
    notes = [{"kind": "failed", "message": "Some failed."}]
    fake_worker(served, {"title": "One study", "cells": [CELL, lost], "notes": notes})
    study = {"architectures": [{"name": "base", "architecture": {"baseline": {"preset": "mlp-digits-6x100"}}}]}
    result = run("study", "-", stdin=json.dumps(study | {"data": "digits"}))
    assert result.exit_code == 0, result.output
    for word in ("One study", "21 × 16", "97.12 ± 0.21 %", "learning rate 0.003", "2 of 3", "Some failed."):
        assert word in result.output


def test_data_sets_are_added_listed_and_deleted(served: Services, tmp_path: Path) -> None:
    x, y = np.ones((9, 2), np.float32), np.arange(9) % 3
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    added = run("data", "add", "mine.npz", "--name", "my data")
    assert added.exit_code == 0, added.output
    identity = added.stdout.strip()
    listed = run("data", "list")
    assert identity in listed.output
    assert "my data" in listed.output
    assert json.loads(run("data", "add", "mine.npz", "--json").stdout)["id"] == identity
    assert run("data", "delete", identity).exit_code == 0
    assert "no data sets" in run("data", "list").output
    np.savez(tmp_path / "bad.npz", x_train=x)
    bad = run("data", "add", "bad.npz")
    assert (bad.exit_code, "missing" in bad.stderr) == (2, True)
    assert run("data", "add", "nothing.npz").exit_code == 2
    (tmp_path / "data.csv").write_text("1,2")
    assert run("data", "add", "data.csv").exit_code == 2


def test_an_unknown_figure_or_table_is_refused_with_the_known_ones() -> None:
    result = run("reproduce", "figure99")
    assert (result.exit_code, "figure2" in result.stderr) == (2, True)


def test_presets_are_listed() -> None:
    assert "25 557 032" in run("presets").output.replace("\u202f", " ")
    assert any(row["name"] == "resnet50" for row in json.loads(run("presets", "--json").stdout))


def test_one_preset_is_printed_as_a_whole() -> None:
    assert "138\u202f357\u202f544 parameters" in run("presets", "torchvision:vgg16").stdout
    assert json.loads(run("presets", "resnet50").stdout)["baseline"]["family"] == "resnext"
    assert json.loads(run("presets", "torchvision:vgg16", "--json").stdout)["baseline"]["family"] == "network"
    wrong = run("presets", "torchvision:nothing")
    assert (wrong.exit_code, "no preset is called" in wrong.stderr) == (2, True)


def test_the_folder_of_the_service_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLLEGIUM_DATABASE_URL")
    there = tmp_path / "elsewhere"
    there.mkdir()
    assert run("migrate", "--home", there).exit_code == 0
    assert (there / "collegium.db").is_file()
    assert run("keys", "create", "--home", there, "first").exit_code == 0
    assert "first" in run("keys", "list", "--home", there).output
    assert not (tmp_path / "home").exists()
    assert "--home" in run("serve", "--help").output
