"""A search from specification to answer: the published optima, every estimator, every space."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from collegium.search.engine import run
from collegium.search.errors import InvalidSpec
from collegium.search.progress import Report, discard
from collegium.search.result import SearchResult
from collegium.search.sampling.sampler import compute_shard
from collegium.search.sampling.shards import ShardResult, ShardSpec
from collegium.search.spec import SearchSpec

FIGURE_3 = {"family": "mlp", "inputs": 784, "hidden": [500] * 5, "outputs": 1}
#: 1×1 → 3×3 → 3×3 → 1×1: no closed form.
DOUBLE = {
    "family": "block",
    "input": {"channels": 16, "height": 8, "width": 8},
    "layers": [
        {"type": "conv", "out": "n"},
        {"type": "relu"},
        {"type": "conv", "out": "n", "kernel": 3},
        {"type": "relu"},
        {"type": "conv", "out": "n", "kernel": 3},
        {"type": "relu"},
        {"type": "conv", "out": 16},
    ],
    "widths": {"n": 24},
}


def spec_of(baseline, **asked):
    baseline = {"preset": baseline} if isinstance(baseline, str) else baseline
    return SearchSpec.model_validate_json(json.dumps({"baseline": baseline, **asked}))


def answer(baseline, *, images=None, report=discard, load=None, store=None, map_shards=None, **asked) -> SearchResult:
    return run(
        spec_of(baseline, **asked),
        images=images,
        report=report,
        load=load,
        store=store,
        map_shards=map_shards,
    )


@pytest.mark.parametrize(
    ("preset", "primal", "dual", "efficiency", "correlated"),
    [
        ("resnext29-1x128d", (37, 10), (15, 10), 2.30, (9, 42)),
        ("resnet50", (12, 10), (11, 7), 1.449, (9, 13)),
        ("resnext29-1x226d", (101, 10), (26, 10), 3.68, (9, 114)),
    ],
)
def test_auto_gives_the_published_primal_and_the_honest_dual(preset, primal, dual, efficiency, correlated):
    result = answer(preset)
    assert (result.primal.multiplicity, result.primal.width) == primal
    assert (result.dual.multiplicity, result.dual.width) == dual
    assert result.dual.efficiency == pytest.approx(efficiency, abs=0.005)
    assert (result.method, result.variance_from) == ("exact", "closed_form")
    assert result.alpha.slope == pytest.approx(5.25, abs=0.1)
    assert result.alpha.points[0].width == 1
    assert result.confidence.frequency == 1
    assert result.outcome.kind == "found"
    # n* moves little with the inputs, and the answer says so
    by_correlation = {row.correlation: (row.width, row.primal_multiplicity) for row in result.correlations}
    assert by_correlation[0.8] == by_correlation[0.9] == correlated
    assert by_correlation[0.95] == by_correlation[1.0] == (10, primal[0])
    # and the short Monte Carlo check is reported with the closed form
    assert {point.width for point in result.check.points} >= {10, result.baseline.width}
    assert result.check.agrees
    assert result.samples == sum(point.samples for point in result.check.points) > 10_000


def test_resnet_50_has_the_published_ensemble_at_width_8():
    result = answer("resnet50", estimator={"method": "exact"})
    row = next(row for row in result.curve if row.width == 8)
    assert row.primal_multiplicity == 15
    assert row.primal_parameters == 25_094_920
    assert (result.near_optimal.min_width, result.near_optimal.max_width) == (7, 15)
    # 15 × 8 has 3.8 % more variance than 12 × 10, at 2.6 % fewer parameters: near the optimum, not within the tolerance
    assert result.near_optimal.recommended.width == 10
    assert row.primal_relative_variance / result.primal.relative_variance == pytest.approx(1.038, abs=0.001)
    assert result.check is None


def test_the_mlp_of_figure_3_has_the_published_optimum():
    result = answer("mlp-mnist-6x500", estimator={"method": "exact"})
    assert 44 <= result.primal.width <= 48
    assert (result.dual.multiplicity, result.dual.width) == (14, 42)
    assert result.dual.efficiency == pytest.approx(2.549, abs=0.001)
    assert result.dual.relative_variance <= 1.025
    assert result.alpha.value == pytest.approx(3.43, abs=0.02)
    assert result.alpha.r_squared > 0.999
    assert len(result.curve) == 500
    assert result.correlations == ()
    assert result.baseline.variance == pytest.approx(0.035, abs=0.001)


def test_given_alpha_reproduces_the_published_duals():
    result = answer("resnext29-1x128d", estimator={"method": "given", "alpha": 1.6})
    duals = {row.width: (row.dual_multiplicity, row.dual_efficiency) for row in result.curve}
    assert duals[10] == (10, pytest.approx(3.26, abs=0.005))
    assert duals[12] == (8, pytest.approx(3.286, abs=0.005))
    assert result.alpha.method == result.method == "given"
    assert result.alpha.value == 1.6
    # with it, its residuals
    assert result.alpha.points
    assert result.outcome.kind == "poor_fit"
    assert "auto" in result.outcome.remedy


def test_given_works_without_a_closed_form_and_without_sampling():
    def refuse(shards, report):
        raise AssertionError("nothing is sampled")

    result = answer(DOUBLE, estimator={"method": "given", "alpha": 4}, map_shards=refuse)
    assert result.alpha.points == ()
    assert result.primal is not None
    assert result.samples == 0


def test_a_vector_space_beats_the_tied_one():
    result = answer(FIGURE_3, estimator={"method": "exact"}, space={"mode": "vector"})
    assert result.dual.efficiency >= 4.1
    assert result.primal.width is None
    assert len(result.primal.widths) == 5
    assert result.space == "vector"
    assert all(width % 8 == 0 for width in result.near_optimal.recommended.widths)
    tied = next(row for row in result.curve if row.width == 45)
    assert tied.dual_efficiency_real == pytest.approx(2.44, abs=0.005)


def test_vector_space_of_a_given_alpha_and_of_multiples():
    result = answer(FIGURE_3, estimator={"method": "given", "alpha": 3.43}, space={"mode": "vector", "multiple_of": 8})
    assert all(width % 8 == 0 for width in result.primal.widths)
    assert result.dual.efficiency > 2.44


def test_listed_widths_are_evaluated_exactly():
    result = answer("resnet50", estimator={"method": "exact"}, space={"widths": [16, [8, 12], 10]})
    assert [row.widths for row in result.curve] == [(16, 16), (8, 12), (10, 10)]
    assert result.primal.widths == (10, 10)


def test_flops_and_a_budget_bound_the_primal():
    result = answer("resnet50", efficiency="flops", estimator={"method": "exact"})
    assert result.measure == "flops"
    assert result.primal.flops == pytest.approx(result.baseline.flops, rel=0.05)
    assert result.budget == result.baseline.flops
    half = answer("resnet50", budget=15_000_000, estimator={"method": "exact"})
    assert half.primal.parameters <= 15_000_000
    assert half.primal.budget_share == half.primal.parameters / 15_000_000
    assert half.primal.width == 11
    whole = answer("resnet50", estimator={"method": "exact"}).dual
    assert (half.dual.widths, half.dual.multiplicity) == (whole.widths, whole.multiplicity)
    assert [note.kind for note in half.notes] == ["over_budget"]


def test_a_single_free_layer_has_nothing_to_gain():
    result = answer("resnet18")
    assert result.outcome.kind == "nothing_to_gain"
    assert result.primal is result.dual is result.near_optimal is result.confidence is None
    assert result.alpha.value > 0
    assert result.check.agrees
    # which the exact curve confirms: every width is as good as any other
    assert [row.objective for row in result.curve] == pytest.approx([1.0] * len(result.curve))


def test_monte_carlo_agrees_with_the_closed_form():
    exact = answer("resnet50", estimator={"method": "exact"})
    result = answer("resnet50", estimator={"method": "monte_carlo", "relative_error": 0.03})
    assert result.variance_from == "smooth"
    assert result.alpha.method == result.method == "monte_carlo"
    truth = {point.widths: point.log_moment_ratio for point in exact.alpha.points}
    for point in result.alpha.points:
        assert point.samples > 0
        assert point.standard_error <= 0.03 * point.log_moment_ratio
        if point.widths in truth:
            assert abs(point.log_moment_ratio - truth[point.widths]) < 4 * point.standard_error
    assert 7 <= result.primal.width <= 14
    assert 0 < result.confidence.frequency <= 1
    assert result.confidence.low <= result.primal.width <= result.confidence.high
    assert result.confidence.within_tolerance > 0.8
    assert {row.correlation for row in result.correlations} == {0.8, 0.9, 1.0}
    assert result.outcome.kind == "found"


@pytest.mark.slow
def test_a_block_without_a_closed_form_is_sampled():
    result = answer(DOUBLE, estimator={"relative_error": 0.1}, inputs={"correlation": 0.9})
    assert result.method == "monte_carlo"
    assert result.check is None
    assert result.primal.multiplicity > 1
    with pytest.raises(InvalidSpec) as refused:
        answer(DOUBLE, estimator={"method": "exact"})
    assert refused.value.path == ("estimator", "method")


def test_listed_widths_are_each_sampled():
    result = answer(
        FIGURE_3,
        estimator={"method": "monte_carlo", "samples": 4000},
        space={"widths": [32, [40, 40, 40, 40, 48], 64]},
    )
    assert result.variance_from == "sampled"
    assert [row.widths[0] for row in result.curve] == [32, 40, 64]
    assert all(point.samples == 4000 for point in result.alpha.points)
    assert result.confidence.draws > 0


def test_the_answer_depends_on_the_seed_alone():
    asked = {"estimator": {"method": "monte_carlo", "samples": 3000, "seed": 5}}
    shards_seen: list[ShardSpec] = []

    def elsewhere(shards: list[ShardSpec], report: Report) -> list[ShardResult]:
        shards_seen.extend(shards)
        sent = [ShardSpec.model_validate(json.loads(shard.model_dump_json())) for shard in reversed(shards)]
        return [ShardResult.model_validate(json.loads(compute_shard(shard).model_dump_json())) for shard in sent]

    here = answer("resnet50", **asked)
    there = answer("resnet50", **asked, map_shards=elsewhere)
    assert shards_seen
    assert here.model_copy(update={"seconds": 0.0}) == there.model_copy(update={"seconds": 0.0})
    other = answer("resnet50", estimator={**asked["estimator"], "seed": 6})
    assert other.alpha.value != here.alpha.value


def test_known_estimates_need_no_sampling():
    stored: dict[str, dict] = {}
    asked = {"estimator": {"method": "monte_carlo", "samples": 3000}}
    first = answer("resnet50", **asked, load=stored.get, store=stored.__setitem__)
    json.dumps(stored)

    def refuse(shards, report):
        raise AssertionError("everything is known")

    second = answer("resnet50", **asked, load=stored.get, map_shards=refuse)
    assert second.primal == first.primal
    # another network with the same block uses them too
    assert answer("resnext29-1x64d", **asked, load=stored.get, map_shards=refuse).alpha == first.alpha


@pytest.mark.parametrize(
    "asked", [{"samples": 2000}, {"relative_error": 0.05}, {"relative_error": 0.02, "seed": 1}], ids=str
)
def test_earlier_searches_never_change_an_answer(asked):
    stored: dict[str, dict] = {}
    keep = {"load": stored.get, "store": stored.__setitem__}
    mlp = {"family": "mlp", "inputs": 20, "hidden": [30, 30, 30]}
    for earlier in ({"samples": 20_000}, {"relative_error": 0.03}, {"relative_error": 0.2}, {"seed": 1}):
        answer(mlp, estimator={"method": "monte_carlo", "relative_error": 0.04} | earlier, **keep)
    estimator = {"method": "monte_carlo"} | asked
    fresh, again = answer(mlp, estimator=estimator), answer(mlp, estimator=estimator, **keep)
    assert fresh.reused == 0
    # what was reused is named, and is all that differs
    assert again.reused <= again.samples
    same = {"seconds": 0.0, "reused": 0}
    assert again.model_copy(update=same) == fresh.model_copy(update=same)
    third = answer(mlp, estimator=estimator, **keep)
    assert third.reused == third.samples
    alone = answer(mlp, estimator={**estimator, "reuse": False}, **keep)
    assert alone.model_copy(update=same) == fresh.model_copy(update=same)
    assert alone.reused == 0


def test_the_check_says_that_it_cannot_tell_in_every_view():
    result = answer({"family": "mlp", "inputs": 9, "hidden": [4] * 24})
    assert result.check.agreement == "cannot_tell"
    assert not result.check.agrees
    (note,) = [note for note in result.notes if note.kind == "check_inconclusive"]
    assert "cannot tell" in note.message
    assert result.outcome.kind not in ("check_disagrees", "check_inconclusive")


def test_progress_rises_to_one_and_cancelling_passes_through():
    seen: list[tuple[float, str]] = []
    answer("resnet50", estimator={"method": "monte_carlo", "samples": 2000}, report=lambda *now: seen.append(now))
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert all(message for _, message in seen)

    class Cancelled(Exception):
        pass

    def cancel(fraction, message):
        if fraction > 0.1:
            raise Cancelled

    with pytest.raises(Cancelled):
        answer("resnet50", estimator={"method": "monte_carlo", "samples": 2000}, report=cancel)


def test_data_become_a_gram_matrix():
    generator = np.random.default_rng(0)
    smooth = np.cumsum(np.cumsum(generator.standard_normal((40, 3, 16, 16)), axis=2), axis=3)
    data = {"inputs": {"data": "mine"}, "estimator": {"method": "exact"}}
    result = answer("resnext29-1x128d", images=smooth, **data)
    noise = answer("resnext29-1x128d", images=generator.standard_normal((40, 3, 16, 16)), **data)
    assert noise.primal.width < result.primal.width <= 10
    with pytest.raises(InvalidSpec) as refused:
        answer("resnext29-1x128d", **data)
    assert refused.value.path == ("inputs", "data")
    with pytest.raises(InvalidSpec, match="smaller"):
        answer("resnext29-1x128d", images=smooth[:, :, :2, :2], **data)
    # one position sees no patch, whatever the data
    assert answer(FIGURE_3, **data).primal.width == 45


def test_a_gram_matrix_of_the_wrong_size_names_the_field():
    with pytest.raises(InvalidSpec) as refused:
        answer("resnet50", inputs={"gram": [[2.0, 1.0], [1.0, 2.0]]})
    assert refused.value.path == ("inputs", "gram")


@pytest.mark.parametrize("estimator", [{}, {"method": "given", "alpha": 1.6}])
def test_a_gram_matrix_that_is_none_names_the_field_whatever_the_estimator(estimator):
    rows = (-np.eye(9)).tolist()
    with pytest.raises(InvalidSpec, match="not positive semi-definite") as refused:
        answer("resnet50", inputs={"gram": rows}, estimator=estimator)
    assert refused.value.path == ("inputs", "gram")


def test_answers_that_cannot_be_built_as_one_chain_are_said_not_to_be_measured():
    layers = [{"type": "conv", "out": 16, "kernel": 3, "groups": 4}, {"type": "relu"}]
    layers += [{"type": "conv", "out": name, "kernel": 3} for name in ("a", "b")] + [{"type": "conv", "out": 8}]
    block = {"family": "block", "input": {"channels": 8, "height": 3, "width": 3}, "layers": layers}
    found = answer(block | {"widths": {"a": 64, "b": 64}}, verify=True, estimator={"samples": 500})
    assert found.primal is not None
    assert found.verification is None
    (note,) = [note for note in found.notes if note.kind == "verification_inconclusive"]
    assert "first or last layer is grouped" in note.message
    assert "network" in note.remedy


def test_verify_measures_what_was_predicted():
    result = answer("resnet50", verify=True)
    for side, found in ((result.primal, result.verification.primal), (result.dual, result.verification.dual)):
        assert found.multiplicity == side.multiplicity
        assert found.predicted == side.variance
        assert abs(found.measured - found.predicted) < 4 * found.standard_error
        assert found.standard_error < 0.1 * found.predicted
    assert result.verification.agrees


def test_off_diagonal_and_pooled_entries():
    pair = answer("resnet50", inputs={"pair": {"cosine": 0.5}}, estimator={"samples": 2000})
    assert pair.method == "monte_carlo"
    assert pair.alpha.value > 0
    same = answer("resnet50", inputs={"pair": {"cosine": 1.0}}, estimator={"method": "exact"})
    assert same.primal.width == 10
    pooled = answer(DOUBLE, estimator={"samples": 500, "entry": "pooled"})
    assert pooled.method == "monte_carlo"


def test_a_result_survives_json():
    result = answer("resnet50")
    assert SearchResult.model_validate_json(result.model_dump_json()) == result
    assert SearchResult.model_validate(json.loads(result.model_dump_json())) == result


def test_a_closed_form_needs_no_torch():
    code = (
        "import sys\nimport collegium.search.plot, collegium.search.reproduce.experiments\n"
        "from collegium.search.engine import run\nfrom collegium.search.spec import SearchSpec\n"
        "asked = {'preset': 'resnet50'}\n"
        "spec = SearchSpec.model_validate({'baseline': asked, 'estimator': {'method': 'exact'}})\n"
        "assert run(spec).primal.multiplicity == 12\nassert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.gpu
def test_an_accelerator_gives_the_same_optimum():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no accelerator")
    asked = {"method": "monte_carlo", "relative_error": 0.02}
    result = run(spec_of("resnet50", estimator=asked, verify=True), device="cuda")
    assert result.device == "cuda"
    assert 7 <= result.primal.width <= 14
    assert result.verification.agrees
