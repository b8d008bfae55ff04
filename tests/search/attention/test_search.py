"""A specification of an attention block: the curve of ``head_curve``, costs that do not change, refusals by field."""

from __future__ import annotations

import json
import math

import pytest

from collegium.search.attention.heads import head_curve
from collegium.search.errors import InvalidSpec
from collegium.search.find import find_ensemble
from collegium.search.networks.build import build_network
from collegium.search.parse import parse_spec
from collegium.search.result import SearchResult
from collegium.search.spec import SearchSpec

BLOCK = {"family": "attention", "heads": 2, "width": 16, "min_width": 4, "tokens": 8, "correlation": 0.3}
ROUGH = {"relative_error": 0.2, "seed": 5}


def block(**changes):
    return BLOCK | changes


def test_the_curve_is_that_of_the_heads():
    answer = find_ensemble(block(), estimator=ROUGH)
    curve = head_curve(2, 16, min_width=4, tokens=8, correlation=0.3, relative_error=0.2, seed=5)
    assert [row.widths for row in answer.curve] == [(32,), (16,), (8,), (4,)]
    for row, head in zip(answer.curve, curve.rows, strict=True):
        assert (row.primal_multiplicity, row.primal_variance) == (head.heads, head.variance)
        assert row.variance == pytest.approx(head.heads * head.variance)
        assert row.primal_relative_variance == head.relative_variance
        assert row.primal_standard_error == pytest.approx(
            head.standard_error / next(each.variance for each in curve.rows if each.width == 16)
        )
    assert answer.outcome.kind == "no_optimum"
    assert "knows nothing of what a narrow head can express" in answer.outcome.message
    assert (answer.primal, answer.dual, answer.recommended) == (None, None, None)
    assert answer.near_optimal.max_width == curve.flat_from
    assert answer.baseline.variance == pytest.approx(next(h.variance for h in curve.rows if h.width == 16))
    assert SearchResult.model_validate_json(answer.model_dump_json()) == answer


def test_any_division_has_the_counts_of_torchs_block():
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network = build_network(parse_spec(SearchSpec, {"baseline": block()}).baseline)
    module = torch.nn.MultiheadAttention(32, 2, bias=False, batch_first=True)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    x = torch.randn(1, 8, 32)
    with FlopCounterMode(display=False) as counter:
        module(x, x, x, need_weights=True)
    for heads, width in ((1, 32), (2, 16), (8, 4)):
        assert network.count("parameters", (width,), heads) == parameters == 4 * 32**2
        assert network.count("flops", (width,), heads) == counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("changes", "path", "said"),
    [
        ({"budget": 7}, "budget", "leave it out"),
        ({"max_flops": 7}, "max_flops", "leave it out"),
        ({"efficiency": "memory"}, "efficiency", "no module to time"),
        ({"workload": {}}, "workload", "leave it out"),
        ({"verify": True}, "verify", "leave it out"),
        ({"verify": "network"}, "verify", "leave it out"),
        ({"inputs": {"correlation": 0.5}}, "inputs.correlation", "baseline.correlation"),
        ({"space": {"min_width": 2}}, "space.min_width", "baseline.min_width"),
        ({"space": {"stages": "own"}}, "space.stages", "leave it out"),
        ({"estimator": {"method": "exact"}}, "estimator.method", "is sampled"),
        ({"estimator": {"samples": 1000}}, "estimator.samples", "leave it out"),
        ({"baseline": block(heads=4096, width=4096)}, "baseline.width", "the most is 65536"),
        ({"baseline": block(min_width=33)}, "baseline.min_width", "no head is wider"),
        ({"baseline": block(heads=4096, tokens=512, width=2)}, "baseline.tokens", "the most that is sampled"),
        ({"baseline": block(correlation=1.5)}, "baseline.correlation", "less than or equal to 1"),
        ({"baseline": {key: BLOCK[key] for key in ("family", "heads", "width")}}, "baseline.min_width", "required"),
    ],
)
def test_what_has_no_meaning_for_a_block_is_refused_by_field(changes, path, said):
    document = {"baseline": block()} | changes
    with pytest.raises(InvalidSpec) as caught:
        find_ensemble(parse_spec(SearchSpec, json.loads(json.dumps(document))))
    assert str(caught.value).startswith(f"{path}: ")
    assert said.lower() in str(caught.value).lower()


def test_defaults_that_are_spelled_out_are_no_other_request():
    spelled = {"space": {"min_width": 1, "mode": "scaled"}, "verify": False, "estimator": ROUGH | {"method": "auto"}}
    answer = find_ensemble(block(min_width=16), **spelled)
    assert [row.width for row in answer.curve] == [32, 16]
    assert math.isclose(answer.curve[1].primal_relative_variance, 1)


def test_it_is_cancelled_between_rounds():
    class Stop(Exception):
        pass

    said = []

    def report(fraction, message):
        said.append(message)
        if len(said) == 4:
            raise Stop

    with pytest.raises(Stop):
        find_ensemble(block(), estimator={"relative_error": 0.001}, report=report)


def test_no_training_takes_it():
    from collegium.train.models.grouping import group_network
    from collegium.train.spec.architecture import BaselineArchitecture

    architecture = BaselineArchitecture.model_validate_json(json.dumps({"baseline": block()}))
    with pytest.raises(InvalidSpec, match="train the transformer that it is of"):
        group_network(architecture)
