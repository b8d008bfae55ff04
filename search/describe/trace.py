"""A module as graphs of operators: traced whole, or in the parts that can be traced.

``torch.export`` follows the module with tensors that have a shape and no memory. Where it stops, at code that depends
on numbers for one, the module is run once with the example input, and each module that it calls is traced with what it
was given; the code between them is named with the line that stopped the trace.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import linecache
import logging
import traceback
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from collegium.search.describe.operators import module_of
from collegium.search.errors import NotTraceable

_MODEL = "model"
#: Loggers of torch that have much to say where a trace stops.
_LOUD = ("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes", "torch.export._trace")
#: Torch, this package, and the standard library's context managers, which errors pass on their way.
_NOT_THE_USERS = (
    Path(str(torch.__file__)).parent,
    Path(__file__).parent,
    Path(__file__).parent.parent / "regroup",
    Path(str(contextlib.__file__)),
)


@dataclass(frozen=True, eq=False)
class Piece:
    """A module that was traced whole, at one call.

    ``path`` is its place in the model; ``parameters`` and ``buffers`` have the path of each placeholder that is one,
    and ``constants`` the tensor that the code holds of each placeholder that is neither. ``args`` and ``kwargs`` are
    what it was given.
    """

    path: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    graph: fx.Graph
    parameters: dict[fx.Node, str]
    buffers: dict[fx.Node, str]
    outputs: tuple[Tensor, ...]
    constants: dict[fx.Node, Tensor] = field(default_factory=dict)

    def module(self, node: fx.Node) -> str:
        """The path of the module in the model that a node was called in."""
        inner = module_of(node).removeprefix(_MODEL).removeprefix(".")
        return ".".join(part for part in (self.path, inner) if part)


@dataclass(frozen=True)
class Gap:
    """Code of the module at ``path`` that could not be traced: why, and the multiply–accumulates of its own."""

    path: str
    why: str
    flops: int


@dataclass
class Trace:
    """The pieces of a model in the order in which they ran, and the gaps between them.

    ``run`` runs the model again with the example, where there are gaps.
    """

    pieces: list[Piece] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    outputs: tuple[Tensor, ...] = ()
    run: Callable[[], object] | None = None


@dataclass
class _Call:
    """One call of a module as it ran: what it was given, its FLOPs, and the calls that it made."""

    path: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inner: list[_Call] = field(default_factory=list)
    flops: int = 0


class _TensorsOnly(nn.Module):
    """The model, with its outputs as a plain tuple of tensors, whatever container they come in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """Every tensor in the model's output, in order."""
        return tuple(tensors_in(self.model(*args, **kwargs)))


def trace(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Trace:
    """The model as it is, in its own mode. Raises ``NotTraceable`` where it cannot even be run."""
    try:
        piece = export("", model, args, kwargs)
        return Trace([piece], [], piece.outputs)
    except Exception as error:  # a user's code may raise anything
        stopped = stopping_place(error)
    found = Trace(run=lambda: model(*args, **kwargs))
    call, found.outputs = _run(model, args, kwargs, stopped)
    _trace_inner(call, stopped, found)
    return found


def _trace_inner(call: _Call, stopped: str, found: Trace) -> None:
    """The calls of one that could not be traced itself."""
    own = call.flops - sum(each.flops for each in call.inner)
    found.gaps.append(Gap(call.path, f"torch.export stops at {stopped}", own))
    for each in call.inner:
        try:
            found.pieces.append(export(each.path, each.module, each.args, each.kwargs))
        except Exception as error:  # a user's code may raise anything
            _trace_inner(each, stopping_place(error), found)


def export(path: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Piece:
    """One module traced whole. Raises what ``torch.export`` and the module's code raise."""
    with quiet(), kept_state(module), torch.inference_mode(False), torch.enable_grad():
        program = torch.export.export(_TensorsOnly(module), args, dict(kwargs), strict=False)
    prefix = f"{path}." if path else ""
    signature = program.graph_signature
    parameters, buffers = (
        {
            node: prefix + names[node.name].removeprefix(f"{_MODEL}.")
            for node in program.graph.nodes
            if node.op == "placeholder" and node.name in names
        }
        for names in (signature.inputs_to_parameters, signature.inputs_to_buffers)
    )
    (returned,) = (node for node in program.graph.nodes if node.op == "output")
    last = [node.meta["val"] for node in returned.args[0] if isinstance(node, fx.Node)]
    lifted = signature.inputs_to_lifted_tensor_constants
    held = ((node, program.constants[lifted[node.name]]) for node in program.graph.nodes if node.name in lifted)
    constants = {node: value for node, value in held if isinstance(value, Tensor)}
    outputs = tuple(value for value in last if isinstance(value, Tensor))
    return Piece(path, args, kwargs, program.graph, parameters, buffers, outputs, constants)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch warns of, logs and prints on the way: where it fails, that is said in other words."""
    logs = [logging.getLogger(name) for name in _LOUD]
    before = [log.disabled for log in logs]
    for log in logs:
        log.disabled = True
    try:
        # torch.export prints the graph so far, whatever its loggers are set to
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, disabled in zip(logs, before, strict=True):
            log.disabled = disabled


@contextmanager
def kept_state(module: nn.Module) -> Iterator[None]:
    """What a run assigns is taken back: attributes such as caches, buffers, modules, and what lists and tables hold.

    So are numbers that it writes into tensors that are attributes.
    """
    before = [(each, dict(vars(each))) for each in module.modules()]
    held = [value for _, attributes in before for value in attributes.values() if type(value) in _HOLDERS]
    contents = [copy.copy(value) for value in held]
    tensors = [value for _, attributes in before for value in attributes.values() if isinstance(value, Tensor)]
    numbers = [value.detach().clone() for value in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for value, number in zip(tensors, numbers, strict=True):
                value.copy_(number)
        for value, content in zip(held, contents, strict=True):
            _refill(value, content)
        for each, attributes in before:
            own = vars(each)
            for name in own.keys() - attributes.keys():
                del own[name]
            for name, value in attributes.items():
                if own.get(name) is not value:
                    own[name] = value


#: Containers whose contents are put back.
_HOLDERS = (dict, OrderedDict, list, set, deque)


def _refill(value: Any, content: Any) -> None:
    if len(value) == len(content) and all(
        one is two for one, two in zip(_members(value), _members(content), strict=True)
    ):
        return
    value.clear()
    (value.extend if isinstance(value, list | deque) else value.update)(content)


def _members(value: Any) -> Iterator[Any]:
    return itertools.chain(value, value.values()) if isinstance(value, dict) else iter(value)


def _run(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], stopped: str
) -> tuple[_Call, tuple[Tensor, ...]]:
    """The tree of calls of one run."""
    root = _Call("", model, args, dict(kwargs))
    stack = [root]
    paths = {module: name for name, module in model.named_modules() if name}
    counter = FlopCounterMode(display=False)

    def enter(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        call = _Call(paths[module], module, given, named, flops=-counter.get_total_flops())
        stack[-1].inner.append(call)
        stack.append(call)

    def leave(module: nn.Module, given: Any, result: Any) -> None:
        stack.pop().flops += counter.get_total_flops()

    handles = [module.register_forward_pre_hook(enter, with_kwargs=True) for module in paths]
    handles += [module.register_forward_hook(leave) for module in paths]
    try:
        with of_no_account(model), counter, sdpa_kernel(SDPBackend.MATH):
            outputs = tuple(tensors_in(model(*args, **kwargs)))
    except Exception as error:  # a user's code may raise anything
        inner = f"module {stack[-1].path!r}, " if stack[-1].path else ""
        raise NotTraceable(
            "the module can neither be traced nor run with this example input: "
            f"a plain run stops at {inner}{stopping_place(error)}; torch.export stops at {stopped}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    root.flops = counter.get_total_flops()
    _halve(root)
    return root, outputs


@contextmanager
def of_no_account(model: nn.Module) -> Iterator[None]:
    """Runs in here leave the module and the random numbers as they were."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.no_grad(), torch.random.fork_rng(), kept_state(model):
            yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers and buffer.shape == buffers[name].shape:
                    buffer.copy_(buffers[name])


def _halve(call: _Call) -> None:
    """From operations, as torch counts them, to multiply–accumulates."""
    call.flops //= 2
    for each in call.inner:
        _halve(each)


def tensors_in(value: Any, seen: set[int] | None = None) -> Iterator[Tensor]:
    """Every tensor that a value holds: in sequences, mappings, and attributes of other objects."""
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        yield value
        return
    if value is None or isinstance(value, str | bytes | int | float | type) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        inner: Any = value.values()
    elif isinstance(value, list | tuple | set):
        inner = value
    else:
        inner = vars(value).values() if hasattr(value, "__dict__") and not isinstance(value, nn.Module) else ()
    for each in inner:
        yield from tensors_in(each, seen)


def stopping_place(error: BaseException) -> str:
    """The last line of code outside of torch that an error passed, and what the error says."""
    first_line = (str(error).strip().splitlines() or [""])[0][:200]
    said = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
    found = line_of(error)
    return f"{found} ({said})" if found else said


def line_of(error: BaseException) -> str:
    """The last line of code outside of torch that an error passed, as ``net.py:12, `x = x.view(4)```; empty if none."""
    found = ""
    while True:
        for frame in traceback.extract_tb(error.__traceback__):
            file = Path(frame.filename)
            if any(file.is_relative_to(folder) for folder in _NOT_THE_USERS) or frame.filename.startswith("<"):
                continue
            line = linecache.getline(frame.filename, frame.lineno or 0).strip()
            found = f"{file.name}:{frame.lineno}, `{line}`" if line else f"{file.name}:{frame.lineno}"
        inner = error.__cause__ or error.__context__
        if inner is None or inner is error:
            return found
        error = inner
