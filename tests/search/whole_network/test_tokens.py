"""Networks that read tokens, or several tensors, measured and timed as the graphs that were described."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from collegium.search.describe.describe import describe
from collegium.search.errors import InvalidSpec
from collegium.search.find import find_ensemble
from collegium.search.networks.build import build_network
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.whole_network.candidate import Candidate
from collegium.search.whole_network.inputs.samples import Samples, drawn_samples
from collegium.search.whole_network.kernel import NetworkKernel
from collegium.search.whole_network.spec import NetworkKernelSpec

VOCABULARY = 20


class Tokens(nn.Module):
    """An embedding, a recurrent layer, and an MLP of each token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.cell = nn.Embedding(VOCABULARY, 6), nn.LSTM(6, 8, batch_first=True)
        layers = [nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 4)]
        self.mlp = nn.Sequential(*layers)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.mlp(self.cell(self.embedding(ids))[0])


class Two(nn.Module):
    """Numbers, and integers as numbers, whose first layers no gradient of anything else passes."""

    def __init__(self) -> None:
        super().__init__()
        self.counts, self.numbers = nn.Linear(5, 300, bias=False), nn.Linear(4, 300, bias=False)
        self.mlp = nn.Sequential(nn.ReLU(), nn.Linear(300, 280), nn.ReLU(), nn.Linear(280, 3))

    def forward(self, counts: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(self.counts(counts.float()) + self.numbers(x))


IDS = torch.zeros(1, 5, dtype=torch.long)


def measured(
    described: NetworkBaseline, samples: Samples, **network: object
) -> tuple[np.ndarray, float, NetworkKernel]:
    """A draw of the kernel of one sample, and that by autograd, of the logit where it is read."""
    spec = NetworkKernelSpec.model_validate({"images": samples.count, "inputs": 1, **network})
    built = build_network(described)
    candidate = Candidate("baseline", built, built.baseline, built.multiplicity, position=spec.position)
    kernel = NetworkKernel(candidate, spec, samples, "cpu")
    gram = kernel.draw(5, [0])[0]
    module = kernel._module
    for each in module.parameters():
        each.requires_grad_(True)
    y = module(*(torch.from_numpy(each) for each in samples.first(1).arrays))
    entry = {"first_token": y[0, 0], "last_token": y[0, -1], "": y[0]}[built.logits_at(spec.position)[1] or ""]
    gradients = torch.autograd.grad(entry[0], list(module.parameters()), materialize_grads=True)
    return gram, sum(each.double().square().sum().item() for each in gradients), kernel


@pytest.mark.parametrize("position", [None, "first_token"])
def test_a_recurrent_network_on_tokens_is_measured_as_plain_gradients_are(position: str | None):
    torch.manual_seed(0)
    described = describe(Tokens(), {"ids": IDS})
    network = build_network(described)
    assert network.logits_at(None) == (4, "last_token")
    samples = drawn_samples(network.reads, 2, None, seed=1)
    assert samples.arrays[0].max() < VOCABULARY
    gram, expected, _ = measured(described, samples, position=position, outputs=4)
    assert gram.shape == (4, 1, 1)
    assert gram[0, 0, 0] == pytest.approx(expected, rel=1e-4)


def test_layers_behind_integers_are_not_left_out_of_the_kernel():
    torch.manual_seed(0)
    described = describe(Two(), (IDS, torch.zeros(1, 4)))
    network = build_network(described)
    samples = drawn_samples(network.reads, 2, None, seed=1)
    integers = np.full_like(samples.arrays[0], 3)  # no table bounds them, and all of them would be 1
    gram, expected, kernel = measured(described, Samples((integers, *samples.arrays[1:])))
    assert gram[0, 0, 0] == pytest.approx(expected, rel=1e-4)
    contracted = {each.name for each in kernel._contractions or ()}
    assert "counts.weight" not in contracted
    assert "mlp.1.weight" in contracted  # where it pays


def test_answers_on_tokens_are_verified_and_timed():
    torch.manual_seed(0)
    described = describe(Tokens(), {"ids": IDS})
    asked = {"relative_error": 0.5, "images": 2, "inputs": 1}
    found = find_ensemble(
        described,
        verify="network",
        network=asked,
        workload={"batch_size": 2, "mode": "training"},
        space={"widths": [6]},
    )
    assert found.network is not None
    assert found.network.sample_shape == (5,)
    assert (
        f"at the last token: no batch norms, the initialization and rates of training, random inputs of ids of 5 "
        f"(integers from 0 to {VOCABULARY - 1})" in found.network.statement
    )
    assert found.primal is not None
    assert (found.primal.latency_ms or 0) > 0
    parameters = 4 * 3 * found.primal.parameters  # with gradients and momentum, in bytes
    assert parameters < (found.primal.memory_bytes or 0) < parameters + 2 * 4 * 10**4


def test_images_are_no_tokens():
    described = describe(Tokens(), {"ids": IDS})
    with pytest.raises(InvalidSpec, match=r"inputs\.data"):
        find_ensemble(
            described, inputs={"data": "digits"}, verify="network", images=np.zeros((16, 1, 8, 8), np.float32)
        )
