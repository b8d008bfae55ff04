"""The tangent kernel of one whole network at initialization, one draw of all its parameters after another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, replace_all_batch_norm_modules_, vjp, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from collegium.search.whole_network.candidate import Candidate
from collegium.search.whole_network.initialization import Initialization
from collegium.search.whole_network.spec import NetworkKernelSpec


class NetworkKernel:
    """Draws of a candidate's kernel over a batch: K_k(x_i, x_j) = Σ_p rate_p ∂F_k/∂p(x_i) · ∂F_k/∂p(x_j).

    ``batch`` has shape ``(images, …)``; i, j run over its first ``spec.inputs`` inputs and k over ``spec.outputs``
    logits. With batch norms every entry depends on the whole batch, through its statistics, as in a training step;
    without, each input is computed alone. One object serves one thread.
    """

    def __init__(self, candidate: Candidate, spec: NetworkKernelSpec, batch: np.ndarray, device: str) -> None:
        ntk = spec.parameterization == "ntk"
        initialization = Initialization(
            lambda: _without_norms(candidate.build()) if spec.norm == "none" else candidate.build(),
            by_fan_in=ntk or spec.norm == "none",
            device=device,
        )
        self._initialization, self._key, self._inputs = initialization, candidate.key, spec.inputs
        self._rates = initialization.rates() if ntk else None
        self._module = _as_trained(initialization.module).to(device)
        self.normed = any(isinstance(module, _BatchNorm) for module in self._module.modules())
        images = torch.from_numpy(batch).to(device)
        self._images = images.contiguous(memory_format=torch.channels_last) if images[0].ndim == 3 else images
        self._together = candidate.at_once(device) > 1
        self._outputs = min(spec.outputs, candidate.network.outputs)

    def draw(self, seed: int, indices: Sequence[int]) -> np.ndarray:
        """Gram matrices ``(draws, outputs, inputs, inputs)``, float64, of the initializations with these indices.

        Each follows from ``seed``, the candidate and its index, whatever it is computed with.
        """
        seeds = [_seed(seed, self._key, index) for index in indices]
        if self._together:
            made = [self._initialization.draw(each) for each in seeds]
            grams = vmap(self._grams)({name: torch.stack([each[name] for each in made]) for name in made[0]})
        else:
            grams = torch.stack([self._grams(self._initialization.draw(each)) for each in seeds])
        return grams.double().cpu().numpy()

    def _grams(self, parameters: dict[str, Tensor]) -> Tensor:
        """``(outputs, inputs, inputs)`` at these parameters."""
        batches = [self._images] if self.normed else list(self._images[: self._inputs].split(1))
        passes = [vjp(lambda values, x=x: functional_call(self._module, values, (x,)), parameters) for x in batches]
        return torch.stack([self._gram([each[:2] for each in passes], output) for output in range(self._outputs)])

    def _gram(self, passes: list, output: int) -> Tensor:
        gradients = []
        for index in range(self._inputs):
            (logits, pull), row = (passes[0], index) if self.normed else (passes[index], 0)
            selected = torch.zeros_like(logits)
            selected[row, output] = 1
            gradients.append(pull(selected)[0])
        rows = [torch.stack([self._product(left, right) for right in gradients]) for left in gradients]
        return torch.stack(rows)

    def _product(self, left: dict[str, Tensor], right: dict[str, Tensor]) -> Tensor:
        total = torch.zeros(())
        for name, gradient in left.items():
            product = torch.dot(gradient.flatten(), right[name].flatten())
            total = total + (product if self._rates is None else self._rates[name] * product)
        return total


def _seed(seed: int, key: int, index: int) -> int:
    return int(np.random.SeedSequence([seed, key, index]).generate_state(1, np.uint64)[0] >> 1)


def _without_norms(module: nn.Module) -> nn.Module:
    for layer in list(module.modules()):
        for name, child in layer.named_children():
            if isinstance(child, _BatchNorm):
                setattr(layer, name, nn.Identity())
    return module


def _as_trained(module: nn.Module) -> nn.Module:
    """In training mode, with the batch's own statistics and no record of them; dropout is left out."""
    replace_all_batch_norm_modules_(module)
    module.train()
    for layer in module.modules():
        if isinstance(layer, _DropoutNd):
            layer.eval()
    return module
