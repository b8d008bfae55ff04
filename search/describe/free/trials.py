"""Branches of a module with other inner widths, tried in the module itself, which is put back afterwards."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.conv import _ConvNd

from collegium.search.describe.chains import Chain
from collegium.search.describe.free.recorded import Recorder
from collegium.search.describe.layers import WeightNode
from collegium.search.describe.trace import Piece, kept_state, quiet
from collegium.search.networks.families.network import Branch
from collegium.search.networks.families.network_chains import layer_widths, member_widths, width_grains
from collegium.search.networks.families.network_layers import Conv, Norm
from collegium.search.regroup.grouped import GroupedLayerNorm, GroupedLinear
from collegium.search.regroup.members import Places, places_of, regroup_one, replace, resized, resized_norm

#: Members and the free widths of one.
Members = tuple[int, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A chain whose inner widths seem to be free: its branch, the modules of it in order, and the piece it is in."""

    piece: Piece
    chain: Chain
    branch: Branch
    paths: tuple[str, ...]

    @property
    def wider(self) -> Members:
        """A member more than there are, each of them wider."""
        grains = width_grains(self.branch)
        widths = [(each // grain + 1) * grain for each, grain in zip(member_widths(self.branch), grains, strict=True)]
        return self.branch.multiplicity + 1, tuple(widths)

    @property
    def narrow(self) -> Members:
        """Two members more, as narrow as can be."""
        return self.branch.multiplicity + 2, width_grains(self.branch)

    def one_other(self, index: int) -> list[Members]:
        """As many members as there are, with one free width alone as in each of these."""
        own = member_widths(self.branch)
        others = [(*own[:index], widths[index], *own[index + 1 :]) for _, widths in (self.wider, self.narrow)]
        return [(self.branch.multiplicity, widths) for widths in others]

    def regroup(self, model: nn.Module, places: Places, members: Members, generator: Generator | None) -> None:
        """Replace its modules; weights that are no module's keep their members. Raises ``ValueError`` if it cannot."""
        m, widths = members
        inner = layer_widths(self.branch, widths)
        if all(_is_layer(model, path) for path in self.weighted):
            regroup_one(model, places, self.paths, (m, inner), generator)
        elif generator is None:
            self._resize(model, places, [self.branch.multiplicity * width for width in inner])

    @property
    def weighted(self) -> list[str]:
        """The paths of its weight layers."""
        kinds = [layer for layer in self.branch.layers if layer.kind in ("conv", "linear", "norm")]
        return [path for path, layer in zip(self.paths, kinds, strict=True) if not isinstance(layer, Norm)]

    def _resize(self, model: nn.Module, places: Places, inner: Sequence[int]) -> None:
        """Other widths without other members, for layers whose weights the code reads by itself."""
        widths = [self.branch.widths[0], *inner, self.branch.widths[-1]]
        paths = iter(self.paths)
        for layer, steps, inputs, width in zip(
            self.chain.layers, [*self.chain.between, ()], widths, widths[1:], strict=False
        ):
            path = next(paths)
            if _is_layer(model, path):
                module = model.get_submodule(path)
                groups = inputs if isinstance(layer.layer, Conv) and layer.layer.depthwise else _groups(layer)
                replace(places, module, resized(path, module, inputs, width, groups, None))  # type: ignore[arg-type]
            else:
                self._resize_parameters(model, layer, inputs, width)
            for step in steps:
                if isinstance(step.layer, Norm):
                    norm = model.get_submodule(path := next(paths))
                    replace(places, norm, resized_norm(path, norm, width, 1, 1, numbers=False))

    def _resize_parameters(self, model: nn.Module, layer: WeightNode, inputs: int, width: int) -> None:
        for node, shape in ((layer.weight, layer.weight_shape(inputs, width)), (layer.bias, (width,))):
            if node is not None:
                owner, _, name = self.piece.parameters[node].rpartition(".")
                old = model.get_submodule(owner)._parameters[name]
                assert old is not None
                made = torch.empty(shape, dtype=old.dtype, device=old.device)
                model.get_submodule(owner)._parameters[name] = nn.Parameter(made, requires_grad=old.requires_grad)


def _is_layer(model: nn.Module, path: str) -> bool:
    try:
        return isinstance(model.get_submodule(path), _ConvNd | nn.Linear)
    except AttributeError:  # a parameter that code reads
        return False


def _groups(layer: WeightNode) -> int:
    return layer.layer.groups if isinstance(layer.layer, Conv) else 1


@contextmanager
def tried(
    model: nn.Module,
    trials: Sequence[tuple[Candidate, Members]],
    recorder: Recorder,
    watched: Sequence[str],
    mode: FakeTensorMode,
) -> Iterator[nn.Module]:
    """The module as it is, or a copy of it with these branches regrouped, and every tensor of it without memory.

    Calls of the layers ``watched`` are one event each, where their code is PyTorch's. What the code of a copy calls of
    the module itself, as a function does that has been made with one of its layers, is no layer of the copy.
    """
    with kept_state(model), quiet(), torch.inference_mode(False), torch.enable_grad(), mode:
        held = _forget_numbers(model, mode)
        made = _copy_of(model, held) if trials else model
        places = places_of(made)
        for candidate, members in trials:
            candidate.regroup(made, places, members, None)
        for path in watched:
            module = made.get_submodule(path)
            if any(type(module).forward is kind.forward for kind in _KNOWN) and "forward" not in vars(module):
                recorder.as_one(module, path)
        yield made


def _copy_of(model: nn.Module, held: Sequence[Tensor]) -> nn.Module:
    """A copy that has these tensors themselves; the module where it has no copy."""
    try:
        return copy.deepcopy(model, {id(each): each for each in held})
    except Exception:  # a user's code may raise anything
        return model


def _forget_numbers(model: nn.Module, mode: FakeTensorMode) -> list[Tensor]:
    """Tensors without memory, which are now in the place of parameters, buffers and attributes."""
    made: list[Tensor] = []
    for module in model.modules():
        for held in (module._parameters, module._buffers, vars(module)):
            for name, value in list(held.items()):
                if isinstance(value, Tensor):
                    made.append(mode.from_tensor(value))
                    held[name] = made[-1]  # type: ignore[assignment]
    return made


#: Layers whose code is known to compute the same function of any width.
_KNOWN = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, GroupedLinear,
    GroupedLayerNorm,
)  # fmt: skip
