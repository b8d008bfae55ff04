"""Searches of networks with other activations: what is exact, what is sampled, what is refused."""

from __future__ import annotations

import pytest

from collegium.search.engine import run
from collegium.search.errors import InvalidSpec
from collegium.search.networks.activation import Activation, mean_square
from collegium.search.parse import parse_spec
from collegium.search.result import SearchResult
from collegium.search.spec import SearchSpec


def mlp(activation, inputs=8, hidden=(24,) * 3, **more):
    return {"family": "mlp", "inputs": inputs, "hidden": list(hidden), "activation": activation, **more}


def answer(baseline, **asked) -> SearchResult:
    return run(parse_spec(SearchSpec, {"baseline": baseline, **asked}))


def test_a_smooth_activation_is_sampled_and_its_ensembles_vary_as_predicted():
    estimator = {"relative_error": 0.04}
    result = answer(mlp("gelu"), estimator=estimator, space={"min_width": 8}, verify=True)
    assert (result.method, result.variance_from, result.check) == ("monte_carlo", "smooth", None)
    assert all(point.samples > 0 for point in result.alpha.points)
    assert result.primal.multiplicity > 1
    assert result.verification.agreement == "agree"  # m members as they are built, measured
    assert result.title == "GELU MLP 8→[24, 24, 24]→1"
    after = 1 / mean_square(Activation("gelu"))
    assert [(layer.activation, layer.gain) for layer in result.gains] == [
        ("gelu", 1.0),
        ("gelu", after),
        ("gelu", after),
        ("identity", after),
    ]
    assert SearchResult.model_validate_json(result.model_dump_json()) == result


def test_leaky_rectifiers_and_the_identity_are_exact():
    for activation in ({"name": "leaky_relu", "negative_slope": 0.2}, "identity"):
        result = answer(mlp(activation, hidden=(64,) * 3), space={"min_width": 24})
        assert (result.method, result.variance_from) == ("exact", "closed_form")
        assert result.check.agrees
    rectified, barely = (answer(mlp(a), estimator={"method": "exact"}) for a in ("relu", "leaky_relu"))
    assert barely.baseline.variance == pytest.approx(rectified.baseline.variance, rel=1e-3)  # of slope 0.01


def test_the_identity_has_the_variance_of_a_product_of_gaussian_matrices():

    n = 24
    result = answer(mlp("identity", hidden=(n,)), estimator={"method": "exact"})
    # K = |W x̂|²/n + |v|²/n, a sum of 2n squares over n: Var / E² = 2 · 2n / (2n)²
    assert result.baseline.variance == pytest.approx(2 * 2 * n / (2 * n) ** 2, rel=1e-12)


def test_a_listed_space_samples_each_member_whatever_the_activation():
    result = answer(
        mlp("tanh"), estimator={"samples": 4000}, space={"widths": [12, [8, 24, 12]]}, inputs={"gram": [[0.5]]}
    )
    assert result.variance_from == "sampled"
    assert len(result.curve) == 2


@pytest.mark.parametrize(
    ("asked", "path", "words"),
    [
        ({"estimator": {"method": "exact"}}, ("estimator", "method"), "none is known with silu"),
        ({"space": {"mode": "vector"}}, ("space", "mode"), "list width vectors in 'widths'"),
    ],
)
def test_what_there_is_not_is_refused_by_its_field(asked, path, words):
    with pytest.raises(InvalidSpec) as raised:
        answer(mlp("silu"), **asked)
    assert raised.value.path == path
    assert words in raised.value.message


def test_a_given_alpha_takes_any_activation_and_any_space():
    result = answer(mlp("gelu"), estimator={"method": "given", "alpha": 3.4}, space={"mode": "vector"})
    assert result.variance_from == "alpha"


@pytest.mark.slow
@pytest.mark.parametrize(("activation", "low", "high"), [("gelu", 32, 40), ("silu", 45, 53), ("tanh", 30, 36)])
def test_the_mlp_of_figure_3(activation, low, high):
    """Twice the interval that holds 90 % of the optima redrawn within an error of 0.01; these samples have more."""
    result = answer(mlp(activation, inputs=748, hidden=(500,) * 5), estimator={"relative_error": 0.02})
    assert low <= result.primal.width <= high
    assert result.near_optimal.min_width <= result.primal.width <= result.near_optimal.max_width
    assert result.outcome.kind == "found"
