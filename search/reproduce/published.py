"""Figures of Littwin et al. 2020 as data: Tables 1 and 2 (model sizes and ρ), α, and Figure 3.

Test errors are not repeated here, and Wide ResNet, which is no grouping of a baseline, is left out. ``parameters``
is text, as printed: rounding belongs to the figure.
"""

from __future__ import annotations

from dataclasses import dataclass

from collegium.search.networks.families.resnext import ResNextBaseline

#: α of the residual block, section 4.2: ln of the normalised second moment against Σ 1 / fan-in.
ALPHA = 1.60
#: Figure 3: 6 weight layers of width 500 on 748 inputs.
FIGURE3 = {"width": 48, "primal_multiplicity": 30, "dual_multiplicity": 12, "efficiency": 2.45}


@dataclass(frozen=True)
class PublishedModel:
    """A row of Table 1 or 2: ``multiplicity`` × ``width``d.

    ``side`` is the half of the table; ``baseline`` the width of the 1 × ñ network that ρ refers to.
    ``solved`` marks the rows whose multiplicity solves the primal or the dual problem.
    """

    table: int
    side: str
    network: str
    multiplicity: int
    width: int
    baseline: int
    parameters: str
    efficiency: float | None = None
    solved: bool = False

    @property
    def name(self) -> str:
        """Such as ``ResNeXt-29 37×10d``."""
        return f"{self.network} {self.multiplicity}×{self.width}d"

    @property
    def spec(self) -> ResNextBaseline:
        """The model as a baseline that can be posted."""
        cifar = self.network == "ResNeXt-29"
        return ResNextBaseline(
            family="resnext",
            layout="cifar" if cifar else "imagenet",
            depth=29 if cifar else int(self.network.rsplit("-", 1)[1]),
            cardinality=self.multiplicity,
            base_width=self.width,
        )

    def agrees(self, count: int) -> bool:
        """Whether ``count`` rounds to the printed one, at its own number of decimals."""
        number = self.parameters.removesuffix("M")
        decimals = len(number.partition(".")[2])
        return f"{count / 1e6:.{decimals}f}" == number


def _cifar(side, multiplicity, width, baseline, parameters, efficiency=None, solved=False) -> PublishedModel:
    return PublishedModel(1, side, "ResNeXt-29", multiplicity, width, baseline, parameters, efficiency, solved)


def _imagenet(side, depth, multiplicity, width, parameters, efficiency=None, solved=False) -> PublishedModel:
    return PublishedModel(2, side, f"ResNet-{depth}", multiplicity, width, 64, parameters, efficiency, solved)


#: Every distinct model of Tables 1 and 2 that the layouts cover: 14 and 12 rows.
MODELS: tuple[PublishedModel, ...] = (
    _cifar("primal", 1, 128, 128, "13.8M", 1.0),
    _cifar("primal", 3, 64, 128, "13.3M"),
    _cifar("primal", 37, 10, 128, "13.7M", solved=True),
    _cifar("primal", 28, 12, 128, "12.9M"),
    _cifar("primal", 1, 226, 226, "36.3M", 1.0),
    _cifar("primal", 8, 64, 226, "34.4M"),
    _cifar("primal", 101, 10, 226, "36.3M", solved=True),
    _cifar("dual", 10, 10, 128, "4.22M", 3.3, True),
    _cifar("dual", 8, 12, 128, "4.19M", 3.3, True),
    _cifar("dual", 2, 64, 226, "9.13M", 4.0),
    _cifar("dual", 14, 10, 226, "5.63M", 6.5, True),
    _cifar("dual", 6, 25, 226, "7.26M", 5.0, True),
    _cifar("dual", 3, 58, 226, "11.6M", 3.1, True),
    _cifar("dual", 2, 98, 226, "17.4M", 2.1, True),
    _imagenet("primal", 50, 1, 64, "25.6M", 1.0),
    _imagenet("primal", 50, 32, 4, "25.0M"),
    _imagenet("primal", 50, 12, 10, "25.8M", solved=True),
    _imagenet("primal", 50, 15, 8, "25.1M", solved=True),
    _imagenet("primal", 101, 1, 64, "44.5M", 1.0),
    _imagenet("primal", 101, 32, 4, "44.2M"),
    _imagenet("primal", 101, 12, 10, "45.5M", solved=True),
    _imagenet("primal", 101, 15, 8, "44.2M", solved=True),
    _imagenet("dual", 50, 3, 23, "19.4M", 1.3, True),
    _imagenet("dual", 50, 4, 16, "17.1M", 1.5, True),
    _imagenet("dual", 101, 3, 23, "32.9M", 1.4, True),
    _imagenet("dual", 101, 5, 12, "25.8M", 1.7, True),
)
