"""Whole networks compared with their module's closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from collegium.search.progress import discard
from collegium.search.reproduce import network as experiment
from collegium.search.reproduce.experiments import reproduce
from collegium.search.reproduce.network import Comparison, compare
from collegium.search.reproduce.network_families import STANDARD, WITHOUT_NORMS, families, small_resnext
from collegium.search.whole_network.measure import measure_networks


def test_the_small_resnext_has_the_weights_that_it_is_known_by():
    for multiplicity, width, weights in ((1, 32, 300_208), (9, 8, 295_536), (23, 4, 296_224), (5, 8, 183_152)):
        network = small_resnext().with_outputs(1)
        widths = network.scaled(width)
        norms = 2 * (16 + 2 * (64 + 128 + 256) + 2 * multiplicity * width * (1 + 2 + 4))
        assert network.count("parameters", widths, multiplicity) - norms - 1 == weights


def test_networks_of_a_family_have_equal_parameters_where_grouping_matters():
    found = families()
    assert len({family.network.family + family.title for family in found}) == 4
    for family in found:
        candidates = family.candidates()
        assert len(candidates) >= 7
        assert len({candidate.key for candidate in candidates}) == len(candidates)
        own = candidates[0].parameters
        if family.grouped:
            assert all(abs(candidate.parameters / own - 1) < 0.09 for candidate in candidates)
        else:
            assert not family.network.grouping_matters


def test_modules_are_the_closed_forms_over_the_baselines():
    mlp, resnext, _, basic = families()
    candidates = resnext.candidates()
    modules = resnext.modules(candidates)
    assert modules[0] == pytest.approx([1, 1, 1])
    at = [candidate.multiplicity for candidate in candidates].index(9)
    assert modules[at] == pytest.approx([0.52, 0.48, 0.46], abs=0.005)
    widths = np.array([candidate.widths[0] for candidate in basic.candidates()])
    assert basic.modules(basic.candidates())[:, 0] == pytest.approx(64 / widths)
    assert mlp.modules(mlp.candidates()).shape == (7, 1)


@pytest.mark.slow
def test_an_mlps_network_is_its_module_and_its_order_is_the_same():
    mlp = families()[0]
    spec = WITHOUT_NORMS.model_copy(update={"relative_error": 0.1})
    found = compare(mlp, "NTK", spec, 0, discard)
    ratio, error = found.ratios[1:].T
    assert np.all(np.abs(ratio - found.modules[1:, 0]) < 4 * error)
    correlation, deviation = found.rank_correlation(np.random.default_rng(0))
    assert correlation > 0.5
    assert 0 < deviation < 0.5
    assert not found.best_is_worse
    assert found.best == 3
    assert len(found.rows()) == 7


def test_all_settings_share_the_time_and_make_one_table(monkeypatch):
    small = families()[0]
    both = (("first", WITHOUT_NORMS), ("second", STANDARD.model_copy(update={"images": 2})))
    monkeypatch.setattr(experiment, "families", lambda: (replace(small, settings=both),))
    seen: list[float] = []
    made = reproduce("network", seconds=2.0, report=lambda fraction, message: seen.append(fraction))
    assert len(made.rows) == 14
    assert all(len(row) == len(made.columns) for row in made.rows)
    assert len(set(made.columns)) == len(made.columns)
    assert sum("rank correlation" in note for note in made.notes) == 2
    assert seen == sorted(seen)
    assert made.plot("svg").startswith(b"<?xml")


def test_seconds_are_refused_where_they_have_no_use():
    with pytest.raises(ValueError, match="given to network alone"):
        reproduce("table2", seconds=3.0)


@pytest.mark.slow
def test_the_small_resnexts_network_gains_less_than_its_module():
    resnext = families()[1]
    candidates = [each for each in resnext.candidates() if each.multiplicity in (1, 9)]
    spec = WITHOUT_NORMS.model_copy(update={"relative_error": 0.08, "max_seconds": 240.0})
    measured = measure_networks(candidates, spec, seed=1)
    found = Comparison(resnext, "no norm, NTK", candidates, resnext.modules(candidates), measured)
    ratio, error = found.ratios[1]
    assert ratio == pytest.approx(0.77, abs=0.05 + 3 * error)
    assert ratio - 2 * error > found.modules[1, 0]
