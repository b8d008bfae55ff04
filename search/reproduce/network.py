"""Whole networks' variances against the module's closed form: what the criterion orders rightly, and what it does not.

No paper has this. Networks of several families are grouped as m × n at equal parameters, and the variance of their
whole kernel at initialization is measured beside that of the module by which a search orders them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import rankdata

from collegium.search.plot import BLUE, GREY, ORANGE
from collegium.search.progress import Report, scaled
from collegium.search.reproduce.network_families import Family, families
from collegium.search.reproduce.reproduction import Reproduction
from collegium.search.whole_network.candidate import Candidate
from collegium.search.whole_network.measure import measure_networks
from collegium.search.whole_network.result import NetworkVerification
from collegium.search.whole_network.spec import NetworkKernelSpec

#: Seconds for all measurements together where no other number is given.
SECONDS = 900.0
#: Range of the module's variances from which both axes are logarithmic.
LOGARITHMIC = 8.0
#: Seconds that a measurement has where no time is left.
MOMENT = 0.1
#: Redrawn measurements from which a rank correlation has its error.
REDRAWN = 2000
#: Standard errors by which a network must exceed the baseline to be worse.
WORSE = 2.0
COLUMNS = (
    "family and setting",
    "m × n",
    "parameters",
    "module, first stage",
    "module, worst stage",
    "whole network",
    "±",
    "draws",
)


@dataclass(frozen=True)
class Comparison:
    """One family in one setting: ratios to the baseline, by the closed form and as measured."""

    family: Family
    setting: str
    candidates: list[Candidate]
    modules: np.ndarray
    measured: NetworkVerification

    @property
    def title(self) -> str:
        """Family and setting."""
        return f"{self.family.title}; {self.setting}"

    @property
    def ratios(self) -> np.ndarray:
        """Whole networks' ratios and their standard errors, ``(candidates, 2)``."""
        return np.array([(row.ratio, row.ratio_standard_error) for row in self.measured.networks], float)

    @property
    def best(self) -> int:
        """The candidate that the module's variance in its worst stage puts first."""
        return int(np.argmin(self.modules.max(1)))

    @property
    def best_is_worse(self) -> bool:
        """Whether that network has more variance than the baseline, beyond its error."""
        ratio, error = self.ratios[self.best]
        return bool(ratio - WORSE * error > 1)

    def rank_correlation(self, generator: np.random.Generator) -> tuple[float, float]:
        """Spearman's, of the first stage's module with the network, and its deviation within the measured errors."""
        module, (ratio, error) = self.modules[:, 0], self.ratios.T
        redrawn = ratio + error * generator.standard_normal((REDRAWN, len(ratio)))
        return _rank_correlation(module, ratio), float(np.std([_rank_correlation(module, each) for each in redrawn]))

    def rows(self) -> list[tuple[str, ...]]:
        """The table's rows."""
        own = self.candidates[0].parameters
        return [
            (
                self.title if index == 0 else "",
                f"{candidate.multiplicity}×{candidate.widths[0]}",
                f"{100 * candidate.parameters / own:.1f} %",
                f"{self.modules[index, 0]:.2f}",
                f"{self.modules[index].max():.2f}",
                f"{ratio:.2f}",
                "" if index == 0 else f"{error:.2f}",
                str(self.measured.networks[index].draws),
            )
            for index, (candidate, (ratio, error)) in enumerate(zip(self.candidates, self.ratios, strict=True))
        ]


def network(seed: int, report: Report, seconds: float | None = None) -> Reproduction:
    """Every family in every setting, in ``seconds`` altogether on the cores that torch may use."""
    cells = [(family, name, spec) for family in families() for name, spec in family.settings]
    left = SECONDS if seconds is None else seconds
    found: list[Comparison] = []
    for index, (family, name, spec) in enumerate(cells):
        part = scaled(report, index / len(cells), (index + 1) / len(cells))
        share = max(MOMENT, left / (len(cells) - index))  # what one leaves is the others'
        found.append(compare(family, name, spec.model_copy(update={"max_seconds": share}), seed, part))
        left -= found[-1].measured.seconds
    return _reproduction(found, np.random.default_rng(seed))


def compare(family: Family, setting: str, spec: NetworkKernelSpec, seed: int, report: Report) -> Comparison:
    """Measure a family in one setting."""
    import torch

    candidates = family.candidates()
    measured = measure_networks(
        candidates,
        spec,
        seed=seed,
        cores=torch.get_num_threads(),
        report=lambda fraction, message: report(fraction, f"{family.title}: {message}"),
    )
    return Comparison(family, setting, candidates, family.modules(candidates), measured)


def _reproduction(found: list[Comparison], generator: np.random.Generator) -> Reproduction:
    correlations = [each.rank_correlation(generator) for each in found]
    notes = [
        f"{each.title}: rank correlation {value:.2f} ± {error:.2f}; the module puts "
        f"{each.candidates[each.best].multiplicity}×{each.candidates[each.best].widths[0]} first, at {ratio:.2f} ± "
        f"{spread:.2f} of the baseline's network variance; the least measured is {each.ratios[:, 0].min():.2f}."
        for each, (value, error) in zip(found, correlations, strict=True)
        for ratio, spread in [each.ratios[each.best]]
    ]
    return Reproduction(
        name="network",
        title="Whole networks' variances at initialization against the module's closed form",
        claim="At equal parameters, the grouping that the module's variance puts first never has more of the whole "
        "network's than the baseline.",
        columns=COLUMNS,
        rows=tuple(row for each in found for row in each.rows()),
        notes=(
            "All variances are relative to the baseline's. Module: closed form, input correlation 0.95. Network: "
            "measured, all parameters, one logit, random images of neighbouring correlation 0.95.",
            "Basic blocks have one free layer: m members of width n are one of width m·n, so their width is varied "
            "instead, and the parameters with it.",
            *notes,
        ),
        agrees=not any(each.best_is_worse for each in found if each.family.grouped),
        figure=_figure(found, correlations),
    )


def _rank_correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Spearman's: the correlation of the ranks."""
    return float(np.corrcoef(rankdata(left), rankdata(right))[0, 1])


def _figure(found: list[Comparison], correlations: list[tuple[float, float]]) -> Figure:
    across = 4
    down = -(-len(found) // across)
    sheet = Figure(figsize=(3.6 * across, 3.4 * down), layout="constrained")
    for index, (each, (value, error)) in enumerate(zip(found, correlations, strict=True)):
        axes = sheet.add_subplot(down, across, index + 1)
        module, (ratio, deviation) = each.modules[:, 0], each.ratios.T
        axes.errorbar(module, ratio, 2 * deviation, fmt="o", color=BLUE, capsize=2)
        axes.plot(module[:1], ratio[:1], "s", color=ORANGE, zorder=3)
        if module.max() > LOGARITHMIC * module.min():
            axes.set_xscale("log")
            axes.set_yscale("log")
        ends = np.array([min(module.min(), ratio.min()), max(module.max(), ratio.max())])
        axes.plot(ends, ends, "--", color=GREY)
        for candidate, x, y in zip(each.candidates, module, ratio, strict=True):
            axes.annotate(
                f"{candidate.multiplicity}×{candidate.widths[0]}",
                (x, y),
                textcoords="offset points",
                xytext=(4, 4),
                fontsize=7,
            )
        axes.set_title(f"{each.family.title}\n{each.setting}; rank correlation {value:.2f} ± {error:.2f}", fontsize=8)
        axes.set_xlabel("module, relative to the baseline", fontsize=8)
        axes.set_ylabel("network, relative to the baseline", fontsize=8)
        axes.grid(alpha=0.3)
    return sheet
