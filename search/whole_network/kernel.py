"""The tangent kernel of one whole network at initialization, one draw of all its parameters after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, replace_all_batch_norm_modules_, vjp, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from collegium.search.networks.graph.reading import Position, at_position, own_position
from collegium.search.whole_network.candidate import Measured
from collegium.search.whole_network.contraction import Contraction, choose, product
from collegium.search.whole_network.initialization import Initialization
from collegium.search.whole_network.inputs.samples import Samples
from collegium.search.whole_network.replay import Replay
from collegium.search.whole_network.spec import NetworkKernelSpec


class NetworkKernel:
    """Draws of a candidate's kernel over a batch: K_k(x_i, x_j) = Σ_p rate_p ∂F_k/∂p(x_i) · ∂F_k/∂p(x_j).

    ``batch`` has shape ``(images, …)``, or is samples of several tensors; i, j run over its first ``spec.inputs``
    inputs and k over ``spec.outputs`` logits, of a map or a sequence those at ``spec.position``. With batch norms every
    entry depends on the whole batch, through its statistics, as in a training step; without, each input is computed
    alone. One object serves one thread.
    """

    def __init__(self, candidate: Measured, spec: NetworkKernelSpec, batch: np.ndarray | Samples, device: str) -> None:
        ntk = spec.parameterization == "ntk"
        self._initialization = Initialization(
            lambda: _without_norms(candidate.build()) if spec.norm == "none" else candidate.build(),
            by_fan_in=(ntk or spec.norm == "none") and not candidate.plain,
            device=device,
        )
        self._rates = self._initialization.rates() if ntk else {}
        self._module = _as_trained(self._initialization.module).to(device)
        self._outputs = min(spec.outputs, candidate.outputs)
        self.normed = any(isinstance(module, _BatchNorm) for module in self._module.modules())
        samples = Samples.of(batch)
        batches = [samples] if self.normed else [samples.at(i) for i in range(spec.inputs)]
        self._batches = [_on(device, each, grow=not candidate.plain) for each in batches]
        self._position: Position | None = spec.position
        #: Of each input measured, the batch that it is in and its row there.
        self._entries = [(0, i) if self.normed else (i, 0) for i in range(spec.inputs)]
        self._together = candidate.at_once(device) > 1
        self._contractions: list[Contraction] | None = [] if candidate.plain else None
        self._device = torch.device(device)
        self._replay: Replay | None = None

    def draw(self, seed: int, indices: Sequence[int]) -> np.ndarray:
        """Gram matrices ``(draws, outputs, inputs, inputs)``, float64, of the initializations with these indices.

        Each follows from ``seed``, the candidate and its index, whatever it is computed with. Parameters of the same
        name and shape are the same in every candidate.
        """
        seeds = [_seed(seed, index) for index in indices]
        if self._together:
            drawn = [self._initialization.draw(each) for each in seeds]
            grams = vmap(self._small)({name: torch.stack([each[name] for each in drawn]) for name in drawn[0]})
        else:
            grams = torch.stack([self._large(each) for each in seeds])
        return grams.detach().double().cpu().numpy()

    def _logits(self, y: Tensor, x: tuple[Tensor, ...]) -> Tensor:
        """``(samples, outputs)`` of a pass."""
        integers = (tuple(each.shape[1:]) for each in x if not each.is_floating_point())
        position = self._position or own_position(tuple(y.shape), integers)
        return at_position(y, position)

    def _small(self, parameters: dict[str, Tensor]) -> Tensor:
        """``(outputs, inputs, inputs)`` of a small network, many draws of which are mapped at once."""
        passes = [
            vjp(lambda values, x=x: self._logits(functional_call(self._module, values, x), x), parameters)
            for x in self._batches
        ]

        def gradient(output: int, batch: int, row: int) -> dict[str, Tensor]:
            logits, pull, *_ = passes[batch]
            selected = torch.zeros_like(logits)
            selected[row, output] = 1
            return pull(selected)[0]

        return self._grams(gradient, self._weighted)

    def _large(self, seed: int) -> Tensor:
        """The same of one draw of a large network, whose gradients are contracted where that is less work."""
        self._initialization.draw(seed, {name: value.data for name, value in self._module.named_parameters()})
        if self._device.type != "cuda":
            return self._contracted()
        if self._replay is None:
            self._chosen()
            self._replay = Replay(self._contracted, self._device)
        return self._replay()

    def _contracted(self) -> Tensor:
        """``(outputs, inputs, inputs)`` at the weights that the module has."""
        contractions = self._chosen()
        whole = {name: value for name, value in self._module.named_parameters() if value.requires_grad}
        passes = []
        for x in self._batches:
            logits = self._logits(self._module(*x), x)
            passes.append((logits, x, [each.columns for each in contractions]))

        def gradient(output: int, batch: int, row: int) -> _Gradient:
            logits, x, columns = passes[batch]
            # every layer is on the way to an input of numbers
            wanted = [*whole.values(), *(each for each in x if columns and each.requires_grad)]
            found = torch.autograd.grad(logits[row, output], wanted, retain_graph=True, materialize_grads=True)
            factors = zip(columns, (each.delta for each in contractions), strict=True)
            return dict(zip(whole, found, strict=False)), list(factors)

        def weighted(left: _Gradient, right: _Gradient) -> Tensor:
            total = self._weighted(left[0], right[0])
            for each, one, other in zip(contractions, left[1], right[1], strict=True):
                total = total + self._rates.get(each.name, 1.0) * product(one, other)
            return total

        return self._grams(gradient, weighted)

    def _chosen(self) -> list[Contraction]:
        """The contractions that pay, found once; their layers' weights need no gradients of their own."""
        if self._contractions is None:
            self._contractions = choose(self._module, lambda: self._module(*self._batches[0]), len(self._entries))
            for each in self._contractions:
                each.layer.weight.requires_grad_(False)
            self._keep_differentiable(self._contractions)
        return self._contractions

    def _keep_differentiable(self, contractions: list[Contraction]) -> None:
        """Leave out those that no gradient reaches without their own weights, as the first layer behind integers."""
        self._module(*self._batches[0])
        for each in [each for each in contractions if not each.differentiable]:
            each.layer.weight.requires_grad_(True)
            each.remove()
            contractions.remove(each)

    def _grams(self, gradient: Callable[..., Any], weighted: Callable[[Any, Any], Tensor]) -> Tensor:
        """Products of all pairs of gradients, for each logit: ``(outputs, inputs, inputs)``."""
        grams = []
        for output in range(self._outputs):
            gradients = [gradient(output, *entry) for entry in self._entries]
            pairs = {(i, j): weighted(gradients[i], gradients[j]) for i in range(len(gradients)) for j in range(i + 1)}
            rows = [[pairs[max(i, j), min(i, j)] for j in range(len(gradients))] for i in range(len(gradients))]
            grams.append(torch.stack([torch.stack(row) for row in rows]))
        return torch.stack(grams)

    def _weighted(self, left: dict[str, Tensor], right: dict[str, Tensor]) -> Tensor:
        products = [
            self._rates.get(name, 1.0) * torch.dot(gradient.flatten(), right[name].flatten())
            for name, gradient in left.items()
        ]
        return torch.stack(products).sum(0)


#: Gradients of whole parameters by name, and the factors of contracted ones.
_Gradient = tuple[dict[str, Tensor], list[tuple[Tensor, Tensor]]]


def _seed(seed: int, index: int) -> int:
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> 1)


def _on(device: str, samples: Samples, *, grow: bool) -> tuple[Tensor, ...]:
    """Samples on a device, images in the layout that its convolutions prefer; ``grow``: with gradients of their own."""
    found = []
    for array in samples.arrays:
        x = torch.from_numpy(np.ascontiguousarray(array)).to(device)
        if x.dim() == 4 and min(x.shape[2:]) > 1:
            x = x.contiguous(memory_format=torch.channels_last)
        found.append(x.requires_grad_() if grow and x.is_floating_point() else x)
    return tuple(found)


def _without_norms(module: nn.Module) -> nn.Module:
    for layer in list(module.modules()):
        for name, child in layer.named_children():
            if isinstance(child, _BatchNorm):
                setattr(layer, name, nn.Identity())
    return module


def _as_trained(module: nn.Module) -> nn.Module:
    """In training mode, with the batch's own statistics and no record of them; dropout is left out.

    Recurrent layers stay in training mode, in which alone they have gradients on a GPU.
    """
    replace_all_batch_norm_modules_(module)
    module.train()
    for layer in module.modules():
        if isinstance(layer, nn.RNNBase):
            layer.dropout = 0.0
        elif isinstance(layer, _DropoutNd) or getattr(layer, "draws", False):
            layer.training = False  # of itself alone: a described network drops by operations of its own
    return module
