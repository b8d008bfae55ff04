"""An ensemble of independent models, the ceiling that others are measured against (Mazzawi et al. 2024, Appendix G)."""

from collections.abc import Sequence

from torch import nn

from collegium.train.methods.method import Evaluate
from collegium.train.methods.vanilla import Vanilla
from collegium.train.models.averaged import AveragedModel


class Ensemble(Vanilla):
    """``expansion`` models, each from its own seed, evaluated by averaging their outputs."""

    name = "ensemble"
    trains = False

    def __init__(self, expansion: int = 3) -> None:
        super().__init__(expansion)
        self.independent_models = expansion

    def combine(self, models: Sequence[nn.Module], evaluate: Evaluate) -> nn.Module:
        """Return the average of ``models`` as functions."""
        return AveragedModel(models)
