"""Parts of a batch: how large they are, what they weigh, and that a step over them is the step over the whole."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from collegium.train.engine import run
from collegium.train.loop.metrics import IGNORED, MetricSum, loss_of
from collegium.train.loop.microbatches import least_part, split
from collegium.train.methods import create
from collegium.train.methods.step import Execution, run_microbatches
from collegium.train.spec.training import TrainingSpec

T5 = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
ROWS = 32


def sizes(batches):
    return [len(y) for _, y in batches]


@pytest.mark.parametrize("samples", range(1, 20))
@pytest.mark.parametrize("parts", [1, 2, 3, 4, 16])
@pytest.mark.parametrize("least", [1, 2])
def test_parts_are_equal_but_for_one_sample_and_none_is_too_small(samples, parts, least):
    x, y = torch.arange(float(samples)), torch.arange(samples)
    found = split((x, y), parts, least=least)
    assert torch.cat([labels for _, labels in found.batches]).tolist() == list(range(samples))
    assert max(sizes(found.batches)) - min(sizes(found.batches)) <= 1
    assert min(sizes(found.batches)) >= min(least, samples)
    assert len(found.batches) <= parts
    assert sum(found.weights or [1]) == pytest.approx(1)
    if samples >= least * parts:
        assert max(sizes(found.batches)) == -(-samples // parts)


def test_batch_norms_have_two_samples_in_each_part():
    assert least_part(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))) == 1
    assert least_part(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))) == 2


class Table(nn.Module):
    """Logits of each token by its own row of a table, and no reduction but the loss's."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(torch.randn(7, 5, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        return self.rows[x]


def compute_loss(model, batch):
    logits = model(batch[0])
    return loss_of(logits, batch[1], smoothing=0.1), logits


def sequences():
    """Eight sequences of zero to seven labels that count: parts of one have none."""
    x = torch.randint(7, (8, 7), generator=torch.Generator().manual_seed(1))
    y = x % 5
    return x, y.masked_fill(torch.arange(7) >= torch.arange(8)[:, None], IGNORED)


@pytest.mark.parametrize("name", ["vanilla", "distilled"])
@pytest.mark.parametrize("parts", [2, 3, 8])
def test_labels_that_count_weigh_alike_in_whatever_part_they_are(name, parts):
    gradients, losses = [], []
    for number in (1, parts):
        method, model, found = create(name), Table(), split(sequences(), number)
        if name == "distilled":
            method.combine([Table(), Table().requires_grad_(False)], evaluate=None)
            model.rows.data.mul_(0.5)
        output = method.step(model, found.batches, compute_loss, step=0, weights=found.weights)
        gradients.append(model.rows.grad)
        losses.append(output.loss)
    torch.testing.assert_close(gradients[0], gradients[1])
    torch.testing.assert_close(losses[0], losses[1])
    assert gradients[0].abs().max() > 0


def test_a_step_over_two_processes_is_that_over_the_whole_batch():
    """Gradients and shown losses of two processes, of which the mean and the sum are taken."""
    x, y = sequences()
    whole, model = split((x, y), 1), Table()
    expected = run_microbatches(model, whole.batches, compute_loss, Execution(), whole.weights)
    shown = MetricSum(torch.device("cpu"), lambda sums: sums + other.add_up())
    other = _Sums()
    gradients = []
    for rank, total in enumerate((shown, other)):
        own = (x[rank::2], y[rank::2])
        twin = Table()
        part = split(own, 2, world=2, reduce=lambda count: (y != IGNORED).sum())
        output = run_microbatches(twin, part.batches, compute_loss, Execution(), part.weights)
        total.add(torch.cat(output.logits), own[1], output.loss, weight=part.labels)
        gradients.append(twin.rows.grad)
    torch.testing.assert_close(sum(gradients) / 2, model.rows.grad)
    assert shown.mean().loss == pytest.approx(float(expected.loss), rel=1e-6)


class _Sums(MetricSum):
    def __init__(self):
        super().__init__(torch.device("cpu"))

    def add_up(self):
        return torch.tensor(self.state())


def test_where_no_label_counts_there_is_no_gradient():
    model, (x, y) = Table(), sequences()
    nothing = split((x, torch.full_like(y, IGNORED)), 4)
    output = run_microbatches(model, nothing.batches, compute_loss, Execution(), nothing.weights)
    assert float(output.loss) == 0
    assert not model.rows.grad.any()


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A data folder with ``words``: texts to be written, of one to fifteen letters."""
    folder = tmp_path_factory.mktemp("data") / "words"
    folder.mkdir()
    rows = [f"{'ab'[row % 2] * (1 + row % 9)}\t{'xyz'[row % 3] * (1 + 7 * row % 15)}" for row in range(ROWS)]
    for name in ("train", "dev"):
        (folder / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    return folder.parent


def one_step(texts, folder, *, parts=1, device="cpu"):
    """Weights after one step of SGD over all rows, and the loss that was shown."""
    spec = TrainingSpec.model_validate(
        {
            "architecture": {"transformer": "t5", "config": T5},
            "data": {"name": "words", "text": {"input_length": 12}},
            "recipe": {
                "epochs": 1, "batch_size": ROWS, "accumulate": parts, "optimizer": "sgd", "momentum": 0.0,
                "learning_rate": 5.0, "clip_norm": 0.0, "weight_decay": 0.0,
            },
            "formats": ["pretrained"],
        }
    )  # fmt: skip
    rows = []
    run(spec, data_dir=texts, artifact_dir=folder, event=lambda _, row: rows.append(row), device=device)
    return load_file(folder / "model.safetensors"), rows[-1]["loss"]


def assert_alike(found, expected):
    assert found[1] == pytest.approx(expected[1], rel=1e-5)
    assert found[0].keys() == expected[0].keys()
    for name, value in expected[0].items():
        assert float((found[0][name] - value).norm()) <= 1e-5 * float(value.norm()), name


def test_an_accumulated_step_on_texts_of_unequal_lengths_is_the_whole_one(texts, tmp_path):
    whole = one_step(texts, tmp_path / "whole")
    for parts in (2, 4, 16):
        assert_alike(one_step(texts, tmp_path / str(parts), parts=parts), whole)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 4])
def test_a_step_of_two_processes_on_texts_of_unequal_lengths_is_that_of_one(texts, tmp_path, parts):
    whole = one_step(texts, tmp_path / "whole")
    assert_alike(one_step(texts, tmp_path / "two", parts=parts, device="cpu:2"), whole)
