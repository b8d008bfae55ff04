import pytest
import torch
from safetensors.torch import load_file

from collegium.train.engine import execute, run
from collegium.train.errors import Mismatch
from collegium.train.loop.callback import TrainingCallback
from collegium.train.loop.context import TrainingRequest
from collegium.train.loop.launch import in_processes
from collegium.train.loop.loop import Pace
from collegium.train.loop.runtime import DeviceLayout, float32_as
from collegium.train.result import TrainingResult


class Stop(BaseException):
    pass


@pytest.mark.parametrize(
    ("text", "accelerator", "world"),
    [("cpu", "cpu", 1), ("cpu:2", "cpu", 2), ("cuda", "cuda", 1), ("cuda:3", "cuda", 1), ("cuda:0,2", "cuda", 2)],
)
def test_a_device_is_named_by_text(text, accelerator, world):
    layout = DeviceLayout.parse(text)
    assert (layout.accelerator, layout.world) == (accelerator, world)


@pytest.mark.parametrize(
    "text", ["", "gpu", "cpu:x", "cuda:1;rm", "cuda:0,-1", "cpu:0", "cpu:1,2", "cuda:0,0", "cuda:1,01"]
)
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="device"):
        DeviceLayout.parse(text)


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("tf32", True), ("bf16", False)])
def test_only_tf32_rounds_products_and_convolutions(precision, tf32):
    def rounded():
        return torch.get_float32_matmul_precision() == "high", torch.backends.cudnn.allow_tf32

    before = rounded()
    with float32_as(precision):
        assert rounded() == (tf32, tf32)
    assert rounded() == before


def test_a_training_in_full_precision_rounds_no_convolution(digits_spec):
    seen = []
    run(digits_spec({"epochs": 1}), event=lambda kind, row: seen.append(torch.backends.cudnn.allow_tf32))
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32


@pytest.fixture
def launched(digits_spec):
    """A function that trains as processes do, with their queue and events, in a thread of this one."""

    def train(recipe, callback=None, **fields):
        request = TrainingRequest(digits_spec(recipe, **fields), pace=Pace(report=0))
        return in_processes(execute, DeviceLayout.parse("cpu").fabric("fp32"), request, callback or TrainingCallback())

    return train


def test_the_training_ends_when_the_callback_raises(launched):
    def stop(fraction, message):
        raise Stop

    with pytest.raises(Stop):
        launched({"epochs": 2000}, TrainingCallback(stop))


def test_an_error_of_a_process_is_raised_in_the_launching_one(launched):
    wide = {"baseline": {"family": "mlp", "inputs": 784, "hidden": [8], "outputs": 10}}
    with pytest.raises(Mismatch, match="784"):
        launched({}, architecture=wide)


@pytest.mark.slow
def test_two_processes_train_one_model_and_report_it_once_through_a_stop(digits_spec, tmp_path):
    spec = digits_spec({"epochs": 6, "metric_steps": 2, "learning_rate": 5e-3})
    whole, rows, fractions, left = [], [], [], iter([True, True, False])

    def event(kind, row):
        rows.append(row)
        if not next(left, True):
            raise Stop

    run(spec, event=lambda kind, row: whole.append((row["scope"], row["step"])))
    kept = {"checkpoint_dir": tmp_path / "checkpoints", "pace": Pace(report=0, checkpoint=0)}
    with pytest.raises(Stop):
        run(spec, device="cpu:2", event=event, **kept)
    assert len(rows) < len(whole)  # the processes wait for their rows to be settled, and learn of the stop
    found = run(
        spec,
        device="cpu:2",
        event=event,
        report=lambda fraction, message: fractions.append(fraction),
        artifact_dir=tmp_path / "left",
        **kept,
    )
    assert [(row["scope"], row["step"]) for row in rows] == whole
    result = TrainingResult.model_validate(found)
    assert result.accuracy.test > 0.5
    epochs = [row for row in rows if row["scope"] == "epoch"]
    assert [row["epoch"] for row in epochs] == [1, 2, 3, 4, 5, 6]
    assert epochs[-1]["validation"]["top1"] == pytest.approx(result.accuracy.validation)
    assert fractions[-1] == 1
    assert (tmp_path / "left" / "model.safetensors").is_file()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no accelerator")
@pytest.mark.parametrize("method", ["vanilla", "majority"])
def test_an_accelerator_trains_and_leaves_a_model_for_the_processor(digits_spec, tmp_path, method):
    spec = digits_spec({"epochs": 10, "learning_rate": 5e-3, "precision": "bf16"}, method=method)
    result = TrainingResult.model_validate(run(spec, device="cuda", artifact_dir=tmp_path))
    expected = TrainingResult.model_validate(run(spec, device="cpu"))
    assert result.accuracy.test == pytest.approx(expected.accuracy.test, abs=0.05)
    assert result.accuracy.test > 0.3  # a tenth without training
    assert result.device.startswith("cuda")
    assert all(value.device.type == "cpu" for value in load_file(tmp_path / "model.safetensors").values())
