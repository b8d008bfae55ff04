"""What each kind of job does: a function of its spec and a context, which returns the result.

The science is imported when a job needs it, never before.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from collegium.counted import counted
from collegium.worker.compute.context import Context
from collegium.worker.failures import JobRejected, kind_of

if TYPE_CHECKING:
    import numpy as np

    from collegium.search.progress import Report
    from collegium.search.sampling.shards import ShardResult, ShardSpec
    from collegium.search.spec import SearchSpec

Handler = Callable[[dict[str, Any], Context], dict[str, Any]]

# A round of Monte Carlo beyond so many seconds of one core is divided among workers, in parts of so many.
DIVIDED_SECONDS = 16.0
PART_SECONDS = 4.0
# Enough for a data set's mean patch Gram, which averages at most 20 000 windows.
MOST_IMAGES = 4096


def load_handlers(replacements: str = "") -> dict[str, Handler]:
    """Handlers by kind of job. ``replacements``, ``module:mapping``, names a mapping from some of these kinds to other
    functions. Raises ImportError and AttributeError where there is none, ValueError where it names another kind.
    """
    handlers: dict[str, Handler] = {"search": search, "shard": shard, "training": training, "study": study}
    if not replacements:
        return handlers
    module, _, name = replacements.partition(":")
    found: dict[str, Handler] = getattr(importlib.import_module(module), name)
    unknown = ", ".join(sorted(found.keys() - handlers.keys()))
    if unknown:
        raise ValueError(f"{replacements} has handlers for {unknown}; there are jobs of {', '.join(handlers)}")
    return handlers | found


def search(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """Run a search; leaves its plot."""
    from collegium.search import engine, plot
    from collegium.search.parse import parse_spec
    from collegium.search.spec import SearchSpec

    parsed = parse_spec(SearchSpec, spec)
    result = engine.run(
        parsed,
        report=context.report,
        load=context.get_estimate,
        store=context.put_estimate,
        map_shards=ShardMap(context) if context.divides else None,
        device=context.device,
        images=_images(parsed, context),
    )
    (context.artifact_dir / "plot.svg").write_bytes(plot.plot(result))
    return result.model_dump(mode="json")


def shard(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """Compute some shards of a search: ``{"shards": […], "device": …}`` → ``{"shards": […]}``.

    The device is the search's: a seed draws other numbers on another kind.
    """
    from collegium.search.sampling.local import compute_here
    from collegium.search.sampling.shards import ShardSpec

    device = spec.get("device", context.device)
    shards = [ShardSpec.model_validate(item) for item in spec["shards"]]
    return {"shards": [found.model_dump(mode="json") for found in compute_here(device)(shards, context.report)]}


def training(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """Train an architecture; leaves the collapsed model."""
    from collegium.search.parse import parse_spec
    from collegium.train import engine
    from collegium.train.spec.training import TrainingSpec

    return engine.run(
        parse_spec(TrainingSpec, spec),
        report=context.report,
        event=context.event,
        settle=context.settle,
        checkpoint_dir=context.checkpoint_dir,
        artifact_dir=context.artifact_dir,
        device=context.device,
        data_dir=context.data_dir,
        datasets_dir=context.datasets_dir,
    )


def study(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """Run several trainings as jobs of their own and compare them."""
    from collegium.search.parse import parse_spec
    from collegium.train.spec.study import StudySpec
    from collegium.train.study import study as studies

    return studies.run(
        parse_spec(StudySpec, spec),
        fan_out=context.fan_out,
        report=context.report,
        event=context.event,
        artifact_dir=context.artifact_dir,
    )


class ShardMap:
    """Computes the shards of a round: little work in this process, much work on all workers that have room.

    A GPU computes all of them here: it takes less time for a round than a child's process takes to start.
    How a round is divided depends on its shards alone, so that a second attempt finds the parts of the first.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def __call__(self, shards: list[ShardSpec], report: Report) -> list[ShardResult]:
        """Their results; the same wherever they are computed."""
        from collegium.search.sampling.local import compute_here

        parts = divided(shards)
        if len(parts) > 1 and self._context.device == "cpu":
            return self._compute_as_children(parts, report)
        return compute_here(self._context.device)(shards, report)

    def _compute_as_children(self, parts: list[list[ShardSpec]], report: Report) -> list[ShardResult]:
        from collegium.search.sampling.shards import ShardResult

        def report_parts(done: int, total: int) -> None:
            report(done / total, f"{done} of {counted(total, 'part')} by all workers")

        outcomes = self._context.fan_out([_child(part) for part in parts], report_parts)
        for outcome in outcomes:
            if outcome["status"] != "succeeded":
                raise _part_failed(outcome)
        return [ShardResult.model_validate(found) for outcome in outcomes for found in outcome["result"]["shards"]]


def divided(shards: list[ShardSpec]) -> list[list[ShardSpec]]:
    """The shards in parts of about equal work; all in one where that is little."""
    from collegium.search.sampling.schedule import SHARD_WORK, work_per_sample

    seconds = [shard.samples * work_per_sample(shard.point) / SHARD_WORK for shard in shards]
    if sum(seconds) <= DIVIDED_SECONDS:
        return [shards]
    parts: list[list[ShardSpec]] = [[]]
    filled = 0.0
    for shard, cost in zip(shards, seconds, strict=True):
        if parts[-1] and filled + cost > PART_SECONDS:
            parts.append([])
            filled = 0.0
        parts[-1].append(shard)
        filled += cost
    return parts


def _child(part: list[ShardSpec]) -> dict[str, Any]:
    shards = [shard.model_dump(mode="json") for shard in part]
    key = hashlib.sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest()
    return {"key": key, "kind": "shard", "spec": {"shards": shards, "device": "cpu"}}


def _part_failed(outcome: dict[str, Any]) -> JobRejected:
    failure = outcome["failure"] or {"kind": "internal", "message": f"it was {outcome['status']}", "remedy": ""}
    return JobRejected(
        kind_of(failure["kind"]), f"part {outcome['id']} of the search failed: {failure['message']}", failure["remedy"]
    )


def _images(parsed: SearchSpec, context: Context) -> np.ndarray | None:
    """Training images of the data set that the search names, ``(images, channels, height, width)``."""
    name = parsed.inputs.data
    if name is None:
        return None
    import torch

    from collegium.train.data import load
    from collegium.train.spec.data import DataSpec

    data = load(DataSpec(name=name), context.data_dir, context.datasets_dir)
    if data.kind != "image":
        raise JobRejected(
            "user_error",
            f"the data set {name!r} holds {data.kind}, not images",
            "Name a data set of images, or give inputs.correlation or inputs.gram.",
        )
    count = min(len(data.train), MOST_IMAGES)
    order = torch.linspace(0, len(data.train) - 1, count).long()
    return torch.cat([images for images, _ in data.train.batches(order, 512)]).numpy()
