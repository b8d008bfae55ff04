"""The papers' figures, against exact counts."""

from __future__ import annotations

import pytest

from collegium.search.networks.build import build_network
from collegium.search.reproduce.published import MODELS


def test_all_rows_that_the_layouts_cover():
    assert len(MODELS) == len({model.name for model in MODELS}) == 26
    assert [sum(model.table == table for model in MODELS) for table in (1, 2)] == [14, 12]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_sizes_and_efficiencies_round_to_those_printed(model):
    network = build_network(model.spec)
    count = network.count("parameters", network.baseline, network.multiplicity)
    assert model.agrees(count)
    assert not model.agrees(count + 1_000_000)
    if model.efficiency is not None:
        own = network.count("parameters", (model.baseline,) * 2, 1)
        assert f"{own / count:.1f}" == f"{model.efficiency:.1f}"
