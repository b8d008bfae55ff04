"""p has the flat Dirichlet's law, depends on its key alone, and is never formed to mix or to spread."""

import gc
import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from collegium import expand, fuse
from collegium.train.majority import draw as drawing
from collegium.train.majority.draw import CHUNK, Draw, mix, probabilities, spread
from collegium.train.majority.generators import philox
from collegium.train.majority.generators.uniforms import (
    COLUMNS,
    PERIOD,
    STRIDES,
    chunk_length,
    comparisons,
    hashed_counters,
    sorted_uniforms,
)

EXPANSIONS = range(2, 9)


def copies_like(expansion, *shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(expansion)
    return torch.randn(expansion, *shape, generator=generator).to(dtype)


@pytest.mark.parametrize("e", EXPANSIONS)
def test_p_lies_on_the_simplex(e):
    p = probabilities(Draw(1, 2, 3), e, (100, 7))
    assert p.min() >= 0
    torch.testing.assert_close(p.sum(0), torch.ones(100, 7), rtol=0, atol=3e-7)


@pytest.mark.parametrize("e", EXPANSIONS)
def test_moments_over_elements_are_those_of_the_flat_dirichlet(e):
    """E p = 1/e, Var p = (e−1)/(e²(e+1)), Cov(p_j, p_k) = −1/(e²(e+1)), E p³ = 6/(e(e+1)(e+2))."""
    n = 3 * CHUNK
    p = probabilities(Draw(5, 0, 0), e, (n,)).double()
    spread_of_p = math.sqrt((e - 1) / (e * e * (e + 1)))
    assert (p.mean(1) - 1 / e).abs().max() < 5 * spread_of_p / math.sqrt(n)
    covariance = torch.cov(p) * e * e * (e + 1)
    expected = e * torch.eye(e, dtype=torch.float64) - 1
    assert (covariance - expected).abs().max() < 0.05 * e
    assert (p.pow(3).mean(1) * e * (e + 1) * (e + 2) / 6 - 1).abs().max() < 0.05


@pytest.mark.parametrize("e", [2, 3, 5])
def test_moments_over_steps_are_those_of_the_flat_dirichlet_for_one_element(e):
    steps = 4000
    p = torch.stack([probabilities(Draw(9, step, 1), e, (4,)) for step in range(steps)]).double()  # (steps, e, 4)
    assert (p.mean(0) - 1 / e).abs().max() < 5 * math.sqrt((e - 1) / (e * e * (e + 1)) / steps)
    assert (p.var(0) * e * e * (e + 1) / (e - 1) - 1).abs().max() < 0.15
    lagged = torch.corrcoef(torch.stack([p[:-1, 0, 0], p[1:, 0, 0], p[:-1, 0, 1]]))
    assert (lagged - torch.eye(3, dtype=torch.float64)).abs().max() < 5 / math.sqrt(steps)  # steps, neighbours


@pytest.mark.parametrize("e", [2, 3])
def test_weighted_sums_over_elements_have_the_variance_of_independent_draws(e):
    steps, n = 3000, 2048
    weights = torch.randn(n, generator=torch.Generator().manual_seed(7))
    sums = torch.stack([probabilities(Draw(4, step, 2), e, (n,)) @ weights for step in range(steps)]).double()
    independent = weights.square().sum() * (e - 1) / (e * e * (e + 1))
    assert (sums.var(0) / independent - 1).abs().max() < 0.2
    assert (sums.mean(0) - weights.sum() / e).abs().max() < 5 * math.sqrt(independent / steps)


def test_the_first_copy_is_distributed_as_the_least_spacing_of_uniforms():
    """P(p_1 > t) = (1 − t)^{e−1}."""
    for e in (2, 3, 6):
        p = probabilities(Draw(3, 1, 4), e, (2 * CHUNK,))
        for t in (0.1, 0.3, 0.6):
            for k in (0, e - 1):
                assert abs(float((p[k] > t).double().mean()) - (1 - t) ** (e - 1)) < 0.01


def test_equal_keys_give_equal_numbers_and_other_keys_others():
    one = probabilities(Draw(1, 2, 3), 3, (50,))
    assert torch.equal(one, probabilities(Draw(1, 2, 3), 3, (5, 10)).flatten(1))
    for other in (Draw(2, 2, 3), Draw(1, 3, 3), Draw(1, 2, 4), Draw(1, -2, 3)):
        assert not torch.isclose(one, probabilities(other, 3, (50,))).all(1).any()


def test_chunks_of_one_draw_differ():
    p = probabilities(Draw(1, 2, 3), 3, (2 * CHUNK,))
    assert abs(float(torch.corrcoef(torch.stack([p[0, :CHUNK], p[0, CHUNK:]]))[0, 1])) < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("e", [1, 2, 3, 8])
def test_mixing_and_spreading_apply_p(e, dtype):
    copies, draw = copies_like(e, 6, 5, dtype=dtype), Draw(0, 1, 2)
    p = probabilities(draw, e, (6, 5)).double()
    tolerance = 8 * torch.finfo(dtype).eps if dtype != torch.float64 else 1e-6  # p itself is looked at in float32
    mixed = mix(copies, draw)
    assert mixed.dtype == dtype
    torch.testing.assert_close(mixed.double(), (p * copies.double()).sum(0), rtol=0, atol=4 * tolerance)
    gradient = copies[0]
    shares = spread(gradient, draw, e)
    torch.testing.assert_close(shares.double(), p * gradient.double(), rtol=0, atol=4 * tolerance)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 2**64), st.integers(-(2**40), 2**40))
def test_spreading_is_the_adjoint_of_mixing(e, n, seed, step):
    copies, gradient, draw = (
        copies_like(e, n, dtype=torch.float64),
        torch.linspace(-1, 1, n).double(),
        Draw(seed, step, 0),
    )
    left = (mix(copies, draw) * gradient).sum()
    torch.testing.assert_close(left, (copies * spread(gradient, draw, e)).sum())


def test_shares_sum_to_the_gradient():
    gradient = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(spread(gradient, Draw(0, 0, 0), 5).sum(0), gradient)


def test_results_go_where_they_are_asked_to_go():
    copies, draw = copies_like(3, CHUNK + 10), Draw(0, 0, 0)
    out = torch.empty(CHUNK + 10)
    assert mix(copies, draw, out=out) is out
    assert torch.equal(out, mix(copies, draw))
    strided = copies.transpose(1, 1).repeat(1, 2)[:, : CHUNK + 10]
    assert torch.equal(mix(strided, draw), out)


def test_threads_do_not_disturb_one_another():
    """Scratch memory is a thread's own."""
    draws = [Draw(1, step, 0) for step in range(40)]
    alone = [probabilities(draw, 3, (70_000,)) for draw in draws]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda draw: probabilities(draw, 3, (70_000,)), draws))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_numbers_do_not_depend_on_what_was_drawn_before():
    first = probabilities(Draw(1, 2, 3), 4, (1000,))
    for e, n in ((2, CHUNK + 3), (9, 1001), (4, 17)):
        probabilities(Draw(1, 2, 3), e, (n,))
    assert torch.equal(probabilities(Draw(1, 2, 3), 4, (1000,)), first)


@pytest.mark.parametrize("count", range(13))
def test_the_comparisons_sort_everything(count):
    """A network that sorts all sequences of zeros and ones sorts all sequences (Knuth 5.3.4)."""
    sequences = torch.cartesian_prod(*[torch.tensor([0, 1])] * count).reshape(-1, count).T if count else torch.empty(0)
    rows = list(sequences)
    for upper, lower in comparisons(count):
        rows[upper], rows[lower] = torch.maximum(rows[upper], rows[lower]), torch.minimum(rows[upper], rows[lower])
    for upper, lower in pairwise(rows):
        assert (upper >= lower).all()


@pytest.mark.parametrize("count", range(1, 9))
def test_the_numbers_of_a_chunk_are_halves_of_the_words_that_its_key_looks_up(count):
    """In NumPy, as ``uniforms`` describes them: none is lost or repeated on the way through the comparisons."""
    n, draw = 3 * COLUMNS + 5, Draw(4, 5, 6)
    shift, first, second = ((hashed_counters(stream) >> 32).numpy().astype(np.uint32) for stream in (102, 101, 103))
    keys, halves = draw.words(2, count + 1), []
    row, column = np.divmod(np.arange(n), COLUMNS)
    for place, factor in zip(keys[::2], keys[1::2], strict=False):
        b, a, c = (
            table[((place >> bits) % PERIOD + stride * row + column) % PERIOD]
            for table, bits, stride in zip((shift, first | 1, second | 1), (0, 20, 40), STRIDES, strict=True)
        )
        words = (b + np.uint32(factor & 0xFFFFFFFF | 1) * a * c).astype(np.uint32)
        halves += [*words.view(np.int16).reshape(2, n)]
    expected = -np.sort(-(np.stack(halves[:count]) / 2**16 + 0.5 + 2**-17), axis=0)
    found = sorted_uniforms(draw, 2, count, n, torch.float64)
    np.testing.assert_array_equal(torch.stack(found.rows).numpy(), expected)


@given(st.integers(1, 5 * CHUNK))
def test_chunks_of_a_kernel_are_alike(n):
    length = chunk_length(n)
    lengths = [len(part) for part in torch.empty(n, device="meta").split(length)]
    assert max(lengths) <= CHUNK
    assert lengths[0] - lengths[-1] < len(lengths) * COLUMNS


def reference(draw, e, n):
    """p of Philox-4x32-10 (Salmon et al. 2011) in NumPy, as ``triton_kernels`` describes it; float64."""
    share, block, i = max(1, 4 // (e - 1)), 1024, np.arange(n)
    counter, place = i // (block * share) * block + i % block, i // block % share
    calls = [
        philox_words(draw.state & (1 << 62) - 1 | 1 << 62, counter, call) for call in range(-(-share * (e - 1) // 4))
    ]
    words, rest, p = np.concatenate(calls), np.ones(n), []
    for k in range(e - 1):
        uniform = ((words[place * (e - 1) + k, i] >> np.uint64(8)).astype(float) + 0.5) / 2**24
        q = uniform ** (1 / (e - 1 - k))
        p.append(rest * (1 - q))
        rest = rest * q
    return torch.from_numpy(np.stack([*p, rest]))


def philox_words(key, counter, call):
    low, keys = np.uint64(0xFFFFFFFF), [key & 0xFFFFFFFF, key >> 32]
    first = counter.astype(np.uint64)
    x = [first, np.full_like(first, call), np.zeros_like(first), np.zeros_like(first)]
    for _ in range(10):
        one, two = x[0] * np.uint64(0xD2511F53), x[2] * np.uint64(0xCD9E8D57)
        left, right = ((product >> np.uint64(32)) for product in (two, one))
        x = [left ^ x[1] ^ np.uint64(keys[0]), two & low, right ^ x[3] ^ np.uint64(keys[1]), one & low]
        keys = [(keys[0] + 0x9E3779B9) & 0xFFFFFFFF, (keys[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(x)


def test_the_reference_is_philox():
    """The known answer of Random123 for a counter and a key of zeros."""
    words = philox_words(0, np.zeros(1), 0)[:, 0]
    assert [hex(word) for word in words] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]


@pytest.fixture
def triton(monkeypatch):
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
    philox._triton_compiles.cache_clear()
    yield
    philox._triton_compiles.cache_clear()


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("compiler", [True, False])
def test_a_gpu_compiles_only_where_a_compiler_and_headers_are(triton, monkeypatch, tmp_path, compiler, header):
    """Triton is there in images without a compiler, and fails in its first kernel."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda *_: str(tmp_path))
    if compiler:
        (tmp_path / "gcc").touch(0o755)
    if header:
        (tmp_path / "Python.h").touch()
    assert philox.runs_triton(torch.device("cuda:0")) == (compiler and header)


@pytest.fixture
def whole(monkeypatch, without_native):
    """Draws on a processor as on an accelerator without Triton."""
    monkeypatch.setattr(drawing, "_in_chunks", lambda draw, flat: draw.source == "table")


@pytest.mark.parametrize("e", [2, 3, 5])
def test_without_triton_a_whole_tensor_has_the_same_law(whole, e):
    n, draw = 100_000, Draw(5, 0, 0)
    p = probabilities(draw, e, (n,)).double()
    covariance = torch.cov(p) * e * e * (e + 1)
    assert (covariance - (e * torch.eye(e, dtype=torch.float64) - 1)).abs().max() < 0.05 * e
    copies = copies_like(e, n)
    torch.testing.assert_close(mix(copies, draw).double(), (p * copies).sum(0), rtol=0, atol=2e-6)
    assert torch.equal(probabilities(draw, e, (n,)).double(), p)
    assert not torch.isclose(probabilities(Draw(5, 1, 0), e, (n,)).double(), p).all(1).any()


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def built():
    """Triton is imported and has built its launcher, which warns of matters of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probabilities(Draw(0, 0, 0), 3, (10,), "cuda")
        gc.collect()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("e", [2, 3, 4, 8])
def test_a_gpu_draws_the_numbers_of_philox(built, e):
    if not philox.runs_triton(torch.device("cuda")):
        pytest.fail("Triton cannot build its kernels here: install a C compiler and Python's headers")
    n, draw = 5000, Draw(8, 9, 10)
    expected = reference(draw, e, n)
    torch.testing.assert_close(probabilities(draw, e, (n,), "cuda").cpu().double(), expected, rtol=0, atol=1e-6)
    copies = copies_like(e, n)
    mixed = mix(copies.cuda(), draw).cpu().double()
    torch.testing.assert_close(mixed, (expected * copies).sum(0), rtol=0, atol=3e-6)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("compiles", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_gpu_spreads_what_it_mixes_and_repeats_itself(built, monkeypatch, compiles, dtype):
    monkeypatch.setattr(philox, "runs_triton", lambda device: compiles and philox._triton_compiles())
    draw, copies = Draw(8, 9, 10), copies_like(3, 3001).cuda().to(dtype)
    p = spread(torch.ones_like(copies[0]), draw, 3)
    assert torch.equal(p, spread(torch.ones_like(copies[0]), draw, 3))
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-12, torch.bfloat16: 0.05}[dtype]
    torch.testing.assert_close(mix(copies, draw), (p * copies).sum(0), rtol=0, atol=tolerance)


def test_memory_that_inference_mode_has_made_is_written_outside_of_it():
    def first_in_its_thread():
        with torch.inference_mode():
            found = probabilities(Draw(0, 0, 0), 4, (5,))
        return found.clone(), probabilities(Draw(0, 0, 0), 4, (5,))

    with ThreadPoolExecutor(1) as pool:
        one, other = pool.submit(first_in_its_thread).result()
    assert torch.equal(one, other)


@pytest.mark.parametrize("source", ["independent", "table"])
def test_tensors_without_memory_draw_nothing(source):
    def first_in_its_thread():
        with FakeTensorMode():
            model = expand(torch.nn.Linear(4, 2), 3, seed=0, draws=source)
            optimizer = fuse(torch.optim.Adam(model.parameters()), model)
            for _ in range(2):
                model(torch.ones(1, 4)).sum().backward()
                optimizer.step()
            assert model.parametrizations.weight.original.grad.shape == (3, 2, 4)
        return probabilities(Draw(0, 0, 0, source), 3, (5,))

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(first_in_its_thread).result()
    assert torch.equal(found, probabilities(Draw(0, 0, 0, source), 3, (5,)))
