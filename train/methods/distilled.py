"""Distillation of an ensemble into one model (Hinton et al. 2015; a baseline in Mazzawi et al. 2024, Appendix G)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from collegium.search.fields import wrong_fields
from collegium.train.methods.ensemble import EnsembleOptions
from collegium.train.methods.method import Evaluate, Method
from collegium.train.methods.step import ComputeLoss, Execution, StepOutput, run_microbatches

if TYPE_CHECKING:
    from torch import Tensor, nn

IGNORED = -100  # the label of a token that does not count, as in torch's cross-entropy


class DistilledOptions(EnsembleOptions):
    """How many teachers are trained, and the loss of the student."""

    alpha: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="weight of the divergence from the teachers; the loss on the labels has the rest"
    )
    temperature: Annotated[float, Field(gt=0, le=1e6)] = Field(
        1.0, description="T, by which the logits of teachers and student are divided"
    )

    @model_validator(mode="after")
    def _teaches(self) -> Self:
        if not self.alpha:
            message = "with 0 the teachers have no part in the loss, which is plain training: choose 'vanilla'"
            raise wrong_fields({("alpha",): message})
        return self


class Distilled(Method):
    """A student of the original architecture learns the averaged logits of ``copies`` independent models.

    Loss: (1 − α) · loss on the labels + α T² KL(softmax(t/T) ‖ softmax(s/T)), with the teachers' mean logits t and the
    student's s. By default, α = T = 1: the teachers' distribution is the label.
    """

    name = "distilled"
    summary = "one model that learns the averaged logits of independent models, its teachers"
    Options = DistilledOptions
    renews_norms = False

    def __init__(self, options: DistilledOptions | None = None) -> None:
        super().__init__(options)
        self._teachers: list[nn.Module] = []

    @property
    def independent_models(self) -> int:
        """The teachers."""
        return self.options.copies

    def combine(self, models: Sequence[nn.Module], evaluate: Evaluate) -> None:
        """Keep ``models`` as teachers, in evaluation mode and without gradients."""
        self._teachers = [model.eval().requires_grad_(False) for model in models]

    def step(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        compute_loss: ComputeLoss,
        *,
        step: int,
        execution: Execution = Execution(),
        weights: Sequence[float] | None = None,
    ) -> StepOutput:
        """Gradient of the distillation loss; ``loss`` of the output is that on the labels."""
        import torch

        if not self._teachers:
            raise RuntimeError("train the teachers and combine them first")
        on_labels: list[Tensor] = []

        def taught(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
            loss, logits = compute_loss(model, batch)
            on_labels.append(loss.detach())
            apart = distillation_loss(
                logits, self._target(batch, compute_loss), self.options.temperature, _counted(batch, logits)
            )
            return (1 - self.options.alpha) * loss + self.options.alpha * apart, logits

        output = run_microbatches(model, batches, taught, execution, weights)
        shares = weights or [1 / len(batches)] * len(batches)
        loss = torch.stack([share * part for share, part in zip(shares, on_labels, strict=True)]).sum()
        return replace(output, loss=loss, extra={"distillation": output.loss})

    def _target(self, batch: Any, compute_loss: ComputeLoss) -> Tensor:
        import torch

        with torch.no_grad():
            return torch.stack([compute_loss(teacher, batch)[1].float() for teacher in self._teachers]).mean(0)


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float, counted: Tensor | None = None) -> Tensor:
    """T² KL(softmax(teacher/T) ‖ softmax(student/T)), the mean over all predictions, or over those ``counted``.

    It is 0 where none is. Logits have shape ``(…, classes)``, ``counted`` ``(…)``. T² keeps the gradient's size
    whatever T is.
    """
    from torch.nn import functional

    if counted is not None:
        student, teacher = student[counted], teacher[counted]
    targets = functional.log_softmax(teacher.flatten(0, -2) / temperature, -1)
    predictions = functional.log_softmax(student.float().flatten(0, -2) / temperature, -1)
    total = functional.kl_div(predictions, targets, reduction="sum", log_target=True)
    return temperature**2 * total / max(1, len(predictions))


def _counted(batch: Any, logits: Tensor) -> Tensor | None:
    """Which predictions have a label, where there is one label for each."""
    from torch import Tensor

    labels = batch[1] if isinstance(batch, Sequence) and len(batch) == 2 else None
    if isinstance(labels, Tensor) and labels.shape == logits.shape[:-1] and not labels.is_floating_point():
        return labels != IGNORED
    return None
