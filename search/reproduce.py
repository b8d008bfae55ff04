"""``collegium reproduce``: the figures and tables of Littwin et al. 2020 on architecture search, beside ours."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from search.estimation import Report
from search.reproduction import Reproduction

#: Name → (module, one line about it).
EXPERIMENTS: dict[str, tuple[str, str]] = {
    "figure2": ("search.reproduce_kernels", "Figure 2: the ensemble's kernel converges to its mean as m grows"),
    "figure3": ("search.reproduce_curves", "Figure 3: primal and dual curves of an MLP"),
    "theorem1": ("search.reproduce_training", "Theorem 1: the kernel's change in training falls as 1 / (m n)"),
    "lemma1": ("search.reproduce_kernels", "Lemma 1: the ensemble's kernel tends to the mean kernel"),
    "alpha": ("search.reproduce_curves", "Section 4.2: α of a residual block, by the inputs' correlation"),
    "table1": ("search.reproduce_tables", "Table 1: ResNeXt-29 groupings on CIFAR, sizes and efficiencies"),
    "table2": ("search.reproduce_tables", "Table 2: ResNet-50 and -101 groupings, sizes and efficiencies"),
}


def reproduce(name: str, *, seed: int = 0, report: Report | None = None) -> Reproduction:
    """Do an experiment again. Raises ``KeyError`` for an unknown name.

    What needs samples takes up to some twenty seconds on one core; ``report(fraction, message)`` may raise to end it.
    """
    module, _ = EXPERIMENTS[name]
    experiment: Callable[[int, Report], Reproduction] = getattr(import_module(module), name)
    return experiment(seed, report or _silent)


def _silent(fraction: float, message: str) -> None:
    """Nobody listens."""
