"""The commands that run and maintain a service: keys, migrations, settings, the doctor."""

from __future__ import annotations

import json
import os
import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from collegium.app.cli.root import app
from collegium.app.local.doctor import EXTRAS, Finding, _device, _extensions, _packages
from collegium.registry import Registry

pytestmark = pytest.mark.usefixtures("environment")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_keys_are_made_listed_and_revoked(sqlite_url: str) -> None:
    assert "no keys" in run("keys", "list").output
    made = run("keys", "create", "me")
    assert made.stdout.startswith("collegium_")
    assert run("keys", "create", "again", "--if-none").stdout == ""
    (key,) = json.loads(run("keys", "list", "--json").stdout)
    assert key["name"] == "me"
    assert made.stdout.strip() not in run("keys", "list").output
    assert run("keys", "create", "").exit_code == 2
    revoked = run("keys", "revoke", key["id"])
    assert revoked.exit_code == 0
    assert "last key" in revoked.stderr
    assert run("keys", "revoke", key["id"]).exit_code == 4


def test_a_database_that_is_not_ready_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLLEGIUM_DATABASE_URL", f"sqlite:///{tmp_path}/new.db")
    old = run("keys", "list")
    assert (old.exit_code, "collegium migrate" in old.stderr) == (2, True)
    assert "at revision" in run("migrate").output
    assert run("keys", "list").exit_code == 0
    monkeypatch.setenv("COLLEGIUM_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    for arguments in (("keys", "list"), ("migrate",), ("serve",)):
        assert run(*arguments).exit_code == 3, arguments
    monkeypatch.setenv("COLLEGIUM_DATABASE_URL", "mysql://host/name")
    wrong = run("migrate")
    assert (wrong.exit_code, "COLLEGIUM_DATABASE_URL" in wrong.stderr) == (2, True)


@pytest.mark.parametrize("command", [("serve",), ("migrate",), ("keys", "list"), ("keys", "create", "me")])
def test_a_home_that_cannot_be_used_is_named(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLLEGIUM_DATABASE_URL")
    (tmp_path / "file").touch()
    for home in (tmp_path / "file" / "home", *([tmp_path / "file"] if command == ("serve",) else [])):
        result = run(*command, "--home", str(home))
        assert (result.exit_code, str(tmp_path / "file") in result.stderr) == (2, True), result.output
        assert "name another folder with --home or COLLEGIUM_HOME" in result.stderr


@pytest.mark.parametrize(
    ("home", "state", "word"),
    [
        (".", "ok", ""),
        ("new/and/below", "ok", "made by `collegium serve --home"),
        ("file", "wrong", "is a file"),
        ("file/home", "wrong", "is a file"),
        ("closed", "wrong", "cannot be written"),
        ("closed/new/home", "wrong", "cannot be written"),
    ],
)
def test_the_doctor_says_whether_a_home_can_be_used(
    home: str, state: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it can not, the other checks go on."""
    monkeypatch.setattr("collegium.app.local.doctor._device", lambda: iter(()))
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: access(path, mode) and not (mode & os.W_OK and Path(path).name == "closed")
    )
    (tmp_path / "file").touch()
    (tmp_path / "closed").mkdir()
    if state == "ok":
        monkeypatch.setattr("collegium.app.local.doctor._broker", lambda settings: iter(()))
    monkeypatch.setattr("collegium.app.local.doctor.Publisher.workers", lambda *given, **more: [])
    monkeypatch.delenv("COLLEGIUM_DATABASE_URL")
    found = {each["subject"]: each for each in json.loads(run("doctor", "--json", "--home", tmp_path / home).stdout)}
    assert (found["home"]["state"], word in found["home"]["message"]) == (state, True)
    assert {"database", "artifacts", "data"} <= set(found)
    if "file" in home:
        assert (found["broker"]["state"], "Not a directory" in found["broker"]["message"]) == ("wrong", True)


@pytest.mark.parametrize(
    ("value", "found"), [("0", ("note", "operator by operator")), ("yes", ("wrong", "COLLEGIUM_NATIVE must be 0 or 1"))]
)
def test_the_doctor_says_where_nothing_is_compiled(value: str, found: tuple[str, str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLLEGIUM_NATIVE", value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    subjects = {each.subject: each for each in _device()}
    assert subjects["device"].state == "ok"
    assert (subjects["compiled"].state, found[1] in subjects["compiled"].message) == (found[0], True)


def test_what_is_to_be_run_names_the_home_that_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it a key would be made in another database."""
    monkeypatch.delenv("COLLEGIUM_DATABASE_URL")
    run("migrate", "--home", tmp_path / "my home")
    result = run("serve", "--host", "1.2.3.4", "--home", tmp_path / "my home")
    assert f"`collegium keys create NAME --home '{tmp_path / 'my home'}'`" in result.stderr


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLEGIUM_PORT", "many")
    result = run("jobs")
    assert (result.exit_code, "COLLEGIUM_PORT='many'" in result.stderr) == (2, True)
    result = run("serve", "--port", "99999")
    assert (result.exit_code, result.stderr.startswith("error port=99999: ")) == (2, True)


@pytest.mark.slow
def test_the_doctor_checks_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = run("doctor", "--json")
    findings = {finding["subject"]: finding for finding in json.loads(healthy.stdout)}
    assert healthy.exit_code == 0, findings
    assert {"version", "packages", "device", "home", "database", "migrations", "queue", "broker"} <= set(findings)
    assert "torch" in findings["device"]["message"]
    assert findings["workers"]["state"] == "note"
    monkeypatch.setenv("COLLEGIUM_BROKER_URL", "redis://:secret@127.0.0.1:1/0")
    monkeypatch.setenv("COLLEGIUM_HOST", "0.0.0.0")
    sick = run("doctor")
    assert sick.exit_code == 1
    assert "redis://:***@127.0.0.1:1/0 does not answer" in sick.output
    assert "secret" not in sick.output
    assert "collegium keys create" in sick.output


def test_the_doctor_reports_what_is_wrong_with_a_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("collegium.app.local.doctor._device", lambda: iter(()))
    monkeypatch.setattr("collegium.app.local.doctor._broker", lambda settings: iter(()))
    for url, word in (
        (f"sqlite:///{tmp_path}/none.db", "does not exist yet"),
        ("postgresql://me:secret@127.0.0.1:1/none", "does not answer"),
        ("oracle://x", "not supported"),
    ):
        monkeypatch.setenv("COLLEGIUM_DATABASE_URL", url)
        result = run("doctor")
        assert word in result.output
        assert "secret" not in result.output
    empty = tmp_path / "empty.db"
    empty.touch()
    monkeypatch.setenv("COLLEGIUM_DATABASE_URL", f"sqlite:///{empty}")
    assert "run `collegium migrate`" in run("doctor").output


def test_the_doctor_knows_every_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """An extra is there where all of its packages are; development's is for no user."""
    document = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))
    declared = document["project"]["optional-dependencies"]
    packages = {extra: tuple(re.split(r"[><=~!]", each)[0] for each in found) for extra, found in declared.items()}
    assert {**EXTRAS, "dev": packages["dev"]} == packages
    monkeypatch.setattr("collegium.app.local.doctor._installed", lambda name: name != "onnxscript")
    assert [each.message for each in _packages() if each.subject == "extras"] == ["not installed: onnx"]
    monkeypatch.setattr("collegium.app.local.doctor._installed", lambda name: name != "kornia")
    assert [each.message for each in _packages() if each.subject == "extras"] == ["not installed: augment"]


def test_the_doctor_counts_in_words_that_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"torch": "2", "gpus": [], "threads": 1, "mps": False, "native": True}
    answer = SimpleNamespace(stdout=json.dumps(found))
    monkeypatch.setattr("collegium.app.local.doctor.subprocess.run", lambda *given, **options: answer)
    monkeypatch.setattr("collegium.app.local.doctor._broker", lambda settings: iter(()))
    run("keys", "create", "me")
    findings = {each["subject"]: each["message"] for each in json.loads(run("doctor", "--json").stdout)}
    assert findings["device"] == "torch 2; processor, 1 thread, no GPU"
    assert findings["keys"] == "1 API key"
    assert findings["queue"] == "0 jobs wait"


def test_the_doctor_reports_extensions_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def registry(**modules: str) -> Registry[Any]:
        points = {name: EntryPoint(name, module, "collegium.toys") for name, module in modules.items()}
        made: Registry[Any] = Registry("method", "collegium.toys", {})
        monkeypatch.setitem(vars(made), "_foreign", points)
        return made

    monkeypatch.setattr("collegium.app.local.doctor.METHODS", registry())
    assert list(_extensions()) == []
    monkeypatch.setattr("collegium.app.local.doctor.METHODS", registry(join="os.path:join"))
    assert list(_extensions()) == [Finding("ok", "extensions", "method join")]
    monkeypatch.setattr("collegium.app.local.doctor.METHODS", registry(join="os.path:join", ema="no_such_module:Ema"))
    (finding,) = _extensions()
    assert (finding.state, finding.remedy) == ("wrong", "update or remove that package")
    assert "the method 'ema' of no_such_module cannot be imported" in finding.message
