"""What has been trained at all seeds: each method in each cell, with its paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from collegium.train.reproduce.majority.entrants import ENTRANTS, LONG, REFERENCE
from collegium.train.reproduce.majority.intervals import Difference, mean_difference
from collegium.train.reproduce.majority.plan import Choice, Unit
from collegium.train.reproduce.majority.records import Records, Row


@dataclass(frozen=True)
class Line:
    """A method in a cell: its choice, its rows by seed, and the differences of its test accuracy, in points."""

    unit: Unit
    choice: Choice
    rows: dict[int, Row]
    to_plain: Difference
    to_long: Difference

    @property
    def diverged(self) -> int:
        """How many seeds have no row, hence no part in any mean."""
        return self.unit.seeds - len(self.rows)

    @property
    def error(self) -> float:
        """Mean test error, in percent."""
        return 100 * (1 - fmean(row["accuracy"][2] for row in self.rows.values()))


def paired(rows: dict[int, Row], reference: dict[int, Row]) -> Difference:
    """Test accuracy of ``rows`` over ``reference``, in points, seed by seed, over the seeds that both have."""
    both = sorted(rows.keys() & reference.keys())
    return mean_difference([100 * (rows[seed]["accuracy"][2] - reference[seed]["accuracy"][2]) for seed in both])


def lines(units: Sequence[Unit], records: Records) -> list[Line]:
    """What has been trained at all seeds, cell by cell; a cell without plain training is left out.

    Plain trainings that are under way are none yet: nothing is compared with the first few of their seeds.
    """
    complete = [unit for unit in units if unit.complete(records)]
    rows = {(unit.cell, unit.name): _by_seed(unit, records) for unit in complete}
    found = []
    for unit in sorted(complete, key=lambda unit: (_cell_order(unit), list(ENTRANTS).index(unit.name))):
        choice, own = unit.chosen(records), rows[unit.cell, unit.name]
        plain = rows.get((unit.cell, REFERENCE), {})
        if choice is not None and plain and own:
            long = rows.get((unit.cell, LONG), {})
            found.append(Line(unit, choice, own, paired(own, plain), paired(own, long)))
    return found


def _by_seed(unit: Unit, records: Records) -> dict[int, Row]:
    return {row["seed"]: row for row in unit.finished(records)}


def _cell_order(unit: Unit) -> tuple[object, ...]:
    cell = unit.cell
    return cell.network.rank, cell.architecture, cell.images, cell.optimizer, cell.noise
