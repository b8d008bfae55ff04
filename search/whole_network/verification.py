"""The answers of a search measured as whole networks beside their baseline, and what to note of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from collegium.search.kernel.receptive_field import input_window
from collegium.search.networks.families.network_module import GraphNetwork
from collegium.search.networks.graph.reading import Position
from collegium.search.networks.network import Network, StageGrouping
from collegium.search.optimize.problem import GroupingProblem
from collegium.search.progress import Report
from collegium.search.result import Outcome, SolvedEnsemble
from collegium.search.whole_network.candidate import Candidate
from collegium.search.whole_network.measure import measure_networks
from collegium.search.whole_network.result import MeasuredNetwork, NetworkVerification

#: Standard errors by which a measured ratio must exceed what is allowed.
BEYOND = 2.0
#: Most of the baseline's variance that an answer may have: a primal has less, a dual is as smooth within 2.5 %.
ALLOWED = {"primal": 1.0, "recommended": 1.0, "dual": 1.025}


def measure_answers(
    problem: GroupingProblem,
    answers: Mapping[str, SolvedEnsemble | None],
    *,
    images: np.ndarray | None,
    device: str,
    report: Report,
) -> NetworkVerification:
    """The baseline and each of ``answers`` by its name, measured whole as ``problem.spec.network`` says.

    Inputs have the specification's correlation, that of its Gram matrix, or are its data's ``images``. On a CPU, as
    many cores share the draws as torch may use. Raises ``InvalidSpec`` where the network does not take them.
    """
    import torch

    network, spec = problem.network, problem.spec
    place = spec.network.position
    candidates = [Candidate("baseline", network, network.baseline, network.multiplicity, position=place)]
    for name, answer in answers.items():
        if answer is not None:
            candidates.append(_candidate(name, network, answer, place))
    return measure_networks(
        candidates,
        spec.network,
        correlation=neighbour_correlation(problem),
        images=images if spec.inputs.data is not None else None,
        seed=spec.estimator.seed,
        device=device,
        cores=torch.get_num_threads() if device == "cpu" else 1,
        report=report,
    )


def _candidate(name: str, network: Network, answer: SolvedEnsemble, place: Position | None) -> Candidate:
    if isinstance(network, GraphNetwork) and len(network.parts) > 1:
        changes = [(each.paths, StageGrouping(each.widths, each.multiplicity)) for each in answer.branches]
        together = network.together(changes)
        return Candidate(name, together, answer.widths, answer.multiplicity, together.stages, answer.label, place)
    stages = None if answer.uniform else tuple(StageGrouping(one.widths, one.multiplicity) for one in answer.stages)
    return Candidate(name, network, answer.widths, answer.multiplicity, stages, position=place)


def neighbour_correlation(problem: GroupingProblem) -> float | None:
    """Correlation of neighbouring positions: the one given, or the mean one of a Gram matrix; None for the default."""
    given = problem.spec.inputs.gram
    if given is None:
        return problem.spec.inputs.correlation
    window = input_window(problem.network.chain, problem.spec.estimator.entry)
    gram = np.asarray(given, float).reshape(-1, window.positions, window.positions).mean(0)
    places = np.indices(window.sizes).reshape(len(window.sizes), -1)
    beside = np.abs(places[:, :, None] - places[:, None, :]).sum(0) == 1
    if not beside.any():
        return None
    return float(np.clip(gram[beside].mean() / np.diag(gram).mean(), 0, 1))


def network_notes(measured: NetworkVerification, parts: int = 1) -> tuple[Outcome, ...]:
    """Answers that do not hold in the whole network, and ratios that are less certain than was asked.

    ``parts`` of the network were searched.
    """
    notes = [_disagreement(row, parts) for row in measured.networks if _exceeds(row)]
    if measured.outcome == "not_converged":
        uncertain = Outcome(
            kind="network_uncertain",
            message=measured.statement,
            remedy="Raise network.max_seconds, or lower network.pixels or network.images.",
        )
        notes.append(uncertain)
    return tuple(notes)


def _exceeds(row: MeasuredNetwork) -> bool:
    if row.name not in ALLOWED or row.ratio is None or row.ratio_standard_error is None:
        return False
    return row.ratio - BEYOND * row.ratio_standard_error > ALLOWED[row.name]


def _disagreement(row: MeasuredNetwork, parts: int) -> Outcome:
    ratio, error = 100 * (row.ratio or 0), 100 * (row.ratio_standard_error or 0)
    module, remedy = "its module", "list groupings in space.widths and compare them."
    if parts > 1:
        module, remedy = "the module of each part", "regroup one part alone: 'branches' has its search."
    return Outcome(
        kind="network_disagrees",
        message=f"As a whole network the {row.name} has {ratio:.0f} ± {error:.0f} % of the baseline's variance, though "
        f"{module} has less.",
        remedy=f"Choose by what the whole network measures: {remedy}",
    )
