"""The rectified Gaussian expectations against numerical integration and their known ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collegium.search.kernel import relu


def integral(function, correlation: float) -> float:
    """E[f(x, y)] by quadrature: Gauss–Laguerre over the radius, where it is exact, and midpoints over the angle."""
    nodes, weights = np.polynomial.laguerre.laggauss(12)
    radius = np.sqrt(2 * nodes)
    angle = (np.arange(200_000) + 0.5) * 2 * np.pi / 200_000
    x = np.cos(angle)
    y = np.cos(angle - np.arccos(correlation))
    return float(sum(w * function(r * x, r * y).mean() for r, w in zip(radius, weights, strict=True)))


CASES = {
    relu.gate_gate: lambda x, y: (x > 0) * (y > 0),
    relu.relu_relu: lambda x, y: np.maximum(x, 0) * np.maximum(y, 0),
    relu.square_square: lambda x, y: np.maximum(x, 0) ** 2 * np.maximum(y, 0) ** 2,
    relu.gate_square: lambda x, y: (x > 0) * np.maximum(y, 0) ** 2,
}


@pytest.mark.parametrize("expectation", CASES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("correlation", [-0.9, -0.3, 0.0, 0.5, 0.95])
def test_expectations_are_those_integrals(expectation, correlation):
    assert expectation(correlation) == pytest.approx(integral(CASES[expectation], correlation), abs=2e-5)


@pytest.mark.parametrize(
    ("expectation", "same", "independent", "opposite"),
    [
        (relu.gate_gate, 1 / 2, 1 / 4, 0),
        (relu.relu_relu, 1 / 2, 1 / (2 * np.pi), 0),
        (relu.square_square, 3 / 2, 1 / 4, 0),
        (relu.gate_square, 1 / 2, 1 / 4, 0),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_expectations_of_equal_independent_and_opposite_variables(expectation, same, independent, opposite):
    assert expectation([1.0, 0.0, -1.0]) == pytest.approx([same, independent, opposite], abs=1e-12)


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_expectations_grow_with_the_correlation(one, other):
    low, high = sorted((one, other))
    for expectation in CASES:
        assert expectation(low) <= expectation(high) + 1e-12


def leaky(x: np.ndarray, slope: float) -> np.ndarray:
    """The gate of a rectifier of this slope below zero."""
    return np.where(x > 0, 1.0, slope)


@pytest.mark.parametrize("slope", [-0.6, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("correlation", [-0.8, 0.0, 0.6, 1.0])
def test_leaky_expectations_are_those_integrals(slope, correlation):
    for expectation, powers, odd in (
        (relu.gate_gate, (0, 0), False),
        (relu.relu_relu, (1, 1), True),
        (relu.square_square, (2, 2), False),
        (relu.gate_square, (0, 2), False),
    ):

        def product(x, y, powers=powers):
            return leaky(x, slope) ** 2 * x ** powers[0] * leaky(y, slope) ** 2 * y ** powers[1]

        found = relu.leaky(expectation, correlation, slope, odd=odd)
        assert found == pytest.approx(integral(product, correlation), abs=5e-5)
