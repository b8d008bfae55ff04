"""The ``vector`` space: every free width on its own (Littwin et al. 2020 let n be a vector, and tie it in practice).

Small spaces are searched whole. Larger ones by coordinate descent from several starts at once: one coordinate after
another is set to the best of all its values, which never raises the objective, until no coordinate moves. The tied
optimum is one of the starts, so the answer is never worse than the best tied member.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from collegium.search.curve.source import LogRatios
from collegium.search.networks.cost import CostPolynomial, cost_polynomial
from collegium.search.networks.network import Measure
from collegium.search.optimize.limits import MOST_MEMBERS, AffineCosts, Constraints, Limit, MemberCosts
from collegium.search.optimize.members import vector_values
from collegium.search.optimize.problem import GroupingProblem
from collegium.search.optimize.solve import Solved, dual_integer
from collegium.search.optimize.variances import LARGEST_FINITE, stage_log_ratios, worst_ratio

#: ln r of many width vectors in every stage, (vectors, free widths) → (vectors, stages).
Evaluate = Callable[[np.ndarray], np.ndarray]

#: Spaces with at most this many vectors are searched whole.
EXHAUSTIVE = 200_000
#: Vectors evaluated at a time.
BATCH = 16_384
#: Values of one coordinate tried over its whole range, and to each side of the present one.
COARSE = 32
CLOSE = 16
#: Factors by which a vector is scaled as a whole between sweeps.
SCALES = np.geomspace(0.8, 1.25, 41)
MOST_SWEEPS = 60
#: Around the best vector: its scaled copies, among which an integer m may fit better, and variations in all.
WIDE_SCALES = np.geomspace(0.5, 2.2, 64)
NEIGHBOURS = 120
#: What the objective of a vector that is not allowed begins at: more than any that is.
FAR = 1e30
#: Members that no limit allows.
UNREACHED = 1e3 * MOST_MEMBERS


@dataclass(frozen=True)
class VectorOptimum:
    """The best vector, how it was found, and how many of the starts ended there (within 10⁻⁴ of its objective)."""

    widths: tuple[int, ...]
    exhaustive: bool
    starts: int
    agreeing: int


@dataclass(frozen=True)
class Objective:
    """Variance of the primal ensemble (Eq. 12) at many width vectors, relative to the baseline's in the worst stage.

    ``costs`` has the polynomial of every measure that is limited.
    """

    constraints: Constraints
    costs: Mapping[Measure, CostPolynomial]
    evaluate: Evaluate

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """Shape (vectors, free widths) → (vectors,)."""
        return np.concatenate([self._batch(widths[at : at + BATCH]) for at in range(0, len(widths), BATCH)])

    def _batch(self, widths: np.ndarray) -> np.ndarray:
        costs = self._costs(widths)
        variance = np.expm1(np.minimum(self.evaluate(widths), LARGEST_FINITE))
        return self._of(costs, worst_ratio(variance, self.constraints.baseline_variances))

    def _costs(self, widths: np.ndarray) -> dict[Measure, MemberCosts]:
        table = widths.astype(float)
        return {measure: AffineCosts(cost.fixed, cost.per_member(table)) for measure, cost in self.costs.items()}

    def _of(self, costs: Mapping[Measure, MemberCosts], worst: np.ndarray) -> np.ndarray:
        constraints = self.constraints
        fits = constraints.fits(costs, np.ones(len(worst)), constraints.limits)
        # where nothing fits, slope towards what does
        least = costs[constraints.budget.measure].at(1.0)
        real = np.where(fits, constraints.real_multiplicity(costs), 1.0)
        return np.where(fits, worst / real, FAR * (1 + least))


@dataclass(frozen=True)
class DualObjective(Objective):
    """Cost of the dual ensemble at the real m of the worst stage (Eq. 14), within every limit but the budget."""

    def _of(self, costs: Mapping[Measure, MemberCosts], worst: np.ndarray) -> np.ndarray:
        constraints, worst = self.constraints, np.minimum(worst, UNREACHED)
        real = np.maximum(1.0, worst)
        integer = dual_integer(constraints, costs, worst)
        excess = np.maximum(0.0, real / constraints.most - 1)
        for limit in constraints.limits[1:]:
            excess = excess + np.maximum(0.0, costs[limit.measure].at(real) / limit.bound - 1)
        return np.where(np.isnan(integer), FAR * (1 + excess), costs[constraints.measure].at(real))


def search_vectors(
    objective: Objective, values: Sequence[np.ndarray], starts: Sequence[tuple[int, ...]], seed: int
) -> VectorOptimum:
    """The best vector whose i-th width is one of ``values[i]`` (sorted).

    ``starts`` are moved to the nearest allowed values; a few more are drawn log-uniformly from ``seed``.
    """
    if np.prod([float(len(allowed)) for allowed in values]) <= EXHAUSTIVE:
        return _exhaustive(objective, values)
    states = _starts(values, starts, seed)
    scores = objective(states)
    for _ in range(MOST_SWEEPS):
        before = scores.copy()
        for index, allowed in enumerate(values):
            _best_of_coordinate(objective, states, scores, index, allowed)
        _best_scale(objective, states, scores, values)
        if np.all(scores >= before * (1 - 1e-12)):
            break
    best = int(np.argmin(scores))
    agreeing = int(np.sum(scores <= scores[best] * (1 + 1e-4)))
    return VectorOptimum(_vector(states[best]), False, len(states), agreeing)


def neighbours(widths: tuple[int, ...], values: Sequence[np.ndarray]) -> list[tuple[int, ...]]:
    """Vectors around ``widths``: each coordinate varied alone, all scaled alike, and all snapped to multiples."""
    scaled = [_nearest(allowed, width * WIDE_SCALES) for width, allowed in zip(widths, values, strict=True)]
    around = {widths, *(_vector(vector) for vector in np.stack(scaled, axis=-1))}
    most = max(4, NEIGHBOURS // len(widths))
    for index, allowed in enumerate(values):
        near = allowed[np.abs(allowed - widths[index]) <= max(4, widths[index] // 4)]
        if len(near) > most:
            near = near[np.linspace(0, len(near) - 1, most).round().astype(int)]
        around |= {(*widths[:index], int(value), *widths[index + 1 :]) for value in near}
    for multiple in (4, 8, 16):
        around |= _snapped(widths, values, multiple)
    return sorted(around)


def _snapped(widths: tuple[int, ...], values: Sequence[np.ndarray], multiple: int) -> set[tuple[int, ...]]:
    """Both multiples around every width, in all combinations (the nearest one alone where there are too many)."""
    choices = []
    for width, allowed in zip(widths, values, strict=True):
        below = width // multiple * multiple
        both = [value for value in (below, below + multiple) if value > 0 and value in allowed]
        if not both:
            return set()
        choices.append(sorted(both, key=lambda value, width=width: abs(value - width)))
    if len(choices) > 8:
        return {tuple(int(both[0]) for both in choices)}
    return {tuple(int(value) for value in vector) for vector in itertools.product(*choices)}


def _exhaustive(objective: Objective, values: Sequence[np.ndarray]) -> VectorOptimum:
    grid = np.stack(np.meshgrid(*values, indexing="ij"), axis=-1).reshape(-1, len(values))
    return VectorOptimum(_vector(grid[int(np.argmin(objective(grid)))]), True, 1, 1)


def _starts(values: Sequence[np.ndarray], starts: Sequence[tuple[int, ...]], seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    low = np.log([allowed[0] for allowed in values])
    high = np.log([allowed[-1] for allowed in values])
    drawn = np.exp(generator.uniform(low, high, size=(4, len(values))))
    wanted = np.concatenate([np.array(starts, float).reshape(-1, len(values)), drawn])
    columns = [_nearest(allowed, wanted[:, index]) for index, allowed in enumerate(values)]
    return np.stack(columns, axis=-1)


def _best_of_coordinate(
    objective: Objective, states: np.ndarray, scores: np.ndarray, index: int, allowed: np.ndarray
) -> None:
    """Set one coordinate of every state to the best of its values, in place.

    Long ranges are tried at geometric steps, and at every value close to the present one.
    """
    if len(allowed) <= COARSE + 2 * CLOSE + 1:
        candidates = np.broadcast_to(allowed, (len(states), len(allowed)))
    else:
        coarse = _nearest(allowed, np.geomspace(allowed[0], allowed[-1], COARSE))
        at = np.searchsorted(allowed, states[:, index])
        close = allowed[np.clip(at[:, None] + np.arange(-CLOSE, CLOSE + 1), 0, len(allowed) - 1)]
        candidates = np.concatenate([np.broadcast_to(coarse, (len(states), COARSE)), close], axis=1)
    trials = np.repeat(states[:, None, :], candidates.shape[1], axis=1)
    trials[:, :, index] = candidates
    _move(objective, states, scores, trials)


def _best_scale(objective: Objective, states: np.ndarray, scores: np.ndarray, values: Sequence[np.ndarray]) -> None:
    """Scale every state as a whole to its best size, in place: along that ridge no single coordinate gains."""
    wanted = states[:, None, :] * SCALES[None, :, None]
    trials = np.stack([_nearest(allowed, wanted[..., i]) for i, allowed in enumerate(values)], axis=-1)
    _move(objective, states, scores, trials)


def _move(objective: Objective, states: np.ndarray, scores: np.ndarray, trials: np.ndarray) -> None:
    """Replace each state by the best of its trials, shape (states, trials, free widths), where that is better."""
    values = objective(trials.reshape(-1, states.shape[1])).reshape(trials.shape[:2])
    best = values.argmin(axis=1)
    rows = np.arange(len(states))
    better = values[rows, best] < scores
    states[better] = trials[rows, best][better]
    scores[better] = values[rows, best][better]


def _nearest(allowed: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The allowed value nearest to each wanted one, any shape; ``allowed`` is sorted."""
    right = np.clip(np.searchsorted(allowed, wanted), 1, max(1, len(allowed) - 1))
    left = allowed[right - 1]
    right = allowed[np.minimum(right, len(allowed) - 1)]
    return np.where(wanted - left <= right - wanted, left, right)


def _vector(state: np.ndarray) -> tuple[int, ...]:
    return tuple(int(value) for value in state)


def best_vector(problem: GroupingProblem, log_ratios: LogRatios, tied: Solved) -> VectorOptimum | None:
    """The best width vector under ``log_ratios``; None where the space has none, or not even the narrowest fits."""
    starts = [] if tied.primal_optimum is None else [tied.widths[tied.primal_optimum]]
    return _search(problem, log_ratios, tied.constraints, Objective, tied.constraints.limits, starts)


def best_dual_vector(problem: GroupingProblem, log_ratios: LogRatios, tied: Solved) -> VectorOptimum | None:
    """The most compact width vector with the baseline's variance; None where no vector is within the limits."""
    starts = [] if tied.dual_optimum is None else [tied.widths[tied.dual_optimum]]
    return _search(problem, log_ratios, tied.constraints, DualObjective, tied.constraints.limits[1:], starts)


def _search(
    problem: GroupingProblem,
    log_ratios: LogRatios,
    constraints: Constraints,
    sense: type[Objective],
    limits: Sequence[Limit],
    starts: Sequence[tuple[int, ...]],
) -> VectorOptimum | None:
    network = problem.network
    values = vector_values(network, problem.spec.space)
    if not all(len(allowed) for allowed in values):
        return None
    narrowest = tuple(int(allowed[0]) for allowed in values)
    if any(network.count(limit.measure, narrowest, 1) > limit.bound for limit in limits):
        return None
    measures: set[Measure] = {limit.measure for limit in constraints.limits}
    objective = sense(
        constraints,
        {measure: cost_polynomial(network, measure) for measure in sorted(measures)},
        lambda widths: stage_log_ratios(log_ratios, widths, constraints.scales),
    )
    begun = [*starts, network.baseline] if starts else [narrowest, network.baseline]
    return search_vectors(objective, values, begun, problem.spec.estimator.seed)


def solve_vectors(problem: GroupingProblem, log_ratios: LogRatios, tied: Solved) -> Solved:
    """Both problems over the tied members, the best vectors and the vectors around them.

    At the baseline's own cost, and without further limits, both problems have the same best vector.
    """
    spec = problem.spec
    limited = spec.budget is not None or spec.limits or spec.space.max_multiplicity is not None
    found = [best_vector(problem, log_ratios, tied)]
    if limited or found[0] is None:
        found.append(best_dual_vector(problem, log_ratios, tied))
    values = vector_values(problem.network, spec.space)
    around = {vector for one in found if one is not None for vector in neighbours(one.widths, values)}
    return problem.solve(sorted({*tied.widths, *around}), log_ratios) if around else tied
