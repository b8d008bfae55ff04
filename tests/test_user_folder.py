"""In a folder that holds the user's own ``train.py``, ``worker.py`` and the like, none of these is imported.

``collegium`` and ``celery`` are started as their commands start them, from that folder. Every file of the folder fails
when it is imported, and leaves a mark.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import collegium
from collegium.app.client.client import Client
from collegium.jobs.broker import Publisher
from collegium.jobs.database.engine import open_engine
from collegium.jobs.database.migrate import upgrade
from collegium.jobs.store import JobStore
from collegium.jobs.subprocesses import environment, python

OWN = ("train.py", "search.py", "worker.py", "jobs.py", "migrations.py", "app/__init__.py")
# Names of modules that the commands themselves import, from the standard library and from other packages.
SHADOWING = ("celery.py", "types.py", "queue.py", "random.py", "secrets.py", "torch.py", "fastapi.py", "alembic.py")
ROOT = Path(str(collegium.__file__)).absolute().parents[1]
MARK = "imported.txt"
SCRIPTS = Path(sys.executable).parent
PATIENCE_S = 120.0


def fill(folder: Path, names: tuple[str, ...]) -> Path:
    """Write files that fail when they are imported."""
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"open({str(folder / MARK)!r}, 'a').write({name + ' '!r})\nraise SystemExit('{name}')\n")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The user's folder; nothing of it was imported when the test ends."""
    made = tmp_path / "user"
    made.mkdir()
    yield fill(made, OWN)
    assert not (made / MARK).exists(), (made / MARK).read_text()


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """The environment of a service with a home of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COLLEGIUM_")}
    own = {"HOME": str(tmp_path / "home"), "DEVICES": "cpu", "SPARES": "0"}
    return inherited | {f"COLLEGIUM_{name}": value for name, value in own.items()} | {"COLUMNS": "200"}


def run(*command: str | Path, folder: Path, variables: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def start(folder: Path, variables: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Start a command in the folder; the path of its output."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*command: str | Path, **more: str) -> Path:
        log = tmp_path / f"{len(started)}.log"
        with log.open("wb") as sink:
            started.append(
                subprocess.Popen(command, cwd=folder, env=variables | more, stdout=sink, stderr=subprocess.STDOUT)
            )
        return log

    yield begin
    for process in started:
        process.terminate()
        process.wait(PATIENCE_S)


def test_the_library_is_imported(folder: Path, variables: dict[str, str]) -> None:
    program = "from collegium import expand, find_ensemble; print(find_ensemble('resnet50').primal.multiplicity)"
    assert run(sys.executable, "-c", program, folder=folder, variables=variables) == "12\n"


@pytest.mark.slow
def test_a_search_runs(folder: Path, variables: dict[str, str]) -> None:
    fill(folder, SHADOWING)
    assert "12" in run(SCRIPTS / "collegium", "search", "resnet50", folder=folder, variables=variables)


@pytest.mark.slow
def test_a_module_of_the_folder_is_described(folder: Path, variables: dict[str, str]) -> None:
    fill(folder, SHADOWING)
    (folder / "networks.py").write_text("from torch import nn\ndef make(): return nn.Sequential(nn.Linear(3, 4))\n")
    command = (SCRIPTS / "collegium", "describe", "networks:make", "--input", "3", "--to", "spec.json")
    assert "nothing here can be split" in run(*command, folder=folder, variables=variables)
    assert '"family": "network"' in (folder / "spec.json").read_text()


# As a checkout names its folders: these are the user's.
CHECKOUT = ("train.py", "search.py", "worker.py", "benchmarks.py", "app/__init__.py", "app/cli.py", "jobs/networks.py")
NETWORK = "from torch import nn\ndef make(): return nn.Sequential(nn.Linear(3, {}))\n"


@pytest.mark.parametrize("path", [False, True], ids=["working directory", "PYTHONPATH"])
def test_modules_named_as_folders_of_a_checkout_are_the_users(
    tmp_path: Path, variables: dict[str, str], path: bool
) -> None:
    """The checkout that collegium is imported from is on the path of the command that describes."""
    for number, name in enumerate(CHECKOUT, start=1):
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_text(NETWORK.format(number))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    paths = [str(ROOT), *([str(tmp_path / "own")] if path else [])]
    own = variables | {"PYTHONPATH": os.pathsep.join(paths)}
    program = (
        "import json, sys\nfrom collegium.search.describe.command import main\nbefore = list(sys.path)\n"
        "for name in sys.argv[1:]:\n    assert main([name + ':make', '--input', '3']) == 0\n"
        "assert sys.path == before"
    )
    names = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in CHECKOUT]
    printed = run(*python("-c", program), *names, folder=elsewhere if path else tmp_path / "own", variables=own)
    found = [int(each.replace(" ", "")) for each in re.findall(r"^(?:.*?): (\d+) parameters", printed, re.MULTILINE)]
    assert found == [4 * number for number in range(1, len(CHECKOUT) + 1)], printed


def test_a_checkout_is_on_the_path_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable install has a finder of its own; elsewhere ``PYTHONPATH`` has the folder, once."""
    origin = str(ROOT / "collegium" / "__init__.py")
    finder = type("Finder", (), {"find_spec": staticmethod(lambda name, path=None: SimpleNamespace(origin=origin))})
    finder.__module__ = "__editable___collegium_finder"
    others = [each for each in sys.meta_path if not getattr(each, "__module__", "").startswith("__editable__")]
    monkeypatch.setenv("PYTHONPATH", "/own")
    monkeypatch.setattr(sys, "meta_path", others)
    assert environment()["PYTHONPATH"] == f"{ROOT}{os.pathsep}/own"
    monkeypatch.setattr(sys, "meta_path", [*others, finder])
    assert environment()["PYTHONPATH"] == "/own"
    monkeypatch.setattr(sys, "meta_path", others)
    monkeypatch.setenv("PYTHONPATH", f"/own{os.pathsep}{ROOT}")
    assert environment()["PYTHONPATH"] == f"/own{os.pathsep}{ROOT}"


@pytest.mark.slow
def test_a_training_runs_through_the_service(
    folder: Path, start: Callable[..., Path], wait_until: Callable[..., Any]
) -> None:
    fill(folder, SHADOWING)
    log = start(SCRIPTS / "collegium", "serve", "--port", "0", PYTHONUNBUFFERED="1")
    found = wait_until(
        lambda: re.search(r"http://[\d.:]+", log.read_text()), "the service prints its address", PATIENCE_S
    )
    mlp = {"family": "mlp", "inputs": 64, "hidden": [16], "outputs": 10}
    spec = {"architecture": {"baseline": mlp}, "data": "digits", "recipe": {"epochs": 1}}
    with Client(found.group()) as client:
        job = client.train(spec).wait()
        assert job.status == "succeeded", job.failure


@pytest.mark.slow
def test_a_celery_worker_runs(
    folder: Path, variables: dict[str, str], start: Callable[..., Path], wait_until: Callable[..., Any], tmp_path: Path
) -> None:
    """Celery puts the working directory at the front of the path while it imports the application."""
    fill(folder, SHADOWING)
    database, broker = f"sqlite:///{tmp_path / 'home' / 'collegium.db'}", f"filesystem://{tmp_path / 'home' / 'broker'}"
    upgrade(database)
    log = start(SCRIPTS / "celery", "-A", "collegium.worker", "worker", "--pool", "threads", "-l", "INFO")
    wait_until(lambda: " ready." in log.read_text(), "the worker is ready", PATIENCE_S)
    store, publisher = JobStore(open_engine(database)), Publisher(broker)
    job, _ = store.create("search", {"baseline": {"preset": "resnet50"}}, queue="search")
    publisher.publish(job.id, job.queue)
    wait_until(lambda: store.get(job.id).terminal, "the search ended", PATIENCE_S)
    ended = store.get(job.id)
    publisher.close()
    store.close()
    assert ended.status == "succeeded", ended.failure
    assert ended.result is not None
    assert ended.result["primal"]["multiplicity"] == 12
