"""Whole networks against the closed form where a network is its module, and how a measurement ends."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from collegium.search.errors import InvalidSpec
from collegium.search.kernel.closed_form import log_moment_ratio
from collegium.search.networks.build import build_network
from collegium.search.networks.families.block import BlockBaseline
from collegium.search.whole_network.candidate import Candidate
from collegium.search.whole_network.measure import measure_networks
from collegium.search.whole_network.result import NetworkVerification
from collegium.search.whole_network.spec import NetworkKernelSpec

NTK = NetworkKernelSpec(parameterization="ntk", images=1, inputs=1, outputs=3, relative_error=0.1)


def exact(candidate):
    return math.expm1(log_moment_ratio(candidate.network.chain, candidate.widths)) / candidate.multiplicity


def without_time(measured):
    return measured.model_copy(update={"seconds": 0.0, "core_seconds": 0.0})


def test_an_mlps_ratios_are_the_closed_forms(mlps):
    found = measure_networks(mlps, NTK)
    assert found.outcome == "measured"
    assert found.norm == "none"
    assert found.pixels is None
    assert found.correlation is None
    assert found.networks[0].ratio == 1
    for candidate, row in zip(mlps, found.networks, strict=True):
        assert row.name == candidate.name
        assert row.parameters == candidate.parameters
        assert abs(row.relative_variance - exact(candidate)) < 4 * row.standard_error
        assert row.converged
        assert row.ratio_standard_error <= 0.1 * row.ratio
        assert 0 < row.body_share < 1
    ratio = exact(mlps[1]) / exact(mlps[0])
    assert abs(found.network("primal").ratio - ratio) < 4 * found.network("primal").ratio_standard_error
    assert NetworkVerification.model_validate_json(found.model_dump_json()) == found


@pytest.mark.slow
def test_errors_cover_the_closed_form_over_many_measurements(mlps):
    scores = []
    for seed in range(20):
        found = measure_networks(mlps, NTK.model_copy(update={"inputs": 1, "outputs": 1}), seed=seed)
        truth = [exact(candidate) / exact(mlps[0]) for candidate in mlps[1:]]
        rows = found.networks[1:]
        scores += [(row.ratio - true) / row.ratio_standard_error for row, true in zip(rows, truth, strict=True)]
    assert np.sqrt(np.mean(np.square(scores))) == pytest.approx(1, abs=0.3)
    assert abs(np.mean(scores)) < 0.6


def test_a_measurement_follows_from_its_seed_whatever_the_cores(mlps):
    one = measure_networks(mlps, NTK, seed=3)
    two = measure_networks(mlps, NTK, seed=3, cores=2)
    assert without_time(one) == without_time(two)
    assert measure_networks(mlps, NTK, seed=4).networks != one.networks


def test_a_network_without_variance_is_no_baseline_to_compare_with(mlps):
    linear = build_network(
        BlockBaseline.model_validate(
            {
                "family": "block",
                "input": {"channels": 6},
                "layers": [{"type": "dense", "out": "n"}, {"type": "dense", "out": 1}],
                "widths": {"n": 3},
            }
        )
    )
    fixed = Candidate(
        "baseline", replace(linear, chain=replace(linear.chain, layers=linear.chain.layers[-1:])), (3,), 1
    )
    found = measure_networks([fixed, mlps[2]], NTK.model_copy(update={"relative_error": 0.3}))
    assert found.outcome == "measured"
    assert found.networks[0].relative_variance == pytest.approx(0, abs=1e-6)
    assert all(row.ratio is None for row in found.networks)


def test_the_same_network_under_two_names_is_measured_once(mlps):
    again = Candidate("primal", mlps[0].network, mlps[0].widths, mlps[0].multiplicity)
    found = measure_networks([mlps[0], again], NTK)
    assert found.network("primal").ratio == 1
    assert found.network("primal").relative_variance == found.network("baseline").relative_variance


class Clock:
    """A clock that goes on by ``step`` seconds whenever it is read."""

    def __init__(self, step: float) -> None:
        self.step, self.now = step, 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_when_time_is_up_what_was_reached_is_said(mlps):
    spec = NTK.model_copy(update={"relative_error": 0.01, "max_seconds": 20.0})
    found = measure_networks(mlps, spec, clock=Clock(0.1))
    assert found.outcome == "not_converged"
    assert not any(row.converged for row in found.networks)
    assert all(2 <= row.draws < 20_000 for row in found.networks)
    assert "before the errors of baseline, primal, dual reached 1 %; the ratios are known to" in found.statement


def test_the_least_time_still_gives_an_answer(mlps):
    found = measure_networks(mlps, NTK.model_copy(update={"max_seconds": 1e-6}))
    assert found.outcome == "not_converged"
    assert all(row.draws >= 2 for row in found.networks)


def test_a_report_may_end_the_work(mlps):
    def report(fraction: float, message: str) -> None:
        seen.append(fraction)
        if len(seen) > 3:
            raise KeyboardInterrupt

    seen: list[float] = []
    with pytest.raises(KeyboardInterrupt):
        measure_networks(mlps, NTK.model_copy(update={"relative_error": 0.005}), report=report)
    assert len(seen) == 4


def test_progress_rises_to_one(mlps):
    seen: list[float] = []
    measure_networks(mlps, NTK, report=lambda fraction, message: seen.append(fraction))
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert seen[-1] == 1


def test_a_residual_network_is_measured_with_its_norms(residual_network):
    spec = NetworkKernelSpec(images=2, pixels=8, max_seconds=2.0, relative_error=0.5)
    candidates = [Candidate("baseline", residual_network, (4, 4), 1), Candidate("primal", residual_network, (2, 2), 3)]
    found = measure_networks(candidates, spec, correlation=0.9)
    assert (found.norm, found.pixels, found.correlation, found.sample_shape) == ("batch", 8, 0.9, (3, 8, 8))
    assert "batch norms in training mode on a batch of 2" in found.statement
    assert all(row.relative_variance > 0 and row.gram.inputs == 2 for row in found.networks)


def test_a_batch_that_norms_cannot_take_is_refused(residual_network):
    baseline = Candidate("baseline", residual_network, (4, 4), 1)
    with pytest.raises(InvalidSpec, match="give more images or pixels") as caught:
        measure_networks([baseline], NetworkKernelSpec(images=1, inputs=1, pixels=1))
    assert caught.value.path == ("network", "images")


def test_a_spec_measures_no_more_inputs_than_its_batch_has():
    with pytest.raises(ValidationError, match="at most images = 3"):
        NetworkKernelSpec(images=3, inputs=4)
