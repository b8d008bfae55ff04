"""Do majority kernels pay on text? A BERT of two layers, 64 wide, on sentences of film reviews, in pairs of ten seeds.

    pip download --no-deps --no-binary :all: --dest DATA vaderSentiment==0.5
    python benchmarks/text.py --data DATA [--records benchmarks/records/text] [--noise 0.2] [--report]

1,000 sentences are trained on, 1,000 others choose the rate and the number of epochs of each method (seeds of their
own; the search is that of ``collegium reproduce majority``, whose optima lie inside of what is tried), 5,035 test.
Split, words of the vocabulary, wrong labels, start and order vary with the seed. Trainings are kept as they end: the
same command goes on with what was stopped; all of it took thirteen minutes of one core's time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from collegium.train.reproduce.majority.cells import Architecture, Cell, Lengths
from collegium.train.reproduce.majority.entrants import REFERENCE
from collegium.train.reproduce.majority.lines import paired
from collegium.train.reproduce.majority.plan import Unit
from collegium.train.reproduce.majority.records import Records
from collegium.train.reproduce.majority.running import run_all
from collegium.train.reproduce.majority.training import Training

SENTENCES, VALIDATION = 1_000, 1_000
METHODS = (REFERENCE, "majority, independent", "majority, perturbed")
BERT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}


@dataclass(frozen=True)
class TextCell(Cell):
    """The setting: ``images`` counts sentences."""

    @property
    def network(self) -> Architecture:
        """The recipe's fields, and the rate that the search begins at."""
        return Architecture({}, {"batch_size": 64}, {"Adam": 1e-3}, False, 0)

    @property
    def asked(self) -> dict[str, Any]:
        """A BERT, with its own dropout of 0.1."""
        return {"transformer": "bert", "config": BERT}

    @property
    def lengths(self) -> Lengths:
        """2 to 32 epochs."""
        return Lengths(2, 2, 4)

    def data(self, seed: int, *, test: int = 10_000) -> dict[str, Any]:
        """``seed`` draws the split, what is trained on, and the wrong labels."""
        limit = self.images + VALIDATION
        return {
            "name": "movie-snippets",
            "limit": limit,
            "test_limit": test,
            "validation": VALIDATION / limit,
            "label_noise": self.noise,
            "seed": seed,
        }


def units(noise: float) -> list[Unit]:
    """Every method, plain training first."""
    cell = TextCell("BERT", "Adam", SENTENCES, noise)
    return [Unit(cell, method) for method in METHODS]


def report(planned: Sequence[Unit], records: Records) -> str:
    """A row for each method that is complete: its choice, test accuracy, and the difference from plain training."""
    reference = planned[0]
    plain = {row["seed"]: row for row in reference.finished(records)} if reference.complete(records) else {}
    lines = [
        "| method | rate | epochs | test accuracy, % | over plain training | train, % | Δ | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for unit in planned:
        rows, choice = unit.finished(records), unit.chosen(records)
        if choice is None or not rows or not unit.complete(records):
            continue
        accuracy, trained = (100 * fmean(row["accuracy"][split] for row in rows) for split in (2, 0))
        gain = "–" if unit.name == REFERENCE else str(paired({row["seed"]: row for row in rows}, plain))
        diverged = f" ({unit.seeds - len(rows)} diverged)" if len(rows) < unit.seeds else ""
        sharpness = [row["sharpness"] for row in rows if row["sharpness"] is not None]
        at_bounds = f" ({', '.join(choice.at_bounds)})" if choice.at_bounds else ""
        seconds = fmean(row["seconds"] for row in rows)
        lines.append(
            f"| {unit.name}{diverged} | {choice.rate:g} | {choice.epochs}{at_bounds} | {accuracy:.2f} | {gain} "
            f"| {trained:.1f} | {f'{fmean(sharpness):.4f}' if sharpness else '–'} | {seconds:.1f} |"
        )
    return "\n".join(lines)


def _print(training: Training, row: dict[str, Any]) -> None:
    if "failure" in row:
        found = "diverged"
    else:
        best = max(score for score, _ in row["validation"].values()) if training.tuning else row["accuracy"][2]
        found = f"{100 * best:.2f} %, {row['seconds']} s"
    print(f"{training.key}: {found}", file=sys.stderr, flush=True)


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds vaderSentiment-0.5.zip")
    parser.add_argument("--records", type=Path, default=Path("benchmarks/records/text"))
    parser.add_argument("--noise", type=float, default=0.0, help="share of wrong labels")
    parser.add_argument("--report", action="store_true", help="train nothing")
    given = parser.parse_args()
    planned = units(given.noise)
    if not given.report:
        if given.data is None:
            parser.error("argument --data is required, unless --report is given")
        records = Records(given.records, f"noise-{100 * given.noise:.0f}.jsonl")
        run_all(planned, records, given.data, processes=1, seconds=float("inf"), told=_print)
        records.close()
    print(report(planned, Records(given.records)))


if __name__ == "__main__":
    main()
