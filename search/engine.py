"""A search from its specification to its result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from collegium.search.attention.search import search_block
from collegium.search.curve.source import Curve, Exact, Smooth
from collegium.search.curve.surface import Surface
from collegium.search.estimate.alpha import NO_ALPHA, exact_points, fit_alpha
from collegium.search.estimate.sampled_curve import baseline_known, sample_correlations, sample_curve
from collegium.search.estimate.verification import spot_check, verify
from collegium.search.latency.bench import Bench
from collegium.search.latency.measure import Load, Store
from collegium.search.latency.selection import Costed, cost_answers
from collegium.search.latency.times import Times
from collegium.search.latency.workload import Workload
from collegium.search.networks.families.attention import AttentionNetwork
from collegium.search.networks.families.network_module import GraphNetwork
from collegium.search.networks.network import Network
from collegium.search.optimize import built
from collegium.search.optimize.members import between
from collegium.search.optimize.near_optimal import near_optimal
from collegium.search.optimize.problem import GroupingProblem, build_problem
from collegium.search.optimize.solve import Solved
from collegium.search.optimize.stages import StageProblem
from collegium.search.optimize.uncertainty import CORRELATIONS, DRAWS, by_correlation, confidence
from collegium.search.optimize.variances import redrawn_log_ratios, stage_log_ratios
from collegium.search.optimize.vector import solve_vectors
from collegium.search.outcomes.judge import Evidence, judge
from collegium.search.progress import Report, discard, scaled
from collegium.search.result import (
    BaselineSummary,
    Confidence,
    CorrelationRow,
    LayerGain,
    NearOptimal,
    SearchResult,
    SolvedEnsemble,
    SpotCheck,
    Verification,
)
from collegium.search.sampling.estimation import Compute, Estimation
from collegium.search.sampling.local import compute_here
from collegium.search.several.searches import run_parts
from collegium.search.several.whole import CostsOfWhole, Records
from collegium.search.spec import SearchSpec
from collegium.search.whole_network.verification import measure_answers, network_notes
from collegium.versions import versions

#: Share of the progress from which whole networks are measured, where they are.
NETWORKS_FROM = 0.2
#: Share of the progress from which ensembles are timed, where they are.
TIMES_FROM = 0.1
#: Share from which the answers chosen by time or memory are verified.
VERIFIED_FROM = 0.95


def run(
    spec: SearchSpec,
    *,
    report: Report = discard,
    load: Callable[[str], dict[str, Any] | None] | None = None,
    store: Callable[[str, dict[str, Any]], None] | None = None,
    map_shards: Compute | None = None,
    device: str = "cpu",
    images: np.ndarray | None = None,
    bench: Bench | None = None,
) -> SearchResult:
    """Run a search.

    ``report(fraction, message)`` is called with the progress and may raise to cancel. ``load(key)`` and
    ``store(key, record)`` reach stored samples of kernel entries. ``map_shards(shards, report)`` computes
    Monte Carlo shards elsewhere; without it they are computed here, on ``device``. ``images``, (images, channels,
    height, width), are what ``spec.inputs.data`` names. ``bench`` measures times; by default it is ``device``.

    Raises ``InvalidSpec`` for a specification that is wrong; a result's shortcomings are its ``outcome`` and ``notes``.
    """
    report(0.0, "reading the specification")
    resources = Resources(load, store, map_shards or compute_here(device), device, images, bench)
    problem = build_problem(spec, images)
    if isinstance(problem.network, AttentionNetwork):
        return search_block(spec, problem.network, report, device)
    if len(problem.network.parts) == 1:
        return _run(problem, resources, report)
    return _run_parts(problem, resources, report)


@dataclass(frozen=True)
class Resources:
    """What a search computes with: stored samples, what computes shards, device, images, and what measures times."""

    load: Callable[[str], dict[str, Any] | None] | None
    store: Callable[[str, dict[str, Any]], None] | None
    compute: Compute
    device: str
    images: np.ndarray | None
    bench: Bench | None


def _run_parts(problem: GroupingProblem, resources: Resources, report: Report) -> SearchResult:
    """The search of a network of which several parts are grouped; what was computed for one is there for the next."""
    started, spec, network = time.perf_counter(), problem.spec, problem.network
    load, store = (resources.load, resources.store) if spec.estimator.reuse else (None, None)
    records = Records(load, store)
    resources = replace(resources, load=records.load, store=records.store)
    costs = None
    if problem.counts_costs and isinstance(network, GraphNetwork):
        times = _times(problem, resources.device, resources.bench, records.load, records.store)
        costs = CostsOfWhole(spec, network, times, records)

    def run_part(part_spec: SearchSpec, part: Network, share: Report) -> SearchResult:
        kept = part_spec.estimator.model_copy(update={"reuse": True})
        own = part_spec.model_copy(update={"estimator": kept})
        return _run(replace(problem, spec=own, network=part), resources, share)

    measured = spec.verify == "network"
    found = run_parts(spec, network, run_part, scaled(report, 0.0, NETWORKS_FROM if measured else 1.0), costs)
    if measured:
        whole = scaled(report, NETWORKS_FROM, 1.0)
        found = _with_networks(found, found.recommended, problem, resources.images, resources.device, whole)
    found = found.model_copy(update={"seconds": time.perf_counter() - started})
    report(1.0, found.outcome.message)
    return found


def _run(problem: GroupingProblem, resources: Resources, report: Report) -> SearchResult:
    started = time.perf_counter()
    spec, device, images, bench = problem.spec, resources.device, resources.images, resources.bench
    whole, report = report, scaled(report, 0.0, NETWORKS_FROM if spec.verify == "network" else 1.0)
    costing, report = report, scaled(report, 0.0, TIMES_FROM if problem.counts_costs else 1.0)
    estimator = spec.estimator
    estimation = Estimation(
        relative_error=estimator.relative_error,
        seed=estimator.seed,
        samples=estimator.samples,
        compute=resources.compute,
        load=resources.load if estimator.reuse else None,
        store=resources.store if estimator.reuse else None,
        device=device.partition(":")[0],
    )
    curve = _curve(problem, estimation, scaled(report, 0.02, 0.7))
    solved = _solve(problem, curve)
    report(0.7, "solving the primal and the dual")
    correlations = _correlations(problem, curve, estimation, scaled(report, 0.7, 0.8))
    evidence = _evidence(problem, curve, solved, estimation, scaled(report, 0.8, 0.9))
    if problem.counts_costs and evidence.baseline_known:
        times = _times(problem, device, bench, estimation.load, estimation.store)
        evidence = _with_costs(evidence, times, scaled(costing, TIMES_FROM, VERIFIED_FROM))
    if spec.verify is True:
        verifying = scaled(costing, VERIFIED_FROM, 1.0) if problem.counts_costs else scaled(report, 0.9, 1.0)
        verification = verify(problem, *evidence.ensembles, estimation, verifying)
        evidence = replace(evidence, verification=verification)
    result = _result(evidence, curve, correlations, estimation.reused, device, time.perf_counter() - started)
    if spec.verify == "network":
        recommended = result.near_optimal.recommended if result.near_optimal else None
        share = scaled(whole, NETWORKS_FROM, 1.0)
        result = _with_networks(result, recommended and recommended.primal, problem, images, device, share)
        result = result.model_copy(update={"seconds": time.perf_counter() - started})
    whole(1.0, result.outcome.message)
    return result


def _times(
    problem: GroupingProblem, device: str, bench: Bench | None, load: Load | None, store: Store | None
) -> Times | None:
    """What times ensembles; None where memory alone is counted."""
    spec = problem.spec
    if not spec.times_networks:
        return None
    if bench is None:
        from collegium.search.latency.torch_bench import TorchBench

        bench = TorchBench(device)
    return Times(problem.network, spec.workload or Workload(), bench, load, store)


def _with_costs(evidence: Evidence, times: Times | None, report: Report) -> Evidence:
    """The evidence with what ensembles cost in time and memory, and the answers that follow from it."""
    costed = cost_answers(evidence.problem, evidence.solved, evidence.ensembles, times, report, evidence.stages)
    return replace(evidence, costed=costed, ensembles=(costed.primal, costed.dual))


def _with_networks(
    result: SearchResult,
    recommended: SolvedEnsemble | None,
    problem: GroupingProblem,
    images: np.ndarray | None,
    device: str,
    report: Report,
) -> SearchResult:
    """The result with its answers measured as whole networks; the recommended one is measured where it differs."""
    answers = {"primal": result.primal, "dual": result.dual}
    if recommended is not None and recommended != result.primal:
        answers["recommended"] = recommended
    measured = measure_answers(problem, answers, images=images, device=device, report=report)
    notes = (*result.notes, *network_notes(measured, len(problem.network.parts)))
    return result.model_copy(update={"network": measured, "notes": notes})


def _evidence(
    problem: GroupingProblem, curve: Curve, solved: Solved, estimation: Estimation, report: Report
) -> Evidence:
    """Both ensembles with α and the check of the closed form."""
    grouped = problem.network.grouping_matters
    primal = built.primal(solved) if grouped else None
    dual = built.dual(solved) if grouped else None
    tied, stages = (primal, dual), _stages(problem, solved, curve) if grouped else None
    if stages is not None:
        primal = built.better(built.own_ensemble(solved, stages.primal()), primal, "relative_variance")
        dual = built.better(built.own_ensemble(solved, stages.dual()), dual, "cost")
    check = _check(problem, solved, tied, estimation, report)
    alpha = fit_alpha(problem, curve.points)
    answers = (primal, dual)
    return Evidence(problem, solved, curve.log_ratios, alpha, curve.points, check, None, answers, tied, stages)


def _stages(problem: GroupingProblem, solved: Solved, curve: Curve) -> StageProblem | None:
    """The problem of every stage's own m and n, where that is asked for and every stage's variance is known."""
    scales = solved.constraints.scales
    if problem.spec.space.stages == "tied" or len(problem.scales) == 1 or scales != problem.scales:
        return None
    if not baseline_known(problem, curve.log_ratios):
        return None
    return StageProblem(problem.network, solved.constraints, problem.spec.space, curve.log_ratios)


def _result(
    evidence: Evidence,
    curve: Curve,
    correlations: tuple[CorrelationRow, ...],
    reused: int,
    device: str,
    seconds: float,
) -> SearchResult:
    problem, solved = evidence.problem, evidence.solved
    spec, grouped = problem.spec, problem.network.grouping_matters
    source = curve.log_ratios.source
    primal, dual = (built.with_modules(problem.network, answer) for answer in evidence.ensembles)
    outcome, notes = judge(evidence)
    near = _band(evidence) if grouped else None
    tied = evidence.costed.tied if evidence.costed is not None and evidence.costed.tied is not None else evidence.tied
    recommended = near.recommended.primal or near.recommended.dual if near and near.recommended else None
    result = SearchResult(
        title=problem.network.title,
        space="widths" if spec.space.widths is not None else spec.space.mode,
        method="exact" if source == "closed_form" else evidence.alpha.method,
        variance_from=source,
        measure=spec.efficiency,
        budget=_budget(problem, evidence.costed),
        alpha=evidence.alpha,
        baseline=_baseline(evidence),
        primal=primal,
        dual=dual,
        curve=tuple(built.row(solved, index) for index in range(len(solved.widths))),
        near_optimal=near,
        confidence=_confidence(problem, solved, curve) if grouped else None,
        correlations=correlations,
        check=evidence.check,
        verification=evidence.verification,
        outcome=outcome,
        notes=notes,
        seed=spec.estimator.seed,
        samples=_samples(curve, evidence.check, evidence.verification),
        reused=reused,
        device=device,
        versions=versions("numpy", "torch"),
        seconds=seconds,
        subject=problem.network.subject,
        budget_tolerance=evidence.rounding,
        stages=spec.space.stages,
        tied_primal=tied[0] if evidence.stages is not None else None,
        tied_dual=tied[1] if evidence.stages is not None else None,
        recommended=built.with_modules(problem.network, recommended),
        costs=None if evidence.costed is None else evidence.costed.front,
        gains=_gains(problem),
    )
    return result if problem.network.has_subject else _without_subject(result)


def _without_subject(result: SearchResult) -> SearchResult:
    """The result without the numbers of a chain that stands for nothing of the network."""
    baseline = result.baseline.model_copy(update={"variance": None})
    nothing = {"alpha": NO_ALPHA, "curve": (), "check": None, "verification": None, "gains": ()}
    return result.model_copy(update={"baseline": baseline, "correlations": (), "samples": 0, "reused": 0, **nothing})


def _gains(problem: GroupingProblem) -> tuple[LayerGain, ...]:
    chain = problem.network.chain
    return tuple(
        LayerGain(activation=str(layer.phi), gain=gain) for layer, gain in zip(chain.layers, chain.gains, strict=True)
    )


def _band(evidence: Evidence) -> NearOptimal | None:
    """The band; where time or memory was asked for, with the recommendation that follows from these."""
    found = evidence.ensembles[0] if evidence.stages is not None else None
    near = near_optimal(evidence.solved, evidence.problem.spec.tolerance, *evidence.tied, found)
    if near is None or evidence.costed is None:
        return near
    return near.model_copy(update={"recommended": evidence.costed.recommended})


def _budget(problem: GroupingProblem, costed: Costed | None) -> int | float:
    return costed.limits[0].most if costed is not None and problem.costs_decide else problem.budget


def _baseline(evidence: Evidence) -> BaselineSummary:
    network = evidence.problem.network
    return BaselineSummary(
        widths=network.baseline,
        title=network.title,
        multiplicity=network.multiplicity,
        variance=evidence.solved.constraints.baseline_variance if evidence.baseline_known else None,
        parameters=network.count("parameters", network.baseline, network.multiplicity),
        flops=network.count("flops", network.baseline, network.multiplicity),
    )


def _curve(problem: GroupingProblem, estimation: Estimation, report: Report) -> Curve:
    log_ratios = problem.log_ratios
    if log_ratios is None:
        return sample_curve(problem, estimation, report)
    return Curve(log_ratios, exact_points(problem) if problem.closed_form else (), problem.members)


def _solve(problem: GroupingProblem, curve: Curve) -> Solved:
    """Both problems over the members, with gaps of a thinned range filled around the optimum, or over vectors."""
    solved = problem.solve(curve.members, curve.log_ratios)
    space = problem.spec.space
    if space.mode == "vector" and space.widths is None and baseline_known(problem, curve.log_ratios):
        return solve_vectors(problem, curve.log_ratios, solved)
    if solved.optimum is None or space.widths is not None:
        return solved
    band = np.flatnonzero(solved.objective <= 1 + problem.spec.tolerance)
    first = [widths[0] for widths in solved.widths]
    low, high = first[max(0, band.min() - 1)], first[min(len(first) - 1, band.max() + 1)]
    members = sorted({*solved.widths, *between(problem.network, space, low, high)})
    return solved if len(members) == len(solved.widths) else problem.solve(members, curve.log_ratios)


def _check(
    problem: GroupingProblem,
    solved: Solved,
    answers: tuple[SolvedEnsemble | None, SolvedEnsemble | None],
    estimation: Estimation,
    report: Report,
) -> SpotCheck | None:
    """The short Monte Carlo check of method ``auto``: at the baseline, n*, and the recommended member."""
    if problem.spec.estimator.method != "auto" or not problem.closed_form:
        return None
    members = [problem.network.baseline]
    band = near_optimal(solved, problem.spec.tolerance, *answers)
    if solved.optimum is not None:
        members.append(solved.widths[solved.optimum])
    if band is not None and band.recommended is not None:
        members.append(band.recommended.widths)
    return spot_check(problem, members, estimation, report)


def _correlations(
    problem: GroupingProblem, curve: Curve, estimation: Estimation, report: Report
) -> tuple[CorrelationRow, ...]:
    """n* under other inputs, among the members in the baseline's ratio; empty where one position is all there is."""
    members = curve.members
    if not members or problem.positions == 1 or not problem.network.grouping_matters:
        return ()
    if isinstance(curve.log_ratios, Exact):
        own = () if problem.inputs.correlation is None else (problem.inputs.correlation,)
        wanted: list[float] = sorted({*CORRELATIONS, *own})
        at = {c: problem.at_correlation(c).exact for c in wanted}
    elif isinstance(curve.log_ratios, Smooth | Surface):
        at = sample_correlations(problem, estimation, curve.points, report)
    else:
        return ()
    return by_correlation(
        constraints_at=lambda c: problem.constraints(at[c]),
        widths=members,
        log_ratio_at=lambda c: stage_log_ratios(at[c], np.array(members), problem.constraints(at[c]).scales),
        correlations=tuple(at),
    )


def _confidence(problem: GroupingProblem, solved: Solved, curve: Curve) -> Confidence | None:
    generator = np.random.default_rng(problem.spec.estimator.seed)
    widths, scales = np.array(solved.widths), solved.constraints.scales
    redrawn = redrawn_log_ratios(curve.log_ratios, widths, scales, generator, DRAWS) if solved.widths else None
    return confidence(solved, redrawn, problem.spec.tolerance)


def _samples(curve: Curve, check: SpotCheck | None, verification: Verification | None) -> int:
    total = sum(point.samples for point in curve.points)
    total += sum(point.samples for point in check.points) if check else 0
    if verification:
        total += sum(side.samples for side in (verification.primal, verification.dual) if side)
    return total
