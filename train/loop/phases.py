"""The loops of one training, in order: the models that a method combines, and the one that it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from torch import nn

from collegium.train.data.batches import TrainingBatches, derive_seed, evaluation_batches
from collegium.train.data.dataset import Split
from collegium.train.errors import Mismatch
from collegium.train.loop.context import Setting
from collegium.train.loop.evaluation import evaluate
from collegium.train.loop.loop import Listener, Loop, augmentation
from collegium.train.loop.metrics import Figures
from collegium.train.loop.norms import reestimate_norms
from collegium.train.majority.diagnostics import Sharpness, kernel_spread, stochastic_sharpness
from collegium.train.majority.fused import majority_copies
from collegium.train.methods.method import Method
from collegium.train.result import Diagnostics, Scores, Splits
from collegium.train.spec.training import EXPANDING

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
        start = derive_seed(setting.spec.seed, INITIAL, 0 if method.shared_start else index)
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
    start = derive_seed(setting.spec.seed, INITIAL, method.members)
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
        seed=derive_seed(setting.spec.seed, ORDER, index),
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
        seed=derive_seed(setting.spec.seed, NORMS),
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


MOST_TRAINING_SAMPLES = 60_000
"""Training samples on which a finished model is evaluated; where there are more, the first so many."""
DRAWS = 8
"""Draws of p over which the stochastic sharpness is averaged."""


def figures_on(setting: Setting, model: nn.Module, split: Split, *, most: int | None = None) -> Figures:
    """Figures of ``model``, in evaluation mode, on a split."""
    task = setting.task(model)
    return evaluate(model, split, setting.data.preprocessing, task, setting.runtime, most=most)


def scores_of(setting: Setting, model: nn.Module) -> Scores:
    """Figures of ``model``, in evaluation mode, on every split."""
    data = setting.data
    train = figures_on(setting, model, data.train, most=MOST_TRAINING_SAMPLES)
    validation = None if data.validation is None else figures_on(setting, model, data.validation)
    test = figures_on(setting, model, data.test)
    return Scores(
        accuracy=Splits(train=train.top1, validation=validation and validation.top1, test=test.top1),
        top5=Splits(train=train.top5, validation=validation and validation.top5, test=test.top5),
        loss=Splits(train=train.loss, validation=validation and validation.loss, test=test.loss),
    )


def sampled_scores(setting: Setting, method: Method, model: nn.Module) -> Scores | None:
    """Figures of the weights that training sees, for one draw of them; None where they are the collapsed model's."""
    context = method.sampled(model)
    if context is None:
        return None
    with context:
        return scores_of(setting, model)


def diagnose(setting: Setting, model: nn.Module) -> Diagnostics:
    """What the spec's ``diagnostics`` ask of an expanded model; nothing of one without copies."""
    asked = setting.spec.diagnostics
    spread = kernel_spread(model) if "spread" in asked else {}
    sharpness = _sharpness(setting, model) if "sharpness" in asked and majority_copies(model) else None
    return Diagnostics(
        sharpness=sharpness and sharpness.delta,
        sharpness_error=sharpness and sharpness.standard_error,
        spread=sum(spread.values()) / len(spread) if spread else None,
    )


def _sharpness(setting: Setting, model: nn.Module) -> Sharpness:
    data, most = setting.data, MOST_TRAINING_SAMPLES
    size = setting.runtime.evaluation_batch
    batches = list(evaluation_batches(data.train, data.preprocessing, batch_size=size, most=most))
    return stochastic_sharpness(model, batches, setting.task(model).compute_loss, draws=DRAWS)
