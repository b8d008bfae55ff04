"""Random points of the simplex, one per weight, that are recomputed instead of stored.

Claim: for every weight element p = (p_1 … p_e) has the flat Dirichlet law, that of normalised exponentials (Mazzawi et
al. 2024, Eq. 2.2), independently of other elements, kernels and steps, as a function of (seed, step, kernel, element)
alone. So the backward pass draws again what the forward pass drew, on every rank, and no p waits in between.

A stick of length 1 is broken at e − 1 uniform points; p are the pieces. With the points in descending order,
1 = v_0 ≥ v_1 ≥ … ≥ v_{e−1} ≥ v_e = 0,

    p_k = v_{k−1} − v_k,        Σ_k p_k ∘ w_k = w_1 + Σ_{k<e} v_k ∘ (w_{k+1} − w_k),

and p_k ∘ g is the difference of two neighbouring v ∘ g: neither p nor any tensor of its size is formed.

On a processor the points are numbers of 16 bits, sorted as integers by a network of comparisons, and work proceeds in
chunks that stay in the cache (``generators/uniforms.py``). On an accelerator the stick is broken from one end,
v_k = v_{k−1} U^{1/(e−k)}, which is the same law, in one launch with the numbers of Philox (``generators/philox.py``).
Numbers are the same on every processor, and on every device of one kind; a processor and a GPU draw different ones.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from collegium.train.majority.generators import philox, table
from collegium.train.majority.generators.uniforms import (
    CHUNK,
    PERIOD,
    Draw,
    Points,
    Source,
    chunk_length,
    scratch,
    sorted_uniforms,
    spare_row,
)
from collegium.train.majority.native import passes

__all__ = ["CHUNK", "Draw", "length_of_chunks", "mix", "mix_chunk", "probabilities", "shares_of_chunk", "spread"]


def probabilities(draw: Draw, expansion: int, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Return p itself, shape ``(expansion, *shape)``, float32: for tests and inspection.

    Entries are in [0, 1] and sum to one over the first axis, up to rounding.
    """
    return spread(torch.ones(tuple(shape), device=device), draw, expansion)


def mix(copies: Tensor, draw: Draw, out: Tensor | None = None) -> Tensor:
    """Return Σ_k p_k ∘ copies_k (Eq. 2.1), shape ``copies.shape[1:]``, without forming p.

    ``copies`` has shape ``(expansion, …)`` and any floating type; half types are mixed in float32. ``out``,
    contiguous and of the result's shape and type, receives the result. Not differentiable: see
    ``collegium.train.majority.kernel`` for that.
    """
    if out is None:
        out = torch.empty(copies.shape[1:], dtype=copies.dtype, device=copies.device)
    if is_fake(copies):
        return out
    expansion = copies.shape[0]
    if expansion > 1 and in_one_launch(draw.source, copies.device):
        philox.mix(copies.contiguous(), draw.state, out)
        return out
    if passes.takes(draw, expansion, copies, out):
        passes.mix(copies, draw, out)
        return out
    flat, target = copies.detach().reshape(expansion, -1), out.detach().view(-1)
    if expansion == 1:
        target.copy_(flat[0])
    elif _in_chunks(draw, flat):
        length = length_of_chunks(draw, flat.shape[1])
        for index, (block, part) in enumerate(zip(flat.split(length, dim=1), target.split(length), strict=True)):
            mix_chunk(block.unbind(), draw, index, part)
    else:
        _interpolate(_wide(flat).unbind(), _whole_points(draw, expansion, target), target)
    return out


def spread(gradient: Tensor, draw: Draw, expansion: int, out: Tensor | None = None) -> Tensor:
    """Return (p_1 ∘ g, …, p_e ∘ g), shape ``(expansion, *gradient.shape)``: the adjoint of ``mix``.

    It is the gradient of each copy when ``gradient`` is that of the mixed weight; over the copies it sums to
    ``gradient``.
    """
    if gradient.layout != torch.strided:
        gradient = gradient.to_dense()  # of an embedding that reads the weight
    if out is None:
        out = torch.empty((expansion, *gradient.shape), dtype=gradient.dtype, device=gradient.device)
    if is_fake(gradient):
        return out
    if expansion > 1 and in_one_launch(draw.source, gradient.device):
        philox.spread(gradient.contiguous(), draw.state, out)
        return out
    if passes.takes(draw, expansion, gradient, out):
        passes.spread(gradient, draw, out)
        return out
    flat, rows = gradient.detach().reshape(-1), out.detach().view(expansion, -1)
    if expansion == 1:
        rows[0].copy_(flat)
    elif _in_chunks(draw, flat):
        length = length_of_chunks(draw, flat.shape[0])
        for index, (part, block) in enumerate(zip(flat.split(length), rows.split(length, dim=1), strict=True)):
            _spread_chunk(part, draw, index, block.unbind())
    else:
        _divide(_wide(flat), _whole_points(draw, expansion, flat), rows.unbind())
    return out


def in_one_launch(source: Source, device: torch.device) -> bool:
    """Whether drawing and mixing a whole tensor is one launch of a GPU's kernel."""
    return source != "table" and philox.runs_triton(device)


def is_fake(tensor: Tensor) -> bool:
    """Whether ``tensor`` has a shape and no memory, as under ``FakeTensorMode``: no numbers are drawn for it."""
    return type(tensor).__name__ == "FakeTensor"


def length_of_chunks(draw: Draw, elements: int) -> int:
    """How many elements of a flat tensor of ``elements`` each chunk has on a processor, but for a shorter last one."""
    return PERIOD if draw.source == "table" else max(1, chunk_length(elements))


def mix_chunk(copies: Sequence[Tensor], draw: Draw, chunk: int, out: Tensor, kept: Points | None = None) -> None:
    """Write Σ_k p_k ∘ copies_k of chunk number ``chunk`` into ``out``; all tensors flat and of equal length.

    ``kept``, where it is given, receives the points of an independent draw.
    """
    wide = copies if copies[0].dtype.itemsize >= 4 else [copy.float() for copy in copies]
    if draw.source == "table":
        _interpolate(wide, points(draw, len(copies), chunk, wide[0]), out)
    else:
        found = _points(draw, len(copies), chunk, wide[0], kept)
        _interpolate(wide, found.rows, out, spare_row(found))


def _spread_chunk(gradient: Tensor, draw: Draw, chunk: int, out: Sequence[Tensor]) -> None:
    """Write p_k ∘ gradient of chunk number ``chunk`` into ``out[k]``; all tensors flat and of equal length."""
    wide = _wide(gradient)
    _divide(wide, points(draw, len(out), chunk, wide), out)


def shares_of_chunk(
    gradient: Tensor, draw: Draw, chunk: int, expansion: int, kept: Points | None = None
) -> Sequence[Tensor]:
    """(p_k ∘ gradient)_k of chunk number ``chunk``, float32 or float64: scratch memory, until the thread draws again.

    They take the place of the points, so that as little memory as can be passes through the cache; that of ``kept``,
    where ``mix_chunk`` has left them for this draw.
    """
    if expansion == 1:
        return (gradient,)
    if draw.source == "table":
        rows = [scratch(("share", row), gradient.shape[0], gradient.dtype) for row in range(expansion)]
        _spread_chunk(gradient, draw, chunk, rows)
        return rows
    found = kept or _points(draw, expansion, chunk, gradient)
    first = spare_row(found)
    torch.neg(found.rows[0], out=first).add_(1).mul_(gradient)
    for row, following in pairwise(found.rows):
        row.sub_(following)
    found.block.mul_(gradient)
    return (first, *found.rows)


def points(draw: Draw, expansion: int, chunk: int, like: Tensor) -> Sequence[Tensor]:
    """v_1 ≥ … ≥ v_{e−1} of a chunk of the length, floating type and device of the flat ``like``: scratch memory."""
    if draw.source == "table":
        return _remainders(table.fractions(draw, expansion, chunk, like))
    return _points(draw, expansion, chunk, like).rows


def _points(draw: Draw, expansion: int, chunk: int, like: Tensor, into: Points | None = None) -> Points:
    return sorted_uniforms(draw, chunk, expansion - 1, like.shape[0], like.dtype, into)


def _interpolate(copies: Sequence[Tensor], levels: Sequence[Tensor], out: Tensor, work: Tensor | None = None) -> None:
    """w_1 + Σ_k v_k ∘ (w_{k+1} − w_k) into ``out``, which may be of a narrower type; ``work`` is memory for a row."""
    if not levels:
        out.copy_(copies[0])
        return
    mixed = out if out.dtype == copies[0].dtype else torch.empty_like(copies[0])
    torch.lerp(copies[0], copies[1], levels[0], out=mixed)
    difference = work if work is not None or len(levels) == 1 else torch.empty_like(mixed)
    for copy, following, level in zip(copies[1:], copies[2:], levels[1:], strict=False):
        mixed.addcmul_(level, torch.sub(following, copy, out=difference))
    if mixed is not out:
        out.copy_(mixed)


def _divide(gradient: Tensor, levels: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """(v_{k−1} − v_k) ∘ g into ``out[k]``, which may be of a narrower type."""
    narrow = out[0].dtype != gradient.dtype
    rows = [torch.empty_like(gradient) for _ in out] if narrow else out
    if not levels:
        rows[0].copy_(gradient)
    else:
        torch.neg(levels[0], out=rows[0]).add_(1).mul_(gradient)
        for row, level, following in zip(rows[1:], levels, levels[1:], strict=False):
            torch.sub(level, following, out=row).mul_(gradient)
        torch.mul(levels[-1], gradient, out=rows[-1])
    if narrow:
        for target, row in zip(out, rows, strict=True):
            target.copy_(row)


def _remainders(fractions: Sequence[Tensor]) -> list[Tensor]:
    """v_k = q_1 ⋯ q_k."""
    levels = list(fractions[:1])
    for fraction in fractions[1:]:
        levels.append(levels[-1] * fraction)
    return levels


def _whole_points(draw: Draw, expansion: int, like: Tensor) -> list[Tensor]:
    """v_1 … v_{e−1} of a whole flat tensor, from torch's generator for its device."""
    dtype = torch.float32 if like.dtype.itemsize < 4 else like.dtype
    rows = philox.uniforms(draw.state, expansion - 1, like.shape[0], dtype, like.device).unbind()
    for row, power in zip(rows, range(expansion - 1, 1, -1), strict=False):
        torch.sqrt(row, out=row) if power == 2 else row.pow_(1 / power)
    return _remainders(rows)


def _in_chunks(draw: Draw, flat: Tensor) -> bool:
    return draw.source == "table" or flat.device.type == "cpu"


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor
