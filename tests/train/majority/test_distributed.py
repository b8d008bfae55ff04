"""Two processes draw the same p and end in the weights of one process on the whole batch."""

import copy
import socket
import warnings

import pytest
import torch
import torch.multiprocessing
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from collegium import collapse, expand
from collegium.train.majority.kernel import majority_kernels
from collegium.train.methods import create

STEPS = 3
SHARDED = ("fully_shard", "FSDP", "FSDP with parameters")
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


def shard(model, kind):
    """``model`` sharded over the processes by one of three interfaces."""
    if kind == "fully_shard":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        for module in (model[0], model[2], model):
            fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
        return model
    from torch.distributed.fsdp import FullyShardedDataParallel

    options = {"device_id": torch.device("cpu"), "use_orig_params": kind == "FSDP with parameters"}
    return FullyShardedDataParallel(model, **options)


def full_state(running, kind):
    if kind == "fully_shard":
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        return get_model_state_dict(running, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    from torch.distributed.fsdp import FullyShardedDataParallel

    with FullyShardedDataParallel.summon_full_params(running):
        state = {name: value.clone() for name, value in running.state_dict().items()}
    return {name.replace("_fsdp_wrapped_module.", ""): value for name, value in state.items()}


def train_in_a_plain_loop(running, *, rank=0, world=1):
    """Every step's number, as the clock of the kernels has it."""
    optimizer = torch.optim.SGD(running.parameters(), lr=0.5, momentum=0.9)
    clock, steps = next(iter(majority_kernels(running).values())).clock, []
    for step in range(STEPS):
        batch = tuple(part.chunk(world)[rank] for part in data(step))
        optimizer.zero_grad()
        compute_loss(running, batch)[0].backward()
        steps.append(clock.step)
        optimizer.step()
    return steps


def train_sharded(kind, rank):
    """Steps, state, outputs in evaluation, and what ``collapse`` says of the shards."""
    warnings.simplefilter("ignore")  # of torch about its own interfaces
    running = shard(expand(network(), 3, seed=7), kind)
    steps = train_in_a_plain_loop(running, rank=rank, world=2)
    with torch.no_grad():
        outputs = running.eval()(data(9)[0])
    try:
        collapse(running)
        said = ""
    except ValueError as error:
        said = str(error)
    return steps, full_state(running, kind), outputs, said


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
        found |= {kind: train_sharded(kind, rank) for kind in SHARDED}
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


@pytest.mark.parametrize("kind", SHARDED)
def test_sharded_copies_are_drawn_in_every_step_and_take_the_steps_of_one_process(results, kind):
    steps, state, outputs, said = results[0][kind]
    assert steps == results[1][kind][0] == [0, 1, 2]
    assert "sharded" in said
    alone = expand(network(), 3, seed=7)
    train_in_a_plain_loop(alone)
    torch.testing.assert_close(state, dict(alone.state_dict()), rtol=1e-4, atol=1e-5)
    whole = expand(network(), 3, seed=1)
    whole.load_state_dict(state)
    torch.testing.assert_close(collapse(whole)(data(9)[0]), outputs)
