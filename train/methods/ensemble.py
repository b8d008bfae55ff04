"""An ensemble of independent models, the ceiling of the comparisons in Mazzawi et al. 2024, Appendix G."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from collegium.train.methods.method import Copies, Evaluate, Method, MethodOptions

if TYPE_CHECKING:
    from torch import nn


class EnsembleOptions(MethodOptions):
    """How many models are trained."""

    copies: Copies = Field(3, description="models that are trained independently")


class Ensemble(Method):
    """``copies`` models, each from its own seed, evaluated by averaging their logits."""

    name = "ensemble"
    summary = "independent models whose logits are averaged; as large as all of them together"
    Options = EnsembleOptions
    renews_norms = False
    trains = False

    @property
    def independent_models(self) -> int:
        """Every model of the ensemble."""
        return self.options.copies

    def combine(self, models: Sequence[nn.Module], evaluate: Evaluate) -> nn.Module:
        """The average of ``models`` as functions; a single one as it is."""
        from collegium.train.models.averaged import AveragedModel

        return AveragedModel(models) if len(models) > 1 else models[0]
