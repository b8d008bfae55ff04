"""The loops of one training, in order: the models that a method combines, and the one that it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from torch import nn

from collegium.train.data.batches import TrainingBatches, mixed
from collegium.train.evaluate import evaluate
from collegium.train.loop import Listener, Loop, augmentation
from collegium.train.measure import diagnose, sampled_scores
from collegium.train.method import Method
from collegium.train.problem import Mismatch
from collegium.train.reestimate import reestimate_norms
from collegium.train.result import Diagnostics, Scores
from collegium.train.setting import Setting
from collegium.train.spec import EXPANDING

INITIAL, ORDER, NORMS = 0, 1, 2
TRAINING = "training"
NORM_BATCHES = 200
"""Batches over which norms are estimated anew; their statistics hardly change beyond that."""


@dataclass
class Trained:
    """What the phases end in.

    ``model`` is collapsed and on the device. ``loop`` is the last loop that ran, its model still expanded where the
    method expands; ``history`` has the rows of every loop by name.
    """

    model: nn.Module
    method: Method
    loop: Loop
    trained_parameters: int
    models: int = 1
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    sampled: Scores | None = None
    diagnostics: Diagnostics = field(default_factory=Diagnostics)


def train_all(setting: Setting, listener: Listener) -> Trained:
    """Run every loop of the training's method; a loop that an earlier attempt finished is not repeated.

    Raises ``Diverged``; lets pass what ``listener`` raises.
    """
    method = setting.method()
    phases = method.members + int(method.trains)
    history: dict[str, list[dict[str, Any]]] = {}
    finished: list[nn.Module] = []
    loop: Loop | None = None
    for index in range(method.members):
        start = mixed(setting.spec.seed, INITIAL, 0 if method.shared_start else index)
        member, name = setting.method("vanilla"), member_name(index)
        loop = _loop(setting, member, start, index, name, _part(listener, index, phases))
        loop.run()
        history[name] = loop.position.history
        finished.append(member.finish(loop.model))
    combined = method.combine(finished, _evaluate(setting)) if finished else None
    if not method.trains:
        assert loop is not None
        assert combined is not None
        if method.name == "soup":
            renew_norms(setting, combined)
        trained = sum(parameters(model) for model in finished)
        return Trained(combined, method, loop, trained, getattr(combined, "models", 1), history)
    start = mixed(setting.spec.seed, INITIAL, method.members)
    loop = _loop(setting, method, start, method.members, TRAINING, _part(listener, phases - 1, phases))
    loop.run()
    history[TRAINING] = loop.position.history
    return _collapsed(setting, method, loop, history)


def last_good(setting: Setting) -> tuple[nn.Module, list[dict[str, Any]]] | None:
    """The collapsed model of the checkpoint that was saved last, and its loop's history; None where there is none."""
    method = setting.method()
    loops = [(TRAINING, method)]
    loops += [(member_name(index), setting.method("vanilla")) for index in reversed(range(method.members))]
    for name, own in loops:
        state = setting.checkpoints.load(name, setting.runtime.device)
        if state is not None:
            model = own.prepare(setting.model(0), seed=0)
            model.load_state_dict(state["model"])
            own.load_state_dict(state["method"])
            return own.finish(model), state["position"]["history"]
    return None


def member_name(index: int) -> str:
    """Name of the loop of one of several models."""
    return f"model-{index + 1}"


def parameters(model: nn.Module) -> int:
    """Parameters of a model; one that is shared counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _loop(setting: Setting, method: Method, start: int, index: int, name: str, listener: Listener) -> Loop:
    model = setting.model(start)
    return Loop(
        model,
        method,
        setting.data,
        setting.task(model),
        setting.runtime,
        seed=mixed(setting.spec.seed, ORDER, index),
        name=name,
        checkpoints=setting.checkpoints,
        listener=listener,
        pace=setting.request.pace,
    )


def _collapsed(setting: Setting, method: Method, loop: Loop, history: dict[str, list[dict[str, Any]]]) -> Trained:
    """What a method's loop ends in; what is asked of the expanded model is measured before it is collapsed."""
    trained = parameters(loop.model)
    sampled = sampled_scores(setting, method, loop.model)
    diagnostics = diagnose(setting, loop.model)
    model = method.finish(loop.model)
    if method.name in EXPANDING or method.name == "subset":
        renew_norms(setting, model)
    return Trained(model, method, loop, trained, 1, history, sampled, diagnostics)


def renew_norms(setting: Setting, model: nn.Module) -> None:
    """Estimate the statistics of batch norms under the model's present weights; the same in every process."""
    batches = TrainingBatches(
        setting.data.train,
        setting.data.preprocessing,
        batch_size=setting.runtime.recipe.batch_size,
        seed=mixed(setting.spec.seed, NORMS),
        device=setting.runtime.device,
        augment=augmentation(setting.data, setting.runtime.recipe),
    )
    reestimate_norms(model, islice(batches.epoch(0), NORM_BATCHES))


def _part(listener: Listener, index: int, phases: int) -> Listener:
    return Listener(lambda fraction, message: listener.report((index + fraction) / phases, message), listener.event)


def _evaluate(setting: Setting) -> Callable[[nn.Module], float]:
    """Accuracy on the validation split, of weights that may have been averaged."""

    def accuracy(model: nn.Module) -> float:
        if setting.data.validation is None:
            raise Mismatch("this method chooses by validation samples", "hold some out: set data.validation")
        renew_norms(setting, model)
        data = setting.data
        return evaluate(model, data.validation, data.preprocessing, setting.task(model), setting.runtime).top1  # type: ignore[arg-type]

    return accuracy
