"""The loops of one training, in order: the models that a method combines, and the one that it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from torch import nn

from collegium.train.data.batches import TrainingBatches, derive_seed
from collegium.train.data.dataset import Split
from collegium.train.errors import Mismatch
from collegium.train.loop.callback import TrainingCallback
from collegium.train.loop.context import TrainingContext
from collegium.train.loop.loop import Loop, augmentation, draws_while_decoding
from collegium.train.loop.metrics import Metrics
from collegium.train.loop.norms import reestimate_norms
from collegium.train.loop.sharpness import MOST_TRAINING_SAMPLES, measure_sharpness
from collegium.train.loop.task import evaluate
from collegium.train.majority.diagnostics import kernel_spread
from collegium.train.methods.method import Method, Vanilla
from collegium.train.result import Diagnostics, Scores, Splits

INITIAL, ORDER, NORMS = 0, 1, 2
TRAINING = "training"
NORM_BATCHES = 200
"""Batches over which norms are estimated anew; their statistics hardly change beyond that."""


@dataclass
class Trained:
    """The outcome of the phases.

    ``model`` is collapsed and on the device. ``loop`` is the last loop that ran, its model still expanded where the
    method expands; ``history`` has the rows of every loop by name, ``seconds_before`` is what earlier attempts took.
    """

    model: nn.Module
    method: Method
    loop: Loop
    trained_parameters: int
    models: int = 1
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    sampled: Scores | None = None
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    seconds_before: float = 0.0


def train_all(context: TrainingContext, callback: TrainingCallback) -> Trained:
    """Run every loop of the training's method; a loop that an earlier attempt finished is not repeated.

    Raises ``Diverged``; lets pass what ``callback`` raises.
    """
    method = context.spec.new_method()
    phases = method.independent_models + int(method.trains)
    history: dict[str, list[dict[str, Any]]] = {}
    finished: list[nn.Module] = []
    loop: Loop | None = None
    before = 0.0
    for index in range(method.independent_models):
        start = derive_seed(context.spec.seed, INITIAL, 0 if method.shared_start else index)
        plain, name = Vanilla(), model_name(index)
        loop = _loop(context, plain, start, index, name, callback.part(index, phases))
        loop.run()
        history[name] = loop.position.history
        before += loop.seconds_before
        finished.append(plain.finish(loop.model))
    combined = method.combine(finished, _evaluate(context)) if finished else None
    if not method.trains:
        assert loop is not None
        assert combined is not None
        if method.renews_norms:
            renew_norms(context, combined)
        trained = sum(parameters(model) for model in finished)
        return Trained(combined, method, loop, trained, getattr(combined, "models", 1), history, seconds_before=before)
    start = derive_seed(context.spec.seed, INITIAL, method.independent_models)
    loop = _loop(context, method, start, method.independent_models, TRAINING, callback.part(phases - 1, phases))
    loop.run()
    history[TRAINING] = loop.position.history
    return replace(_collapsed(context, method, loop, history), seconds_before=before + loop.seconds_before)


def last_good(context: TrainingContext) -> tuple[nn.Module, list[dict[str, Any]]] | None:
    """The collapsed model of the checkpoint that was saved last, and its loop's history; None where there is none."""
    method = context.spec.new_method()
    loops = [(TRAINING, method)]
    loops += [(model_name(index), Vanilla()) for index in reversed(range(method.independent_models))]
    for name, own in loops:
        state = context.checkpoints.load(name, context.runtime.device)
        if state is not None:
            model = own.prepare(context.model(0), seed=0)
            model.load_state_dict(state["model"])
            own.load_state_dict(state["method"])
            return own.finish(model), state["position"]["history"]
    return None


def model_name(index: int) -> str:
    """Name of the loop of one of several models."""
    return f"model-{index + 1}"


def parameters(model: nn.Module) -> int:
    """Parameters of a model; one that is shared counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _loop(
    context: TrainingContext, method: Method, start: int, index: int, name: str, callback: TrainingCallback
) -> Loop:
    model = context.model(start)
    return Loop(
        model,
        method,
        context.data,
        context.task(model),
        context.runtime,
        seed=derive_seed(context.spec.seed, ORDER, index),
        name=name,
        checkpoints=context.checkpoints,
        callback=callback,
        pace=context.request.pace,
    )


def _collapsed(
    context: TrainingContext, method: Method, loop: Loop, history: dict[str, list[dict[str, Any]]]
) -> Trained:
    """The outcome of a method's loop; what concerns the expanded model is measured before it is collapsed."""
    trained = sum(parameter.numel() for parameter in loop.model.parameters() if parameter.requires_grad)
    sampled = sampled_scores(context, method, loop.model)
    diagnostics = diagnose(context, loop.model)
    model = method.finish(loop.model)
    if method.renews_norms:
        renew_norms(context, model)
    return Trained(model, method, loop, trained, 1, history, sampled, diagnostics)


def renew_norms(context: TrainingContext, model: nn.Module) -> None:
    """Estimate the statistics of batch norms under the model's present weights; the same in every process."""
    batches = TrainingBatches(
        context.data.train,
        context.data.preprocessing,
        batch_size=context.runtime.recipe.batch_size,
        seed=derive_seed(context.spec.seed, NORMS),
        device=context.runtime.device,
        augment=augmentation(context.data, context.runtime.recipe),
        draws=draws_while_decoding(context.data, context.runtime.recipe),
    )
    reestimate_norms(model, islice(batches.epoch(0), NORM_BATCHES))


def _evaluate(context: TrainingContext) -> Callable[[nn.Module], float]:
    """Accuracy on the validation split, of weights that may have been averaged."""

    def accuracy(model: nn.Module) -> float:
        if context.data.validation is None:
            raise Mismatch("this method chooses by validation samples", "hold some out: set data.validation")
        renew_norms(context, model)
        data = context.data
        return evaluate(model, data.validation, data.preprocessing, context.task(model), context.runtime).top1  # type: ignore[arg-type]

    return accuracy


def metrics_on(context: TrainingContext, model: nn.Module, split: Split, *, most: int | None = None) -> Metrics:
    """Metrics of ``model``, in evaluation mode and in full precision, on a split."""
    task, preprocessing = context.task(model), context.data.preprocessing
    return evaluate(model, split, preprocessing, task, context.runtime, most=most, full_precision=True)


def scores_of(context: TrainingContext, model: nn.Module) -> Scores:
    """Metrics of ``model``, in evaluation mode and in full precision, on every split."""
    data = context.data
    train = metrics_on(context, model, data.train, most=MOST_TRAINING_SAMPLES)
    validation = None if data.validation is None else metrics_on(context, model, data.validation)
    test = metrics_on(context, model, data.test)
    return Scores(
        accuracy=Splits(train=train.top1, validation=validation and validation.top1, test=test.top1),
        top5=Splits(train=train.top5, validation=validation and validation.top5, test=test.top5),
        loss=Splits(train=train.loss, validation=validation and validation.loss, test=test.loss),
    )


def sampled_scores(context: TrainingContext, method: Method, model: nn.Module) -> Scores | None:
    """Metrics of the weights that training sees, for one draw of them; None where they are the collapsed model's."""
    sampling = method.sampled(model)
    if sampling is None:
        return None
    with sampling:
        return scores_of(context, model)


def diagnose(context: TrainingContext, model: nn.Module) -> Diagnostics:
    """The spec's ``diagnostics`` of an expanded model; none of a model without copies."""
    chosen = context.spec.diagnostics
    spread = kernel_spread(model) if "spread" in chosen else {}
    sharpness = None
    if "sharpness" in chosen:
        sharpness = measure_sharpness(model, context.data, context.task(model), context.runtime)
    return Diagnostics(
        sharpness=sharpness and sharpness.delta,
        sharpness_error=sharpness and sharpness.standard_error,
        spread=sum(spread.values()) / len(spread) if spread else None,
    )
