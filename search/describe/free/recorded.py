"""What a module's code asks of torch in one run, in order: functions with their numbers, and the layers of branches.

A run with other widths is compared with the first one as it goes. Where code reads a width, as ``x.shape[1]``, and
computes with it, a number that it gives to torch is another one there, or the function is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from collegium.search.describe.trace import tensors_in

#: A function of torch and what it was given beside tensors, of which there are the axes and the type.
Event = tuple[str, tuple[str, ...]]
#: Functions that read a shape or a type, and compute nothing.
_UNREAD = {
    "__get__", "size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "__len__", "element_size",
    "is_floating_point", "is_complex", "is_contiguous", "get_device", "data_ptr", "_assert", "__format__", "__repr__",
}  # fmt: skip
#: Functions whose sizes follow the widths: numbers keep their order in them, or they fail.
_SIZED = {"view", "reshape", "unflatten"}
#: Functions with one argument that does: its place and name.
_FOLLOWING = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), (6, "groups")),
    **dict.fromkeys(("layer_norm", "rms_norm"), (1, "normalized_shape")),
}


class WidthRead(Exception):
    """A run with other widths asks torch for something else; the message says what."""


class Recorder(TorchFunctionMode):
    """The events of a run; with ``expected`` those of another one, from which it must not differ.

    ``last`` is the layer of a branch that ran last.

    >>> with Recorder() as recorder:
    ...     y = torch.ones(2, 3).mul(3**-1)
    >>> [name for name, _ in recorder.events]
    ['ones', 'mul']
    """

    def __init__(self, expected: Sequence[Event] | None = None) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.last = ""
        self._expected, self._paused = expected, False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result, after it has been recorded."""
        name = getattr(func, "__name__", str(func))
        if not self._paused and name not in _UNREAD:
            self._take((name, tuple(_plain(name, _compared(name, args, kwargs or {})))))
        return func(*args, **(kwargs or {}))

    def _take(self, event: Event) -> None:
        place = len(self.events)
        self.events.append(event)
        if self._expected is None:
            return
        if place >= len(self._expected):
            raise WidthRead(f"'{event[0]}' is called in addition")
        other = self._expected[place]
        if other[0] != event[0]:
            raise WidthRead(f"'{event[0]}' is called in place of '{other[0]}'")
        if other != event:
            pairs = [(one, two) for one, two in zip(other[1], event[1], strict=False) if one != two]
            before, now = pairs[0] if pairs else (f"{len(other[1])} arguments", f"{len(event[1])} arguments")
            raise WidthRead(f"'{event[0]}' is given {now} in place of {before}")

    def finish(self) -> None:
        """Raises ``WidthRead`` where the other run went on."""
        if self._expected is not None and len(self.events) < len(self._expected):
            raise WidthRead(f"'{self._expected[len(self.events)][0]}' is not called")

    def as_one(self, module: nn.Module, path: str) -> None:
        """Record each call of a layer as one event, whatever its own code does; its hooks are recorded as they are."""
        own: Callable[..., Any] = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            self._take((path, tuple(_plain("", (args, kwargs)))))
            self.last, before = path, self._paused
            self._paused = True
            try:
                return own(*args, **kwargs)
            finally:
                self._paused = before

        module.__dict__["forward"] = forward


def _compared(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The arguments without those that follow the widths of what else is given, or do not fit it."""
    if name in _FOLLOWING:
        place, keyword = _FOLLOWING[name]
        return args[:place] + args[place + 1 :], {key: value for key, value in kwargs.items() if key != keyword}
    return args, kwargs


def _plain(name: str, value: Any) -> Iterator[str]:
    """What tells two calls of one function apart."""
    for each in _pytree.tree_leaves(value):
        if isinstance(each, Tensor):
            yield f"a tensor of {each.dim()} axes and {each.dtype}"
        elif isinstance(each, slice):
            yield from _plain(name, [each.start, each.stop, each.step])
        elif isinstance(each, bool | float | str | complex | torch.dtype | torch.device) or each is None:
            yield repr(each)
        elif isinstance(each, int):
            if name not in _SIZED:
                yield repr(each)
        elif isinstance(each, torch.Size):
            yield from _plain(name, list(each))
        else:
            yield type(each).__name__


def shapes_of(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], recorder: Recorder
) -> list[tuple[int, ...]]:
    """Shapes of a module's outputs, run in its own mode. Raises what the module's code raises, and ``WidthRead``."""
    before = random.getstate()
    random.seed(0)  # code that decides by these numbers decides the same in every run
    try:
        with recorder:
            outputs = module(*args, **kwargs)
        recorder.finish()
    finally:
        random.setstate(before)
    return [tuple(int(size) for size in each.shape) for each in tensors_in(outputs)]
