"""One training of the study: its specification, and the row that is kept of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from collegium.train.errors import Diverged
from collegium.train.reproduce.majority.cells import TEST, Cell
from collegium.train.reproduce.majority.entrants import ENTRANTS
from collegium.train.spec.training import TrainingSpec

CURVE, FINAL_CURVE = 8, 16
"""Evaluations on validation images, at most: of a training that serves the choice (a power of two), and of others."""
DIGITS = 5


@dataclass(frozen=True)
class Training:
    """A method in a cell at a rate, a number of epochs and a seed; ``tuning`` if it serves the choice of these."""

    cell: Cell
    entrant: str
    rate: float
    epochs: int
    seed: int
    tuning: bool

    @property
    def key(self) -> str:
        """What determines it, for the records."""
        return key_of(self.row())

    def row(self) -> dict[str, Any]:
        """The beginning of its row: what determines it."""
        return {
            **asdict(self.cell),
            "method": self.entrant,
            "tuning": self.tuning,
            "rate": self.rate,
            "epochs": self.epochs,
            "seed": self.seed,
        }

    @property
    def evaluate_every(self) -> int:
        """Epochs between two evaluations."""
        return -(-self.epochs // (CURVE if self.tuning else FINAL_CURVE))

    def spec(self) -> TrainingSpec:
        """As the service takes it. One that serves the choice evaluates a single test image, which is not kept."""
        cell, entrant = self.cell, ENTRANTS[self.entrant]
        recipe = {
            "name": "generic",
            "optimizer": cell.optimizer.lower(),
            "learning_rate": self.rate,
            "epochs": self.epochs,
            "evaluate_every": self.evaluate_every,
            "metric_steps": 1_000_000,
            "sharpness_every": 0 if self.tuning else self.evaluate_every,
            **cell.network.recipe,
            **entrant.recipe,
        }
        return TrainingSpec.model_validate(
            {
                "architecture": cell.asked,
                "method": entrant.method,
                "expansion": entrant.expansion,
                "data": cell.data(self.seed, test=1 if self.tuning else TEST),
                "recipe": recipe,
                "seed": self.seed,
                "formats": (),
                "diagnostics": () if self.tuning else ("sharpness", "gap", "spread"),
            }
        )


def key_of(row: dict[str, Any]) -> str:
    """The key of a training from its row."""
    role = "tuning" if row["tuning"] else "seed"
    cell = Cell(row["architecture"], row["optimizer"], row["images"], row["noise"])
    return f"{cell.name} | {row['method']} | {row['rate']:g} | {row['epochs']} | {role} {row['seed']}"


def run(training: Training, data_dir: Path) -> dict[str, Any]:
    """Train on one thread, as the service does; the row. One that diverges has a ``failure``."""
    import torch

    from collegium.train.engine import run as train

    torch.set_num_threads(1)
    history: list[dict[str, Any]] = []

    def event(kind: str, row: dict[str, Any]) -> None:
        if kind == "metric" and row.get("scope") == "epoch":
            history.append(row)

    try:
        result = train(training.spec(), event=event, data_dir=data_dir)
    except Diverged as error:
        return {**training.row(), "failure": str(error)[:120]}
    row = {**training.row(), "seconds": round(result["seconds"], 2), "versions": result["versions"]["torch"]}
    return row | (_tuned(result, history, training) if training.tuning else _scored(result, history))


def _tuned(result: dict[str, Any], history: list[dict[str, Any]], training: Training) -> dict[str, Any]:
    """Validation accuracy and loss after each number of epochs at which they were taken; no test score."""
    last = {str(training.epochs): [result["accuracy"]["validation"], result["loss"]["validation"]]}
    curve = {}
    if ENTRANTS[training.entrant].reads_curve(training.cell):
        tried = training.cell.lengths.all()
        evaluated = [row for row in history if row.get("validation") and row["epoch"] in tried]
        curve = {str(row["epoch"]): [row["validation"]["top1"], row["validation"]["loss"]] for row in evaluated}
    return {"validation": {epoch: _rounded(values) for epoch, values in (curve | last).items()}}


def _scored(result: dict[str, Any], history: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("train", "validation", "test")
    diagnostics = result["diagnostics"] or {}
    sampled = result["sampled"]
    ends = [row for row in history if row["phase"] == "training" and row.get("validation")]
    curve = [[row["epoch"], *_rounded(_point(row))] for row in ends]
    return {
        "accuracy": _rounded([result["accuracy"][name] for name in names]),
        "loss": _rounded([result["loss"][name] for name in names]),
        "sampled": None if sampled is None else _rounded([sampled["loss"][name] for name in names]),
        "sharpness": diagnostics.get("sharpness") and round(diagnostics["sharpness"], DIGITS),
        "spread": diagnostics.get("spread") and round(diagnostics["spread"], DIGITS),
        "curve": curve,
    }


def _point(row: dict[str, Any]) -> list[float]:
    """Loss and accuracy of training and on validation images; then the stochastic sharpness, where there are copies."""
    measured = [row["loss"], row["top1"], row["validation"]["loss"], row["validation"]["top1"]]
    return measured + ([row["sharpness"]] if "sharpness" in row else [])


def _rounded(values: list[float]) -> list[float]:
    return [round(value, DIGITS) for value in values]
