"""The gradient of a mixed weight, seen where PyTorch looks for that of its copies.

An optimizer that updates the copies itself (``collegium.train.majority.fused``) needs g = ∂L/∂⟨w⟩ alone, of the plain
model's size: layers read a leaf tensor, the ``MixedLeaf``, in whose ``grad`` g gathers. The copies are then a
``FusedParameter``, whose own ``grad`` is p_k ∘ g, formed when it is read: by a gradient scaler, clipping,
``zero_grad`` of the model, sharpness-aware minimization. From then on it is a gradient like any other, which the
optimizer applies in the plain way. Unless it is read, it is never formed.

A leaf may hold the mixture already when it is read: the update mixes the weight of the next step while the copies are
in the cache. That is trusted only where nothing can have written to the copies since, however it was written.
"""

import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch._utils import _rebuild_parameter

from collegium.train.majority.clock import WRITTEN, Clock, is_distributed
from collegium.train.majority.draw import Draw, in_one_launch, is_fake, mix
from collegium.train.majority.generators.uniforms import Source
from collegium.train.majority.operators import spread_differentiably

_WIDE = (torch.float32, torch.float64)
_use_count: Any = getattr(torch._C, "_storage_Use_Count", None)  # no public name
_data: Any = Tensor.data
_grad: Any = Tensor.grad


class FusedParameter(nn.Parameter):
    """Copies whose gradient is formed on demand; otherwise a parameter like any other."""

    leaf: "MixedLeaf | None" = None

    @property
    def grad(self) -> Tensor | None:
        """p_k ∘ g for each copy, or what has been assigned."""
        if self.leaf is not None:
            self.leaf.expand_gradient()
        return _grad.__get__(self)

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if self.leaf is not None:
            self.leaf.clear()
        _grad.__set__(self, value)

    @grad.deleter
    def grad(self) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        FusedParameter.grad.__set__(self, None)

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        """The copies without history; what is written into them does not count as a change, so it is assumed."""
        self._touch()
        return _data.__get__(self)

    @data.setter
    def data(self, value: Tensor) -> None:
        self._touch()
        _data.__set__(self, value)
        if self.leaf is not None:
            self.leaf.move()

    def _touch(self) -> None:
        if self.leaf is not None:
            self.leaf.forget()

    def leave(self: Any) -> None:
        """Become a plain parameter again, which keeps neither a mixture nor the optimizer's state."""
        leaf = vars(self).pop("leaf", None)
        if leaf is not None:
            leaf.close()
        self.__class__ = nn.Parameter

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Parameter:
        """A plain parameter: the copied model has no fused optimizer."""
        if id(self) not in memo:
            with torch.no_grad():
                memo[id(self)] = nn.Parameter(self.clone(memory_format=torch.preserve_format), self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickled as a plain parameter."""
        return _rebuild_parameter, (self.data, self.requires_grad, OrderedDict())


def _touching(name: str) -> Any:
    """The method ``name``, whose result shares the memory of the copies, as ``data`` does."""
    found: Any = getattr(nn.Parameter, name)
    method = found if callable(found) else found.__get__

    @wraps(method)
    def call(self: FusedParameter, *arguments: Any, **named: Any) -> Any:
        self._touch()
        return method(self, *arguments, **named)

    return call


_ALIASING = (
    "detach", "numpy", "untyped_storage", "storage", "view", "view_as", "reshape", "flatten", "ravel", "unflatten",
    "unbind", "chunk", "split", "split_with_sizes", "tensor_split", "hsplit", "vsplit", "dsplit", "unsafe_chunk",
    "unsafe_split", "unfold", "narrow", "select", "squeeze", "unsqueeze", "transpose", "t", "permute", "movedim",
    "moveaxis", "swapaxes", "swapdims", "adjoint", "diagonal", "expand", "expand_as", "as_strided",
    "__getitem__", "__iter__", "__array__", "__dlpack__",
)  # fmt: skip
for _name in _ALIASING:
    setattr(FusedParameter, _name, _touching(_name))
for _name in ("T", "mT", "H", "mH"):
    setattr(FusedParameter, _name, property(_touching(_name)))


class MixedLeaf:
    """The tensor that layers read in training in place of a function of ``copies``, and its gradient."""

    def __init__(self, copies: nn.Parameter, source: Source, usable: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.source: Source = source  # of the draws
        self.usable = usable  # makes of a mixture what layers read
        self.tensor: Tensor | None = None
        self.gradient: Tensor | None = None  # g, as far as it has not been spread over the copies
        self.draw: Draw | None = None  # by which ``gradient`` is to be spread
        self.held: Tensor | None = None  # ``tensor``, for compiled graphs within a step
        self.pending: Tensor | None = None  # g, while the optimizer takes its step
        self.update: Any = None  # the ``FusedKernel`` of the optimizer
        self.aliases = 0  # tensors of the update that share the copies' memory
        self.foreign = False  # whether that is written to by others than tensors of this process
        self.unreached = False  # whether it has been read since a gradient came
        self._token: Any = None
        self._memory: Tensor | None = None  # that of ``tensor``, outside of any graph
        copies.__class__ = FusedParameter
        copies.leaf = self  # type: ignore[attr-defined]
        self._copies = weakref.ref(copies)
        self.move()

    def move(self) -> None:
        """The copies have come into other memory, perhaps an array's, a file's or one that processes share."""
        self.aliases = 0
        if self.update is not None:
            self.update.release()
        if is_fusable(self.copies, self.source):
            storage = Tensor.untyped_storage(self.copies)
            shared = self.copies.device.type == "cpu" and storage.is_shared()  # others always say so
            self.foreign = shared or not storage.resizable()

    @property
    def copies(self) -> FusedParameter:
        """The parameter."""
        found = self._copies()
        assert found is not None
        return found  # type: ignore[return-value]

    def replaces(self, copies: Tensor) -> bool:
        """Whether a read of ``copies`` may give ``tensor``: only plain backward passes reach its gradient."""
        return (
            self._copies() is copies
            and copies.requires_grad
            and torch.is_grad_enabled()
            and is_fusable(copies, self.source)
            and not copies._backward_hooks
            and not getattr(copies, "_post_accumulate_grad_hooks", None)
            and not is_distributed()
        )

    def ready(self, copies: Tensor, clock: Clock) -> Tensor | None:
        """``read`` where that mixes nothing and ``replaces(copies)`` holds in one process, and else None.

        Between the update of one step and the forward pass of the next no cache holds what either needs, so that each
        call on the way to a weight counts.
        """
        token = self._token
        if (
            token is None
            or not clock.is_present(token[0])
            or token[1] != copies._version
            or token[2] != copies.data_ptr()
            or self._copies() is not copies
            or token[3] != self.tensor._version  # type: ignore[union-attr]
            or uses(copies) > 2 + self.aliases
            or not (copies.requires_grad and torch.is_grad_enabled())
            or copies._backward_hooks
            or getattr(copies, "_post_accumulate_grad_hooks", None)
        ):
            return None
        self.unreached = True
        return self.tensor

    def read(self, draw: Draw) -> Tensor:
        """The mixture by ``draw`` of the copies as they are."""
        self.unreached = True
        token, self._token = self._token, None
        if token is not None and self.tensor is not None and token[3] != self.tensor._version:
            if token[1] == self.copies._version:  # or the copies have taken what was written
                raise RuntimeError(WRITTEN)
            token = None
        self._token = token
        if self.tensor is None or self._token is None or self._token != self._present(draw):
            with torch.no_grad():
                self.renew(mix(self.copies, draw), draw)
        assert self.tensor is not None
        return self.tensor

    def renew(self, mixed: Tensor, draw: Draw) -> None:
        """Give layers ``mixed``, the mixture of the present copies by ``draw``, from now on.

        Graphs that hold the tensor they had go on with that: their gradients are spread by the draw of their own pass.
        """
        leaf: Any = self.usable(mixed.detach().requires_grad_(), self.copies)
        leaf._post_accumulate_grad_hooks = {0: _Gather(self, draw)}  # registering it takes ten times as long
        self._memory, self.tensor = mixed, leaf
        self._token = self._present(draw)

    @property
    def memory(self) -> Tensor:
        """That of ``tensor``, into which the next mixture is written before ``renew``."""
        assert self._memory is not None
        return self._memory

    def forget(self) -> None:
        """The copies may be changed from now on."""
        self._token = None

    def _present(self, draw: Draw) -> Any:
        """For what a mixture is valid: its draw and the copies' version, while no other tensor shares their memory."""
        copies = self.copies
        if self.foreign or uses(copies) > 2 + self.aliases:
            return None
        return draw, copies._version, copies.data_ptr(), self.tensor._version  # type: ignore[union-attr]

    def close(self) -> None:
        """The copies are a weight again: what has been computed with the mixture can no longer be differentiated."""
        hooks: Any = getattr(self.tensor, "_post_accumulate_grad_hooks", None)
        for hook in (hooks or {}).values():
            hook.closed = True

    def put_back(self) -> None:
        """g is no longer set aside: the step has ended, or been interrupted."""
        if self.pending is not None:
            self.gradient, self.pending = self.pending, None

    def gather(self, gradient: Tensor, draw: Draw) -> None:
        """Add to g, the gradient by the p of ``draw``."""
        self.unreached = False
        gradient = gradient.to_dense() if gradient.layout != torch.strided else gradient
        if self.gradient is not None and self.draw == draw:
            self.gradient = self.gradient + gradient
            return
        self.expand_gradient()  # of another p
        self.gradient, self.draw = gradient, draw

    def expand_gradient(self) -> None:
        """Turn g into gradients of the copies, added to those they have."""
        gradient, self.gradient = self.gradient, None
        if gradient is None or self.draw is None:
            return
        copies = self.copies
        before = _grad.__get__(copies)
        has_graph = gradient.requires_grad or (before is not None and before.requires_grad)
        with torch.set_grad_enabled(has_graph):  # of ``backward(create_graph=True)``
            expanded = spread_differentiably(gradient, self.draw, len(copies)).to(copies.dtype)
            _grad.__set__(copies, expanded if before is None else before + expanded)

    def clear(self) -> None:
        """Drop g."""
        self.gradient = self.pending = None

    def check_reached(self, beside: Sequence[Tensor]) -> None:
        """Warn where a layer's other parameters, ``beside``, have gradients and the copies have none."""
        if not self.unreached or _grad.__get__(self.copies) is not None:
            return
        self.unreached = False
        if any(parameter.grad is not None for parameter in beside):
            warnings.warn(
                "fused copies have had no gradient where their layer's bias has one: backward(inputs=…) does not reach "
                "them, since they are not in the graph. Do not fuse where it is used",
                stacklevel=2,
            )

    def take(self) -> bool:
        """Set g aside for the update, so that the optimizer passes the copies over; whether there is any."""
        self.put_back()
        if self.gradient is not None and not self._fits(self.gradient):
            self.expand_gradient()
        if self.gradient is None or _grad.__get__(self.copies) is not None:
            return False
        self.pending, self.gradient = self.gradient, None
        return True

    def _fits(self, gradient: Tensor) -> bool:
        """Whether g and the mixture are of the type that the copies have by now."""
        copies, memory = self.copies, self._memory
        return (
            memory is not None
            and memory.dtype == copies.dtype == gradient.dtype
            and memory.device == copies.device == gradient.device
            and is_fusable(copies, self.source)
        )


class _Gather:
    """Hook of a leaf: hands its gradient to the ``MixedLeaf`` that it belongs to, if there still is one."""

    def __init__(self, leaf: MixedLeaf, draw: Draw) -> None:
        self.leaf, self.draw, self.closed = weakref.ref(leaf), draw, False

    def __call__(self, tensor: Tensor) -> None:
        if self.closed:
            raise RuntimeError(
                "the copies of this weight have been collapsed since the loss was computed, so that their gradient "
                "would be lost: call backward() before collapse()"
            )
        leaf, gradient = self.leaf(), tensor.grad
        tensor.grad = None
        if leaf is not None and gradient is not None:
            leaf.gather(gradient, self.draw)


def uses(tensor: Tensor) -> int:
    """How many tensors share the memory of ``tensor``, itself and its storage object included."""
    return 1 << 30 if _use_count is None else _use_count(Tensor.untyped_storage(tensor)._cdata)


def is_fusable(copies: Tensor, source: Source) -> bool:
    """Whether a fused update pays for ``copies``, drawn from ``source``, and is what torch's optimizers compute."""
    if copies.device.type == "cpu":
        known = copies.dtype in _WIDE
    else:
        known = copies.dtype in (*_WIDE, torch.bfloat16) and in_one_launch(source, copies.device)
    return known and copies.is_contiguous() and not is_fake(copies)
