"""Layers that choose m of e·m neurons, Mazzawi et al. 2024, Appendix F.

The best are those that maximize utility minus redundancy (F.9), chosen greedily:

    f(S) = α Σ_{i∈S} u(i) − β Σ_{(i,j)∈S, (i,j)∈E} s(i, j),        u(i) = |U_i| + c,

with U_i the weights into neuron i, s the cosine similarity, E the edges of the graph of t nearest neighbours and c the
largest sum of s over one neuron's edges, which makes f monotone and the greedy choice a (1 − 1/e)-approximation of its
**maximum**. (F.8 prints argmin.) Similarities below zero count as zero: opposed neurons are not redundant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

from collegium.train.majority.targets.choice import kernel_targets
from collegium.train.majority.targets.parametrization import register, remove


@torch.no_grad()
def choose(model: nn.Module, neighbours: int = 10, alpha: float = 1.0, beta: float = 1.0) -> None:
    """Let every hidden layer of ``model`` choose its neurons by their present weights."""
    for full, selection in _selections(model):
        for block, places in zip(full, selection.rows, strict=True):
            chosen = select_rows(block, len(places), neighbours, alpha, beta)
            places.copy_(keep_places(places, torch.from_numpy(chosen).to(places)))


def add_candidates(model: nn.Module, expansion: int, patterns: Sequence[str], seed: int) -> None:
    """Give every hidden layer ``expansion`` times its neurons, in place; new ones have its entries in random order.

    Raises ``ValueError`` where there is no hidden layer.
    """
    every = kernel_targets(model)
    wanted = kernel_targets(model, patterns) if patterns else every
    hidden = [layer for layer in map(_layer, wanted) if layer is not None and layer[0] is not every[-1][0][0]]
    if not hidden:
        raise ValueError("no hidden layer to choose neurons from")
    generator = torch.Generator().manual_seed(seed)
    for module, layout in hidden:
        _expand(module, layout, expansion, generator)


def remove_candidates(model: nn.Module) -> None:
    """Leave the chosen neurons, in place."""
    remove(model, Rows)


def select_rows(
    rows: Tensor, count: int, neighbours: int = 10, alpha: float = 1.0, beta: float = 1.0
) -> NDArray[np.int64]:
    """Indices of the ``count`` rows of ``rows`` (candidates, features) that greedily maximize f, in order of choice."""
    utility, similarity = utility_and_similarity(rows, neighbours)
    gain, losses = alpha * utility, beta * similarity.data
    starts, others = np.asarray(similarity.indptr).tolist(), np.asarray(similarity.indices)
    chosen = np.empty(count, dtype=np.int64)
    for position in range(count):
        best = int(gain.argmax())
        chosen[position] = best
        edges = slice(starts[best], starts[best + 1])
        gain[others[edges]] -= losses[edges]
        gain[best] = -np.inf
    return chosen


def objective(
    chosen: Sequence[int], utility: NDArray[Any], similarity: csr_array, alpha: float = 1.0, beta: float = 1.0
) -> float:
    """f(S) of F.9; each edge counts once."""
    inside = similarity[list(chosen)][:, list(chosen)]
    return float(alpha * utility[list(chosen)].sum() - beta * inside.sum() / 2)


def utility_and_similarity(rows: Tensor, neighbours: int) -> tuple[NDArray[Any], csr_array]:
    """u (candidates,) and the similarities on the edges of E, sparse and symmetric (candidates, candidates).

    Two rows are joined if either is among the ``neighbours`` nearest of the other.
    """
    norms, candidates = rows.norm(dim=1), len(rows)
    unit = rows / norms.clamp_min(torch.finfo(rows.dtype).tiny)[:, None]
    cosines = (unit @ unit.T).fill_diagonal_(-2)
    nearest = cosines.topk(min(neighbours, candidates - 1), dim=1)
    values, others = (tensor.cpu().numpy() for tensor in (nearest.values.clamp_min(0).double(), nearest.indices))
    starts = np.arange(candidates + 1) * others.shape[1]
    edges = csr_array((values.ravel(), others.ravel(), starts), shape=(candidates, candidates))
    similarity = csr_array(edges.maximum(edges.T))
    constant = similarity.sum(1).max()
    return norms.double().cpu().numpy() + constant, similarity


def keep_places(before: Tensor, chosen: Tensor) -> Tensor:
    """``chosen`` in an order in which rows that were there ``before`` keep their places."""
    kept = torch.isin(before, chosen)
    after = before.clone()
    after[~kept] = chosen[~torch.isin(chosen, before)].sort().values
    return after


@dataclass(frozen=True)
class Layout:
    """How a layer's tensors hold its neurons: ``blocks`` independent sets, each along the first or the last axis."""

    blocks: int
    last: bool

    def rows(self, tensor: Tensor) -> Tensor:
        """``tensor`` as (blocks, neurons, features)."""
        if self.last:
            return tensor.reshape(self.blocks, -1, tensor.shape[-1]).transpose(1, 2)
        return tensor.reshape(self.blocks, tensor.shape[0] // self.blocks, -1)

    def tensor(self, rows: Tensor, shape: Sequence[int]) -> Tensor:
        """The inverse of ``rows``."""
        return (rows.transpose(1, 2) if self.last else rows).reshape(tuple(shape))


class Selection(nn.Module):
    """Which candidate is in which place: ``rows``, (blocks, neurons)."""

    rows: Tensor

    def __init__(self, blocks: int, neurons: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.arange(neurons).repeat(blocks, 1))


class Rows(nn.Module):
    """Parametrization of a weight or bias by the chosen among its candidates, (blocks, candidates, features)."""

    def __init__(self, full: Tensor, shape: Sequence[int], layout: Layout, selection: Selection, owns: bool) -> None:
        super().__init__()
        self._start: Tensor | None = full
        self.expansion, self.shape, self.layout = full.shape[1] // selection.rows.shape[1], tuple(shape), layout
        self.owned = selection if owns else None  # registered once, so that checkpoints hold it once
        self._selection = (selection,)

    @property
    def selection(self) -> Selection:
        """The choice, shared by a layer's weight and bias."""
        return self._selection[0]

    def right_inverse(self, tensor: Tensor) -> Tensor:
        """Candidates: at first those this was made with, later ``expansion`` times the same."""
        full, self._start = self._start, None
        return self.layout.rows(tensor).repeat(1, self.expansion, 1) if full is None else full

    def forward(self, full: Tensor) -> Tensor:
        """The chosen rows, in the layer's own shape."""
        index = self.selection.rows[:, :, None].expand(-1, -1, full.shape[2])
        return self.layout.tensor(full.gather(1, index), self.shape)


def _layer(places: Sequence[tuple[nn.Module, str]]) -> tuple[nn.Module, Layout] | None:
    """A kernel's module and layout, where its neurons can be separated."""
    (module, name), *others = places
    if others or name != "weight":
        return None
    if isinstance(module, nn.Linear):
        return module, Layout(1, last=False)
    if isinstance(module, nn.modules.conv._ConvNd):
        return None if module.transposed else (module, Layout(module.groups, last=False))
    weight = module.weight
    assert isinstance(weight, Tensor)
    # Members' blocks (members, inputs, outputs), and transformers' Conv1D (inputs, outputs).
    return module, Layout(weight.shape[0] if weight.dim() == 3 else 1, last=True)


def _expand(module: nn.Module, layout: Layout, expansion: int, generator: torch.Generator) -> None:
    selection = Selection(*layout.rows(module.weight).shape[:2]).to(module.weight.device)  # type: ignore[arg-type]
    for name in ("weight", "bias"):
        tensor = getattr(module, name, None)
        if isinstance(tensor, nn.Parameter):
            rows = layout.rows(tensor.detach())
            full = torch.cat([rows] + [_permuted(rows, generator) for _ in range(expansion - 1)], dim=1)
            register(module, name, Rows(full, tensor.shape, layout, selection, owns=name == "weight"))


def _permuted(rows: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(rows.numel(), generator=generator).to(rows.device)
    return rows.reshape(-1)[order].view_as(rows)


def _selections(model: nn.Module) -> Iterator[tuple[Tensor, Selection]]:
    """The candidates' weights, (blocks, candidates, features), and the choice of every hidden layer."""
    for module in model.modules():
        if isinstance(module, nn.utils.parametrize.ParametrizationList):
            rows = module[0]
            if isinstance(rows, Rows) and rows.owned is not None:
                yield module.original, rows.owned  # type: ignore[misc]
