"""Described networks of tokens are posted for training: text that fits is accepted, and all else named by field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from torch import Tensor, nn

from collegium.app.client.client import Client
from collegium.app.client.transfer import download
from collegium.app.services.services import Services
from collegium.search.describe.describe import describe
from collegium.train.data.formats import text
from collegium.train.data.formats.snippets import FILE

LENGTH, BELOW = 8, 20


class Reader(nn.Module):
    """An embedding, a branch with two hidden layers, and the mean over what the mask leaves."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 16)]
        self.embed, self.branch, self.head = nn.Embedding(BELOW, 16), nn.Sequential(*layers), nn.Linear(16, 10)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        kept = attention_mask[..., None].float()
        x = self.embed(ids)
        return self.head(((x + self.branch(x)) * kept).sum(1) / kept.sum(1))


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    torch.manual_seed(0)
    ids = torch.ones(2, LENGTH, dtype=torch.long)
    return describe(Reader(), (ids, torch.ones_like(ids))).model_dump(mode="json", exclude_none=True)


def sequences(**options: Any) -> dict[str, Any]:
    chosen = {"labels": "classes", "task": "maximum", "vocabulary": 12, "length": 6, "samples": 400}
    return {"name": "synthetic-text", "synthetic": chosen | options}


def training(described: dict[str, Any], data: Any, **fields: Any) -> dict[str, Any]:
    return {"architecture": {"baseline": described}, "data": data, **fields}


def test_text_that_fits_is_accepted_and_stored_as_posted(api: TestClient, described: dict[str, Any]) -> None:
    answer = api.post("/v1/trainings", json=training(described, sequences(), method="majority"))
    assert answer.status_code == 202, answer.text
    stored = answer.json()["spec"]
    assert [each["name"] for each in stored["architecture"]["baseline"]["graph"]["inputs"]] == ["ids", "attention_mask"]
    assert api.post("/v1/trainings", json=stored).status_code == 202


@pytest.mark.parametrize(
    ("data", "path", "words"),
    [
        (sequences(length=9), "architecture", ("sequences of 9 tokens", "a length of 8 or less")),
        (sequences(vocabulary=21), "architecture", ("a vocabulary of 21 tokens", "an embedding of 21 rows")),
        (sequences(labels="sequence"), "architecture", ("'labels': 'classes'",)),
        (sequences(task="reverse"), "data.synthetic.task", ("choose 'first' or 'maximum'",)),
        ("digits", "architecture", ("takes 2 tensors: ids, attention_mask", "choose text")),
        ("movie-snippets", "data.name", (f"put {FILE} into", "pip download --no-deps")),
        ("mnist", "data.name", ("put mnist into", "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte")),
    ],
)
def test_text_that_does_not_fit_is_refused_with_what_would(
    api: TestClient, described: dict[str, Any], data: Any, path: str, words: tuple[str, ...]
) -> None:
    answer = api.post("/v1/trainings", json=training(described, data))
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["path"] == path
    assert all(word in error["message"] for word in words), error["message"]


def test_fewer_words_of_the_vocabulary_may_be_chosen(
    api: TestClient, services: Services, described: dict[str, Any]
) -> None:
    services.settings.data_dir.mkdir(parents=True, exist_ok=True)
    (services.settings.data_dir / FILE).touch()
    for options, status in (({}, 422), ({"length": 8}, 422), ({"length": 8, "vocabulary": 20}, 202)):
        data = {"name": "movie-snippets", "snippets": options}
        assert api.post("/v1/trainings", json=training(described, data)).status_code == status, options


def test_an_input_that_no_text_has_is_refused(api: TestClient, described: dict[str, Any]) -> None:
    inputs = [described["graph"]["inputs"][0], described["graph"]["inputs"][1] | {"name": "weight"}]
    other = described | {"graph": described["graph"] | {"inputs": inputs}}
    answer = api.post("/v1/trainings", json=training(other, sequences()))
    assert answer.status_code == 422
    assert "inputs[1] of its graph: 'weight' does not follow from the tokens 'ids'" in answer.text


def test_a_package_that_is_missing_is_named_at_the_field_that_needs_it(
    api: TestClient, described: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "find_spec", lambda name: None)
    data = {"name": "reviews", "text": {"labels": "classes", "input_length": 8, "tokenizer": "words"}}
    answer = api.post("/v1/trainings", json=training(described, data))
    (error,) = answer.json()["errors"]
    assert error["path"] == "data.text.tokenizer"
    assert "pip install 'collegium[transformers]'" in error["message"]


@pytest.mark.slow
def test_it_is_searched_grouped_and_trained_by_the_service(
    service_url: str, described: dict[str, Any], tmp_path: Path
) -> None:
    with Client(service_url) as client:
        search = client.search({"baseline": described, "estimator": {"relative_error": 0.3}}).wait()
        assert search.result.primal is not None
        spec = training(described, sequences(), method="majority", recipe={"epochs": 8, "learning_rate": 0.01})
        job = client.train(spec | {"architecture": {"search": search.id, "choice": "primal"}}).wait()
        assert job.result.multiplicity == search.result.primal.multiplicity
        assert job.result.accuracy.test > 0.3  # one of ten at random
        files = {path.name for path in (download(client, each, tmp_path) for each in client.artifacts(job.id))}
    assert {"network.py", "load.py", "model.safetensors"} <= files
