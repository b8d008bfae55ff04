"""The networks whose whole kernels are compared with their module's closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from collegium.search.curve.source import Exact
from collegium.search.kernel.inputs import KernelInputs
from collegium.search.networks.build import build_network
from collegium.search.networks.families.mlp import MlpBaseline
from collegium.search.networks.families.resnext import ResidualNetwork, ResNextBaseline
from collegium.search.networks.network import Network
from collegium.search.optimize.variances import stage_log_ratios
from collegium.search.whole_network.candidate import Candidate
from collegium.search.whole_network.spec import NetworkKernelSpec

STANDARD = NetworkKernelSpec(images=8, inputs=2)
NTK = STANDARD.model_copy(update={"parameterization": "ntk"})
WITHOUT_NORMS = NTK.model_copy(update={"norm": "none", "images": 2})


@dataclass(frozen=True)
class Family:
    """A network, and members of ``widths`` that are compared with it at equal parameters.

    ``settings`` name the ways in which their kernels are measured. Where ``grouped`` is false there is one member of
    each width, since m members of width n would be one of width m·n, and the parameters differ.
    """

    title: str
    network: Network
    widths: tuple[int, ...]
    settings: tuple[tuple[str, NetworkKernelSpec], ...]
    grouped: bool = True

    def candidates(self) -> list[Candidate]:
        """The baseline, then m × n at its parameters for each width."""
        network = self.network
        made = [Candidate("baseline", network, network.baseline, network.multiplicity)]
        own = made[0].parameters
        for width in self.widths:
            widths = network.scaled(width)
            fixed, per_member = network.affine("parameters", widths)
            multiplicity = round((own - fixed) / per_member) if self.grouped else 1
            made.append(Candidate(f"width {width}", network, widths, multiplicity))
        return made

    def modules(self, candidates: Sequence[Candidate]) -> np.ndarray:
        """The module's variance by the closed form over the baseline's, in every stage: ``(candidates, stages)``."""
        chain = self.network.chain
        exact = Exact(self.network, KernelInputs().gram_over(chain, "unit"))
        widths = np.array([candidate.widths for candidate in candidates])
        variances = np.expm1(stage_log_ratios(exact, widths, self.network.stage_scales))
        variances /= np.array([[candidate.multiplicity] for candidate in candidates])
        return variances / variances[0]


def families() -> tuple[Family, ...]:
    """Four families, the cheapest first."""
    return (_mlp(), _small_resnext(), _imagenet(), _basic())


def small_resnext() -> ResidualNetwork:
    """Three bottlenecks of 64, 128 and 256 outputs behind a stem of 16 channels, 1×32d, for images of 16×16.

    Convolutions and head have 300 208 weights for one logit.
    """
    network = build_network(
        ResNextBaseline(family="resnext", layout="cifar", blocks=(1, 1, 1), base_width=32, channels=16)
    )
    assert isinstance(network, ResidualNetwork)
    stages = tuple(replace(stage, extent=stage.extent // 2) for stage in network.stages)
    return replace(network, title="small ResNeXt 1×32d", layout=replace(network.layout, size=16), stages=stages)


def _mlp() -> Family:
    network = build_network(MlpBaseline(family="mlp", inputs=64, hidden=(64,) * 4, outputs=10))
    settings = (("NTK", WITHOUT_NORMS), ("standard", STANDARD.model_copy(update={"images": 2})))
    return Family("MLP 64→[64]*4→10", network, (32, 24, 16, 12, 8, 5), settings)


def _small_resnext() -> Family:
    settings = (("no norm, NTK", WITHOUT_NORMS), ("batch norm, NTK", NTK), ("batch norm, standard", STANDARD))
    return Family("small ResNeXt 1×32d", small_resnext(), (20, 16, 8, 4, 2, 1), settings)


def _imagenet() -> Family:
    baseline = ResNextBaseline(family="resnext", layout="imagenet", blocks=(1, 1, 1, 1), base_width=64, classes=10)
    spec = STANDARD.model_copy(update={"pixels": 32})
    network = build_network(baseline)
    return Family(
        "ImageNet ResNet-14 1×64d, 32 pixels", network, (40, 24, 16, 10, 6, 3), (("batch norm, standard", spec),)
    )


def _basic() -> Family:
    baseline = ResNextBaseline(
        family="resnext", layout="imagenet", blocks=(1, 1, 1, 1), block="basic", base_width=64, classes=10
    )
    spec = STANDARD.model_copy(update={"pixels": 32})
    settings = (("batch norm, standard", spec),)
    widths = (128, 32, 16, 8, 4, 2)
    return Family(
        "ResNet-10, basic blocks of another width, 32 pixels", build_network(baseline), widths, settings, False
    )
