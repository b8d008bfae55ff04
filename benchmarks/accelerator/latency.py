"""Searches by latency on the device: their answers, sums over layers beside whole networks, and their time."""

from __future__ import annotations

import time
from typing import Any

from accelerator.section import Bench
from collegium.search.engine import run as search
from collegium.search.spec import SearchSpec

WORKLOADS: dict[str, dict[str, Any]] = {
    "inference, 1 image, fp32": {"mode": "inference", "batch_size": 1},
    "inference, 64, bf16, channels last": {"batch_size": 64, "precision": "bf16", "channels_last": True},
    "training, 64, bf16, channels last": {
        "mode": "training", "batch_size": 64, "precision": "bf16", "channels_last": True
    },
}  # fmt: skip
TINY = {"family": "resnext", "layout": "cifar", "blocks": [1], "base_width": 6}


def run(bench: Bench) -> None:
    """Rows of every workload: baseline, answers, and the check of whole networks."""
    baseline = TINY if bench.tiny else {"preset": "resnet50"}
    for index, (title, workload) in enumerate(WORKLOADS.items()):
        if bench.tiny and index:
            return
        if not bench.tiny and bench.left() < 5:
            return
        for row in measure(baseline, title, workload, bench):
            bench.row(**row)


def measure(baseline: dict[str, Any], title: str, workload: dict[str, Any], bench: Bench) -> list[dict[str, Any]]:
    """A row for the baseline, the primal, the dual, and the ensembles that are checked whole."""
    spec = SearchSpec.model_validate(
        {"baseline": baseline, "efficiency": "latency", "workload": workload, "space": {"min_width": 4}}
    )
    stored: dict[str, Any] = {}
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        found = search(spec, load=stored.get, store=stored.__setitem__, device=bench.device)
        seconds.append(time.perf_counter() - started)
    assert found.costs is not None
    checks = {(each.multiplicity, each.widths): each for each in found.costs.checks}
    named: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for name, each in (("primal", found.primal), ("dual", found.dual)):
        if each is not None:
            named.setdefault((each.multiplicity, each.widths), []).append(name)
    rows = []
    for row in found.costs.rows:
        key = (row.multiplicity, row.widths)
        if key not in checks and key not in named:
            continue
        check = checks.get(key)
        rows.append(
            {
                "workload": title,
                "m × n": row.label,
                "answer": ", ".join(named.get(key, ())),
                "variance": row.relative_variance,
                "ms": row.latency_ms,
                "± ms": row.latency_error_ms,
                "whole, ms": None if check is None else check.whole_ms,
                "sum over whole": None if check is None else 1 + check.deviation,
                "MiB": row.memory_bytes / 2**20,
                "cold s": seconds[0],
                "again s": seconds[1],
            }
        )
    return rows
