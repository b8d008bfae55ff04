"""Expectations of rectified Gaussian pairs, all that one channel of a weight-sharing layer contributes.

(x, y) is a standard Gaussian pair with correlation ρ = cos θ, a = max(·, 0) its rectification and D = 1[· > 0] its
gate. Integrating over the wedge where both are positive (polar coordinates; the radial part is elementary) gives each
expectation in closed form; J_0, J_1 and J_2 are the arc-cosine kernels of Cho & Saul (2009).

For a rectifier that leaks, of slope s below zero, the gate D is s there and a = D·. An expectation is then that of the
wedge where both are positive, s⁴ times as much again where both are negative, by symmetry, and s² times those of −ρ
where the signs differ: see ``leaky``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike


def _angle(correlation: ArrayLike) -> np.ndarray:
    return np.arccos(np.clip(np.asarray(correlation, float), -1.0, 1.0))


def gate_gate(correlation: ArrayLike) -> np.ndarray:
    """E[D_x D_y] = (π − θ) / 2π, the orthant probability."""
    return (np.pi - _angle(correlation)) / (2 * np.pi)


def relu_relu(correlation: ArrayLike) -> np.ndarray:
    """E[a_x a_y] = (sin θ + (π − θ) cos θ) / 2π."""
    theta = _angle(correlation)
    return (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / (2 * np.pi)


def square_square(correlation: ArrayLike) -> np.ndarray:
    """E[a_x² a_y²] = (3 sin θ cos θ + (π − θ)(1 + 2 cos² θ)) / 2π."""
    theta = _angle(correlation)
    sine, cosine = np.sin(theta), np.cos(theta)
    return (3 * sine * cosine + (np.pi - theta) * (1 + 2 * cosine**2)) / (2 * np.pi)


def gate_square(correlation: ArrayLike) -> np.ndarray:
    """E[D_x a_y²] = (π − θ + sin θ cos θ) / 2π."""
    theta = _angle(correlation)
    return (np.pi - theta + np.sin(theta) * np.cos(theta)) / (2 * np.pi)


def leaky(expectation: Callable[[ArrayLike], np.ndarray], correlation: ArrayLike, slope: float, *, odd: bool = False):
    """An expectation of squared gates D_x² D_y² times powers of x and y, for gates of slope s below zero.

    ``expectation`` is the rectifier's; ``odd`` says that x and y have odd powers, so that their product is negative
    where their signs differ. With s = 0 it is the rectifier's own.

    >>> float(leaky(square_square, 0.5, 1.0)), float(leaky(relu_relu, 0.5, 1.0, odd=True))  # 1 + 2ρ², ρ
    (1.5, 0.5)
    """
    alike, apart = expectation(correlation), expectation(-np.asarray(correlation, float))
    return (1 + slope**4) * alike + (-2 if odd else 2) * slope**2 * apart
