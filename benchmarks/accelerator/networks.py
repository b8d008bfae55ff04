"""Whole networks' tangent kernels: how long the device takes for a search's answers, and what it measures.

The draws of one network beside another's follow the seed, so a second device gives other numbers and the same law.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from accelerator.section import Bench
from accelerator.timing import gibibytes, peak_bytes
from collegium.search.find import find_ensemble
from collegium.search.networks.network import Network
from collegium.search.optimize.problem import build_problem
from collegium.search.reproduce.network_families import small_resnext
from collegium.search.spec import SearchSpec
from collegium.search.whole_network.candidate import Candidate
from collegium.search.whole_network.measure import measure_networks
from collegium.search.whole_network.spec import NetworkKernelSpec

#: Preset, extent of its images, and the groupings beside the baseline: primal and dual.
NETWORKS = (("resnext29-1x128d", 32), ("resnet50", 224))
RELATIVE_ERROR = 0.05


def run(bench: Bench) -> None:
    """A row for each network measured."""
    named = [] if bench.tiny else list(NETWORKS)
    cases = [(name, pixels, *_answers(name)) for name, pixels in named]
    small = small_resnext()
    cases.append(("small ResNeXt", 16, small, [(1, (32, 32)), (9, (8, 8)), (5, (8, 8))]))
    for index, (name, pixels, network, groupings) in enumerate(cases):
        share = 1.0 if bench.tiny else bench.left() / (len(cases) - index)
        for row in measure(name, pixels, network, groupings, share, bench.device):
            bench.row(**row)


def _answers(preset: str) -> tuple[Network, list[tuple[int, tuple[int, ...]]]]:
    """The preset's network, with its baseline, primal and dual."""
    spec = SearchSpec.model_validate({"baseline": {"preset": preset}})
    problem, found = build_problem(spec), find_ensemble(preset)
    answers = [found.primal, found.dual]
    base = (problem.network.multiplicity, problem.network.baseline)
    return problem.network, [base, *((each.multiplicity, each.widths) for each in answers if each is not None)]


def measure(
    name: str,
    pixels: int,
    network: Network,
    groupings: list[tuple[int, tuple[int, ...]]],
    seconds: float,
    device: str,
) -> list[dict[str, Any]]:
    """Each grouping's ratio to the baseline, with the draws and seconds that all of them took."""
    candidates = [
        Candidate(f"{multiplicity}×{widths[0]}d", network, widths, multiplicity) for multiplicity, widths in groupings
    ]
    spec = NetworkKernelSpec(pixels=pixels, relative_error=RELATIVE_ERROR, max_seconds=max(1.0, seconds))
    found: list[Any] = []
    started = time.perf_counter()
    memory = peak_bytes(lambda: found.append(measure_networks(candidates, spec, device=device)), torch.device(device))
    passed = time.perf_counter() - started
    draws = sum(row.draws for row in found[0].networks)
    return [
        {
            "network": f"{name}, {pixels}²",
            "m × n": row.label,
            "ratio": row.ratio,
            "±": row.ratio_standard_error,
            "draws": row.draws,
            "relative variance": row.relative_variance,
            "condition number": row.gram.condition_number.mean,
            "s, all": passed,
            "ms a draw": 1e3 * passed / draws,
            "GiB": gibibytes(memory),
        }
        for row in found[0].networks
    ]
