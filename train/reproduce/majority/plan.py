"""What is to be trained next: a function of what has been trained, so that a study is resumed by starting it again."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from collegium.train.reproduce.majority.cells import Cell, all_cells
from collegium.train.reproduce.majority.entrants import ENTRANTS, REFERENCE, Entrant
from collegium.train.reproduce.majority.grid import Bounds, Point, best_point, reached, untried
from collegium.train.reproduce.majority.records import Records, Row
from collegium.train.reproduce.majority.training import Training

TUNING_SEED = 1000
"""First of the seeds by which rates and epochs are chosen; none of them is among those that are compared."""
RATES = (-7, 7)
"""Powers of two by which a rate may differ from that at which the search begins."""


@dataclass(frozen=True)
class Choice:
    """Rate and epochs of a method in a cell, and the bounds of the search at which they lie."""

    rate: float
    epochs: int
    point: Point
    at_bounds: tuple[str, ...]


@dataclass(frozen=True)
class _Search:
    """A search for rate and epochs as far as it is: ``missing`` trainings end its present round."""

    bounds: Bounds
    scores: dict[Point, float]
    missing: list[Training]


@dataclass(frozen=True)
class Unit:
    """One method in one cell: first the choice of rate and epochs, then a training for each seed."""

    cell: Cell
    name: str
    seeds: int = 10
    tuning_seeds: int = 2

    @property
    def entrant(self) -> Entrant:
        """The method by its name."""
        return ENTRANTS[self.name]

    @property
    def rank(self) -> int:
        """The lower, the sooner it is run."""
        return self.cell.rank + self.entrant.rank

    def chosen(self, records: Records) -> Choice | None:
        """The choice that the records determine; None where more is to be tried, or where every rate diverged."""
        search = self._search(records)
        best = best_point(search.scores) if search is not None and not search.missing else None
        if search is None or best is None:
            return None
        epochs = self._epochs(best[1], records)
        return Choice(self.rate(best[0]), epochs, best, reached(best, search.bounds))

    def failed(self, records: Records) -> bool:
        """Whether every rate that may be tried diverged."""
        search = self._search(records)
        return search is not None and not search.missing and best_point(search.scores) is None

    def wanted(self, records: Records) -> list[Training]:
        """Trainings to run next: those of the choice, or of the seeds; none where it is complete or has to wait."""
        search = self._search(records)
        if search is None or search.missing:
            return [] if search is None else search.missing
        choice = self.chosen(records)
        if choice is None:
            return []
        compared = [self._training(choice.rate, choice.epochs, seed, tuning=False) for seed in range(self.seeds)]
        return [one for one in compared if one.key not in records]

    def finished(self, records: Records) -> list[Row]:
        """Rows of the seeds under the choice, diverged ones excepted; none before there is a choice."""
        choice = self.chosen(records)
        if choice is None:
            return []
        return [
            row
            for row in records.of(self.cell, self.name)
            if not row["tuning"]
            and math.isclose(row["rate"], choice.rate)
            and row["epochs"] == choice.epochs
            and row["seed"] < self.seeds
            and "failure" not in row
        ]

    def complete(self, records: Records) -> bool:
        """Whether nothing is left to be trained."""
        return self.failed(records) or (self.chosen(records) is not None and not self.wanted(records))

    def rate(self, step: int) -> float:
        """The rate at a step, with six digits, so that it is the same on every machine and in every file."""
        return float(f"{self.cell.network.rates[self.cell.optimizer] * 2.0**step:.6g}")

    def scores(self, records: Records) -> dict[Point, float]:
        """Validation accuracy, the mean over the seeds of the choice, at every point of the search so far."""
        search = self._search(records)
        return {} if search is None else search.scores

    def _search(self, records: Records) -> _Search | None:
        """The search repeated from its beginning, round by round, so that it does not depend on the order of the rows.

        None while it waits for the choice of plain training.
        """
        bounds = self._bounds(records)
        if bounds is None:
            return None
        ends, scores, requested = self._beginning(records, bounds), {}, set[Point]()
        while ends:
            requested |= set(ends)
            tuning = [
                self._training(self.rate(i), self._epochs(j, records), TUNING_SEED + seed, tuning=True)
                for i, j in ends
                for seed in range(self.tuning_seeds)
            ]
            missing = [one for one in tuning if one.key not in records]
            if missing:
                return _Search(bounds, scores, missing)
            scores = self._scores(records, bounds, requested)
            ends = self._ends(untried(scores, bounds, diagonal=self._by_curve))
        return _Search(bounds, scores, [])

    def _scores(self, records: Records, bounds: Bounds, requested: set[Point]) -> dict[Point, float]:
        """Means over the seeds of the choice, of what the ``requested`` trainings tried."""
        seeds = range(TUNING_SEED, TUNING_SEED + self.tuning_seeds)
        ends = {(self.rate(i), self._epochs(j, records)) for i, j in requested}
        found: dict[Point, dict[int, float]] = {}
        # The shortest training that tried a number of epochs counts, in whatever order, and in which file, they are.
        for row in sorted(records.of(self.cell, self.name), key=lambda row: row["epochs"]):
            if row["tuning"] and row["seed"] in seeds and (row["rate"], row["epochs"]) in ends:
                for point, value in self._points(row, bounds, records):
                    found.setdefault(point, {}).setdefault(row["seed"], value)
        return {point: fmean(values.values()) for point, values in found.items() if len(values) == self.tuning_seeds}

    def _points(self, row: Row, bounds: Bounds, records: Records) -> Iterable[tuple[Point, float]]:
        step = round(math.log2(row["rate"] / self.rate(0)))
        for j in range(bounds.lengths[0], bounds.lengths[1] + 1):
            epochs = self._epochs(j, records)
            if "failure" in row:
                if epochs == row["epochs"] or (self._by_curve and epochs < row["epochs"]):
                    yield (step, j), -math.inf
            elif str(epochs) in row["validation"]:
                yield (step, j), row["validation"][str(epochs)][0]

    @property
    def _by_curve(self) -> bool:
        return self.entrant.reads_curve(self.cell) and self.entrant.times is None

    @property
    def _reference(self) -> Unit:
        return Unit(self.cell, REFERENCE, self.seeds, self.tuning_seeds)

    def _bounds(self, records: Records) -> Bounds | None:
        """Of the search; None while it waits for that of plain training."""
        if not self._by_curve and self._reference.chosen(records) is None:
            return None
        return Bounds(RATES, (0, self.cell.lengths.most if self.entrant.times is None else 0))

    def _epochs(self, step: int, records: Records) -> int:
        if self.entrant.times is None:
            return self.cell.lengths.epochs(step)
        reference = self._reference.chosen(records)
        assert reference is not None
        return self.entrant.times * reference.epochs

    def _ends(self, points: Sequence[Point]) -> list[Point]:
        """Ends of the trainings that try ``points``: one for each rate, where a training tries all its epochs."""
        if not self._by_curve:
            return list(points)
        longest: dict[int, int] = {}
        for i, j in points:
            longest[i] = max(j, longest.get(i, 0))
        return sorted(longest.items())

    def _beginning(self, records: Records, bounds: Bounds) -> list[Point]:
        """Three rates; without a curve, around the choice of plain training and with its numbers of epochs around."""
        if self._by_curve:
            return [(i, self.cell.lengths.first) for i in (-1, 0, 1)]
        reference = self._reference.chosen(records)
        assert reference is not None
        start = reference.point if self.entrant.times is None else (reference.point[0], 0)
        around = [start, *((start[0] + i, start[1] + j) for i, j in ((-1, 0), (1, 0), (0, -1), (0, 1)))]
        return [point for point in around if point in bounds]

    def _training(self, rate: float, epochs: int, seed: int, *, tuning: bool) -> Training:
        return Training(self.cell, self.name, rate, epochs, seed, tuning)


def units(
    only: Sequence[str] = (), *, shard: tuple[int, int] = (1, 1), seeds: int = 10, tuning_seeds: int = 2
) -> list[Unit]:
    """Every method in every cell, the most informative first.

    ``only`` are words: a unit is taken where each kind of word (architecture, optimizer, images, noise, method) that
    is given names it. Plain training is always taken, as all are compared with it. Shard (k, n) has every n-th cell.
    Raises ``ValueError`` for a word that names nothing.
    """
    cells = all_cells()
    kinds: list[dict[str, Any]] = [
        {str(getattr(cell, kind)): getattr(cell, kind) for cell in cells}
        for kind in ("architecture", "optimizer", "images")
    ]
    kinds += [{f"{100 * cell.noise:.0f}%": cell.noise for cell in cells}, {name: name for name in ENTRANTS}]
    chosen: list[set[Any]] = [set() for _ in kinds]
    for word in only:
        kind = next((index for index, names in enumerate(kinds) if word in names), None)
        if kind is None:
            known = "; ".join(", ".join(map(shlex.quote, names)) for names in kinds)
            raise ValueError(f"no setting is called {word!r}; there are, each as one word, {known}")
        chosen[kind].add(kinds[kind][word])
    *of_cells, methods = chosen

    def taken(cell: Cell) -> bool:
        values = (cell.architecture, cell.optimizer, cell.images, cell.noise)
        return all(not words or value in words for words, value in zip(of_cells, values, strict=True))

    mine = [cell for cell in cells if taken(cell)][shard[0] - 1 :: shard[1]]
    names = [name for name in ENTRANTS if not methods or name in methods or name == REFERENCE]
    found = [Unit(cell, name, seeds, tuning_seeds) for cell in mine for name in names]
    return sorted(found, key=lambda unit: unit.rank)


def next_trainings(units: Sequence[Unit], records: Records, running: Iterable[str], most: int) -> list[Training]:
    """At most ``most`` trainings of the first units that want any, those that are ``running`` excepted."""
    busy, found = set(running), []
    for unit in units:
        for training in unit.wanted(records):
            if training.key not in busy and len(found) < most:
                found.append(training)
        if len(found) >= most:
            break
    return found
