"""A module's own initialization, recorded once and drawn again from a generator of one's own.

PyTorch's initializers overwrite parameters in place: ``normal_``, ``uniform_``, ``fill_``, ``zero_``. While a module is
built, the last of them that each parameter sees is recorded, and those that parts of it see after that, as the row of
padding of a table does. Drawn again, they give the module's parameters without building it anew, on any device, in any
thread, from a seed; and the initial variance of each parameter is exact.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

#: Modules built to estimate the variance of a parameter whose initializer is not known.
BUILDS = 16
#: Parts of one tensor, at most, that are drawn one by one.
MOST_PARTS = 64
#: torch's own generator belongs to the whole process.
_GLOBAL_GENERATOR = threading.Lock()
_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Fill:
    """How a parameter starts: ``normal`` of mean ``a`` and deviation ``b``, ``uniform`` on [a, b), ``constant`` a.

    ``parts`` of it start otherwise.
    """

    kind: Literal["normal", "uniform", "constant"]
    a: float
    b: float
    parts: tuple[tuple[Part, Fill], ...] = field(default=(), repr=False)

    @property
    def variance(self) -> float:
        """Variance of one element, of those outside of the ``parts``."""
        return {"normal": self.b**2, "uniform": (self.b - self.a) ** 2 / 12, "constant": 0.0}[self.kind]

    def apply(self, parameter: Tensor, generator: Generator) -> None:
        """Overwrite the parameter."""
        match self.kind:
            case "normal":
                parameter.normal_(self.a, self.b, generator=generator)
            case "uniform":
                parameter.uniform_(self.a, self.b, generator=generator)
            case "constant":
                parameter.fill_(self.a)
        for part, own in self.parts:
            own.apply(part.of(parameter), generator)


@dataclass(frozen=True)
class Part:
    """Some numbers of a tensor: a view of it, from its number ``start``, with this shape and these strides."""

    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def end(self) -> int:
        """The number behind the last one."""
        return self.start + 1 + sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))

    def covers(self, other: Part) -> bool:
        """Whether every number of another part of the same tensor is certainly one of these."""
        dense = math.prod(self.shape) == self.end - self.start
        return self == other or (dense and self.start <= other.start and other.end <= self.end)

    def of(self, tensor: Tensor) -> Tensor:
        """The view of another tensor."""
        return tensor.as_strided(self.shape, self.strides, tensor.storage_offset() + self.start)


#: Constants that are made as such.
_CONSTANTS = {"zeros": Fill("constant", 0.0, 0.0), "ones": Fill("constant", 1.0, 0.0)}


class Initialization:
    """The distribution of a module's parameters: each drawn alone where its initializer is known.

    A parameter whose values come about in another way is taken from a module that is built anew for each draw; those
    that the module names in an attribute ``kept`` are the same in each. With
    ``by_fan_in``, plain convolutions and linear layers have weights N(0, gain / fan_in) instead: gain 2, and 1 in the
    last layer. Layers of other classes keep their own.
    """

    def __init__(self, build: Callable[[], nn.Module], *, by_fan_in: bool, device: str) -> None:
        self._build, self._device = build, device
        with _recording() as recorded:
            self.module = build()
        kept = set(getattr(self.module, "kept", ()))
        self._kept = {n: p.detach().to(device, copy=True) for n, p in self.module.named_parameters() if n in kept}
        named = {name: value for name, value in self.module.named_parameters() if name not in kept}
        self._fills = {name: recorded.fill(value) for name, value in named.items()}
        if by_fan_in:
            self._fills |= _fan_in_fills(self.module)
        self._shapes = {name: value.shape for name, value in self.module.named_parameters()}
        self._generator = Generator(device=device)

    def draw(self, seed: int, into: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Parameters at initialization; they follow from the seed and the kind of device alone.

        They are written to the tensors ``into`` where those are given, else they are new.

        Each parameter has a generator of its own, from its name and shape, so that networks that are alike outside of
        their branches have the same stem, shortcuts and head at the same seed: ratios of their variances are then
        known better.
        """
        drawn = {}
        others = self._rebuilt(seed) if None in self._fills.values() else {}
        for name, value in self._kept.items():
            drawn[name] = value if into is None else into[name].copy_(value)
        for name, fill in self._fills.items():
            drawn[name] = torch.empty(self._shapes[name], device=self._device) if into is None else into[name]
            if fill is None:
                drawn[name].copy_(others[name])
            else:
                fill.apply(drawn[name], self._generator.manual_seed(self._seed(seed, name)))
        return drawn

    def _seed(self, seed: int, name: str) -> int:
        place = zlib.crc32(f"{name} {tuple(self._shapes[name])}".encode())
        return int(np.random.SeedSequence([seed, place]).generate_state(1, np.uint64)[0] >> 1)

    def rates(self) -> dict[str, float]:
        """Rates of the NTK parameterization: a parameter's initial variance, 1 for what starts as a constant."""
        unknown = [name for name, fill in self._fills.items() if fill is None]
        variances = {name: fill.variance for name, fill in self._fills.items() if fill is not None}
        variances |= self._estimated(unknown) if unknown else {}
        return {name: variances.get(name) or 1.0 for name in (*self._fills, *self._kept)}

    def _estimated(self, names: list[str]) -> dict[str, float]:
        """Mean variance of a parameter's elements over modules built from seeds of their own."""
        built = [self._rebuilt(seed) for seed in range(BUILDS)]
        return {name: float(torch.stack([each[name] for each in built]).var(0).mean()) for name in names}

    def _rebuilt(self, seed: int) -> dict[str, Tensor]:
        with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            module = self._build()
        return {name: value.detach().to(self._device) for name, value in module.named_parameters()}


class _Recorder(TorchDispatchMode):
    """The initializers of each tensor and of its parts, in order, by the memory in which its numbers are."""

    def __init__(self) -> None:
        super().__init__()
        self._writes: dict[tuple[int, int], list[tuple[Part, Fill | None]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func._schema.is_mutable:
            if args and isinstance(args[0], Tensor):
                self._write(args[0], _fill(name, args[1:]))
        elif isinstance(out, Tensor) and func._schema.returns[0].alias_info is None:
            # new numbers, maybe at the place of others that are gone
            self._writes[_memory(out)] = [(_part(out), _CONSTANTS.get(name))]
        return out

    def _write(self, tensor: Tensor, by: Fill | None) -> None:
        part, writes = _part(tensor), self._writes.setdefault(_memory(tensor), [])
        writes[:] = [each for each in writes if not part.covers(each[0])]
        if len(writes) > MOST_PARTS:  # too many to be drawn again one by one
            start, end = min(each.start for each, _ in writes), max(each.end for each, _ in writes)
            writes[:] = [(Part(start, (end - start,), (1,)), None)]
        writes.append((part, by))

    def fill(self, parameter: Tensor) -> Fill | None:
        """How the parameter was filled; None where that is not known."""
        own = _part(parameter)
        whole: Fill | None = None
        parts: list[tuple[Part, Fill | None]] = []
        for part, by in self._writes.get(_memory(parameter), ()):
            if part.covers(own):
                whole, parts = by, []
            elif part.start < own.end and own.start < part.end:
                inside = own.start <= part.start and part.end <= own.end and parameter.is_contiguous()
                parts.append((replace(part, start=part.start - own.start), by if inside else None))
        known = tuple((part, by) for part, by in parts if by is not None)
        if whole is None or len(known) < len(parts):
            return None
        return replace(whole, parts=known) if known else whole


def _memory(tensor: Tensor) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


def _part(tensor: Tensor) -> Part:
    return Part(int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride())


def _fill(name: str, arguments: tuple[Any, ...]) -> Fill | None:
    if not all(isinstance(argument, int | float) for argument in arguments):
        return None
    match name, arguments:
        case "normal_", _:
            a, b = map(float, (*arguments, *(0.0, 1.0)[len(arguments) :]))
            return Fill("normal", a, b)
        case "uniform_", _:
            a, b = map(float, (*arguments, *(0.0, 1.0)[len(arguments) :]))
            return Fill("uniform", a, b)
        case "fill_", (value,):
            return Fill("constant", float(value), 0.0)
        case "zero_", _:
            return Fill("constant", 0.0, 0.0)
        case _:
            return None


@contextmanager
def _recording() -> Iterator[_Recorder]:
    """A recorder for what is built within; torch's generator is afterwards as it was before."""
    with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]), _Recorder() as recorder:
        yield recorder


def _fan_in_fills(module: nn.Module) -> dict[str, Fill]:
    plain = [(name, layer) for name, layer in module.named_modules() if type(layer) in _PLAIN]
    fills = {}
    for name, layer in plain:
        gain = 1.0 if layer is plain[-1][1] else 2.0
        value = layer.get_parameter("weight")
        prefix = f"{name}." if name else ""
        fills[f"{prefix}weight"] = Fill("normal", 0.0, (gain / value[0].numel()) ** 0.5)
        if layer._parameters.get("bias") is not None:
            fills[f"{prefix}bias"] = Fill("constant", 0.0, 0.0)
    return fills
