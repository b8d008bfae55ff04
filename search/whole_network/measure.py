"""Baseline and answers measured as whole networks, draw by draw, until their ratios are known well enough."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from collegium.search.kernel.inputs import DEFAULT_CORRELATION
from collegium.search.networks.graph.reading import PLACES
from collegium.search.progress import Report, discard
from collegium.search.whole_network.candidate import Candidate, Measured
from collegium.search.whole_network.draws import Series, Work, single_threads
from collegium.search.whole_network.inputs.images import gaussian_fields, images_of_data, sample_shape
from collegium.search.whole_network.inputs.samples import drawn_samples, text_of_inputs
from collegium.search.whole_network.result import MeasuredNetwork, NetworkVerification
from collegium.search.whole_network.spec import NetworkKernelSpec
from collegium.search.whole_network.statistics import ratio, summarize_grams


def measure_networks(
    candidates: Sequence[Candidate],
    spec: NetworkKernelSpec,
    *,
    correlation: float | None = None,
    images: np.ndarray | None = None,
    seed: int = 0,
    device: str = "cpu",
    cores: int = 1,
    report: Report = discard,
    clock: Callable[[], float] = time.perf_counter,
) -> NetworkVerification:
    """The relative variance of each candidate's kernel, and its ratio to that of the first, the baseline.

    Inputs are ``images`` of a data set, or Gaussian fields whose neighbouring pixels have ``correlation`` (the closed
    form's default where it is None). ``cores`` threads share the draws on a CPU, each with one core. ``report`` is
    called from the calling thread and may raise to cancel. A draw follows from (``seed``, candidate, its index) alone;
    how many there are depends on ``clock`` only where ``spec.max_seconds`` ends them.

    Raises ``InvalidSpec`` where the network does not take the inputs or the batch.
    """
    if not candidates:
        raise ValueError("give at least the baseline")
    started = clock()
    report(0.0, "building the networks")
    network = candidates[0].network
    shape = sample_shape(network, spec, images)
    correlation = DEFAULT_CORRELATION if correlation is None else correlation
    if images is None and network.reads:
        batch = drawn_samples(network.reads, spec.images, correlation, seed)
        shape = network.reads[0].shape
    elif images is None:
        batch = gaussian_fields(spec.images, shape, correlation, seed)
    else:
        batch = images_of_data(spec.images, network, shape, images)
    work = Work(spec, batch, seed, device, started + spec.max_seconds, clock)
    normed = work.check(candidates[0])
    series = {candidate.key: Series(candidate) for candidate in candidates}
    with single_threads(cores if device == "cpu" else 1) as pool:
        work.run(list(series.values()), pool, report)
    rows = network_rows(candidates, series, spec)
    seconds = clock() - started
    of = text_of_inputs(network.reads) if network.reads else "×".join(map(str, shape))
    inputs = f"{'random inputs' if images is None else 'inputs of the data'} of {of}"
    logits, place = network.logits_at(spec.position)
    measured = NetworkVerification(
        networks=rows,
        outcome="measured" if all(row.converged for row in rows) else "not_converged",
        statement=statement(rows, spec, normed, inputs, f" {PLACES[place]}" if place else ""),
        parameterization=spec.parameterization,
        norm="batch" if normed else "none",
        images=spec.images,
        inputs=spec.inputs,
        outputs=min(spec.outputs, logits),
        sample_shape=shape,
        pixels=shape[1] if network.convolves else None,
        correlation=None if images is not None or not network.convolves else correlation,
        relative_error=spec.relative_error,
        device=device,
        seed=seed,
        seconds=max(0.0, seconds),
        core_seconds=work.spent,
    )
    report(1.0, measured.statement)
    return measured


def network_rows(
    candidates: Sequence[Measured], series: dict[int, Series], spec: NetworkKernelSpec
) -> tuple[MeasuredNetwork, ...]:
    """The row of each candidate from its draws, by its key; the first one is the baseline."""
    baseline = series[candidates[0].key]
    return tuple(_row(candidate, series[candidate.key], baseline, spec) for candidate in candidates)


def _row(candidate: Measured, series: Series, baseline: Series, spec: NetworkKernelSpec) -> MeasuredNetwork:
    variance = series.variance
    compared = ratio(variance, baseline.variance)
    if series is baseline or compared is None:
        converged = variance.relative_error <= spec.relative_error
        compared = (1.0, 0.0) if compared is not None else None
    else:
        converged = compared[1] <= spec.relative_error * compared[0]
    share = 1 - variance.within / variance.value if variance.value > 0 else math.nan
    return MeasuredNetwork(
        name=candidate.name,
        title=candidate.title,
        label=candidate.label,
        widths=candidate.widths,
        multiplicity=candidate.multiplicity,
        parameters=candidate.parameters,
        draws=variance.draws,
        mean=variance.mean,
        relative_variance=variance.value,
        standard_error=variance.standard_error if math.isfinite(variance.standard_error) else None,
        ratio=None if compared is None else compared[0],
        ratio_standard_error=None if compared is None else compared[1],
        converged=converged,
        body_share=min(1.0, max(0.0, share)) if math.isfinite(share) else None,
        gram=summarize_grams(series.stacked),
    )


def statement(rows: Sequence[MeasuredNetwork], spec: NetworkKernelSpec, normed: bool, inputs: str, place: str) -> str:
    """Of what the figures speak, and what was not reached; ``inputs`` and ``place`` say where logits are measured."""
    batch = f"batch norms in training mode on a batch of {spec.images}" if normed else "no batch norms"
    weights = "the initialization and rates of training" if spec.parameterization == "standard" else "NTK rates"
    said = (
        f"The relative variance over initializations of K(x, x), one logit's whole-network kernel{place}: {batch}, "
        f"{weights}, {inputs}."
    )
    missed = [row.name for row in rows if not row.converged]
    if not missed:
        return said
    reached = max((row.ratio_standard_error or 0) / row.ratio for row in rows if row.ratio) if rows[0].ratio else None
    end = "" if reached is None else f"; the ratios are known to {100 * reached:.0f} %"
    errors = f"the error of {missed[0]}" if len(missed) == 1 else f"the errors of {', '.join(missed)}"
    return f"{said} Draws ended before {errors} reached {100 * spec.relative_error:g} %{end}."
