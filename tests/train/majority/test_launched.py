"""Updates of many kernels by one launch: on a GPU, or where Triton is installed and TRITON_INTERPRET=1 says so."""

import copy
import importlib.util
import os
import warnings

import pytest
import torch
from torch import nn

from collegium import clip_gradient_norm, expand, fuse
from collegium.train.majority import launched
from collegium.train.majority.draw import Draw, mix, spread
from collegium.train.majority.fused_kernel import FusedKernel
from collegium.train.majority.generators import philox
from collegium.train.majority.guards import gradient
from collegium.train.majority.kernel import majority_copies

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton") is not None
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (torch.cuda.is_available() or INTERPRETED), reason="needs a GPU, or Triton's interpreter"),
]
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.01}),
    "momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "maximize": True}),
    "nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "adam": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.01}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6}),
    "fused adam": (torch.optim.Adam, {"lr": 0.01, "fused": True}),
}
SEVERAL = [nn.Linear(70, 90), nn.ReLU(), nn.Linear(90, 33, bias=False), nn.ReLU(), nn.Linear(33, 3)]


@pytest.fixture(scope="module")
def device():
    """A GPU; or, with Triton's interpreter, the processor, whose tensors are then updated as a GPU's are."""
    if torch.cuda.is_available():
        with warnings.catch_warnings():  # of Triton, where it builds its launcher
            warnings.simplefilter("ignore")
            mix(torch.ones(3, 10, device="cuda"), Draw(0, 0, 0))
        yield torch.device("cuda")
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(philox, "runs_triton", lambda device: True)
        patch.setattr(gradient, "_WIDE", (*gradient._WIDE, torch.bfloat16))
        patch.setattr(FusedKernel, "on_processor", False)
        yield torch.device("cpu")


def network(device, e=3, layers=SEVERAL, dtype=torch.float32, **options):
    torch.manual_seed(0)
    model = nn.Sequential(*copy.deepcopy(layers)).to(device, dtype)
    return expand(model, e, seed=5, init="independent", **options)


def train(model, optimizer, steps=5, first=0, schedule=True):
    for step in range(first, first + steps):
        if schedule:
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (1 + step)
        loss(model, step).backward()
        optimizer.step()
        optimizer.zero_grad()


def loss(model, step):
    parameter = next(model.parameters())
    x = torch.randn(11, 70, generator=torch.Generator().manual_seed(step)).to(parameter)
    return (model(x) ** 2).mean()


def pair(device, kind, options, **named):
    """A model with a fused optimizer, and the same with torch's own."""
    one, other = network(device, **named), network(device, **named)
    return one, fuse(kind(one.parameters(), **options), one), other, kind(other.parameters(), **options)


def assert_alike(one, other, **tolerance):
    for (name, found), expected in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found, expected, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("e", [1, 2, 3, 6])
def test_one_launch_takes_the_steps_of_torchs_optimizers(device, name, e):
    kind, options = OPTIMIZERS[name]
    one, fast, other, plain = pair(device, kind, options, e=e)
    assert type(fast) is not kind
    assert all(kernel.leaf is not None for kernel, _ in majority_copies(one))
    train(one, fast)
    train(other, plain)
    assert_alike(one, other, rtol=2e-4, atol=3e-5)  # Adam's step of a gradient near zero is that of its rounding
    for index, found in fast.state_dict()["state"].items():
        expected = plain.state_dict()["state"].get(index, {})
        assert found.keys() == expected.keys()
        for key, value in found.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(value, expected[key], rtol=2e-3, atol=1e-6)
            else:
                assert value == expected[key]


@pytest.mark.parametrize("name", ["nesterov", "adamw"])
def test_double_precision_is_that(device, name):
    one, fast, other, plain = pair(device, *OPTIMIZERS[name], dtype=torch.float64)
    train(one, fast)
    train(other, plain)
    assert_alike(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["nesterov", "adamw"])
def test_bfloat16_is_rounded_where_it_is_stored(device, name):
    kind, options = OPTIMIZERS[name]
    one, fast, other, plain = pair(device, kind, options | {"fused": True}, dtype=torch.bfloat16)
    train(one, fast, 2)
    train(other, plain, 2)
    for found, expected in zip(one.parameters(), other.parameters(), strict=True):
        near = torch.isclose(found, expected, rtol=0.1, atol=0.02)
        assert near.float().mean() > 0.99  # Adam's step of a gradient near zero has the sign of its rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("e", [2, 3, 5])
def test_the_weight_of_the_next_step_is_what_mixing_gives(device, e, dtype):
    layers = [nn.Linear(70, 90), nn.Linear(90, 60), nn.Linear(60, 2)]
    model = network(device, e, layers, dtype)
    optimizer = fuse(torch.optim.Adam(model.parameters(), lr=0.01), model)
    train(model, optimizer, 2)
    for kernel, copies in majority_copies(model):
        assert torch.equal(kernel.leaf.tensor, mix(copies.detach(), kernel.draw))


@pytest.mark.parametrize("name", ["momentum", "adam", "fused adam"])
def test_a_resumed_run_is_the_whole_run(device, name):
    kind, options = OPTIMIZERS[name]
    one = network(device)
    fast = fuse(kind(one.parameters(), **options), one)
    train(one, fast, 3)
    model, state = copy.deepcopy(one.state_dict()), copy.deepcopy(fast.state_dict())
    train(one, fast, 4, first=3)
    other = network(device)
    resumed = fuse(kind(other.parameters(), **options), other)
    other.load_state_dict(model)
    resumed.load_state_dict(state)
    train(other, resumed, 4, first=3)
    assert_alike(one, other, rtol=0, atol=0)


def test_the_norm_is_that_of_the_gradients_of_all_copies(device):
    one, fast, other, plain = pair(device, torch.optim.SGD, {"lr": 0.1})
    for step in range(3):
        loss(one, step).backward()
        loss(other, step).backward()
        found = clip_gradient_norm(one, fast, 0.05)
        torch.testing.assert_close(found, nn.utils.clip_grad_norm_(other.parameters(), 0.05), rtol=1e-5, atol=0)
        for optimizer in (fast, plain):
            optimizer.step()
            optimizer.zero_grad()
    assert_alike(one, other, rtol=1e-5, atol=1e-7)


def test_the_norm_of_large_gradients_is_finite(device):
    model = network(device, layers=[nn.Linear(70, 40, bias=False)])
    optimizer = fuse(torch.optim.SGD(model.parameters(), lr=0.1), model)
    (loss(model, 0) * 1e25).backward()
    assert torch.isfinite(clip_gradient_norm(model, optimizer, 1.0))


def test_what_is_seen_of_a_gradient_is_applied_in_the_plain_way(device):
    """Between fused steps: a gradient that was read, two backward passes, one that is dropped, written data."""
    one, fast, other, plain = pair(device, torch.optim.Adam, {"lr": 0.01, "fused": True})
    for step in range(8):
        for model, optimizer in ((one, fast), (other, plain)):
            loss(model, step).backward()
            if step == 1:
                copies = majority_copies(model)[1][1]
                copies.grad.mul_(0.5)
            elif step == 3:
                loss(model, step + 100).backward()
            elif step == 4:
                optimizer.zero_grad()
                loss(model, step + 200).backward()
            elif step == 5:
                majority_copies(model)[0][1].data.mul_(0.9)
            optimizer.step()
            optimizer.zero_grad()
    assert_alike(one, other, rtol=2e-4, atol=2e-6)


def test_groups_and_kernels_without_a_gradient_keep_their_own_options(device):
    def groups(model):
        parameters = list(model.parameters())
        return [{"params": parameters[:2], "lr": 0.02, "weight_decay": 0.1}, {"params": parameters[2:], "eps": 1e-4}]

    one, other = network(device), network(device)
    fast, plain = fuse(torch.optim.AdamW(groups(one), lr=0.01), one), torch.optim.AdamW(groups(other), lr=0.01)
    for step in range(6):
        for model, optimizer in ((one, fast), (other, plain)):
            frozen = majority_copies(model)[2][1]
            frozen.requires_grad_(step != 2)  # counts a step less from here on
            loss(model, step).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert_alike(one, other, rtol=2e-4, atol=2e-6)


def test_steps_are_counted_without_waiting_for_the_device(device, monkeypatch):
    model = network(device)
    optimizer = fuse(torch.optim.Adam(model.parameters(), lr=0.01, fused=True), model)
    train(model, optimizer, 2, schedule=False)
    asked = []
    monkeypatch.setattr(launched, "float", lambda tensor: asked.append(tensor) or float(tensor.item()), raising=False)
    train(model, optimizer, 2, first=2, schedule=False)
    if device.type == "cuda":
        assert not asked
    counts = {float(state["step"]) for state in optimizer.state.values()}
    assert counts == {4.0}
    for state in optimizer.state.values():
        state["step"].fill_(9.0)  # as another than the optimizer may
    train(model, optimizer, 1, first=4, schedule=False)
    assert {float(state["step"]) for state in optimizer.state.values()} == {10.0}


def test_tables_are_drawn_chunk_by_chunk_and_are_not_fused_there(device):
    if device.type == "cpu":
        pytest.skip("a table is for processors")
    model = network(device, draws="table")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    assert type(fuse(optimizer, model)) is torch.optim.Adam
    train(model, optimizer, 2)


def test_a_model_goes_from_a_processor_to_a_gpu_and_back(device):
    if device.type == "cpu":
        pytest.skip("needs a GPU")
    model = network("cpu")
    optimizer = fuse(torch.optim.SGD(model.parameters(), lr=0.1), model)
    train(model, optimizer, 2)
    loss(model, 5).backward()
    model.to(device)
    optimizer.step()
    optimizer.zero_grad()
    train(model, optimizer, 2)
    for kernel, copies in majority_copies(model):
        assert kernel.leaf.tensor.device.type == "cuda"
        assert torch.equal(kernel.leaf.tensor, mix(copies.detach(), kernel.draw))
    model.to("cpu")
    train(model, optimizer, 2)
    for kernel, copies in majority_copies(model):
        assert torch.equal(kernel.leaf.tensor, mix(copies.detach(), kernel.draw))


def test_a_gradient_scaler_scales_the_gradients_of_the_copies(device):
    if device.type == "cpu":
        pytest.skip("needs a GPU")
    one, fast, other, plain = pair(device, torch.optim.Adam, {"lr": 0.01, "fused": True})
    for model, optimizer in ((one, fast), (other, plain)):
        scaler = torch.amp.GradScaler(init_scale=1024.0)
        for step in range(4):
            with torch.autocast("cuda", torch.float16):
                value = loss(model, step)
            scaler.scale(value).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    assert_alike(one, other, rtol=1e-3, atol=1e-4)


def test_a_large_kernel_and_many_small_ones_are_spread_as_one_by_one(device):
    shapes = [(1,), (1023,), (1024, 2), (4097,), (3, 5, 7)]
    gradients = [(torch.randn(shape).to(device), Draw(1, 2, index), 3) for index, shape in enumerate(shapes)]
    (found,) = launched.norms(gradients)
    expected = torch.stack([spread(g, draw, e).double().norm() for g, draw, e in gradients]).norm()
    torch.testing.assert_close(found, expected.to(found), rtol=1e-6, atol=0)


@pytest.mark.parametrize("fuses", [False, True])
def test_a_cuda_graph_is_not_given_one_draw_for_ever(device, fuses):
    if device.type == "cpu":
        pytest.skip("needs a GPU")
    model = network(device)
    if fuses:
        optimizer = fuse(torch.optim.SGD(model.parameters(), lr=0.1), model)
        train(model, optimizer, 2)
    x = torch.ones(4, 70, device=device)
    model(x)
    with pytest.raises(RuntimeError, match="one draw"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        model(x)
    model.eval()
    with torch.no_grad():
        expected, graph = model(x), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = model(x)
    graph.replay()
    torch.testing.assert_close(found, expected)
