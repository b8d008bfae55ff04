"""What a plain search takes: which fields of a specification it has, and the batch at which it measures."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree

from collegium.counted import counted
from collegium.search.errors import InvalidSpec
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.networks.graph.content import Input
from collegium.search.spec import SearchSpec
from collegium.search.whole_network.inputs.samples import Samples, drawn_samples, text_of_inputs
from collegium.search.whole_network.spec import NetworkKernelSpec

#: What a trace calls a positional argument, and what one is called that no graph lists.
UNNAMED = "args"
NUMBERED = re.compile(r"args_\d+")


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
        raise InvalidSpec(("network", "inputs"), f"the batch has {counted(rows, 'sample')}: give at most as many")
    changed: dict[str, Any] = {"images": rows, "inputs": min(network.inputs, rows)}
    if "relative_error" in spec.estimator.model_fields_set:
        if spec.estimator.relative_error < 0.005:
            raise InvalidSpec(("estimator", "relative_error"), "whole networks are measured to 0.005 at best")
        changed["relative_error"] = spec.estimator.relative_error
    return network.model_copy(update=changed)


@dataclass(frozen=True)
class Call:
    """How a module is called with the tensors of a batch: positional and named arguments, in any containers.

    ``structure`` is that of both, ``constants`` what is no tensor, by its place. ``names`` are those of the tensors, in
    order; ``given`` says that they are a user's own.
    """

    structure: _pytree.TreeSpec
    constants: Mapping[int, Any]
    names: tuple[str, ...]
    given: bool

    @classmethod
    def like(cls, args: Sequence[Any], kwargs: Mapping[str, Any], *, given: bool) -> Call:
        """A call with these arguments."""
        named, structure = _pytree.tree_flatten_with_path((tuple(args), dict(kwargs)))
        constants = {place: leaf for place, (_, leaf) in enumerate(named) if not isinstance(leaf, Tensor)}
        names = tuple(_name(path) for path, leaf in named if isinstance(leaf, Tensor))
        return cls(structure, constants, names, given)

    def arguments(self, tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and the named arguments."""
        left, constants = iter(tensors), self.constants
        places = range(self.structure.num_leaves)
        leaves = [constants[place] if place in constants else next(left) for place in places]
        return _pytree.tree_unflatten(leaves, self.structure)


def _name(path: Sequence[Any]) -> str:
    """Such as ``ids``, or ``0`` of a positional argument; of what a container holds, ``x.k``."""
    keys = (getattr(each, "key", getattr(each, "idx", getattr(each, "name", each))) for each in path[1:])
    return ".".join(map(str, keys))


def batch_of(example: Any, described: NetworkBaseline, model: nn.Module, spec: SearchSpec) -> tuple[Samples, Call]:
    """The batch, and how the module is called with it.

    Without an example, random samples of what the description says that the network reads. Of an example, as
    ``describe`` takes it, the first ``network.images`` samples: tensors with as many along their first axis as the
    first one has are those of samples, and others are the same for each. Raises ``InvalidSpec`` for what is no example
    of the network.
    """
    if example is None:
        inputs = inputs_of(described)
        call = _call_of(inputs, model)
        return drawn_samples(inputs, spec.network.images, spec.inputs.correlation, spec.estimator.seed), call
    args, kwargs = (), {}
    if isinstance(example, Mapping):
        kwargs = dict(example)
    else:
        args = tuple(example) if isinstance(example, tuple | list) else (example,)
    tensors = [each for each in _pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    call = Call.like(args, kwargs, given=True)
    count = _check_example(tensors, call.names, described, spec)
    shared = frozenset(place for place, each in enumerate(tensors) if not each.dim() or len(each) != count)
    samples = Samples(tuple(_array(each) for each in tensors), shared)
    return samples.first(spec.network.images), call


def inputs_of(described: NetworkBaseline) -> tuple[Input, ...]:
    """What the network reads, by its graph; without one, a tensor of numbers."""
    listed = described.graph.inputs if described.graph is not None else ()
    return listed or (Input(name=UNNAMED, shape=described.input),)


def text_of_batch(samples: Samples, call: Call, described: NetworkBaseline) -> str:
    """What the inputs are, in words: ``random inputs of 3×32×32``."""
    if not call.given:
        return f"random inputs of {text_of_inputs(inputs_of(described))}"
    shapes = ["×".join(map(str, each)) or "one number" for each in samples.shapes]
    if len(shapes) == 1:
        return f"inputs of the data of {shapes[0]}"
    named = (f"{name} of {shape}" for name, shape in zip(call.names, shapes, strict=True))
    return f"inputs of the data, {', '.join(named)}"


def _call_of(inputs: Sequence[Input], model: nn.Module) -> Call:
    """A call with what a trace names. Raises ``InvalidSpec`` where an argument is a container of tensors."""
    positional = [each for each in inputs if each.name == UNNAMED or NUMBERED.fullmatch(each.name)]
    named = [each.name for each in inputs if each not in positional]
    known = inspect.signature(model.forward).parameters
    anything = any(each.kind is each.VAR_KEYWORD for each in known.values())
    odd = next((name for name in named if name not in known and not anything), None)
    if odd is not None or inputs[: len(positional)] != tuple(positional):
        raise InvalidSpec(
            ("example_input",),
            f"how the module takes {odd or inputs[0].name!r} is not in its description: give a batch of samples as "
            "'example_input'",
        )
    some = Tensor()
    return Call.like([some] * len(positional), dict.fromkeys(named, some), given=False)


def _check_example(
    tensors: Sequence[Tensor], names: Sequence[str], described: NetworkBaseline, spec: SearchSpec
) -> int:
    """How many samples an example has."""
    if not tensors or tensors[0].dim() < 1 or not all(each.numel() for each in tensors):
        raise InvalidSpec(("example_input",), "give tensors with numbers, the first with samples along its first axis")
    count, listed = len(tensors[0]), described.graph.inputs if described.graph is not None else ()
    wanted = [each.shape for each in listed] if len(listed) == len(tensors) else [described.input]
    for given, name, shape in zip(tensors, names, wanted, strict=False):
        if tuple(given.shape[1:]) != shape:
            of = f" of {name!r}" if len(tensors) > 1 else ""
            raise InvalidSpec(
                ("example_input",), f"samples{of} have the shape {tuple(given.shape[1:])}; {shape} was described"
            )
    if "images" in spec.network.model_fields_set and spec.network.images > count:
        raise InvalidSpec(("network", "images"), f"the example has {counted(count, 'sample')}: give at most as many")
    if not all(bool(each.isfinite().all()) for each in tensors if each.is_floating_point()):
        raise InvalidSpec(("example_input",), "its numbers are not all finite")
    return count


def _array(given: Tensor) -> Any:
    kept = given.detach().cpu()
    return kept.float().numpy() if kept.is_floating_point() else kept.numpy()
