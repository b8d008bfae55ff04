"""The pass in C draws the numbers that operators draw, and takes the optimizer's steps, whatever the sizes."""

import os
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from collegium.jobs.subprocesses import python
from collegium.train.majority.draw import CHUNK, Draw, mix, probabilities, spread
from collegium.train.majority.generators.uniforms import COLUMNS
from collegium.train.majority.native import passes
from collegium.train.majority.updates import Work, numbers

SIZES = [1, 2, 3, 1023, 1025, COLUMNS + 1, 20_001, CHUNK + 2 * COLUMNS + 5]
ADAM = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0, "maximize": False}
SGD = {"lr": 0.01, "momentum": 0.0, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0, "maximize": False}
GROUPS = {
    "adam": ADAM,
    "adam, decay, maximize": {**ADAM, "weight_decay": 0.01, "maximize": True},
    "adamw": {**ADAM, "weight_decay": 0.1, "decoupled_weight_decay": True},
    "sgd": {**SGD, "weight_decay": 0.1},
    "momentum": {**SGD, "momentum": 0.9, "dampening": 0.2, "maximize": True},
    "nesterov": {**SGD, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
}


def draw(step=5):
    return Draw(3, step, 7)


@pytest.mark.skipif(
    shutil.which(sysconfig.get_config_var("CC").split()[0]) is None, reason="there is no C compiler to build with"
)
def test_it_is_built():
    assert passes.is_built()


def test_it_can_be_turned_off():
    code = "from collegium.train.majority.native import passes; print(passes.is_built())"
    found = subprocess.run(
        [*python(), "-c", code], env={**os.environ, "COLLEGIUM_NATIVE": "0"}, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "False"


def test_what_cannot_be_loaded_is_done_without(monkeypatch):
    """As a package that another system has built."""

    def load(path):
        raise OSError("GLIBC_2.99 not found")

    monkeypatch.setattr(passes.ctypes, "CDLL", load)
    with pytest.warns(UserWarning, match="operator by operator: GLIBC_2.99 not found"):
        assert passes._library.__wrapped__() is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("expansion", [2, 3, 4, 5, 16])
def test_p_is_that_of_operators_bit_for_bit(request, expansion, dtype):
    sizes = SIZES if expansion < 5 else SIZES[:-1]
    gradients = [torch.randn(size, dtype=dtype) for size in sizes]
    found = [spread(gradient, draw(), expansion) for gradient in gradients]
    request.getfixturevalue("without_native")
    for gradient, shares in zip(gradients, found, strict=True):
        assert torch.equal(shares, spread(gradient, draw(), expansion))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("expansion", [2, 3, 5, 16])
@pytest.mark.parametrize("size", SIZES)
def test_mixing_is_the_sum_of_shares(size, expansion, dtype):
    copies = torch.randn(expansion, size, dtype=dtype)
    p = probabilities(draw(), expansion, (size,)).to(dtype)
    atol = {torch.float32: 2e-6, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(mix(copies, draw()), (p * copies).sum(0), rtol=0, atol=atol)
    equal = copies[:1].repeat(expansion, 1)
    assert torch.equal(mix(equal, draw()), copies[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("group", GROUPS)
def test_a_step_is_torch_s_with_the_shares_as_gradients(group, dtype):
    """Kernels of several sizes at once; the next mixture is that which ``mix`` makes, bit for bit."""
    torch.manual_seed(0)
    options, adam = GROUPS[group], "betas" in GROUPS[group]
    kind = torch.optim.SGD if not adam else torch.optim.AdamW if "adamw" in group else torch.optim.Adam
    known = {key: value for key, value in options.items() if key != "decoupled_weight_decay"}
    copies = [torch.randn(3, size, dtype=dtype) for size in SIZES]
    plain = [torch.nn.Parameter(each.clone()) for each in copies]
    optimizer = kind(plain, **known)
    states = [[torch.zeros_like(each) for _ in range(2 if adam else options["momentum"] > 0)] for each in copies]
    targets = [torch.empty(size, dtype=dtype) for size in SIZES]
    for step in range(1, 4):
        gradients = [torch.randn(size, dtype=dtype) for size in SIZES]
        for parameter, gradient in zip(plain, gradients, strict=True):
            parameter.grad = spread(gradient, draw(step), 3)
        optimizer.step()
        given = numbers(options, {"first": True} if step == 1 and not adam else {}, step)
        passes.update(
            Work(adam, gradient, target, [each, *state], draw(step), draw(step + 1), given)
            for gradient, target, each, state in zip(gradients, targets, copies, states, strict=True)
        )
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    for parameter, each, target in zip(plain, copies, targets, strict=True):
        torch.testing.assert_close(each, parameter.detach(), rtol=tolerance, atol=tolerance)
        assert torch.equal(target, mix(each, draw(4)))


def test_threads_change_no_bit():
    """Neither those that share an operator nor those that compute at the same time."""
    copies, gradient = torch.randn(3, 100_003), torch.randn(100_003)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append((mix(copies, draw()), spread(gradient, draw(), 3), passes.norm(gradient, draw(), 3)))
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(mix, copies, draw()) for _ in range(16)]
            assert all(torch.equal(job.result(), found[0][0]) for job in jobs)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for each in found[1:] for one, other in zip(each, found[0], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_norms_are_those_of_the_shares(size, dtype):
    gradient = torch.randn(size, dtype=dtype)
    shares = spread(gradient, draw(), 3).double()
    with torch.device("meta"):  # as where GPUs are the default
        norm = passes.norm(gradient, draw(), 3)
    assert (norm.dtype, norm.device) == (dtype, gradient.device)
    torch.testing.assert_close(norm.double(), shares.norm(), rtol=1e-6, atol=0)


def test_an_infinite_gradient_is_infinite_for_all_copies():
    shares = spread(torch.full((100,), torch.inf), draw(), 3)
    assert torch.isposinf(shares).all()


@pytest.mark.parametrize("expansion", [1, 17])
def test_copies_that_it_does_not_take_are_mixed_by_operators(expansion):
    copies = torch.randn(expansion, 50)
    assert not passes.takes(draw(), expansion, copies)
    p = probabilities(draw(), expansion, (50,))
    torch.testing.assert_close(mix(copies, draw()), (p * copies).sum(0), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "gradient",
    {
        "half": torch.ones(6, dtype=torch.bfloat16),
        "negated": torch.complex(torch.ones(6), torch.ones(6)).conj().imag,
        "zero": torch._efficientzerotensor(6),
        "strided": torch.ones(6, 2)[:, 0],
        "expanded": torch.ones(()).expand(6),
        "sparse": torch.ones(6).to_sparse(),
        "empty": torch.ones(0),
    }.values(),
    ids=str,
)
def test_gradients_of_every_form_are_spread(gradient):
    dense = gradient.to_dense() if gradient.layout != torch.strided else gradient
    wanted = probabilities(draw(), 3, dense.shape) * dense.float().clone()
    torch.testing.assert_close(spread(gradient, draw(), 3).float(), wanted, rtol=0.01, atol=0)
