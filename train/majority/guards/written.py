"""A mixed weight that is written to.

``layer.weight`` of a majority kernel is computed, so that what is written into it would be lost: ``nn.init``,
``reset_parameters``, ``weight.data.clamp_``. Code outside of a forward pass therefore reads a ``WrittenWeight``. It is
a tensor like any other, and whatever is written into it, or into a view of it, is taken by all copies: the weight is
what was written, in training and in evaluation, as after ``layer.weight = value``.

Its gradient is that of the weight, the sum of the copies' gradients, to be read. What would be lost is refused: writing
into that, hooks, and memory that is handed out for writing where it cannot be followed.
"""

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves, tree_map

Average = Callable[[Tensor], Tensor]
_plain_data: Any = Tensor.data


def readable(weight: Tensor, copies: Tensor, average: Average) -> Tensor:
    """``weight``, mixed from ``copies``, as code outside of a pass may use it; ``average`` gives its ``.data``.

    Where ``copies`` are not the parameter itself (functional calls, shards, inference mode), ``weight`` as it is.
    """
    if not issubclass(type(copies), nn.Parameter) or weight.is_inference() or type(weight) not in (Tensor, PassWeight):
        return weight
    found = _link(weight, weight, copies, average, whole=True)
    found.origin = Origin(copies._version)
    return found


@dataclass
class Origin:
    """Where a weight that was read has come from."""

    version: int | None  # of the copies; None once another value has been written into it
    replaced: Tensor | None = None  # the copies, as they were before another value was assigned


def within_pass(weight: Tensor, copies: Tensor) -> Tensor:
    """``weight``, mixed from ``copies``, as code within a pass may use it; plain where tensors are traced."""
    if (
        issubclass(type(copies), nn.Parameter)
        and type(weight) is Tensor
        and not weight.is_inference()
        and _get_current_dispatch_mode() is None
    ):
        weight.__class__ = PassWeight
        weight.copies = copies  # type: ignore[attr-defined]
    return weight


class PassWeight(Tensor):
    """A weight within a pass: for every operation a plain tensor. What is written to its ``data``, the copies take.

    What clips, scales or masks all of it in place does so to each of the copies, so that they stay apart; of other
    values, the entries that differ are those of all copies from then on.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    copies: Tensor

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        """The weight of this pass without history."""
        values = _plain_data.__get__(self)
        found = _link(values, values, self.copies, partial(torch.mean, dim=0), apart=True)
        found.passing = True
        return found

    @data.setter
    def data(self, value: Tensor) -> None:
        _write(self, self.copies, value, passing=True)


class WrittenWeight(Tensor):
    """See above. Results of operations are plain tensors, except views."""

    mixed: Tensor  # the whole weight, of which this may be a view
    copies: Tensor
    average: Average
    whole: bool  # whether it stands for the parameter: neither a view nor detached
    apart: bool  # whether it is ``.data``, which is written to whether or not gradients are recorded
    lost: bool = False  # whether it is a gradient, which copies cannot take
    origin: Origin | None = None  # of a whole one
    passing: bool = False  # whether it is the ``data`` of a weight within a pass

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ``func``; store what it has written, and follow its views."""
        named = kwargs or {}
        weights = [leaf for leaf in tree_leaves((args, named)) if isinstance(leaf, cls)]
        with torch._C.DisableTorchFunctionSubclass():
            if func in _OF_THE_PARAMETER and isinstance(args[0], cls) and args[0].whole:
                return _OF_THE_PARAMETER[func](*args, **named)
            before = [
                (weight._version, weight.mixed.grad_fn, weight.mixed.clone() if weight.passing else None)
                for weight in weights
            ]
            result = func(*args, **named)
            lists = args[:1] if _OF_LISTS.match(getattr(func, "__name__", "")) else ()  # a GPU leaves no trace of all
            written = [id(leaf) for leaf in tree_leaves(lists)]
            for weight, (version, history, values) in zip(weights, before, strict=True):
                if weight._version == version and id(weight) not in written:
                    continue
                alone = len(weights) == 1 and bool(args) and args[0] is weight
                if alone and weight._is_all() and func.__name__ in _OF_EACH_COPY:
                    with torch.no_grad():
                        for row in weight.copies.detach():
                            func(row, *args[1:], **named)
                else:
                    weight._store(values, recorded=not weight.apart and weight.mixed.grad_fn is not history)
            return tree_map(lambda leaf: _follow(leaf, weights), result)

    def _is_all(self) -> bool:
        """Whether it is the data of a weight within a pass, and no view of that."""
        return self.passing and self.shape == self.mixed.shape and self.stride() == self.mixed.stride()

    def _store(self, before: Tensor | None, *, recorded: bool) -> None:
        if self.lost:
            raise RuntimeError(_GRADIENT)
        if recorded:
            raise RuntimeError(
                "the weight of a majority kernel was written to while gradients are recorded: use torch.no_grad()"
            )
        if self.origin is not None and self.origin.replaced is not None:
            self.origin = Origin(None)  # another value has been assigned meanwhile: this one is none of the layer's
            return
        with torch.no_grad():
            values = self.mixed.detach()
            self.copies.copy_(values if before is None else torch.where(values == before, self.copies, values))
        if self.origin is not None:
            self.origin.version = self.copies._version

    def set_(self, *source: Any) -> Tensor:  # type: ignore[override]
        """The values of ``source``, in the memory that is there: torch would not call ``__torch_function__``."""
        return self.copy_(torch.empty(0, dtype=self.dtype, device=self.device).set_(*source))

    def __dlpack__(self, *_: Any, **__: Any) -> Any:
        """Refused: memory that is handed out by DLPack cannot be followed."""
        raise RuntimeError(
            "the weight of a majority kernel is not handed out by DLPack, where what is written into it would be lost: "
            "export layer.weight.detach().clone()"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """A plain tensor without history, as a copied parameter has none."""
        return copy.deepcopy(self.as_subclass(Tensor).detach(), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickled as a plain tensor."""
        return self.as_subclass(Tensor).__reduce_ex__(protocol)


def _link(
    tensor: Tensor, mixed: Tensor, copies: Tensor, average: Average, *, whole: bool = False, apart: bool = False
) -> WrittenWeight:
    weight = tensor.as_subclass(WrittenWeight)
    weight.mixed, weight.copies, weight.average, weight.whole, weight.apart = mixed, copies, average, whole, apart
    return weight


def _follow(result: Any, weights: Sequence[WrittenWeight]) -> Any:
    """``result``, so that what is written into it is stored if it shares the memory of one of ``weights``."""
    if isinstance(result, np.ndarray):
        if any(np.shares_memory(result, weight.mixed.detach().numpy()) for weight in weights):
            result.flags.writeable = False  # an array cannot be followed
        return result
    if type(result) is not Tensor:
        return result
    for weight in weights:
        if result.device == weight.mixed.device and _storage(result) == _storage(weight.mixed):
            view = _link(result, weight.mixed, weight.copies, weight.average, apart=weight.apart)
            view.lost, view.passing, view.origin = weight.lost, weight.passing, weight.origin
            return view
    return result


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _data(weight: WrittenWeight) -> Tensor:
    """``.data``: what is stored, which is the mean, not one draw."""
    with torch.no_grad():
        mean = weight.average(weight.copies)
    return _link(mean, mean, weight.copies, weight.average, apart=True)


def _set_data(weight: WrittenWeight, value: Tensor) -> None:
    _write(weight.mixed, weight.copies, value)
    if weight.origin is not None:
        weight.origin.version = weight.copies._version


def _write(mixed: Tensor, copies: Tensor, value: Tensor, *, passing: bool = False) -> None:
    """Let all copies take ``value``, unless it is what the weight is: converting its layout then changes nothing.

    Where ``passing``, only the entries that differ.
    """
    if value.shape != mixed.shape:
        raise ValueError(f"the weight of a majority kernel keeps its shape {tuple(mixed.shape)}")
    with torch.no_grad():
        value, memory = value.detach().to(mixed.device, mixed.dtype), _plain_data.__get__(mixed)
        if not (torch.equal(value, memory) or torch.equal(value, copies.mean(0))):
            copies.copy_(torch.where(value == memory, copies, value) if passing else value.expand_as(copies))
            memory.copy_(value)  # what holds the tensor reads the value too


def assign(value: Any, reads: Sequence[WrittenWeight], copies: Tensor) -> bool:
    """Before ``layer.weight = value``: whether that is done by restoring the ``copies`` that ``value`` was read from.

    A weight that is read, replaced and assigned again, as by ``torch.func.functional_call``, leaves the copies as they
    were; ``reads`` are those that are in use. Raises ``RuntimeError`` for a tensor whose gradient would be lost.
    """
    origin = value.origin if isinstance(value, WrittenWeight) and value.copies is copies and value.whole else None
    if origin is not None and origin.replaced is not None:
        with torch.no_grad():
            copies.copy_(origin.replaced)
        for read in reads:
            if read.origin is not None and read.origin.replaced is origin.replaced and read is not value:
                read.origin = Origin(copies._version)
        value.origin = Origin(copies._version)
        return True
    if origin is not None and origin.version == copies._version:
        return True
    own = isinstance(value, WrittenWeight) and value.copies is copies
    if not own and isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            "copies take the value of a tensor, and their gradient does not reach it: assign value.detach(); for "
            "functional calls, give the copies by their name, which ends in parametrizations.weight.original; layers "
            "that are to share a weight are tied before they are expanded"
        )
    origins = [read.origin for read in reads if read.origin is not None]
    present = [origin for origin in origins if origin.replaced is None and origin.version == copies._version]
    if present:
        earlier = [origin.replaced for origin in origins if origin.replaced is not None]
        same = isinstance(value, Tensor) and value.shape == copies.shape[1:] and bool((copies == value).all())
        record = earlier[0] if earlier and same else copies.detach().clone()  # the same again, for a tied weight
        for origin in present:
            origin.replaced = record
    return False


def _set_requires_grad(weight: WrittenWeight, value: bool = True) -> WrittenWeight:
    weight.copies.requires_grad_(value)
    return weight


def _gradient(weight: WrittenWeight) -> Tensor | None:
    """The gradient of the weight: p sums to one over the copies."""
    if weight.retains_grad or weight.copies.grad is None:
        return Tensor.grad.__get__(weight) if weight.retains_grad else None  # type: ignore[attr-defined]
    total = weight.copies.grad.detach().sum(0)
    found = _link(total, total, weight.copies, weight.average, apart=True)
    found.lost = True
    return found


def _set_gradient(weight: WrittenWeight, value: Tensor | None) -> None:
    if value is not None:
        raise RuntimeError(_GRADIENT)
    weight.copies.grad = None


def _refuse_hook(weight: WrittenWeight, *_: Any) -> None:
    raise RuntimeError(
        "this weight is computed anew in every pass, so that its hooks would never be called: register them on the "
        "copies (layer.parametrizations.weight.original), whose gradient is p_k times that of the weight"
    )


_OF_LISTS = re.compile(r"_(amp_foreach|foreach|fused)_.*_$")
"""Names of functions that write to the tensors of their first argument, which is a list."""
_GRADIENT = (
    "the gradient of a majority kernel is that of its copies, and this is its sum over them: change "
    "layer.parametrizations.weight.original.grad"
)
_OF_EACH_COPY = ("clamp_", "clamp_min_", "clamp_max_", "clip_", "renorm_", "mul_", "div_", "masked_fill_")
_OF_THE_PARAMETER: dict[Any, Callable[..., Any]] = {
    Tensor.data.__get__: _data,  # type: ignore[attr-defined]
    Tensor.data.__set__: _set_data,  # type: ignore[attr-defined]
    Tensor.requires_grad_: _set_requires_grad,
    Tensor.requires_grad.__set__: _set_requires_grad,  # type: ignore[attr-defined]
    Tensor.grad.__get__: _gradient,  # type: ignore[attr-defined]
    Tensor.grad.__set__: _set_gradient,  # type: ignore[attr-defined]
    Tensor.register_hook: _refuse_hook,
    Tensor.register_post_accumulate_grad_hook: _refuse_hook,
}
"""Functions of a weight that concern the parameter behind it."""
