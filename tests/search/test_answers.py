"""What an answer promises, over random baselines, budgets, tolerances and limits of every family.

Every variance is computed again here from the closed form, every cost from the network's counts (which other tests hold
against real modules), and what "best" means by trying every member and multiplicity.
"""

from __future__ import annotations

import itertools
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collegium.search.engine import run
from collegium.search.networks.build import build_network
from collegium.search.networks.network import StageGrouping
from collegium.search.optimize.problem import build_problem
from collegium.search.result import SearchResult
from collegium.search.spec import SearchSpec

widths = st.integers(1, 60)
mlps = st.fixed_dictionaries(
    {
        "family": st.just("mlp"),
        "inputs": st.integers(1, 100),
        "hidden": st.one_of(
            st.lists(widths, min_size=1, max_size=6),
            st.tuples(st.integers(1, 200), st.integers(1, 8)).map(lambda pair: [pair[0]] * pair[1]),
        ),
        "outputs": st.integers(1, 12),
        "bias": st.booleans(),
    }
)
resnexts = st.fixed_dictionaries(
    {
        "family": st.just("resnext"),
        "layout": st.sampled_from(["cifar", "imagenet", "imagenet32"]),
        "blocks": st.lists(st.integers(1, 6), min_size=1, max_size=5),
        "block": st.sampled_from(["bottleneck", "bottleneck", "basic"]),
        "cardinality": st.sampled_from([1, 1, 2, 3, 8, 32]),
        "base_width": st.integers(1, 130),
    },
    optional={"classes": st.integers(1, 30_000)},
)


@st.composite
def blocks(draw):
    """1×1 → k×k → 1×1 and k×k → k×k, with tied or separate widths: what has a closed form."""
    names = draw(st.sampled_from([("n", "n"), ("a", "b")]))
    kernel, outputs = draw(st.sampled_from([1, 3, 5])), draw(st.integers(1, 64))
    layers = [
        {"type": "conv", "out": names[0]},
        {"type": "relu"},
        {"type": "conv", "out": names[1], "kernel": kernel},
        {"type": "relu"},
        {"type": "conv", "out": outputs},
    ]
    size = draw(st.integers(5, 9))
    return {
        "family": "block",
        "input": {"channels": draw(st.integers(1, 64)), "height": size, "width": size},
        "layers": layers,
        "widths": {name: draw(st.integers(1, 80)) for name in dict.fromkeys(names)},
    }


@st.composite
def described(draw):
    """Branches of linear layers, of which there may be several alike, in a network of some fixed cost."""
    widths = [draw(st.integers(1, 40)), *draw(st.lists(st.integers(2, 80), min_size=2, max_size=4)), 10]
    bias, function = draw(st.booleans()), draw(st.sampled_from(["relu", "leaky_relu"]))
    linear, between = {"kind": "linear", "bias": bias}, {"kind": "activation", "function": function}
    flops = sum(inputs * outputs for inputs, outputs in itertools.pairwise(widths))
    branch = {
        "name": "branch",
        "count": draw(st.integers(1, 5)),
        "layers": [layer for _ in widths[1:] for layer in (linear, between)][:-1],
        "widths": widths,
        "parameters": flops + bias * sum(widths[1:]),
        "flops": flops,
        "splittable": True,
    }
    whole = {cost: branch["count"] * branch[cost] + draw(st.integers(0, 5000)) for cost in ("parameters", "flops")}
    return {"family": "network", "name": "any", "input": widths[:1], "outputs": 10, "branches": [branch], **whole}


spaces = st.fixed_dictionaries(
    {},
    optional={
        "mode": st.sampled_from(["scaled", "scaled", "vector"]),
        "min_width": st.integers(1, 8),
        "max_width": st.integers(8, 80),
        "multiple_of": st.sampled_from([1, 1, 2, 4, 8]),
        "max_multiplicity": st.integers(1, 40),
    },
)


@st.composite
def specifications(draw, baselines):
    """A baseline with limits on the scale of its own cost, from far too small to generous."""
    baseline = draw(baselines)
    asked = {
        "baseline": baseline,
        "estimator": {"method": "exact"},
        "space": draw(spaces),
        "tolerance": draw(st.floats(1e-3, 1.0)),
        "efficiency": draw(st.sampled_from(["parameters", "flops"])),
        "inputs": {"correlation": draw(st.sampled_from([0.0, 0.5, 0.9, 0.95, 1.0]))},
    }
    network = build_network(SearchSpec.model_validate_json(json.dumps({"baseline": baseline})).baseline)
    if "max_width" not in asked["space"] and asked["space"].get("min_width", 1) > max(network.baseline):
        del asked["space"]["min_width"]  # which is refused, with what to give instead
    if draw(st.integers(0, 2)) == 0 and asked["space"].get("mode") != "vector":
        asked["space"]["stages"] = "own"
    scale = st.floats(-2.5, 0.7).map(lambda power: 10**power)
    for field, measure in (
        ("budget", asked["efficiency"]), ("max_parameters", "parameters"), ("max_flops", "flops")
    ):  # fmt: skip
        if draw(st.integers(0, 3)) == 0:
            own = network.count(measure, network.baseline, network.multiplicity)
            fixed = network.affine(measure, network.baseline)[0]
            asked[field] = max(1, round(fixed + draw(scale) * (own - fixed)))
    return SearchSpec.model_validate_json(json.dumps(asked))


FAMILIES = {"mlp": mlps, "resnext": resnexts, "block": blocks(), "network": described()}


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_hold(family):
    check_answers(FAMILIES[family], 12)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_hundreds_of_answers_hold(family):
    check_answers(FAMILIES[family], 85)


def check_answers(baselines, examples):
    @settings(max_examples=examples * settings.default.max_examples // 100, deadline=None)
    @given(spec=specifications(baselines))
    def check(spec):
        Answer(spec, run(spec)).check()

    check()


class Answer:
    """A specification with its result, and the truth beside it."""

    def __init__(self, spec: SearchSpec, result: SearchResult) -> None:
        self.spec, self.result = spec, result
        self.problem = build_problem(spec)
        self.network = self.problem.network
        members = list(dict.fromkeys([self.network.baseline, *(row.widths for row in result.curve)]))
        self.moments = dict(zip(members, self.by_stage(members), strict=True))
        self.base = self.moments[self.network.baseline] / self.network.multiplicity
        self.limits = {field: (measure, most) for field, measure, most in spec.limits}
        own = self.network.count(spec.efficiency, self.network.baseline, self.network.multiplicity)
        tolerance = 0.025 if spec.budget is None else 0.0
        self.budget = (spec.efficiency, (own if spec.budget is None else spec.budget) * (1 + tolerance))

    def by_stage(self, members):
        """r − 1 of one member in every stage: a row for each of ``members``."""
        scales = self.network.stage_scales
        table = np.array([[scale * width for width in member] for member in members for scale in scales], float)
        return np.expm1(np.minimum(self.problem.exact(table), 700.0)).reshape(len(members), len(scales))

    def relative(self, member, multiplicity):
        """Var / m over the baseline's in the worst stage."""
        return float(np.max(self.moments[member] / multiplicity / self.base)) if (self.base > 0).all() else 1.0

    def cost(self, measure, member, multiplicity):
        return self.network.count(measure, member, multiplicity)

    def fits(self, member, multiplicity, *, budget=True):
        asked = [*self.limits.values(), *([self.budget] if budget else [])]
        most = self.spec.space.max_multiplicity
        return (most is None or multiplicity <= most) and all(
            self.cost(measure, member, multiplicity) <= limit for measure, limit in asked
        )

    @property
    def baseline_fits(self):
        space, network = self.spec.space, self.network
        return self.fits(network.baseline, network.multiplicity) and all(
            space.min_width <= width <= (space.max_width or width) and width % space.multiple_of == 0
            for width in network.baseline
        )

    def largest(self, member):
        """The largest m that fits everything; 0 where none does."""
        most = self.spec.space.max_multiplicity or 10**9
        for measure, limit in [*self.limits.values(), self.budget]:
            fixed, each = self.network.affine(measure, member)
            most = min(most, math.floor((limit - fixed) / each))
        return max(0, most)

    def check(self):
        result = self.result
        assert SearchResult.model_validate_json(result.model_dump_json()) == result
        kinds = [result.outcome.kind, *(note.kind for note in result.notes)]
        assert len(set(kinds)) == len(kinds)
        if not self.network.grouping_matters:
            assert "nothing_to_gain" in kinds or "unbounded_variance" in kinds or "infeasible" in " ".join(kinds)
            assert result.primal is result.dual is result.near_optimal is None
            return
        for answer in (result.primal, result.dual, result.tied_primal, result.tied_dual):
            if answer is not None:
                self.check_numbers(answer)
        self.check_primal(kinds)
        self.check_dual(kinds)
        self.check_band()
        self.check_rows()
        self.check_words()

    def check_numbers(self, answer):
        """What stands beside an answer is what a network of these widths and m has."""
        assert (len(answer.stages) or 1) == len(self.network.stage_scales)
        stages = self.stages(answer)
        single = np.expm1(np.minimum(self.problem.exact(np.array([one.widths for one in stages], float)), 700.0))
        variances = single / [one.multiplicity for one in stages]
        assert answer.variance == pytest.approx(variances[0], rel=1e-9)
        assert answer.relative_variance == pytest.approx(np.max(variances / self.base), rel=1e-9)
        assert answer.parameters == self.network.count_stages("parameters", stages)
        assert answer.flops == self.network.count_stages("flops", stages)
        spent = self.network.count_stages(self.spec.efficiency, stages)
        assert answer.budget_share == pytest.approx(spent / self.result.budget)
        assert [stage.variance for stage in answer.stages] in ([], pytest.approx(variances.tolist(), rel=1e-9))
        assert answer.uniform == (self.network.tied(stages) is not None)

    def stages(self, answer):
        """An answer's groupings, one for each stage."""
        if answer.stages:
            return tuple(StageGrouping(one.widths, one.multiplicity) for one in answer.stages)
        return self.network.stage_groupings(answer.widths, answer.multiplicity)

    def answer_fits(self, answer, *, budget=True):
        stages, most = self.stages(answer), self.spec.space.max_multiplicity or math.inf
        asked = [*self.limits.values(), *([self.budget] if budget else [])]
        assert all(self.network.count_stages(measure, stages) <= limit for measure, limit in asked)
        assert all(one.multiplicity <= most for one in stages)

    def check_primal(self, kinds):
        result, primal = self.result, self.result.primal
        if primal is None:
            assert {"infeasible_budget", "infeasible_space", "unbounded_variance"} & set(kinds)
            if "infeasible_budget" in kinds:
                assert all(self.largest(member) == 0 for member in self.problem.members[:200])
            return
        self.answer_fits(primal)
        if self.baseline_fits:
            assert primal.relative_variance <= 1 + 1e-9
            if "baseline_is_optimal" not in kinds and "single_member" not in kinds:
                # of stages that are grouped apart, some may be left as they are
                assert min((one.relative_variance for one in primal.stages), default=primal.relative_variance) < 1
                assert primal.relative_variance < 1 or not primal.uniform
                assert max(one.multiplicity for one in self.stages(primal)) > 1
        assert ("single_member" in kinds) <= all(one.multiplicity == 1 for one in self.stages(primal))
        if result.stages == "own" and result.tied_primal is not None:
            assert primal.relative_variance <= result.tied_primal.relative_variance
            primal = result.tied_primal
        members = [row.widths for row in result.curve]
        tried = [(self.relative(member, m), member, m) for member in members if (m := self.largest(member)) >= 1]
        best = min(tried)[0] if tried else math.inf
        if "baseline_is_optimal" in kinds and self.baseline_fits and result.tied_primal is None:
            assert best >= 1 - 1e-6
        if self.spec.budget is not None:
            assert primal.relative_variance <= best * (1 + 1e-9)

    def check_dual(self, kinds):
        dual, network = self.result.dual, self.network
        if dual is None:
            assert {"infeasible_space", "unbounded_variance"} & set(kinds)
            return
        self.answer_fits(dual, budget=False)
        assert dual.relative_variance <= 1.025
        for own, one in zip(self.result.dual.stages or [dual], self.stages(dual), strict=True):
            assert one.multiplicity > 1 or own.relative_variance <= 1 + 1e-9
        if self.fits(network.baseline, network.multiplicity, budget=False) and self.baseline_fits:
            assert dual.efficiency >= 1
        if self.result.tied_dual is not None:
            assert dual.efficiency >= self.result.tied_dual.efficiency

    def check_band(self):
        near, result = self.result.near_optimal, self.result
        if near is None:
            return
        objective = {row.widths: row.objective for row in result.curve}
        own = result.stages == "own" and (result.tied_primal or result.tied_dual)
        primal = result.tied_primal if own else result.primal
        answer = primal or (result.tied_dual if own else result.dual)
        assert objective
        assert min(value for value in objective.values() if value is not None) == pytest.approx(1)
        for member in near.members:
            assert member == answer.widths or objective[member] <= 1 + near.tolerance
        if primal is not None and primal.widths in objective:
            assert primal.widths in near.members or len(near.members) == 512
        pick = near.recommended
        if pick is None:
            return
        assert pick.widths in near.members or len(near.members) == 512
        for built in (pick.primal, pick.dual):
            if built is not None:
                self.check_numbers(built)
        if primal is not None:
            assert self.fits(pick.primal.widths, pick.primal.multiplicity)
            assert pick.primal.multiplicity > 1
            assert pick.primal.relative_variance <= (1 + near.tolerance) * primal.relative_variance * (1 + 1e-6)
            loss = pick.primal.relative_variance / primal.relative_variance - 1
            assert pick.loss == pytest.approx(loss, abs=1e-9)
            if self.baseline_fits:
                assert pick.primal.relative_variance < 1
        if pick.dual is not None:
            assert pick.dual.relative_variance <= 1.025
            assert pick.dual.efficiency > 1
            assert pick.dual.multiplicity > 1
        self.check_reason(pick, primal)

    def check_reason(self, pick, primal):
        multiple = re.search(r"is a multiple of (\d+)", pick.reason)
        if multiple:
            assert all(width % int(multiple[1]) == 0 for width in pick.widths)
        compared = re.search(r"at ([\d.]+) % (more|less) (variance|cost)", pick.reason)
        if compared:
            sign = 1 if compared[2] == "more" else -1
            assert 100 * pick.loss == pytest.approx(sign * float(compared[1]), abs=0.06)
        if "primal itself" in pick.reason:
            assert pick.primal == primal
        found = self.result.primal
        if found is not None and not found.uniform and pick.primal is not None:
            assert "the primal" not in pick.reason  # of one m × n, whatever is said is of the tied one
            (more,) = re.findall(r"([\d.]+) % more variance than stages of their own", pick.reason)
            apart = pick.primal.relative_variance / found.relative_variance - 1
            assert 100 * apart == pytest.approx(float(more), abs=0.06)

    def check_rows(self):
        for row in self.result.curve:
            if row.primal_multiplicity is not None:
                assert self.fits(row.widths, row.primal_multiplicity)
            if row.dual_multiplicity is not None:
                assert self.relative(row.widths, row.dual_multiplicity) <= 1.025 * (1 + 1e-9)

    def check_words(self):
        """The percentages of the sentence are those of the answer, to its digits."""
        result = self.result
        if result.outcome.kind != "found":
            return
        shares = re.findall(r"has (?:at most )?([\d.e-]+) % of", result.outcome.message)
        answers = [answer for answer in (result.primal, result.dual) if answer is not None]
        for share, answer in zip(shares, answers, strict=False):
            assert float(share) == pytest.approx(100 * answer.relative_variance, rel=0.06, abs=0.51)
        if result.primal is not None:
            (cost,) = re.findall(r"at ([\d.]+) % of (?:its|the budget)", result.outcome.message)
            assert float(cost) == pytest.approx(100 * result.primal.budget_share, abs=0.06)


def test_a_single_member_in_every_stage_is_no_ensemble():
    """Stages that are grouped apart into one member each: found once as an ensemble."""
    own = {"stages": "own"}
    block = {"block": "bottleneck", "cardinality": 2, "base_width": 4}
    baseline = {"family": "resnext", "layout": "cifar", "blocks": [1, 2], **block}
    limits = {"budget": 192522, "max_parameters": 192522}
    asked = {"baseline": baseline, "space": own, "inputs": {"correlation": 0.9}, "tolerance": 1.0, **limits}
    spec = SearchSpec.model_validate_json(json.dumps(asked))
    result = run(spec)
    assert [(one.width, one.multiplicity) for one in result.primal.stages] == [(7, 1), (15, 1)]
    assert result.outcome.kind == "single_member"
    assert "A single network of width 7, 15 is the smoothest" in result.outcome.message
