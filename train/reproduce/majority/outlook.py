"""How far the study is, and how long it will take: what is left, by the time that what is done has taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from collegium.train.reproduce.majority.cells import ARCHITECTURES, VALIDATION, Cell
from collegium.train.reproduce.majority.entrants import ENTRANTS
from collegium.train.reproduce.majority.plan import Unit
from collegium.train.reproduce.majority.records import Records

STEP_SECONDS, OPERATIONS_A_SECOND = 1e-3, 3e10
"""A step's overhead, and multiply–accumulates of one core: a guess, which what has been measured corrects."""
SEARCHED = 5
"""Points that a choice takes, where it has not been made."""


@dataclass(frozen=True)
class Outlook:
    """Units (a method in a cell) and trainings done and in all, as far as it can be told, and the seconds left."""

    units_done: int
    units: int
    trainings_done: int
    trainings: int
    seconds_left: float

    def __str__(self) -> str:
        return (
            f"{self.units_done} of {self.units} methods × settings, {self.trainings_done:,} of about "
            f"{self.trainings:,} trainings, about {_duration(self.seconds_left)} left"
        )


def outlook(units: Sequence[Unit], records: Records, *, processes: int = 1) -> Outlook:
    """Of ``units``, with ``processes`` trainings at a time."""
    taken = guessed = 0.0
    for row in records:
        if "seconds" in row:
            cell = Cell(row["architecture"], row["optimizer"], row["images"], row["noise"])
            if row["method"] in ENTRANTS and row["architecture"] in ARCHITECTURES:
                taken += row["seconds"]
                guessed += _seconds(cell, row["method"], row["epochs"])
    scale = taken / guessed if guessed else 1.0
    done = mine = left = 0
    seconds = 0.0
    for unit in units:
        mine += len(records.of(unit.cell, unit.name))
        if unit.complete(records):
            done += 1
            continue
        count, cost = _left(unit, records)
        left += count
        seconds += cost
    return Outlook(done, len(units), mine, mine + left, scale * seconds / processes)


def _left(unit: Unit, records: Records) -> tuple[int, float]:
    choice = unit.chosen(records)
    if choice is not None:
        wanted = unit.wanted(records)
        return len(wanted), sum(_seconds(unit.cell, unit.name, one.epochs) for one in wanted)
    tried = sum(1 for row in records.of(unit.cell, unit.name) if row["tuning"])
    searched = max(2, SEARCHED * unit.tuning_seeds - tried)
    first = unit.cell.lengths.epochs(unit.cell.lengths.first)
    each = first if unit.entrant.by_curve else max(1, first // 4)
    tuning = searched * _seconds(unit.cell, unit.name, each)
    return searched + unit.seeds, tuning + unit.seeds * _seconds(unit.cell, unit.name, max(1, each // 2))


@cache
def _seconds(cell: Cell, name: str, epochs: int) -> float:
    entrant, batch = ENTRANTS[name], cell.network.recipe["batch_size"]
    image = _operations(cell.architecture) / OPERATIONS_A_SECOND
    steps = epochs * math.ceil(cell.trained_images / batch)
    training = steps * (STEP_SECONDS + 3 * batch * image) * entrant.cost * entrant.models
    return 0.5 + training + min(epochs, 8) * VALIDATION * (image + 4e-6)


@cache
def _operations(architecture: str) -> float:
    network = ARCHITECTURES[architecture]
    size = {"imagenet": 224, "cifar": 32}.get(network.baseline.get("layout", ""), 28)
    return network.operations() * (28 / size) ** 2


def _duration(seconds: float) -> str:
    """In the unit that suits it.

    >>> _duration(90), _duration(7200), _duration(400000)
    ('2 min', '2.0 h', '4.6 days')
    """
    if seconds < 3600:
        return f"{math.ceil(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"
