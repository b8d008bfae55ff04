import pytest
import torch
from scipy import stats

from collegium.search.sampling.normals import CHUNK, FEWEST, NormalStream


def stream(seed=0, device="cpu"):
    return NormalStream(torch.Generator(device).manual_seed(seed))


@pytest.mark.parametrize(("size", "dtype"), [(2_000_000, torch.float32), (1000, torch.float32), (9000, torch.float64)])
def test_numbers_are_standard_normal(size, dtype):
    drawn = stream(1).fill(torch.full((size,), torch.nan, dtype=dtype)).double()
    assert drawn.isfinite().all()
    assert stats.kstest(drawn.numpy(), "norm").pvalue > 0.01
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(drawn.pow(power).mean() - moment) < 4 * (variance / size) ** 0.5


def test_the_tails_are_there():
    drawn = torch.stack([stream(seed).fill(torch.empty(CHUNK)) for seed in range(60)])
    beyond = (drawn.abs() > 4).sum().item()
    assert abs(beyond - drawn.numel() * 2 * stats.norm.sf(4)) < 4 * (drawn.numel() * 2 * stats.norm.sf(4)) ** 0.5
    assert drawn.abs().max() < 5.5


def test_numbers_are_independent():
    first, second = (stream(2).fill(torch.empty(400_000)).double(), stream(3).fill(torch.empty(400_000)).double())
    for other in (second, first.roll(1), first.roll(2), first.roll(CHUNK)):
        for power in (1, 2):
            correlation = torch.corrcoef(torch.stack([first**power, other**power]))[0, 1]
            assert abs(correlation) < 4 / 400_000**0.5


@pytest.mark.parametrize("size", [FEWEST - 1, FEWEST, CHUNK + 1])
def test_the_generator_alone_decides(size):
    def draws(seed):
        numbers = stream(seed)
        return [numbers.fill(torch.empty(size)).clone() for _ in range(2)]

    (a, b), (c, d), (e, _) = draws(4), draws(4), draws(5)
    assert torch.equal(a, c)
    assert torch.equal(b, d)
    assert not torch.equal(a, b)
    assert not torch.equal(a, e)


def test_a_generator_gives_ever_new_streams():
    generator = torch.Generator().manual_seed(6)
    one, other = (NormalStream(generator).fill(torch.empty(FEWEST)) for _ in range(2))
    assert not torch.equal(one, other)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_an_accelerator_fills_its_own_tensors():
    drawn = stream(7, "cuda").fill(torch.empty(100_000, device="cuda"))
    assert abs(drawn.mean().item()) < 4 / 100_000**0.5
