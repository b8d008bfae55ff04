"""Described networks of tokens are trained on text, to weights that the library's own model takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from collegium.search.describe.describe import describe
from collegium.search.errors import InvalidSpec
from collegium.search.networks.families.network import NetworkBaseline
from collegium.train.data.format import Sample
from collegium.train.errors import Mismatch
from collegium.train.limits import check_training_cost
from collegium.train.models.grouping import check_samples, group_network
from collegium.train.run import run_training
from collegium.train.spec.architecture import BaselineArchitecture
from collegium.train.spec.training import TrainingSpec

LENGTH, BELOW = 8, 20
DATA = {
    "name": "synthetic-text",
    "synthetic": {"labels": "classes", "task": "first", "vocabulary": 12, "length": 6, "samples": 256},
}


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    sizes |= {"vocab_size": BELOW, "max_position_embeddings": LENGTH, "num_labels": 10}
    return BertForSequenceClassification(BertConfig(**sizes)).eval()


@pytest.fixture(scope="module")
def baseline() -> NetworkBaseline:
    ids = torch.ones(2, LENGTH, dtype=torch.long)
    example = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": torch.ones_like(ids)}
    return describe(bert(), example)


def spec_of(baseline: NetworkBaseline, **fields: Any) -> dict[str, Any]:
    architecture = {"baseline": baseline.model_dump(mode="json")}
    recipe = {"epochs": 3, "learning_rate": 5e-3}
    return {"architecture": architecture, "method": "majority", "data": DATA, "recipe": recipe, **fields}


def test_it_learns_and_its_weights_are_those_of_the_library(
    baseline: NetworkBaseline, tmp_path: Path, load_and_evaluate: Any
):
    result = run_training(spec_of(baseline), tmp_path)
    assert result.accuracy.test > 0.3  # one of ten at random
    assert result.trained_parameters > result.parameters == baseline.parameters
    (note,) = result.notes
    assert note.kind == "tokens"
    assert "input_ids has the 6 tokens of a sample, followed by padding up to 8" in note.message
    assert "attention_mask is 1 where there is a token" in note.message
    assert (result.multiplicity, result.widths, result.stages) == (None, None, None)
    card = (tmp_path / "README.md").read_text()
    assert f"{result.parameters:,} parameters, nothing regrouped".replace(",", " ", 1) in card
    assert "m × n" not in card
    assert load_and_evaluate(tmp_path)["accuracy"] == pytest.approx(result.accuracy.test, abs=1e-6)
    model = bert()
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    data = load_file(tmp_path / "test.safetensors")
    ids = nn.functional.pad(data["x_test"], (0, 2))
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=(ids != 0).long()).logits.argmax(1)
    assert (found == data["y_test"]).float().mean().item() == pytest.approx(result.accuracy.test, abs=1e-6)


def test_a_network_that_reads_its_last_token_has_another_head(tmp_path: Path, load_and_evaluate: Any):
    from transformers import GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": LENGTH, "vocab_size": BELOW}
    sizes |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    model = GPT2ForSequenceClassification(GPT2Config(**sizes | {"num_labels": 2})).eval()
    described = describe(model, {"input_ids": torch.ones(2, LENGTH, dtype=torch.long)})
    result = run_training(spec_of(described, method="vanilla", recipe={"epochs": 1}), tmp_path)
    assert [note.kind for note in result.notes] == ["head_replaced", "tokens"]
    assert result.parameters == described.parameters + 8 * 16
    assert load_and_evaluate(tmp_path)["accuracy"] == pytest.approx(result.accuracy.test, abs=1e-6)
    other = GPT2ForSequenceClassification(GPT2Config(**sizes | {"num_labels": 10})).eval()
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    data = load_file(tmp_path / "test.safetensors")
    with torch.no_grad():
        found = other(input_ids=nn.functional.pad(data["x_test"], (0, 2))).logits.argmax(1)
    assert (found == data["y_test"]).float().mean().item() == pytest.approx(result.accuracy.test, abs=1e-6)


@pytest.mark.slow
def test_it_is_exported_for_other_runtimes(baseline: NetworkBaseline, tmp_path: Path):
    spec = spec_of(baseline, formats=["safetensors", "onnx"], method="vanilla", recipe={"epochs": 1})
    result = run_training(spec, tmp_path)
    assert [note.kind for note in result.notes] == ["tokens"]
    assert (tmp_path / "model.onnx").exists()


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(baseline: NetworkBaseline, killed_and_whole: Any):
    spec = TrainingSpec.model_validate(spec_of(baseline, recipe={"epochs": 3, "metric_steps": 1}))
    one, other = killed_and_whole(spec, 9)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (Sample("tokens", (8,), 20), ""),
        (Sample("tokens", (5,)), ""),
        (Sample("tokens", (9,), 20), "has sequences of 9 tokens and the described network reads 8 as 'input_ids'"),
        (Sample("tokens", (8,), 21), "has a vocabulary of 21 tokens and 'input_ids' of the described network is below"),
        (Sample("tokens", (8,), 20, rewritten=True), "the labels of data are sequences of tokens"),
        (Sample("image", (1, 2, 4)), "has samples of numbers and the described network takes 3 tensors"),
        (Sample("features", (8,)), "has samples of numbers"),
    ],
)
def test_data_that_do_not_fit_are_refused(baseline: NetworkBaseline, sample: Sample, message: str):
    architecture = BaselineArchitecture(baseline=baseline)
    if message:
        with pytest.raises(Mismatch, match=message):
            check_samples(architecture, "data", sample)
    else:
        check_samples(architecture, "data", sample)


def test_a_vocabulary_that_is_known_once_the_data_are_read_is_refused_then(baseline: NetworkBaseline, tmp_path: Path):
    folder = tmp_path / "reviews"
    folder.mkdir()
    for split in ("train", "dev"):
        (folder / f"{split}.tsv").write_text("sentence\tlabel\ngood\t1\nbad\t0\n" * 8)
    data = {"name": "reviews", "text": {"labels": "classes", "input_length": 8}}
    with pytest.raises(Mismatch, match="has a vocabulary of 259 tokens") as refused:
        run_training(spec_of(baseline, data=data), data_dir=tmp_path)
    assert "an embedding of 259 rows" in refused.value.remedy


class Padded(nn.Module):
    """The mean of what is no padding, which is the token 2."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(BELOW, 16, padding_idx=2), nn.Linear(16, 10)

    def forward(self, ids: Tensor) -> Tensor:
        real = ids.ne(2).float()
        return self.head(self.embed(ids).sum(1) / real.sum(1, keepdim=True))


def test_padding_of_its_own_stays_zero_while_it_learns(tmp_path: Path, load_and_evaluate: Any):
    torch.manual_seed(0)
    described = describe(Padded(), torch.zeros(2, LENGTH, dtype=torch.long))
    result = run_training(spec_of(described, recipe={"epochs": 2, "learning_rate": 1e-2}), tmp_path)
    assert result.notes[-1].message.endswith(
        "; 0 and 2, its own padding, are read in each other's place; padding is read as a row of the table that is not "
        "trained, since there is no mask."
    )
    model = Padded()
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert not model.embed.weight[2].any()
    assert model.embed.weight[0].any()
    assert load_and_evaluate(tmp_path)["accuracy"] == pytest.approx(result.accuracy.test, abs=1e-6)
    data = load_file(tmp_path / "test.safetensors")
    ids = nn.functional.pad(data["x_test"], (0, 2))
    seen = ids.clone()
    seen[ids == 0], seen[ids == 2] = 2, 0
    with torch.no_grad():
        found = model(seen).argmax(1)
    assert (found == data["y_test"]).float().mean().item() == pytest.approx(result.accuracy.test, abs=1e-6)


class Weighted(nn.Module):
    """A weight for each token that no text has."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(BELOW, 8), nn.Linear(8, 2)

    def forward(self, ids: Tensor, weight: Tensor) -> Tensor:
        return self.head((self.embed(ids) * weight[..., None]).sum(1))


def test_an_input_that_no_text_has_is_refused_by_its_place():
    described = describe(Weighted(), (torch.zeros(2, 5, dtype=torch.long), torch.zeros(2, 5)))
    with pytest.raises(InvalidSpec, match=r"inputs\[1\] of its graph: 'weight' does not follow from the tokens 'ids'"):
        group_network(BaselineArchitecture(baseline=described))


class Deep(nn.Module):
    """A branch with two hidden layers behind an embedding, read without a mask."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 12), nn.GELU(), nn.Dropout(0.2), nn.Linear(12, 8)]
        self.embed, self.branch, self.head = nn.Embedding(BELOW, 8), nn.Sequential(*layers), nn.Linear(8, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.head((x + self.branch(x)).mean(1))


@pytest.mark.usefixtures("one_thread")
def test_its_branches_are_grouped_and_its_own_dropout_follows_from_the_seed(tmp_path: Path):
    torch.manual_seed(0)
    described = describe(Deep().eval(), torch.zeros(2, LENGTH, dtype=torch.long))
    branches = [{"branch": "branch", "width": 4, "multiplicity": 3}]
    architecture = {"baseline": described.model_dump(mode="json"), "branches": branches}
    spec = spec_of(described, architecture=architecture, recipe={"epochs": 1})
    check_training_cost(TrainingSpec.model_validate(spec))
    weights = []
    for seed in (1, 2):  # of torch's own generator, on which nothing depends
        torch.manual_seed(seed)
        result = run_training(spec, tmp_path / str(seed))
        weights.append(load_file(tmp_path / str(seed) / "model.safetensors"))
    assert (result.multiplicity, result.widths) == (3, (4, 4))
    assert [note.kind for note in result.notes] == ["head_replaced", "tokens"]
    assert "there is no mask" in result.notes[1].message
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
