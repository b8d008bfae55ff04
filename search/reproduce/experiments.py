"""``collegium reproduce``: the figures and tables of Littwin et al. 2020 on architecture search, computed again.

``python -m collegium.search.reproduce figure3`` prints a table, and writes it as Markdown and JSON, with a plot. As a
program it is the one place of this package that writes files; ``reproduce`` itself does not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from collegium.arguments import positive
from collegium.search.progress import Report, discard
from collegium.search.reproduce.reproduction import Reproduction
from collegium.streams import reason, writable

#: Name → (module, one line about it).
EXPERIMENTS: dict[str, tuple[str, str]] = {
    "figure2": (
        "collegium.search.reproduce.kernels",
        "Figure 2: the ensemble's kernel converges to its mean as m grows",
    ),
    "figure3": ("collegium.search.reproduce.curves", "Figure 3: primal and dual curves of an MLP"),
    "theorem1": (
        "collegium.search.reproduce.training",
        "Theorem 1: the kernel's change in training falls as 1 / (m n)",
    ),
    "lemma1": ("collegium.search.reproduce.kernels", "Lemma 1: the ensemble's kernel tends to the mean kernel"),
    "alpha": ("collegium.search.reproduce.curves", "Section 4.2: α of a residual block, by the inputs' correlation"),
    "table1": ("collegium.search.reproduce.tables", "Table 1: ResNeXt-29 groupings on CIFAR, sizes and efficiencies"),
    "table2": ("collegium.search.reproduce.tables", "Table 2: ResNet-50 and -101 groupings, sizes and efficiencies"),
    "network": (
        "collegium.search.reproduce.network",
        "not in the paper: whole networks' variances against the module's, measured for --seconds",
    ),
}
#: Experiments whose errors shrink with the time that they are given.
TIMED = ("network",)


def reproduce(name: str, *, seed: int = 0, report: Report = discard, seconds: float | None = None) -> Reproduction:
    """Repeat an experiment. Raises ``KeyError`` for an unknown name, ``ValueError`` for ``seconds`` without a use.

    What needs samples takes up to some twenty seconds on one core; those of ``TIMED`` take ``seconds``, a quarter of an
    hour by default. ``report(fraction, message)`` may raise to end it.
    """
    module, _ = EXPERIMENTS[name]
    experiment: Callable[..., Reproduction] = getattr(import_module(module), name)
    if seconds is None:
        return experiment(seed, report)
    if name not in TIMED:
        raise ValueError(f"{name} takes the time that it needs; seconds are given to {', '.join(TIMED)} alone")
    return experiment(seed, report, seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one experiment from the command line: 0 where it agrees with the paper, 1 where it does not."""
    about = "; ".join(f"{name}: {line}" for name, (_, line) in EXPERIMENTS.items())
    parser = argparse.ArgumentParser(prog="collegium reproduce", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", choices=list(EXPERIMENTS), help=about)
    parser.add_argument("--seed", type=int, default=0, help="seed of what is sampled")
    parser.add_argument("--output", type=Path, default=Path("reproduced"), help="folder for the table and the plot")
    parser.add_argument("--seconds", type=positive, help=f"time for what is measured by time: {', '.join(TIMED)}")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    given = parser.parse_args(arguments)
    try:
        writable(given.output)
    except OSError as error:
        parser.error(f"argument --output: {reason(error)}")
    report = _print_progress if sys.stderr.isatty() else discard
    try:
        found = reproduce(given.name, seed=given.seed, report=report, seconds=given.seconds)
    except ValueError as error:
        parser.error(str(error))
    print(json.dumps(found.data(), indent=1) if given.json else found.text())
    path = given.output / found.name
    path.with_suffix(".md").write_text(found.markdown() + "\n", encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(found.data(), indent=1, ensure_ascii=False), encoding="utf-8")
    path.with_suffix(".svg").write_bytes(found.plot("svg"))
    if not given.json:
        print(f"\nplot: {path.with_suffix('.svg')}")
    return 0 if found.agrees else 1


def _print_progress(fraction: float, message: str) -> None:
    print(f"\r{100 * fraction:3.0f} %  {message:<60}", end="\n" if fraction >= 1 else "", file=sys.stderr, flush=True)
