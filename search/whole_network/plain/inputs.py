"""What a plain search takes: which fields of a specification it has, and the batch at which it measures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from collegium.search.errors import InvalidSpec
from collegium.search.kernel.inputs import DEFAULT_CORRELATION
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.spec import SearchSpec
from collegium.search.whole_network.images import gaussian_fields
from collegium.search.whole_network.spec import NetworkKernelSpec

#: Most numbers of a batch that is drawn.
MOST_NUMBERS = 2**28


def described_network(spec: SearchSpec) -> NetworkBaseline:
    """The described baseline of a specification. Raises ``InvalidSpec`` for a field that has no meaning here."""
    if not isinstance(spec.baseline, NetworkBaseline):
        raise InvalidSpec(("baseline",), "give what collegium.describe(model, example_input) made of this model")
    estimator, inputs, space = spec.estimator, spec.inputs, spec.space
    asked: dict[tuple[str, ...], bool] = {
        ("efficiency",): spec.efficiency in ("latency", "memory"),
        ("workload",): spec.workload is not None,
        ("max_latency_ms",): spec.max_latency_ms is not None,
        ("max_memory_bytes",): spec.max_memory_bytes is not None,
        ("verify",): spec.verify is True,
        ("inputs", "gram"): inputs.gram is not None,
        ("inputs", "data"): inputs.data is not None,
        ("inputs", "pair"): inputs.pair is not None,
        ("space", "mode"): space.mode == "vector",
        ("space", "stages"): space.stages == "own",
        ("estimator", "samples"): estimator.samples is not None,
        ("estimator", "window"): estimator.window is not None,
        ("estimator", "entry"): estimator.entry != "unit",
        ("network", "pixels"): spec.network.pixels is not None,
    }
    for path, wanted in asked.items():
        if wanted:
            raise InvalidSpec(path, "a module that is measured whole has none of this: leave it out")
    return spec.baseline


def network_spec(spec: SearchSpec, rows: int) -> NetworkKernelSpec:
    """How the module is measured, at a batch of ``rows`` samples.

    An ``estimator.relative_error`` that is given is that of the ratios. Raises ``InvalidSpec`` where more inputs are to
    be measured than the batch has, or the error asked for is smaller than whole networks are measured to.
    """
    network = spec.network
    if "inputs" in network.model_fields_set and network.inputs > rows:
        raise InvalidSpec(("network", "inputs"), f"the batch has {rows} samples: give at most as many")
    changed: dict[str, Any] = {"images": rows, "inputs": min(network.inputs, rows)}
    if "relative_error" in spec.estimator.model_fields_set:
        if spec.estimator.relative_error < 0.005:
            raise InvalidSpec(("estimator", "relative_error"), "whole networks are measured to 0.005 at best")
        changed["relative_error"] = spec.estimator.relative_error
    return network.model_copy(update=changed)


def batch_of(example: Any, described: NetworkBaseline, spec: SearchSpec) -> tuple[np.ndarray, str | None]:
    """The batch, and the name of the argument that it is; None for a positional one.

    Without an example, random fields of the shape described; of an example, its first ``network.images`` samples.
    Raises ``InvalidSpec`` for an example that is not one tensor with samples along its first axis.
    """
    if example is None:
        return _random(described, spec), None
    name, value = None, example
    if isinstance(example, Mapping) and len(example) == 1:
        name, value = next(iter(example.items()))
    elif isinstance(example, tuple | list) and len(example) == 1:
        (value,) = example
    if not isinstance(value, Tensor) or value.dim() < 1 or not value.numel():
        raise InvalidSpec(
            ("example_input",), "the kernel is measured with one tensor: give that, in a dictionary if it has a name"
        )
    if tuple(value.shape[1:]) != described.input:
        raise InvalidSpec(
            ("example_input",), f"samples have the shape {tuple(value.shape[1:])}; {described.input} was described"
        )
    if "images" in spec.network.model_fields_set and spec.network.images > len(value):
        raise InvalidSpec(("network", "images"), f"the example has {len(value)} samples: give at most as many")
    kept = value[: spec.network.images].detach().cpu()
    kept = kept.float() if kept.is_floating_point() else kept
    if kept.is_floating_point() and not bool(kept.isfinite().all()):
        raise InvalidSpec(("example_input",), "its numbers are not all finite")
    return kept.numpy(), name


def _random(described: NetworkBaseline, spec: SearchSpec) -> np.ndarray:
    """Fields of the specification's correlation between neighbours; of more than two extents, independent numbers."""
    shape, images = described.input, spec.network.images
    if images * int(np.prod(shape, dtype=object)) > MOST_NUMBERS:
        raise InvalidSpec(("network", "images"), f"{images} samples of {shape} are too many numbers: lower it")
    correlation = DEFAULT_CORRELATION if spec.inputs.correlation is None else spec.inputs.correlation
    seed = spec.estimator.seed
    if len(shape) > 3:
        drawn = np.random.default_rng([seed, images, *shape]).standard_normal((images, *shape))
        return drawn.astype(np.float32)
    channels, height, width = (*shape, 1, 1, 1)[0:3]
    return gaussian_fields(images, (channels, height, width), correlation, seed).reshape(images, *shape)
