"""Small networks that are measured whole."""

from __future__ import annotations

import pytest

from collegium.search.networks.build import build_network
from collegium.search.networks.families.mlp import MlpBaseline
from collegium.search.networks.families.resnext import ResNextBaseline
from collegium.search.networks.network import Network
from collegium.search.whole_network.candidate import Candidate


@pytest.fixture(scope="session")
def mlp_network() -> Network:
    return build_network(MlpBaseline(family="mlp", inputs=6, hidden=(12, 12), outputs=3))


@pytest.fixture(scope="session")
def residual_network() -> Network:
    return build_network(ResNextBaseline(family="resnext", layout="cifar", blocks=(1, 1), base_width=4))


@pytest.fixture(scope="session")
def mlps(mlp_network: Network) -> list[Candidate]:
    return [
        Candidate("baseline", mlp_network, (12, 12), 1),
        Candidate("primal", mlp_network, (5, 5), 4),
        Candidate("dual", mlp_network, (6, 6), 2),
    ]
