"""Which numbers of what a network gives are its logits, where that is a map or a sequence of tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

#: Where logits are read; of two axes, samples and logits, there is one place.
Position = Literal["centre", "mean", "first_token", "last_token", "mean_token"]
#: In words.
PLACES: dict[Position, str] = {
    "centre": "at the centre of its map",
    "mean": "averaged over its map",
    "first_token": "at the first token",
    "last_token": "at the last token",
    "mean_token": "averaged over the tokens",
}


def centre(y: Tensor) -> Tensor:
    """Outputs as ``(samples, outputs)``: numbers along the first axis behind the samples, at the centre of all others.

    >>> import torch
    >>> centre(torch.zeros(2, 3, 8, 8)).shape, centre(torch.zeros(2)).shape
    (torch.Size([2, 3]), torch.Size([2, 1]))
    """
    y = y.reshape(len(y), 1) if y.dim() < 2 else y
    while y.dim() > 2:
        y = y.select(-1, y.shape[-1] // 2)
    return y


def at_position(y: Tensor, position: Position) -> Tensor:
    """Outputs as ``(samples, outputs)``, where they are read.

    Of a map ``(samples, outputs, …)`` at its ``centre``, or the ``mean`` over it. Of a sequence ``(samples, tokens,
    outputs)`` those of one token, or the mean over tokens.

    >>> import torch
    >>> y = torch.arange(24.0).reshape(2, 3, 4)
    >>> at_position(y, "centre")[0], at_position(y, "last_token")[0], at_position(y, "mean")[0]
    (tensor([ 2.,  6., 10.]), tensor([ 8.,  9., 10., 11.]), tensor([1.5000, 5.5000, 9.5000]))
    """
    if y.dim() <= 2 or position == "centre":
        return centre(y)
    if position == "mean":
        return y.flatten(2).mean(2)
    if position == "mean_token":
        return centre(y.mean(1))
    return centre(y[:, 0 if position == "first_token" else -1])


def own_position(shape: tuple[int, ...], integers: Iterable[tuple[int, ...]]) -> Position:
    """Where logits are read if nothing is said; ``integers`` are the shapes of samples of integers.

    Outputs ``(samples, tokens, outputs)`` for as many tokens as the network reads are those of a sequence, of which the
    last one depends on every token, in one direction or both. All others are maps.
    """
    tokens = {each[0] for each in integers if len(each) == 1}
    return "last_token" if len(shape) == 3 and shape[1] in tokens else "centre"


def logits_at(shape: tuple[int, ...], position: Position) -> int:
    """How many logits there are where outputs of this shape are read.

    >>> logits_at((-1, 10, 7, 7), "centre"), logits_at((-1, 6, 50), "last_token"), logits_at((-1,), "centre")
    (10, 50, 1)
    """
    if len(shape) < 2:
        return 1
    if len(shape) == 2:
        return shape[1]
    return shape[2] if position.endswith("_token") else shape[1]
