import torch
from torch import nn

from collegium.train.data.dataset import ArraySplit, Preprocessing
from collegium.train.loop.runtime import DeviceLayout, Runtime
from collegium.train.loop.task import Task, evaluate
from collegium.train.spec.recipes import Recipe

SPLIT = ArraySplit(torch.randn(120, 3, 2, 2) * 4 + 7, torch.zeros(120, dtype=torch.long))
TASK = Task(lambda model, x, y: model(x))


def network():
    return nn.Sequential(nn.BatchNorm2d(3, momentum=0.3), nn.Dropout(0.9), nn.Flatten(), nn.Linear(12, 2))


def runtime(batch=16):
    return Runtime(DeviceLayout.parse("cpu").fabric("fp32"), Recipe(batch_size=batch))


def test_evaluation_changes_nothing():
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = evaluate(model, SPLIT, Preprocessing(), TASK, runtime())
    second = evaluate(model, SPLIT, Preprocessing(), TASK, runtime(batch=7))
    assert first.samples == second.samples == 120
    assert abs(first.loss - second.loss) < 1e-6
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert evaluate(model, SPLIT, Preprocessing(), TASK, runtime(), most=50).samples == 50


def test_evaluation_has_the_precision_of_training_unless_it_is_asked_for_full_precision():
    kinds = []
    task = Task(lambda model, x, y: kinds.append((logits := model(x)).dtype) or logits.float())
    own = Runtime(DeviceLayout.parse("cpu").fabric("bf16"), Recipe(batch_size=30, precision="bf16"))
    for full in (False, True):
        evaluate(network(), SPLIT, Preprocessing(), task, own, full_precision=full)
    assert kinds == [torch.bfloat16, torch.float32]
