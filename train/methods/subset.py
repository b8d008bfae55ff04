"""Subset selection (Mazzawi et al. 2024, Appendix F, Algorithm F.1): train e times the rows, use the best m of them.

Every hidden layer keeps e·m rows (neurons or filters). Before each step m of them are picked, greedily for

    f(S) = α Σ_{i∈S} u(i) − β Σ_{(i,j)⊂S, (i,j)∈E} s(i, j),      u(i) = ‖U_i‖ + max_l Σ_{j:(l,j)∈E} s(l, j),

where s is the cosine of two rows and E joins each row with its t nearest. Eq. F.8 prints a minimum, but f is utility
minus redundancy, monotone and submodular thanks to the constant in u, and the guarantee of the greedy algorithm is for
its maximum; that is what is taken. Layers are treated one by one, and the output layer keeps its rows.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from train.majority import kernel_names
from train.method import ComputeLoss, Execution, StepOutput
from train.methods.vanilla import Vanilla

NEIGHBOURS = 10


class Subset(Vanilla):
    """Algorithm F.1. ``neighbours`` is t; ``utility`` and ``redundancy`` are α and β; ``every`` steps it picks anew."""

    name = "subset"

    def __init__(
        self,
        expansion: int = 3,
        *,
        neighbours: int = NEIGHBOURS,
        utility: float = 1.0,
        redundancy: float = 1.0,
        every: int = 1,
    ) -> None:
        super().__init__(expansion)
        self._neighbours, self._utility, self._redundancy, self._every = neighbours, utility, redundancy, every

    def prepare(self, model: nn.Module, *, seed: int) -> nn.Module:
        """Give every hidden layer e times its rows, in place, and pick the first subset.

        The first m rows are the layer's own, the others have its entries in random order. Raises ``ValueError`` for a
        model without a hidden layer.
        """
        generator = torch.Generator().manual_seed(seed & (2**63 - 1))
        layers = _hidden_layers(model)
        if not layers:
            raise ValueError("subset selection needs a hidden layer")
        for module in layers:
            groups, axis = _layout(module)
            rows = Rows(self.expansion, groups, axis, generator)
            parametrize.register_parametrization(module, "weight", rows)
            if getattr(module, "bias", None) is not None:
                parametrize.register_parametrization(module, "bias", RowsOf(rows, groups))
        self._select(model)
        return model

    def step(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        compute_loss: ComputeLoss,
        *,
        step: int,
        execution: Execution = Execution(),
        weights: Sequence[float] | None = None,
    ) -> StepOutput:
        """Pick the subset, then one gradient for the rows in it."""
        if step % self._every == 0:
            self._select(model)
        return super().step(model, batches, compute_loss, step=step, execution=execution, weights=weights)

    def finish(self, model: nn.Module) -> nn.Module:
        """Pick once more and keep those rows alone: the plain module again."""
        self._select(model)
        for module in list(model.modules()):
            for name in ("bias", "weight"):  # the weight last: its parametrization holds the choice
                if _selects(module, name):
                    parametrize.remove_parametrizations(module, name, leave_parametrized=True)
                    getattr(module, name).grad = None
        return model

    def _select(self, model: nn.Module) -> None:
        for module in model.modules():
            if _selects(module, "weight"):
                lists = cast(Any, module.parametrizations)["weight"]
                rows: Rows = lists[0]
                table = rows.split(lists.original.detach()).float().cpu().numpy()
                chosen = [
                    greedy(group, rows.kept, self._neighbours, self._utility, self._redundancy) for group in table
                ]
                rows.chosen.copy_(torch.from_numpy(np.stack(chosen)))


class Rows(nn.Module):
    """A weight as ``kept`` chosen rows, in each of ``groups``, of ``expansion`` times as many."""

    chosen: Tensor

    def __init__(self, expansion: int, groups: int, axis: int, generator: torch.Generator) -> None:
        super().__init__()
        self.expansion, self.groups, self.axis = expansion, groups, axis
        self._generator: torch.Generator | None = generator

    def split(self, weight: Tensor) -> Tensor:
        """The rows as ``(groups, rows, features)``."""
        moved = weight.transpose(1, self.axis) if self.axis > 1 else weight
        return moved.reshape(self.groups, -1, _features(weight, self.groups, self.axis))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The weight's own rows, followed by its entries in random order, ``expansion`` times as many rows in all."""
        rows = self.split(weight.detach())
        self.kept = rows.shape[1]
        self._shape = weight.shape
        start = torch.arange(self.kept, device=weight.device).expand(self.groups, -1).clone()
        self.register_buffer("chosen", start)
        blocks = [rows]
        for _ in range(1, self.expansion):
            order = torch.randperm(rows.numel(), generator=self._generator).to(rows.device)
            blocks.append(rows.reshape(-1)[order].view_as(rows))
        self._generator = None
        return self._joined(torch.cat(blocks, 1), self.expansion)

    def forward(self, full: Tensor) -> Tensor:
        """Return the chosen rows in the weight's own shape."""
        rows = self.split(full)
        index = self.chosen.unsqueeze(-1).expand(-1, -1, rows.shape[-1])
        return self._joined(rows.gather(1, index), 1)

    def _joined(self, rows: Tensor, times: int) -> Tensor:
        """``(groups, times · kept, features)`` as a weight with ``times`` its rows."""
        if self.axis > 1:  # (members, inputs, outputs)
            return rows.transpose(1, 2).contiguous()
        return rows.reshape(times * self._shape[0], *self._shape[1:])


class RowsOf(nn.Module):
    """A bias whose entries go with the rows that are chosen for the weight."""

    def __init__(self, rows: Rows, groups: int) -> None:
        super().__init__()
        self._rows = (rows,)  # not a submodule: it belongs to the weight
        self.groups = groups

    def right_inverse(self, bias: Tensor) -> Tensor:
        """Each entry as often as its row."""
        expansion = self._rows[0].expansion
        repeats = [1] * (bias.dim() - 1) + [expansion]
        entries = bias.detach().reshape(self.groups, 1, -1).repeat(1, expansion, 1)
        return bias.detach().repeat(*repeats) if self.groups == 1 or bias.dim() > 1 else entries.reshape(-1)

    def forward(self, full: Tensor) -> Tensor:
        """Return the chosen entries in the bias's own shape."""
        chosen = self._rows[0].chosen
        shape = (*full.shape[:-1], full.shape[-1] // self._rows[0].expansion)
        return full.reshape(self.groups, -1).gather(1, chosen).reshape(shape)


def greedy(rows: np.ndarray, kept: int, neighbours: int, utility: float = 1.0, redundancy: float = 1.0) -> np.ndarray:
    """Indices, rising, of ``kept`` rows that greedily maximize f (Eq. F.9); ``rows`` has shape ``(rows, features)``."""
    norms = np.linalg.norm(rows, axis=1)
    unit = rows / np.maximum(norms, np.finfo(rows.dtype).tiny)[:, None]
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    count = len(rows)
    near = min(neighbours, count - 1)
    edges = np.zeros((count, count), bool)
    if near > 0:
        np.put_along_axis(edges, np.argpartition(-cosine, near - 1, axis=1)[:, :near], True, axis=1)
        edges |= edges.T
    similarity = np.where(edges, cosine, 0.0)
    gain = utility * (norms + similarity.sum(1).max(initial=0.0))
    chosen = np.empty(kept, np.int64)
    for place in range(kept):
        best = int(gain.argmax())
        chosen[place] = best
        gain -= redundancy * similarity[best]
        gain[best] = -np.inf
    return np.sort(chosen)


def _hidden_layers(model: nn.Module) -> list[nn.Module]:
    """Layers with a kernel called ``weight``, in order, without the last one, whose rows are the outputs."""
    found = [module for module in model.modules() if "weight" in kernel_names(module)]
    return found[:-1]


def _layout(module: nn.Module) -> tuple[int, int]:
    """Groups of rows that are chosen from separately, and the axis along which the weight's rows lie."""
    weight = cast(Tensor, module.weight)
    if weight.dim() == 3 and not isinstance(module, nn.Conv1d):  # (members, inputs, outputs)
        return len(weight), 2
    return int(getattr(module, "groups", 1)), 0


def _features(weight: Tensor, groups: int, axis: int) -> int:
    return weight.shape[1] if axis > 1 else weight[0].numel()


def _selects(module: nn.Module, name: str) -> bool:
    if not parametrize.is_parametrized(module, name):
        return False
    return isinstance(cast(Any, module.parametrizations)[name][0], Rows | RowsOf)
