"""Networks for measurements."""

from __future__ import annotations

import pytest

from collegium.search.networks.build import build_network
from collegium.search.networks.network import Network
from collegium.search.parse import parse_spec
from collegium.search.spec import SearchSpec


def network_of(baseline) -> Network:
    return build_network(parse_spec(SearchSpec, {"baseline": baseline}).baseline)


@pytest.fixture(scope="session")
def network():
    """``network(baseline)``: the network of a baseline as it is posted."""
    return network_of
