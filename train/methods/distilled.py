"""Distillation (Hinton et al. 2015): one model learns from the ensemble that would have been too large to keep."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.method import ComputeLoss, Evaluate, Execution, StepOutput
from train.methods.ensemble import AveragedModels, Ensemble

WEIGHT = 0.5
TEMPERATURE = 2.0
IGNORED = -100


class Distilled(Ensemble):
    """A single model trained on (1 − λ) · loss + λ · T² · KL(teacher, student) at temperature T.

    The teacher is the ensemble of e independently trained models, of the same architecture as the student (Mazzawi et
    al. 2024, section 4.1 and Appendix G).
    """

    name = "distilled"
    trains = True

    def __init__(self, expansion: int = 3, *, weight: float = WEIGHT, temperature: float = TEMPERATURE) -> None:
        super().__init__(expansion)
        self._weight, self._temperature = weight, temperature
        self._teacher: AveragedModels | None = None

    def combine(self, models: Sequence[nn.Module], evaluate: Evaluate) -> None:
        """Keep the members as the teacher."""
        self._teacher = AveragedModels(models).eval().requires_grad_(False)

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
        """Forward and backward of the joint loss; the output's ``loss`` is that of the labels alone."""
        teacher = self._teacher
        if teacher is None:
            raise RuntimeError("the teacher's members have not been combined")
        plain: list[Tensor] = []

        def joint(student: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                _, taught = compute_loss(teacher, batch)
            loss, logits = compute_loss(student, batch)
            plain.append(loss.detach())
            known = distillation_loss(logits, taught, self._temperature, _valid(batch, logits))
            return (1 - self._weight) * loss + self._weight * known, logits

        output = super().step(model, batches, joint, step=step, execution=execution, weights=weights)
        shares = weights if weights is not None else [1 / len(plain)] * len(plain)
        loss = torch.stack([part * share for part, share in zip(plain, shares, strict=True)]).sum()
        return StepOutput(loss=loss, logits=output.logits, extra={"joint_loss": output.loss})


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float, valid: Tensor | None = None) -> Tensor:
    """T² · KL(softmax(teacher / T), softmax(logits / T)), the mean over predictions; 0-dim.

    The factor T² keeps gradients comparable between temperatures. ``valid`` masks predictions that count.
    """
    target = torch.log_softmax(teacher.float() / temperature, -1)
    given = torch.log_softmax(logits.float() / temperature, -1)
    divergence = functional.kl_div(given, target, reduction="none", log_target=True).sum(-1)
    if valid is not None:
        divergence = divergence[valid]
    return temperature**2 * divergence.mean()


def _valid(batch: Any, logits: Tensor) -> Tensor | None:
    """Which predictions have a label: all classes, and the tokens that are not padding."""
    labels = batch[1]
    return labels != IGNORED if labels.ndim == logits.ndim - 1 and labels.ndim > 1 else None
