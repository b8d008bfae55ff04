"""The environment, read once."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from collegium.jobs.broker import broker_settings
from collegium.jobs.database.engine import open_engine, sqlite_file
from collegium.jobs.errors import SchemaMismatch
from collegium.jobs.files.artifacts import ArtifactStore
from collegium.jobs.store import JobStore
from collegium.worker.celery import RunnerStep, create_app
from collegium.worker.settings import SettingsError, WorkerSettings, load_settings


@pytest.fixture(autouse=True)
def _bare(monkeypatch):
    import os

    for name in list(os.environ):
        if name.startswith("COLLEGIUM_"):
            monkeypatch.delenv(name)


def test_everything_is_kept_below_home(monkeypatch, tmp_path):
    monkeypatch.setenv("COLLEGIUM_HOME", str(tmp_path))
    settings = load_settings()
    assert settings.database_url == f"sqlite:///{tmp_path}/collegium.db"
    assert settings.broker_url == f"filesystem://{tmp_path}/broker"
    assert settings.artifact_url == f"file://{tmp_path}/artifacts"
    assert (settings.data_dir, settings.datasets_dir) == (tmp_path / "data", tmp_path / "datasets")


@pytest.mark.parametrize("name", ["c# code", "what?mode=memory", "50%20off", "100%", "a@b:c", "%23", "über uns"])
def test_everything_is_kept_below_a_home_of_any_name(tmp_path, name):
    """What means something in a URL may be in the name of a folder; nothing is left beside it."""
    settings = load_settings(home=tmp_path / name / "home")
    engine = open_engine(settings.database_url)
    JobStore(engine).ping()
    engine.dispose()
    broker_settings(settings.broker_url)
    ArtifactStore(settings.artifact_url).ping()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert {path.name for path in (tmp_path / name / "home").iterdir()} >= {"collegium.db", "broker", "artifacts"}


def test_the_file_of_a_database_is_read_alike_by_every_release_of_sqlalchemy():
    assert sqlite_file("sqlite:////data/50%25 off%3F/jobs.db?timeout=3") == "/data/50% off?/jobs.db"
    assert sqlite_file("sqlite:///c#/jobs.db") == "c#/jobs.db"
    assert sqlite_file("sqlite://") is None


def test_a_broker_folder_without_its_whole_path_is_refused(monkeypatch):
    with pytest.raises(SettingsError, match="broker_url='filesystem://broker': a folder is named by its"):
        load_settings(broker_url="filesystem://broker")
    monkeypatch.setenv("COLLEGIUM_BROKER_URL", "filesystem://broker")
    with pytest.raises(SettingsError, match="COLLEGIUM_BROKER_URL='filesystem://broker': a folder is named by its"):
        load_settings()


def test_the_api_reads_the_same_places(monkeypatch, tmp_path):
    from collegium.app.settings import load_settings as load_app_settings

    monkeypatch.setenv("COLLEGIUM_HOME", str(tmp_path))
    here, there = load_settings(), load_app_settings()
    for name in ("home", "database_url", "broker_url", "artifact_url", "data_dir", "datasets_dir"):
        assert getattr(here, name) == getattr(there, name)


def test_every_setting_is_documented():
    guide = Path(__file__).parents[2].joinpath("docs/configuration.md").read_text(encoding="utf-8")
    for name in WorkerSettings.model_fields:
        assert f"| `COLLEGIUM_{name.upper()}` |" in guide


def test_an_override_goes_before_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("COLLEGIUM_POLL_S", "2")
    assert load_settings(poll_s=3.0).poll_s == 3.0
    assert load_settings(poll_s=None).poll_s == 2.0
    monkeypatch.setenv("COLLEGIUM_POLL_S", "")
    assert load_settings().poll_s == 1.0


def test_home_is_that_of_the_user():
    assert load_settings().home == Path("~/.collegium").expanduser()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LEASE_S", "soon"),
        ("SEARCH_SLOTS", "0"),
        ("DEVICES", "gpu"),
        ("EXTRA_HANDLERS", "no mapping"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_an_error_names_the_variable_and_its_value(monkeypatch, name, value):
    monkeypatch.setenv(f"COLLEGIUM_{name}", value)
    with pytest.raises(SettingsError, match=f"COLLEGIUM_{name}='{value}'"):
        load_settings()


def test_a_heartbeat_fits_twice_into_a_lease():
    with pytest.raises(SettingsError, match="half of lease_s"):
        load_settings(lease_s=1.0, heartbeat_s=0.6)


def test_each_kind_of_job_has_its_time():
    settings = WorkerSettings(shard_timeout_s=5.0)
    assert settings.timeout_s("shard") == 5.0
    assert settings.timeout_s("training") > settings.timeout_s("search")


def _newer(app):
    raise SchemaMismatch("the database is at revision 9999")


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        (lambda app: None, 3, "the database does not answer: .*Connection refused; see COLLEGIUM_DATABASE_URL"),
        (_newer, 2, "at revision 9999: install a newer collegium"),
    ],
)
def test_a_worker_that_has_no_database_ends_with_a_line_and_a_status(
    monkeypatch, caplog, tmp_path, change, status, message
):
    app = create_app(load_settings(home=tmp_path, database_url="postgresql://me:secret@127.0.0.1:1/none"))
    if change is _newer:
        monkeypatch.setattr(type(app), "open_store", change)
    parent = SimpleNamespace(app=app, hostname="me@here", concurrency=2)
    with pytest.raises(SystemExit) as ended:
        RunnerStep(parent).start(parent)
    assert ended.value.code == status
    (record,) = caplog.records
    assert re.search(message, record.getMessage())
    assert "secret" not in record.getMessage()
