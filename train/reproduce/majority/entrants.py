"""The methods that are compared. A further one is one line of ``ENTRANTS``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from collegium.train.methods import METHODS
from collegium.train.reproduce.majority.cells import Cell

REFERENCE = "vanilla"
LONG = "vanilla, 3 × as long"


@dataclass(frozen=True)
class Entrant:
    """A method with its options, as a training names them.

    ``by_curve``: the model after any epoch is the result of a training that ends there, so that one training tries
    all its numbers of epochs. ``times``: as many times the epochs that were chosen for plain training, in place of a
    choice. ``models`` are trained one after the other. Of lower ``rank``, it is run sooner.
    """

    method: str
    expansion: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    by_curve: bool = True
    times: int | None = None
    models: int = 1
    cost: float = 1.0
    rank: int = 0

    def reads_curve(self, cell: Cell) -> bool:
        """Whether one training tries all its numbers of epochs: not where norms are estimated at its end."""
        return self.by_curve and not (cell.network.normed and METHODS[self.method].renews_norms)


def _perturbed(spread: float, *, rank: int = 0) -> Entrant:
    return Entrant("majority", {"copies": 3, "initialization": "perturbed", "spread": spread}, cost=1.6, rank=rank)


#: The service's own start is ``majority, perturbed``; the paper's, from scratch, is ``majority, independent``.
ENTRANTS: dict[str, Entrant] = {
    REFERENCE: Entrant("vanilla"),
    "majority, independent": Entrant("majority", {"copies": 3, "initialization": "independent"}, cost=1.6),
    "majority, replicated": Entrant("majority", {"copies": 3, "initialization": "replicated"}, cost=1.6),
    "majority, perturbed": _perturbed(0.1),
    "majority, perturbed by 0.25": _perturbed(0.25, rank=1),
    "majority, perturbed by 1.4": _perturbed(1.4142, rank=1),
    LONG: Entrant("vanilla", times=3, cost=3, rank=1),
    "majority, corrected": Entrant(
        "majority", {"copies": 3, "initialization": "independent", "correct_scale": True}, cost=1.6, rank=2
    ),
    "ensemble": Entrant("ensemble", {"copies": 3}, by_curve=False, models=3, rank=2),
    "ema": Entrant("ema", cost=1.2, rank=2),
    "sam": Entrant("sam", cost=2, rank=2),
    "dropout": Entrant("vanilla", recipe={"dropout": 0.2}, cost=1.2, rank=3),
    "swa": Entrant("swa", by_curve=False, cost=1.2, rank=4),
    "soup": Entrant("soup", {"copies": 3, "soup": "greedy"}, by_curve=False, models=3, rank=5),
    "distilled": Entrant("distilled", {"copies": 3}, by_curve=False, models=4, rank=5),
    "adversarial": Entrant("adversarial", {"copies": 3, "initialization": "independent"}, cost=4, rank=4),
    "subset": Entrant("subset", {"copies": 3}, cost=4, rank=6),
}
