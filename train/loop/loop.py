"""The training loop of every method, in one process or several, resumable at any step.

Random numbers follow from the seed and the step alone (the order of samples from the epoch, augmentation and dropout
from the step, a method's from what it keeps), so that a checkpoint holds a position and no generator, and a run that
is killed and resumed ends in the same weights as one that is not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from collegium.train.data.augment import AUGMENTATIONS, compose
from collegium.train.data.batches import TrainingBatches, derive_seed
from collegium.train.data.dataset import Augment, Batch, Dataset
from collegium.train.data.mixing import Mixing
from collegium.train.data.randaugment import RandAugment, value_range
from collegium.train.errors import Diverged
from collegium.train.loop.callback import TrainingCallback
from collegium.train.loop.checkpoint import Checkpoints
from collegium.train.loop.metrics import Metrics, MetricSum, labels_of
from collegium.train.loop.microbatches import least_part, split
from collegium.train.loop.optimization import make_optimizer, rate_at
from collegium.train.loop.runtime import Runtime, used_memory
from collegium.train.loop.sharpness import WHILE_TRAINING, measure_sharpness
from collegium.train.loop.task import Task, evaluate
from collegium.train.majority.fused import clip_gradient_norm
from collegium.train.methods.method import Method
from collegium.train.spec.recipes import Recipe


@dataclass(frozen=True)
class Pace:
    """Seconds between two reports of progress, and between two checkpoints.

    A killed run repeats about ``checkpoint`` seconds of work. Checkpoints that take long are saved less often, so that
    they cost at most a twentieth of the time; 0 saves at every report, whatever it costs.
    """

    report: float = 0.5
    checkpoint: float = 20.0


@dataclass
class Position:
    """How far a training is: all that its checkpoint holds besides the states of model, optimizer and method."""

    epoch: int = 0
    step_in_epoch: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    sums: list[float] | None = None
    best_loss: float | None = None
    best_epoch: int | None = None
    stale: int = 0
    finished: bool = False


class Loop:
    """Trains one model by one method.

    ``model`` is the prepared model: expanded, until the method's ``finish`` collapses it. ``name`` distinguishes the
    checkpoints and events of several loops of one training. ``seconds_before`` is what earlier attempts took.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        data: Dataset,
        task: Task,
        runtime: Runtime,
        *,
        seed: int,
        name: str,
        checkpoints: Checkpoints,
        callback: TrainingCallback,
        pace: Pace,
    ) -> None:
        self.method, self.data, self.task, self.runtime = method, data, task, runtime
        self.recipe, self._seed, self._name = runtime.recipe, seed, name
        self._checkpoints, self._callback, self._pace = checkpoints, callback, pace
        self.batches = TrainingBatches(
            data.train,
            data.preprocessing,
            batch_size=self.recipe.batch_size,
            seed=seed,
            device=runtime.device,
            augment=augmentation(data, self.recipe),
            mixing=mixing(data, self.recipe),
            draws=draws_while_decoding(data, self.recipe),
            rank=runtime.rank,
            world=runtime.world,
        )
        rate, steps = rate_at(self.recipe, self.batches.steps), self.recipe.epochs * self.batches.steps
        self._rate = method.rates(rate, steps=steps)
        method.compiles = self.recipe.compile and runtime.world == 1
        self.model = method.prepare(model, seed=derive_seed(seed, 10))
        self._optimizer = method.optimizer(self.model, make_optimizer(self.model, self.recipe))
        self.position = Position()
        self._best: dict[str, torch.Tensor] | None = None
        self._resumed = self._restore()
        self.seconds_before = self.position.seconds
        self._running, self._stepper, self._execution = runtime.setup(self.model, self._optimizer)
        self._sum = self._new_sum()
        # transformers and described networks may have dropout of their own
        own = any(getattr(module, "draws", False) for module in self.model.modules())
        self._least = least_part(self.model)
        self._draws = data.kind == "tokens" or self.recipe.dropout > 0 or own

    @property
    def step(self) -> int:
        """Optimizer steps taken so far."""
        return self.position.epoch * self.batches.steps + self.position.step_in_epoch

    def run(self) -> None:
        """Train to the end of the recipe, or until ``patience`` ends it. Raises ``Diverged``."""
        self._begin()
        if not self._resumed:
            self._save()
        while not self.position.finished:
            self._epoch()
        if self._best is not None:
            self.model.load_state_dict(self._best)
        self._save()

    def _begin(self) -> None:
        now = time.monotonic()
        self._started_at, self._started_step = now - self.position.seconds, self.step
        self._began_at, self._next_report, self._next_save = now, now + self._pace.report, now + self._pace.checkpoint
        if self.position.sums is not None:
            self._sum.restore(self.position.sums)

    def _new_sum(self) -> MetricSum:
        return MetricSum(self.runtime.device, self.runtime.sum())

    def _epoch(self) -> None:
        self.model.train()
        position, recipe = self.position, self.recipe
        entered, first = time.monotonic(), position.step_in_epoch
        for batch in self.batches.epoch(position.epoch, position.step_in_epoch):
            self._take_step(batch)
            position.step_in_epoch += 1
            if position.step_in_epoch % recipe.metric_steps == 0:
                self._step_event(entered, first)
            if time.monotonic() >= self._next_report:
                self._report_progress()
        self._end_epoch(entered, first)

    def _take_step(self, batch: Batch) -> None:
        step = self.step
        rate = self._rate(step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        if self._draws:
            torch.manual_seed(derive_seed(self._seed, step, 3, self.runtime.rank))
        parts = split(
            batch, self.recipe.accumulate, least=self._least, world=self.runtime.world, reduce=self.runtime.sum()
        )
        self._optimizer.zero_grad(set_to_none=True)
        output = self.method.step(
            self._running,
            parts.batches,
            self.task.compute_loss,
            step=step,
            execution=self._execution,
            weights=parts.weights,
        )
        if self.recipe.clip_norm:
            clip_gradient_norm(self.model, self._optimizer, self.recipe.clip_norm)
        self._stepper.step()
        self.method.after_step(self.model, step=step)
        logits = output.logits[0] if len(output.logits) == 1 else torch.cat(output.logits)
        self._sum.add(logits, labels_of(batch[1]), output.loss, weight=parts.labels)

    def _end_epoch(self, entered: float, first: int) -> None:
        position, recipe = self.position, self.recipe
        self._optimizer.zero_grad(set_to_none=True)  # memory that evaluation can have
        metrics = self._finite(self._sum.mean())
        row = self._row(metrics, entered, first)
        last = position.epoch + 1 == recipe.epochs
        position.epoch, position.step_in_epoch, position.sums = position.epoch + 1, 0, None
        self._sum = self._new_sum()
        if self.data.validation is not None and (last or position.epoch % recipe.evaluate_every == 0):
            validation = self.evaluate_on_validation()
            row["validation"] = {"loss": validation.loss, "top1": validation.top1, "top5": validation.top5}
            self._record_validation(validation.loss)
        if recipe.sharpness_every and (last or position.epoch % recipe.sharpness_every == 0):
            row |= self._sharpness()
        position.history.append(row)
        position.finished = last or bool(recipe.patience and position.stale >= recipe.patience)
        self._call(self._callback.event, "metric", {"phase": self._name, "scope": "epoch", **row})
        if time.monotonic() >= self._next_report or position.finished:
            self._report_progress()

    def evaluate_on_validation(self) -> Metrics:
        """Metrics of the model as it is now, in evaluation mode."""
        assert self.data.validation is not None
        return evaluate(self._running, self.data.validation, self.data.preprocessing, self.task, self.runtime)

    def _sharpness(self) -> dict[str, float]:
        """Stochastic sharpness of the copies as they are now; nothing where none are mixed at random."""
        most, draws = WHILE_TRAINING
        found = measure_sharpness(self.model, self.data, self.task, self.runtime, most=most, draws=draws)
        return {} if found is None else {"sharpness": found.delta, "sharpness_error": found.standard_error}

    def _record_validation(self, loss: float) -> None:
        position = self.position
        if position.best_loss is not None and loss >= position.best_loss:
            position.stale += 1
            return
        position.best_loss, position.best_epoch, position.stale = loss, position.epoch, 0
        if self.recipe.patience:
            self._best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def _finite(self, metrics: Metrics) -> Metrics:
        if not math.isfinite(metrics.loss):
            raise Diverged(
                f"the loss is {metrics.loss} in epoch {self.position.epoch + 1}, at a learning rate of "
                f"{self._rate(self.step):.3g}",
                "lower learning_rate, add warmup_epochs, or clip gradients with clip_norm; "
                "the last good checkpoint is kept",
            )
        return metrics

    def _row(self, metrics: Metrics, entered: float, first: int) -> dict[str, Any]:
        now = time.monotonic()
        samples = (self.position.step_in_epoch - first) * self.recipe.batch_size
        done, total = self.step, self.recipe.epochs * self.batches.steps
        per_step = (now - self._began_at) / max(1, done - self._started_step)
        return {
            "epoch": self.position.epoch + 1,
            "step": done,
            "loss": metrics.loss,
            "top1": metrics.top1,
            "top5": metrics.top5,
            "learning_rate": self._rate(max(0, done - 1)),
            "images_per_second": min(samples, metrics.samples) / max(1e-9, now - entered),
            "memory_bytes": used_memory(self.runtime.device),
            "eta_seconds": per_step * (total - done),
            "seconds": now - self._started_at,
        }

    def _step_event(self, entered: float, first: int) -> None:
        row = self._row(self._finite(self._sum.mean()), entered, first)
        self._call(self._callback.event, "metric", {"phase": self._name, "scope": "step", **row})

    def _report_progress(self) -> None:
        """Check that the loss is finite, report progress, and save a checkpoint if one is due."""
        metrics = self._sum.mean(local=True)  # processes report at different moments
        if metrics.samples:
            self._finite(metrics)
        total = self.recipe.epochs * self.batches.steps
        message = f"{self._name}: epoch {min(self.position.epoch + 1, self.recipe.epochs)} of {self.recipe.epochs}"
        self._call(self._callback.report, self.step / total, message)
        now = time.monotonic()
        self._next_report = now + self._pace.report
        if now >= self._next_save:
            self._save()
            after = time.monotonic()
            self._next_save = after + (self._pace.checkpoint and max(self._pace.checkpoint, 20 * (after - now)))

    def _call(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            callback(*arguments)
        except BaseException:
            self._save()  # a training that is stopped resumes where it was
            raise

    def _save(self) -> None:
        if not self._checkpoints.kept or self.runtime.rank or not _all_finite(self.model):
            return
        self._callback.settle()  # a resumed run goes on behind the rows of this position, and measures none again
        position = self.position
        position.seconds = time.monotonic() - self._started_at
        position.sums = self._sum.state()
        state = {
            "position": asdict(position),
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "method": self.method.state_dict(),
            "best": self._best,
        }
        self._checkpoints.save(self._name, state)

    def _restore(self) -> bool:
        state = self._checkpoints.load(self._name, self.runtime.device)
        if state is None:
            return False
        self.position = Position(**state["position"])
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.method.load_state_dict(state["method"])
        self._best = state["best"]
        return True


def augmentation(data: Dataset, recipe: Recipe) -> Augment | None:
    """The recipe's augmentation of training images; None for other data."""
    if data.kind != "image":
        return None
    already = getattr(data.train, "augments", frozenset())  # of samples that are augmented as they are decoded
    steps = dict(AUGMENTATIONS)
    if "randaugment" in recipe.augment:
        span = value_range(data.train)
        steps["randaugment"] = RandAugment(recipe.augment_operations, recipe.augment_magnitude, *span)
    return compose([name for name in recipe.augment if name not in already], steps)


def draws_while_decoding(data: Dataset, recipe: Recipe) -> bool:
    """Whether the recipe has any of the augmentations that the data's split applies itself, if it names them."""
    own = getattr(data.train, "augments", None)
    return own is None or not own.isdisjoint(recipe.augment)


def mixing(data: Dataset, recipe: Recipe) -> Mixing | None:
    """The recipe's mixing of training samples, or None."""
    if not recipe.mixup and not recipe.cutmix:
        return None
    return Mixing(data.classes, recipe.mixup, recipe.cutmix)


def _all_finite(model: nn.Module) -> bool:
    return all(bool(parameter.detach().norm().isfinite()) for parameter in model.parameters())
