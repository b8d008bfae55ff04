"""The answer's shape."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from collegium.search.result import (
    CorrelationRow,
    CurveRow,
    MemberWidths,
    SearchResult,
    SolvedEnsemble,
    SpotCheck,
    Verification,
)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_the_width_is_a_number_where_all_are_equal(widths):
    member = MemberWidths(widths=tuple(widths))
    assert member.width == (widths[0] if len(set(widths)) == 1 else None)
    assert MemberWidths.model_validate_json(member.model_dump_json()) == member


def test_results_are_closed_frozen_and_finite():
    answer = {"widths": [4], "multiplicity": 2, "multiplicity_real": 2.1, "variance": 0.1, "parameters": 8, "flops": 8}
    made = SolvedEnsemble(**answer, efficiency=1.0)
    with pytest.raises(ValidationError):
        SolvedEnsemble(**answer, efficiency=float("inf"))
    with pytest.raises(ValidationError):
        SolvedEnsemble(**answer, efficiency=1.0, surprise=1)
    with pytest.raises(ValidationError):
        made.multiplicity = 3


def test_rows_of_correlations_that_were_stored_with_one_width_have_the_dual_at_it():
    earlier = {"widths": [4, 6], "primal_multiplicity": 3, "primal_multiplicity_real": 3.2, "dual_multiplicity": 2}
    row = CorrelationRow.model_validate({**earlier, "correlation": 0.9, "dual_multiplicity_real": 2, "efficiency": 1.5,
                                         "slope": 1})  # fmt: skip
    assert row.dual_widths == row.widths == (4, 6)
    assert row.width is row.dual_width is None
    none = CorrelationRow.model_validate(row.model_dump() | {"widths": None, "dual_widths": [7], "dual_width": 7})
    assert (none.widths, none.dual_width) == (None, 7)
    assert CorrelationRow.model_validate_json(none.model_dump_json()) == none


@pytest.mark.parametrize("row", [CurveRow, CorrelationRow])
def test_rows_that_were_stored_without_the_duals_prefix_are_still_read(row):
    numbers = {name: 2 for name in row.model_fields if "width" not in name}
    named = row.model_validate({"widths": [4], **numbers})
    unprefixed = ("dual_parameters", "dual_flops", "dual_efficiency", "dual_efficiency_real")
    earlier = {name.removeprefix("dual_") if name in unprefixed else name: 2 for name in numbers}
    assert row.model_validate_json(json.dumps({"widths": [4], **earlier})) == named
    assert "dual_efficiency" in named.model_dump()
    assert "efficiency" not in named.model_dump()


@pytest.mark.parametrize(("agrees", "agreement"), [(True, "agree"), (False, "disagree")])
def test_checks_that_were_stored_without_a_agreement_are_still_read(agrees, agreement):
    point = {"widths": [4], "samples": 9, "exact": 1.0, "sampled": 1.1, "standard_error": 0.1}
    check = {"points": [{**point, "standard_errors_apart": 1.0}], "largest": 1.0, "agrees": agrees}
    assert SpotCheck.model_validate(check).agreement == agreement
    assert Verification.model_validate({"primal": None, "dual": None, "agrees": agrees}).agreement == agreement


def test_every_field_that_was_promised():
    fields = SearchResult.model_json_schema()["$defs"]
    assert {"value", "standard_error", "method", "window", "r_squared", "points"} <= set(fields["Alpha"]["properties"])
    assert {"parameters", "flops", "variance"} <= set(fields["BaselineSummary"]["properties"])
    answer = {"width", "widths", "multiplicity", "multiplicity_real", "variance", "parameters", "flops", "efficiency"}
    assert answer <= set(fields["SolvedEnsemble"]["properties"])
    row = {
        "width",
        "variance",
        "primal_multiplicity",
        "dual_multiplicity",
        "dual_parameters",
        "dual_flops",
        "dual_efficiency",
    }
    assert row <= set(fields["CurveRow"]["properties"])
    promised = {"alpha", "baseline", "primal", "dual", "curve", "near_optimal", "outcome", "confidence", "verification"}
    assert promised | {"seed", "versions", "device", "seconds"} <= set(SearchResult.model_fields)
