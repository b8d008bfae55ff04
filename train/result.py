"""Results of trainings and studies. Nothing here loads torch.

Accuracies are fractions of 1. A result is read back from JSON, where a tuple is an array, so these models are closed
and frozen but not strict.
"""

from __future__ import annotations

from typing import Any, Literal

from collegium.counted import counted
from collegium.search.networks.network import StageGrouping
from collegium.search.result import MemberWidths, Part
from collegium.train.spec.recipes import Recipe


class Splits(Part):
    """One metric on each split; ``validation`` is null where no samples were held out."""

    train: float
    validation: float | None
    test: float


class Scores(Part):
    """Loss and accuracy (``top5``: the label is among the five best) of one model, on every split."""

    accuracy: Splits
    top5: Splits
    loss: Splits


class Artifact(Part):
    """A file that the training left."""

    name: str
    bytes: int
    sha256: str


class Note(Part):
    """A remark on a result that is correct."""

    kind: str
    message: str


class Diagnostics(Part):
    """Measurements that the specification names in ``diagnostics``.

    ``sharpness`` is Δ = |E_p L(θ_p) − L(θ̄)| over training samples (Mazzawi et al. 2024, Lemma B.1), with its standard
    error over draws of p; ``loss_gap`` and ``accuracy_gap`` are test loss − train loss and train accuracy − test
    accuracy; ``spread`` is the root mean square distance of a kernel's copies from their mean, relative to the norm of
    that mean, averaged over kernels.
    """

    sharpness: float | None = None
    sharpness_error: float | None = None
    loss_gap: float | None = None
    accuracy_gap: float | None = None
    spread: float | None = None


class StageMembers(MemberWidths):
    """The members of one stage of a network, with the widths that their layers have there."""

    multiplicity: int

    def __str__(self) -> str:
        """Such as ``11×7``."""
        return str(StageGrouping(self.widths, self.multiplicity))


class TrainingResult(Part):
    """A finished training.

    ``accuracy``, ``top5`` and ``loss`` are those of the collapsed model, which is also the model that is exported;
    ``sampled`` are those of the weights that the last steps were trained under, where they differ. ``parameters``
    counts the collapsed model's; ``models`` is how many such models are averaged (``ensemble``), else 1. ``widths``
    and ``multiplicity`` are null for transformers, for described networks of which nothing is regrouped, and where
    ``stages`` gives each stage a grouping of its own. ``recipe_name`` is the recipe that ``recipe`` was completed from:
    the one that was named, or the data's, which is ``generic`` for data without one of its own. ``seconds`` are those
    of all attempts at a training that was interrupted, up to the checkpoint from which the next one went on.

    >>> from collegium import TrainingResult, run_training
    >>> mlp = {"baseline": {"family": "mlp", "inputs": 16, "hidden": [8, 8], "outputs": 10}}
    >>> result = run_training({"architecture": mlp, "data": "synthetic", "recipe": {"epochs": 1}})
    >>> TrainingResult.model_validate_json(result.model_dump_json()) == result
    True
    """

    accuracy: Splits
    top5: Splits
    loss: Splits
    sampled: Scores | None = None
    method: str
    expansion: int
    models: int = 1
    parameters: int
    trained_parameters: int
    multiplicity: int | None
    widths: tuple[int, ...] | None
    stages: tuple[StageMembers, ...] | None = None
    architecture: dict[str, Any]
    data: dict[str, Any]
    recipe: Recipe
    recipe_name: str | None = None
    epochs: int
    steps: int
    best_epoch: int | None = None
    seed: int
    seconds: float
    samples_per_second: float
    diagnostics: Diagnostics | None = None
    artifacts: tuple[Artifact, ...] = ()
    notes: tuple[Note, ...] = ()
    device: str
    versions: dict[str, str]

    def __str__(self) -> str:
        """Accuracy and loss of the collapsed model on each split, and what it took."""
        rows = [
            f"{name:<10}  {100 * accuracy:8.2f} %  {getattr(self.loss, name):8.4g}"
            for name, accuracy in self.accuracy
            if accuracy is not None
        ]
        epochs, parameters = counted(self.epochs, "epoch"), counted(self.parameters, "parameter")
        facts = f"{self.method}, {epochs}, {parameters}, {self.seconds:.3g} s"
        heads = f"{'':<10}  {'accuracy':>10}  {'loss':>8}"
        return "\n".join([facts, heads, *rows, *(note.message for note in self.notes)])

    def metrics(self, history: dict[str, Any]) -> dict[str, Any]:
        """The contents of ``metrics.json``: the metrics, and the rows of every epoch by loop."""
        names = {
            "accuracy",
            "top5",
            "loss",
            "sampled",
            "diagnostics",
            "seconds",
            "samples_per_second",
            "epochs",
            "steps",
        }
        return {**self.model_dump(mode="json", include=names), "history": history}


class Run(Part):
    """One training of a study, with the metrics of its table, or with its ``failure``."""

    key: str
    id: str | None = None
    seed: int
    status: Literal["succeeded", "failed", "cancelled"]
    accuracy: Splits | None = None
    loss: Splits | None = None
    seconds: float | None = None
    failure: str | None = None


class SweepPoint(Part):
    """One point of a sweep: recipe fields, and the mean of what it was selected by over the sweep's seeds."""

    fields: dict[str, Any]
    score: float | None
    runs: tuple[Run, ...]


class Cell(Part):
    """One combination of architecture, method and recipe.

    ``test_accuracy`` and ``test_loss`` are means over the seeds that succeeded and ``*_error`` their standard errors
    (null for fewer than two). ``chosen`` are the recipe fields that the sweep selected. ``widths``, ``multiplicity``
    and ``stages`` are as in a training's result.
    """

    architecture: str
    method: str
    recipe: str
    parameters: int | None
    multiplicity: int | None
    widths: tuple[int, ...] | None
    stages: tuple[StageMembers, ...] | None = None
    chosen: dict[str, Any]
    sweep: tuple[SweepPoint, ...]
    runs: tuple[Run, ...]
    succeeded: int
    test_accuracy: float | None
    test_accuracy_error: float | None
    test_loss: float | None
    test_loss_error: float | None
    train_accuracy: float | None
    seconds: float | None


class StudyResult(Part):
    """A finished study: one cell for each combination, in the order of architectures, methods, recipes.

    >>> from collegium import run_study
    >>> mlp = {"baseline": {"family": "mlp", "inputs": 16, "hidden": [8], "outputs": 10}}
    >>> recipe = {"name": "short", "recipe": {"epochs": 1}}
    >>> study = {"architectures": [{"name": "mlp", "architecture": mlp}], "data": "synthetic", "seeds": 1}
    >>> result = run_study(study | {"recipes": [recipe]})
    >>> [(cell.architecture, len(cell.runs)) for cell in result.cells]
    [('mlp', 1)]
    """

    title: str
    cells: tuple[Cell, ...]
    trainings: int
    failed: int
    seconds: float
    artifacts: tuple[Artifact, ...] = ()
    notes: tuple[Note, ...] = ()
