"""A search whose answers are measured as whole networks."""

from __future__ import annotations

import numpy as np
import pytest

from collegium.search.engine import run
from collegium.search.errors import InvalidSpec
from collegium.search.networks.build import validate_search
from collegium.search.optimize.problem import build_problem
from collegium.search.parse import parse_spec
from collegium.search.result import SearchResult
from collegium.search.spec import SearchSpec
from collegium.search.whole_network.measure import measure_networks
from collegium.search.whole_network.spec import NetworkKernelSpec
from collegium.search.whole_network.verification import neighbour_correlation, network_notes

MLP = {"family": "mlp", "inputs": 6, "hidden": [24, 24, 24], "outputs": 2}
RESNEXT = {"family": "resnext", "layout": "cifar", "blocks": [1, 1], "base_width": 4}


def spec_of(baseline, **fields):
    return parse_spec(SearchSpec, {"baseline": baseline, "verify": "network", **fields})


def test_an_mlps_answers_hold_in_the_network_which_is_the_module():
    seen: list[float] = []
    spec = spec_of(MLP, network={"relative_error": 0.1, "parameterization": "ntk"})
    result = run(spec, report=lambda fraction, message: seen.append(fraction))
    assert result.network is not None
    assert result.verification is None
    assert [row.name for row in result.network.networks][:3] == ["baseline", "primal", "dual"]
    for name, answer in (("primal", result.primal), ("dual", result.dual)):
        row = result.network.network(name)
        assert (row.widths, row.multiplicity) == (answer.widths, answer.multiplicity)
        assert abs(row.ratio - answer.variance / result.baseline.variance) < 4 * row.ratio_standard_error
    assert seen == sorted(seen)
    assert SearchResult.model_validate_json(result.model_dump_json()) == result


def test_answers_whose_stages_are_grouped_apart_are_built_so():
    network = {"max_seconds": 0.5, "images": 2, "pixels": 8}
    baseline = {**RESNEXT, "base_width": 16}
    result = run(spec_of(baseline, network=network, space={"stages": "own"}))
    rows = [(result.network.network(name), getattr(result, name)) for name in ("primal", "dual")]
    assert any(not answer.uniform for _, answer in rows)
    for row, answer in rows:
        assert (row.label, row.parameters) == (answer.label, answer.parameters)


def test_results_without_the_measurement_are_still_read():
    result = run(spec_of(MLP).model_copy(update={"verify": False}))
    stored = result.model_dump(mode="json")
    del stored["network"]
    assert SearchResult.model_validate(stored).network is None


def test_time_that_is_up_is_a_note():
    spec = spec_of(RESNEXT, network={"max_seconds": 0.5, "images": 2, "pixels": 8, "relative_error": 0.01})
    result = run(spec)
    assert "network_uncertain" in {note.kind for note in result.notes}
    assert result.outcome.kind != "network_uncertain"


def test_answers_that_do_not_hold_are_noted(mlps):
    spec = NetworkKernelSpec(parameterization="ntk", images=1, inputs=1, relative_error=0.2)
    measured = measure_networks([mlps[0], mlps[1]], spec)
    primal = measured.network("primal")
    worse = primal.model_copy(update={"ratio": 1.3, "ratio_standard_error": 0.1})
    uncertain = primal.model_copy(update={"ratio": 1.3, "ratio_standard_error": 0.2})
    dual = worse.model_copy(update={"name": "dual", "ratio": 1.2})

    def kinds(row):
        return [note.kind for note in network_notes(measured.model_copy(update={"networks": (row,)}))]

    assert kinds(worse) == ["network_disagrees"]
    assert kinds(uncertain) == kinds(dual) == []
    (note,) = network_notes(measured.model_copy(update={"networks": (worse,)}))
    assert "the primal has 130 ± 10 % of the baseline's variance" in note.message


@pytest.mark.parametrize("correlation", [None, 0.3, 1.0])
def test_the_specs_correlation_is_the_images(correlation):
    inputs = {} if correlation is None else {"correlation": correlation}
    assert neighbour_correlation(build_problem(spec_of(RESNEXT, inputs=inputs))) == correlation


def test_a_gram_gives_the_mean_correlation_of_neighbours():
    rows, columns = np.divmod(np.arange(9), 3)
    gram = 2 * 0.7 ** np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    problem = build_problem(spec_of(RESNEXT, inputs={"gram": gram.tolist()}))
    assert neighbour_correlation(problem) == pytest.approx(0.7)
    assert neighbour_correlation(build_problem(spec_of(MLP, inputs={"gram": [[2.0]]}))) is None


def test_measurements_that_cannot_be_are_refused_before_they_start():
    with pytest.raises(InvalidSpec, match="takes 1×1 inputs alone") as caught:
        validate_search(spec_of(MLP, network={"pixels": 8}))
    assert caught.value.path == ("network", "pixels")
    with pytest.raises(InvalidSpec, match="GiB is the most") as caught:
        validate_search(spec_of({"preset": "resnet152"}, network={"images": 1024, "pixels": 1024}))
    assert caught.value.path == ("network",)
    validate_search(spec_of({"preset": "resnet152"}))
    with pytest.raises(InvalidSpec) as caught:
        spec_of(MLP, verify="networks")
    assert caught.value.path == ("verify",)
    with pytest.raises(InvalidSpec) as caught:
        spec_of(MLP, network={"images": 2, "inputs": 3})
    assert caught.value.path == ("network", "inputs")
