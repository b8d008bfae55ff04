"""Folders of an attempt, and what of them is published."""

import pytest

from collegium.jobs.errors import InvalidName
from collegium.jobs.files.artifacts import ArtifactStore
from collegium.worker.attempt.workspace import NotPublished, Workspace


@pytest.fixture
def workspace(client, settings):
    made = Workspace(settings.home, client.post("answer"))
    made.create()
    return made


def test_an_attempt_begins_with_an_empty_folder(workspace):
    (workspace.artifact_dir / "old.txt").write_text("of a killed worker")
    (workspace.checkpoint_dir / "kept").write_text("x")
    workspace.create()
    assert list(workspace.files()) == []
    assert (workspace.checkpoint_dir / "kept").exists()


def test_checkpoints_go_when_the_job_has_ended(workspace):
    workspace.discard(ended=False)
    assert workspace.checkpoint_dir.exists()
    assert not workspace.workdir.parent.exists()
    workspace.discard(ended=True)
    assert not workspace.checkpoint_dir.exists()


def test_files_are_named_below_their_folder(workspace, client):
    (workspace.artifact_dir / "model").mkdir()
    (workspace.artifact_dir / "model" / "config.json").write_text("{}")
    (workspace.artifact_dir / "model" / ".part").write_text("unfinished")
    assert [(found.name, found.bytes) for found in workspace.publish(client.artifacts)] == [("model/config.json", 2)]


def test_a_name_that_cannot_be_is_refused(workspace, client):
    (workspace.artifact_dir / "a b").write_text("x")
    with pytest.raises(InvalidName):
        workspace.publish(client.artifacts)


def test_a_store_that_does_not_take_a_file_says_so(workspace, tmp_path):
    (workspace.artifact_dir / "a").write_text("x")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(NotPublished):
        workspace.publish(ArtifactStore(f"file://{tmp_path}/file/below"))


def test_an_attempt_that_left_nothing_publishes_nothing(workspace, client):
    workspace.discard(ended=False)
    assert workspace.publish(client.artifacts) == []
