"""The law by which a parameter starts, as a graph holds it: that of the module's numbers, or of PyTorch's layers."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor

from collegium.search.regroup.laws import law

#: The deviation of a parameter whose numbers are not there, and that belongs to no layer.
USUAL = 0.02

Kind = Literal["weight", "bias", "scale", "shift", "parameter"]


def law_of(values: Tensor, kind: Kind, fan_in: int | None = None) -> dict[str, Any]:
    """The law of a parameter, with the standard deviation of what is drawn, or the constant, as ``value``.

    On the device ``meta`` it is PyTorch's own for the layer: weights and biases uniform between ±1/√fan_in, scales one,
    shifts zero; parameters of no layer are normal of deviation 0.02. Scales and shifts start at one and zero wherever
    they are not constant, as those of a trained norm.

    Raises ``ValueError`` where a number is not finite.

    >>> import torch
    >>> law_of(torch.ones(3), "scale")
    {'kind': 'constant', 'value': 1.0}
    >>> law_of(torch.empty(4, 3, device="meta"), "weight", fan_in=3)
    {'kind': 'uniform', 'value': 0.3333333333333333}
    """
    if values.is_meta or not values.numel():
        return _default(kind, fan_in)
    found = law(values, fan_in=fan_in)
    if found.kind == "constant":
        return {"kind": "constant", "value": found.a}
    if kind in ("scale", "shift"):
        return _default(kind, fan_in)
    return {"kind": found.kind, "value": found.b if found.kind == "normal" else found.b / math.sqrt(3)}


def _default(kind: Kind, fan_in: int | None) -> dict[str, Any]:
    if kind in ("scale", "shift"):
        return {"kind": "constant", "value": float(kind == "scale")}
    if fan_in is None:
        return {"kind": "normal", "value": USUAL}
    return {"kind": "uniform", "value": 1 / math.sqrt(3 * fan_in)}
