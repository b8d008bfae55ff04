"""Independent estimates of ln r at width vectors, moved as little as makes them fall wherever every width grows.

ln r of a chain of positively homogeneous activations falls with every width, and estimates of near widths may cross by
their errors. The nearest values that do not are the weighted isotonic regression over the partial order of the vectors
(Barlow et al. 1972): x = argmin Σ ((x_i − y_i) / σ_i)² with x_i ≤ x_j wherever i is as wide as j in every width.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import isotonic_regression

#: Sweeps of projections, and the largest relative move that ends them; pairs that cross then are cut off.
SWEEPS, SETTLED = 500, 1e-7
#: Least standard error, relative to the largest value.
LEAST_ERROR = 1e-6


def falling(widths: np.ndarray, values: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """The nearest ``values``, each weighed by its error, that fall as every width grows; what falls stays as it is.

    ``widths`` has the shape (vectors, free widths), each vector once; ``values`` and ``errors``, (vectors,).

    >>> falling(np.array([[2], [4], [8]]), np.array([3.0, 1.0, 2.0]), np.array([0.1, 0.1, 0.1]))
    array([3. , 1.5, 1.5])
    """
    errors = np.maximum(errors, LEAST_ERROR * np.abs(values).max(initial=0.0) + 1e-12)
    order = _chain(widths)
    if order is None:
        return _projected(_next_wider(widths), np.array(values, float), errors**2)
    moved = np.empty(len(values))
    moved[order] = isotonic_regression(values[order], weights=errors[order] ** -2.0, increasing=False).x
    return moved


def falling_draws(widths: np.ndarray, draws: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """``falling`` of every draw, ``(draws, vectors)``, of vectors that can be ordered from the narrowest to the widest.

    Draws at vectors of which neither of two is the wider stay as they are.

    >>> falling_draws(np.array([[2], [4]]), np.array([[1.0, 2.0], [2.0, 1.0]]), np.ones(2))
    array([[1.5, 1.5],
           [2. , 1. ]])
    """
    order = _chain(widths)
    if order is None or not draws.size:
        return draws
    moved = draws.copy()
    for draw in np.flatnonzero((np.diff(draws[:, order], axis=1) > 0).any(axis=1)):
        moved[draw] = falling(widths, draws[draw], errors)
    return moved


def _chain(widths: np.ndarray) -> np.ndarray | None:
    """The order in which every vector is as wide as the last in each width; None where there is none."""
    order = np.lexsort(widths.T[::-1])
    return order if (np.diff(widths[order], axis=0) >= 0).all() else None


def _projected(above: list[tuple[int, int]], moved: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """The projection onto what no pair crosses, by Hildreth's method: onto one pair after the other, with a memory."""
    forces, scale = np.zeros(len(above)), float(np.abs(moved).max())
    for _ in range(SWEEPS):
        largest = 0.0
        for at, (narrow, wide) in enumerate(above):
            step = max(-forces[at], (moved[wide] - moved[narrow]) / (inverse[wide] + inverse[narrow]))
            forces[at] += step
            moved[wide] -= step * inverse[wide]
            moved[narrow] += step * inverse[narrow]
            largest = max(largest, abs(step) * (inverse[wide] + inverse[narrow]))
        if largest <= SETTLED * scale:
            break
    for narrow, wide in above:
        moved[wide] = min(moved[wide], moved[narrow])
    return moved


def _next_wider(widths: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of vectors of which the second is the wider with none between, by the sum of the first's widths."""
    wider = np.all(widths[None] >= widths[:, None], axis=-1) & ~np.eye(len(widths), dtype=bool)
    apart = wider.astype(np.float32)
    between = np.matmul(apart, apart) > 0
    pairs = np.argwhere(wider & ~between)
    return [tuple(pair) for pair in pairs[np.argsort(widths.sum(axis=1)[pairs[:, 0]], kind="stable")].tolist()]
