"""What each kind of job does: a function of its spec and a context, which returns the result.

More kinds, or other functions for these, come from ``COLLEGIUM_EXTRA_HANDLERS=module:mapping``; ``mapping`` is
``{kind: function}``. The science is imported when a job needs it, never before.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from worker.context import Context
from worker.failures import Rejected

if TYPE_CHECKING:
    import numpy as np

    from search.shards import ShardResult, ShardSpec
    from search.spec import SearchSpec

Handler = Callable[[dict[str, Any], Context], dict[str, Any]]
M = TypeVar("M", bound=BaseModel)

# A round of Monte Carlo that takes longer on one core, in seconds' worth of shards, is divided among workers.
INLINE_SECONDS = 4.0
# Enough to know a data set's mean patch Gram, which averages at most 20 000 windows.
MOST_IMAGES = 4096


def table(extra: str = "") -> dict[str, Handler]:
    """Handlers by kind, those of ``extra`` (``module:mapping``) over the built-in ones."""
    handlers: dict[str, Handler] = {"search": search, "shard": shard, "training": training, "study": study}
    if extra:
        module, _, name = extra.partition(":")
        handlers |= getattr(importlib.import_module(module), name)
    return handlers


def search(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """Answer a search; leaves its plot."""
    from search import engine, plot
    from search.spec import SearchSpec

    asked = parse(SearchSpec, spec)
    result = engine.run(
        asked,
        report=context.report,
        known=context.known,
        remember=context.remember,
        map_shards=Shards(context),
        device=context.device,
        images=_images(asked, context),
    )
    (context.artifact_dir / "plot.svg").write_bytes(plot.plot(result))
    return result.model_dump(mode="json")


def shard(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """Compute a part of a search's samples."""
    from search.sampling import compute_shard
    from search.shards import ShardSpec

    context.check()
    return compute_shard(parse(ShardSpec, spec), device=context.device).model_dump(mode="json")


def training(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """Train an architecture; leaves the collapsed model."""
    from train import engine
    from train.spec import TrainingSpec

    asked = parse(TrainingSpec, spec)
    return engine.run(
        asked,
        report=context.report,
        event=context.event,
        checkpoint_dir=context.checkpoint_dir,
        artifact_dir=context.artifact_dir,
        device=context.device,
        data_dir=context.data_dir,
        datasets_dir=context.datasets_dir,
        search_result=finished_search(getattr(asked.architecture, "search", None), context),
    )


def study(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """Run several trainings as jobs of their own and compare them."""
    from train import study as studies
    from train.spec import StudySpec

    return studies.run(
        parse(StudySpec, spec),
        fan_out=context.fan_out,
        report=context.report,
        event=context.event,
        artifact_dir=context.artifact_dir,
    )


def parse(model: type[M], spec: dict[str, Any]) -> M:
    """The spec as its model, as strictly as when it was posted. Raises ``ValidationError``."""
    return model.model_validate_json(json.dumps(spec))


def finished_search(job: str | None, context: Context) -> dict[str, Any] | None:
    """The search that a training builds on, as ``{id, kind, status, spec, result}``. Raises ``Rejected``."""
    if job is None:
        return None
    found = context.look_up(job)
    if found is None or found["kind"] != "search":
        raise Rejected("user_error", f"there is no search {job!r}", "Name the id of a finished search on this server.")
    if found["status"] != "succeeded":
        raise Rejected(
            "user_error",
            f"the search {job!r} is {found['status']}, so there is no answer to train",
            "Wait until the search has succeeded, or name another one.",
        )
    return found


class Shards:
    """Computes the shards of a round: few of them here, many on all workers that have room."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __call__(self, shards: list[ShardSpec]) -> list[ShardResult]:
        """Their results, in order; the same wherever they are computed."""
        from search.shards import SHARD_WORK, work_per_sample

        work = sum(part.samples * work_per_sample(part.point) for part in shards)
        divide = len(shards) > 1 and work > INLINE_SECONDS * SHARD_WORK
        return self._elsewhere(shards) if divide else [self._here(part) for part in shards]

    def _here(self, part: ShardSpec) -> ShardResult:
        from search.sampling import compute_shard

        self._context.check()
        return compute_shard(part, device=self._context.device)

    def _elsewhere(self, shards: list[ShardSpec]) -> list[ShardResult]:
        from search.shards import ShardResult

        children = [
            {
                "key": f"{part.point.key}:{part.seed}:{part.index}:{part.samples}",
                "kind": "shard",
                "spec": part.model_dump(mode="json"),
            }
            for part in shards
        ]
        outcomes = self._context.fan_out(children)
        for outcome in outcomes:
            if outcome["status"] != "succeeded":
                _raise_as_own(outcome)
        return [ShardResult.model_validate(outcome["result"]) for outcome in outcomes]


def _raise_as_own(outcome: dict[str, Any]) -> None:
    failure = outcome["failure"] or {"kind": "internal", "message": f"it was {outcome['status']}", "remedy": ""}
    raise Rejected(
        failure["kind"], f"part {outcome['id']} of the search failed: {failure['message']}", failure["remedy"]
    )


def _images(asked: SearchSpec, context: Context) -> np.ndarray | None:
    """Training images of the data set that the search names, ``(images, channels, height, width)``."""
    name = asked.inputs.data
    if name is None:
        return None
    import torch

    from train.data import load
    from train.spec import DataSpec

    data = load(DataSpec(name=name), context.data_dir, context.datasets_dir)
    if data.kind != "image":
        raise Rejected(
            "user_error",
            f"the data set {name!r} holds {data.kind}, not images",
            "Name a data set of images, or give inputs.correlation or inputs.gram.",
        )
    count = min(len(data.train), MOST_IMAGES)
    order = torch.linspace(0, len(data.train) - 1, count).long()
    return torch.cat([images for images, _ in data.train.batches(order, 512)]).numpy()
