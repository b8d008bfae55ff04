"""Posting trainings and studies: architectures and data are looked up when the request arrives."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from collegium.app.services.services import Services
from collegium.jobs.record import Job
from collegium.search.networks.build import expand_preset
from collegium.search.spec import PresetBaseline
from collegium.train.data.catalog import DATA_FORMATS
from collegium.train.export import EXPORT_FORMATS
from collegium.train.methods import METHODS
from collegium.train.spec.recipes import RECIPES
from collegium.train.spec.study import StudySpec
from collegium.train.spec.training import TrainingSpec

DIGITS = {"baseline": {"preset": "mlp-digits-6x100"}}
TRAINING: dict[str, Any] = {"architecture": {**DIGITS, "width": 16, "multiplicity": 21}, "data": "digits"}
ANSWER = {"widths": [16] * 5, "width": 16, "multiplicity": 21}


@pytest.fixture
def searched(finished: Callable[..., Job]) -> Job:
    """A finished search that has a primal answer and no dual one."""
    result = {"primal": ANSWER, "dual": None, "baseline": {"widths": [100] * 5, "multiplicity": 1}}
    spec = json.loads(json.dumps(DIGITS))
    return finished(result=result | {"outcome": {"message": "No dual."}}, spec=spec)


def test_methods_are_listed_with_their_options(api: TestClient) -> None:
    items = {item["name"]: item for item in api.get("/v1/methods").json()["items"]}
    assert list(items) == list(METHODS.names)
    assert all(item["summary"] for item in items.values())
    assert items["vanilla"]["options"] == []
    options = {option["name"]: option for option in items["soup"]["options"]}
    assert all(option["schema"] and option["description"] for option in options.values())
    for name in items:
        spec = TRAINING | {"method": name, "data": {"name": "digits", "validation": 0.1}}
        assert api.post("/v1/trainings", json=spec).status_code == 202, name


def test_data_formats_are_listed_with_the_data_that_they_name(api: TestClient) -> None:
    items = {item["name"]: item for item in api.get("/v1/data-formats").json()["items"]}
    assert list(items) == list(DATA_FORMATS.names)
    named = {data["name"]: item for item in items.values() for data in item["data"]}
    assert {"digits", "mnist", "synthetic-text"} <= set(named)
    assert named["synthetic-text"]["options_name"] == "synthetic"
    assert "length" in named["synthetic-text"]["options"]["properties"]


def test_export_formats_are_listed_with_their_files(api: TestClient) -> None:
    items = {item["name"]: item for item in api.get("/v1/export-formats").json()["items"]}
    assert list(items) == list(EXPORT_FORMATS.names)
    assert items["onnx"]["extra"] == "collegium[onnx]"
    assert all(item["files"] for item in items.values())


def test_a_format_that_the_model_does_not_have_is_refused(api: TestClient) -> None:
    refused = api.post("/v1/trainings", json={**TRAINING, "formats": ["pretrained"]})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["path"] == "formats[0]"


def test_options_that_the_data_do_not_have_are_refused(api: TestClient) -> None:
    refused = api.post("/v1/trainings", json={**TRAINING, "data": {"name": "digits", "synthetic": {"samples": 50}}})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["path"] == "data.synthetic"


def test_recipes_are_listed(api: TestClient) -> None:
    items = {item["name"]: item for item in api.get("/v1/recipes").json()["items"]}
    assert list(items) == list(RECIPES)
    assert items["ce-cifar"]["epochs"] == 300
    posted = api.post("/v1/trainings", json=TRAINING | {"recipe": items["mk-fc-sgd"]})
    assert (posted.status_code, posted.json()["spec"]["recipe"]["optimizer"]) == (202, "sgd")


def test_a_training_is_stored_for_the_train_queue(api: TestClient, services: Services) -> None:
    answer = api.post("/v1/trainings", json=TRAINING)
    assert answer.status_code == 202
    job = services.store.get(answer.json()["id"])
    assert (job.kind, job.queue) == ("training", "train")
    assert TrainingSpec.model_validate_json(json.dumps(job.spec)).data.name == "digits"


def test_a_searchs_answer_is_resolved_and_its_origin_kept(api: TestClient, searched: Job) -> None:
    spec = {**TRAINING, "architecture": {"search": searched.id}}
    stored = api.post("/v1/trainings", json=spec).json()["spec"]
    architecture = stored["architecture"]
    assert architecture["widths"] == [16] * 5
    assert architecture["multiplicity"] == 21
    assert architecture["origin"] == {"search": searched.id, "choice": "primal"}
    TrainingSpec.model_validate_json(json.dumps(stored))
    assert api.post("/v1/trainings", json=stored).status_code == 202
    forged = {**stored, "architecture": {**architecture, "multiplicity": 22}}
    refused = api.post("/v1/trainings", json=forged)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["path"] == "architecture.origin"
    member = {"search": searched.id, "choice": {"width": 8, "multiplicity": 4}}
    assert (
        api.post("/v1/trainings", json={**TRAINING, "architecture": member}).json()["spec"]["architecture"]["width"]
        == 8
    )


def test_an_answer_with_a_grouping_for_each_stage_is_resolved(api: TestClient, finished: Callable[..., Job]) -> None:
    stages = [{"widths": [width] * 2, "multiplicity": m} for m, width in ((19, 8), (20, 14), (26, 21))]
    dual = {"widths": [8, 8], "multiplicity": 19, "stages": [stage | {"variance": 0.1} for stage in stages]}
    spec = {"baseline": {"preset": "resnext29-1x128d"}}
    searched = finished(result={"primal": None, "dual": dual, "outcome": {"message": "Found."}}, spec=spec)
    training = {"architecture": {"search": searched.id, "choice": "dual"}, "data": "digits"}
    stored = api.post("/v1/trainings", json=training)
    assert stored.status_code == 202, stored.text
    architecture = stored.json()["spec"]["architecture"]
    assert [stage | {"width": None} for stage in stages] == architecture["stages"]
    assert architecture.get("widths") is None
    assert api.post("/v1/trainings", json=stored.json()["spec"]).status_code == 202
    forged = {**architecture, "stages": [*stages[:2], {"widths": [21, 21], "multiplicity": 27}]}
    refused = api.post("/v1/trainings", json={**stored.json()["spec"], "architecture": forged})
    assert refused.json()["errors"][0]["path"] == "architecture.origin"


def test_an_answer_of_a_preset_names_the_preset(api: TestClient, finished: Callable[..., Job]) -> None:
    preset = {"preset": "torchvision:resnet18", "input": [3, 8, 8]}
    spec, result = {"baseline": preset}, {"baseline": {"widths": []}, "outcome": {"message": ""}}
    searched = finished(result=result, spec=spec)
    chosen = {"search": searched.id, "choice": "baseline"}
    stored = api.post("/v1/trainings", json={"architecture": chosen, "data": "digits"}).json()["spec"]
    assert stored["architecture"]["baseline"] == preset
    assert api.post("/v1/trainings", json=stored).status_code == 202
    whole = expand_preset(PresetBaseline(preset="torchvision:resnet18", input=(3, 8, 8))).model_dump(mode="json")
    earlier = stored | {"architecture": stored["architecture"] | {"baseline": whole}}  # as it was stored before
    assert api.post("/v1/trainings", json=earlier).status_code == 202


def test_a_search_without_an_answer_is_refused_at_its_field(
    api: TestClient, services: Services, searched: Job, started: Callable[..., Job], failure: Any
) -> None:
    running, training, broken = started(), started("training"), started()
    services.store.fail(broken.id, broken.attempt, failure, retry=False)
    for architecture, path, word in (
        ({"search": "nothing"}, "architecture.search", "no job"),
        ({"search": running.id}, "architecture.search", "running"),
        ({"search": broken.id}, "architecture.search", "failed"),
        ({"search": training.id}, "architecture.search", "training"),
        ({"search": searched.id, "choice": "dual"}, "architecture.choice", "No dual."),
        ({"search": searched.id, "choice": "best"}, "architecture.choice", ""),
        ({"search": searched.id, "choice": {"widths": [8], "multiplicity": 4}}, "architecture.choice.widths", "5"),
    ):
        answer = api.post("/v1/trainings", json={**TRAINING, "architecture": architecture})
        assert answer.status_code == 422, architecture
        errors = answer.json()["errors"]
        assert path in [error["path"] for error in errors], errors
        assert word in answer.text


def test_wrong_fields_are_named(api: TestClient) -> None:
    for change, path in (
        ({"architecture": {}}, "architecture"),
        ({"architecture": {"baseline": {"preset": "none"}}}, "architecture.baseline.preset"),
        ({"architecture": {**DIGITS, "widths": [3, 4]}}, "architecture.widths"),
        ({"architecture": {**DIGITS, "width": 10**6, "multiplicity": 10**6}}, "architecture"),
        ({"architecture": {**DIGITS, "stages": [{"width": 3, "multiplicity": 2}] * 2}}, "architecture.stages"),
        ({"architecture": {**DIGITS, "stages": [{"width": 0, "multiplicity": 2}]}}, "architecture.stages[0].width"),
        ({"method": "magic"}, "method"),
        ({"recipe": {"epochs": 10**9}}, "recipe.epochs"),
        ({"recipe": "ce-mars"}, "recipe"),
        ({"data": "no-such-data"}, "data.name"),
        ({"data": "f" * 64}, "data.name"),
        ({"data": {"name": "../etc"}}, "data.name"),
        ({"expansion": 65}, "expansion"),
        ({"seed": -1}, "seed"),
    ):
        answer = api.post("/v1/trainings", json={**TRAINING, **change})
        assert answer.status_code == 422, change
        assert path in [error["path"] for error in answer.json()["errors"]], answer.json()["errors"]


def test_a_folder_of_the_data_folder_is_data(api: TestClient, services: Services) -> None:
    (services.settings.data_dir / "flowers").mkdir(parents=True)
    assert api.post("/v1/trainings", json={**TRAINING, "data": "flowers"}).status_code == 202


MLP_65 = {"baseline": {"family": "mlp", "inputs": 65, "hidden": [8, 8], "outputs": 10}}
T5 = {"transformer": "t5", "config": {"d_model": 16}}


@pytest.mark.parametrize(
    ("architecture", "data", "message"),
    [
        (MLP_65, "digits", "digits has 64 inputs and the network takes 65: give 'inputs': 64"),
        (MLP_65, {"name": "synthetic", "synthetic": {"inputs": 16}}, "give 'inputs': 16"),
        (MLP_65, "synthetic-text", "train a transformer"),
        (T5, "digits", "does not hold sequences"),
        ({"baseline": {"preset": "resnet50"}}, "synthetic", "takes images"),
    ],
)
def test_samples_that_the_network_does_not_take_are_refused_at_once(
    api: TestClient, architecture: Any, data: Any, message: str
) -> None:
    answer = api.post("/v1/trainings", json={"architecture": architecture, "data": data})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["path"] == "architecture"
    assert message in error["message"]
    items = [{"name": "wrong", "architecture": architecture}]
    (error,) = api.post("/v1/studies", json={"architectures": items, "data": data}).json()["errors"]
    assert error["path"] == "architectures[0].architecture"


def test_the_shape_of_an_upload_is_known(api: TestClient, services: Services) -> None:
    summary = {"format": "npz", "shape": [12], "dtype": "float32", "classes": 2, "train": 10, "test": 10}
    services.store.add_dataset("a" * 64, name="mine", bytes=100, kind="npz", summary=summary)
    answer = api.post("/v1/trainings", json={"architecture": MLP_65, "data": "a" * 64})
    assert answer.status_code == 422
    assert "give 'inputs': 12" in answer.text


def upload(services: Services, **summary: Any) -> str:
    described = {"format": "npz", "shape": [12], "dtype": "float32", "classes": 2, "train": 10, "test": 10} | summary
    services.store.add_dataset("a" * 64, name="mine", bytes=100, kind="npz", summary=described)
    return "a" * 64


MLP_12 = {"baseline": {"family": "mlp", "inputs": 12, "hidden": [8, 8], "outputs": 2}}


@pytest.fixture
def folders(services: Services) -> None:
    """Images in ``pictures`` and text in ``reviews``, of the data folder."""
    for split in ("train", "val"):
        (services.settings.data_dir / "pictures" / split / "a").mkdir(parents=True)
    (services.settings.data_dir / "reviews").mkdir()
    for name in ("train", "dev"):
        (services.settings.data_dir / "reviews" / f"{name}.tsv").write_text("sentence\tlabel\nx\tyes\n")


@pytest.mark.parametrize(
    ("architecture", "data", "recipe", "path"),
    [
        (MLP_12, {"name": "upload"}, {"augment": ["flip"]}, "recipe.augment"),
        (MLP_12, {"name": "upload"}, {"cutmix": 1.0}, "recipe.cutmix"),
        (MLP_12, {"name": "upload", "snippets": {"length": 9}}, {}, "data.snippets"),
        (MLP_12, {"name": "upload", "text": {"labels": "classes"}}, {}, "data.text"),
        (MLP_12, {"name": "upload", "validation": 0.01}, {}, "data.validation"),
        ({"baseline": {"preset": "resnet50"}}, {"name": "pictures", "synthetic": {"inputs": 3}}, {}, "data.synthetic"),
        (T5, {"name": "reviews", "synthetic": {"inputs": 3}}, {}, "data.synthetic"),
        (T5, {"name": "reviews", "text": {"tokenizer": "nothing"}}, {}, "data.text.tokenizer"),
        (T5, {"name": "reviews"}, {"mixup": 0.3}, "recipe.mixup"),
        (T5, {"name": "reviews"}, {"augment": ["flip"]}, "recipe.augment"),
        ({"transformer": "t5", "pretrained": "nothing"}, {"name": "reviews"}, {}, "architecture.pretrained"),
    ],
)
def test_what_an_upload_or_a_folder_has_not_is_refused_at_once(
    api: TestClient, services: Services, folders: None, architecture: Any, data: Any, recipe: Any, path: str
) -> None:
    """As for data with a name of its own: nothing is left for the worker to refuse, or to pass over."""
    data = {**data, "name": upload(services)} if data["name"] == "upload" else data
    training = {"architecture": architecture, "data": data}
    assert api.post("/v1/trainings", json={**training, "data": data["name"]}).status_code == (
        422 if path == "architecture.pretrained" else 202
    )
    (error,) = api.post("/v1/trainings", json={**training, "recipe": recipe}).json()["errors"]
    assert error["path"] == path
    study = {"architectures": [{"name": "a", "architecture": architecture}], "data": data, "seeds": 1}
    (error,) = api.post("/v1/studies", json={**study, "recipes": [{"name": "r", "recipe": recipe}]}).json()["errors"]
    assert error["path"].endswith(path)


def test_published_data_must_be_in_the_folder_that_the_worker_shares(api: TestClient, services: Services) -> None:
    resnext = {"architecture": {"baseline": {"preset": "resnext29-3x64d"}}, "data": "cifar10"}
    assert services.settings.shares_folders
    (error,) = api.post("/v1/trainings", json=resnext).json()["errors"]
    assert error["path"] == "data.name"
    assert "cifar-10-binary.tar.gz" in error["message"]
    (services.settings.data_dir / "cifar-10-batches-bin").mkdir(parents=True)
    assert api.post("/v1/trainings", json=resnext).status_code == 202


def test_a_study_is_resolved_in_every_architecture(api: TestClient, services: Services, searched: Job) -> None:
    study = {
        "architectures": [
            {"name": "base", "architecture": DIGITS},
            {"name": "primal", "architecture": {"search": searched.id}},
        ],
        "methods": ["vanilla", "majority"],
        "data": "digits",
        "seeds": 2,
    }
    answer = api.post("/v1/studies", json=study)
    assert answer.status_code == 202
    stored = answer.json()["spec"]
    assert stored["architectures"][1]["architecture"]["multiplicity"] == 21
    StudySpec.model_validate_json(json.dumps(stored))
    study["architectures"][1]["architecture"] = {"search": "nothing"}
    refused = api.post("/v1/studies", json=study)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["path"] == "architectures[1].architecture.search"
    study["architectures"] = [{"name": "a", "architecture": {"baseline": {"preset": "none"}}}]
    refused = api.post("/v1/studies", json=study)
    assert refused.json()["errors"][0]["path"] == "architectures[0].architecture.baseline.preset"


def test_fields_that_would_do_nothing_are_refused_with_their_place(api: TestClient) -> None:
    for recipe, path in (
        ({"evaluate_every": 5}, "recipe.evaluate_every"),
        ({"channels_last": True}, "recipe.channels_last"),
        ({"schedule": "multistep", "milestones": [5, 60]}, "recipe.milestones[1]"),
    ):
        refused = api.post("/v1/trainings", json=TRAINING | {"recipe": recipe})
        assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, path)
        study = {
            "architectures": [{"name": "A", "architecture": TRAINING["architecture"]}],
            "methods": [{"method": "vanilla", "recipe": recipe}],
            "data": "digits",
        }
        refused = api.post("/v1/studies", json=study)
        assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, f"methods[0].{path}")
    twice = api.post("/v1/trainings", json=TRAINING | {"formats": ["onnx", "onnx"]})
    assert (twice.status_code, twice.json()["errors"][0]["path"]) == (422, "formats[1]")
