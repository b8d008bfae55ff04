"""Parts of a batch: how large they are, what they weigh, and that a step over them is the step over the whole."""

from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from collegium.search.describe.describe import describe
from collegium.search.errors import InvalidSpec
from collegium.train.engine import execute, run
from collegium.train.loop.callback import TrainingCallback
from collegium.train.loop.context import TrainingRequest
from collegium.train.loop.launch import in_processes
from collegium.train.loop.metrics import IGNORED, MetricSum, loss_of
from collegium.train.loop.microbatches import least_part, split
from collegium.train.loop.runtime import DeviceLayout
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


def step_spec(parts=1):
    """One step of SGD over all rows."""
    return TrainingSpec.model_validate(
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


def one_step(texts, folder, parts=1):
    """Weights after the step, and the loss that was shown."""
    rows = []
    run(step_spec(parts), data_dir=texts, artifact_dir=folder, event=lambda _, row: rows.append(row))
    return load_file(folder / "model.safetensors"), rows[-1]["loss"]


def assert_alike(found, expected):
    assert found[1] == pytest.approx(expected[1], rel=1e-5)
    assert found[0].keys() == expected[0].keys()
    for name, value in expected[0].items():
        assert float((found[0][name] - value).norm()) <= 1e-5 * float(value.norm()), name


def test_an_accumulated_step_on_texts_of_unequal_lengths_is_the_whole_one(texts, tmp_path):
    whole = one_step(texts, tmp_path / "whole")
    for parts in (2, 4, 16):
        assert_alike(one_step(texts, tmp_path / str(parts), parts), whole)


def digits(limit, *norms):
    """A training of a small network on so many samples."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), *norms, nn.ReLU(), nn.Linear(12, 10))
    baseline = describe(module, torch.zeros(2, 1, 8, 8), name="net").model_dump(mode="json", exclude_none=True)
    data, recipe = {"name": "digits", "limit": limit}, {"epochs": 1, "batch_size": 4}
    return TrainingSpec.model_validate({"architecture": {"baseline": baseline}, "data": data, "recipe": recipe})


def execute_all(fabric, request, callback, *, others):
    """One training after the other in the same processes; results are sent as events."""
    for one in (request, *others):
        callback.event("result", execute(fabric, one, callback))
    return {}


@pytest.mark.slow
def test_shares_of_two_processes_make_the_whole_batch(texts, tmp_path):
    """Steps on texts of unequal lengths, a last batch of one sample each, and too few samples for two."""
    parts = (1, 4)
    requests = [TrainingRequest(step_spec(number), None, tmp_path / str(number), texts) for number in parts]
    requests += [TrainingRequest(digits(14, nn.BatchNorm1d(12))), TrainingRequest(digits(1))]
    losses, results = [], []

    def event(kind, row):
        if kind == "result":
            results.append(row)
        elif "loss" in row and len(losses) == len(results):
            losses.append(row["loss"])

    launching = DeviceLayout.parse("cpu:2").fabric("fp32")
    with pytest.raises(InvalidSpec, match="1 training samples for 2 processes") as raised:
        in_processes(partial(execute_all, others=requests[1:]), launching, requests[0], TrainingCallback(event=event))
    assert raised.value.path == ("data", "limit")
    whole = one_step(texts, tmp_path / "whole")
    for number, loss in zip(parts, losses, strict=False):
        assert_alike((load_file(tmp_path / str(number) / "model.safetensors"), loss), whole)
    assert [result["steps"] for result in results] == [1, 1, 3]
