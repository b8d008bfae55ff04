"""Two processes draw the same p and end in the weights of one process on the whole batch."""

import copy
import socket

import pytest
import torch
import torch.multiprocessing
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from collegium import expand
from collegium.train.majority.kernel import majority_kernels
from collegium.train.methods import create

STEPS = 3
pytestmark = pytest.mark.slow


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def data(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 4, generator=generator), torch.randint(3, (8,), generator=generator)


def compute_loss(model, batch):
    logits = model(batch[0])
    return functional.cross_entropy(logits, batch[1]), logits


def train(name, *, rank=0, world=1, parts=1):
    """The method's steps on this process's share of each batch; returns the weights and the last draw."""
    method = create(name)
    model = method.prepare(network(), seed=7)
    running = DistributedDataParallel(model) if world > 1 else model
    optimizer = method.optimizer(model, torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9))
    for step in range(STEPS):
        x, y = (part.chunk(world)[rank] for part in data(step))
        optimizer.zero_grad()
        method.step(running, list(zip(x.chunk(parts), y.chunk(parts), strict=True)), compute_loss, step=step)
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()], next(
        iter(majority_kernels(model).values())
    ).draw


def run(rank, port, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    try:
        torch.manual_seed(100 + rank)  # no seed is given below: the first process decides
        seeds = [kernel.clock.seed for kernel in majority_kernels(expand(nn.Linear(2, 2))).values()]
        found = {"seed": seeds}
        for name in ("majority", "adversarial_majority"):
            for parts in (1, 2):
                found[name, parts] = train(name, rank=rank, world=2, parts=parts)
        torch.save(found, f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(run, (port, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def test_processes_agree_on_the_seed(results):
    assert results[0]["seed"] == results[1]["seed"]


@pytest.mark.parametrize("name", ["majority", "adversarial_majority"])
@pytest.mark.parametrize("parts", [1, 2])
def test_processes_share_p_and_reproduce_the_whole_batch(results, name, parts):
    (first, draw), (second, other) = results[0][name, parts], results[1][name, parts]
    assert draw == other
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    alone, _ = train(name)
    for distributed, single in zip(first, copy.deepcopy(alone), strict=True):
        torch.testing.assert_close(distributed, single, rtol=1e-4, atol=1e-5)
