"""p of one element says nothing of another: pairs, triples, sums and repetitions, within and between draws."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from collegium.train.majority.draw import CHUNK, Draw, mix, probabilities
from collegium.train.majority.generators.uniforms import COLUMNS, PERIOD, STRIDES

CELLS = 16  # a side of the contingency tables
MANY_SIGMAS = 5.5  # of one of a few hundred statistics: a false alarm in some 10^5 runs, if seeds were not fixed


def uniforms(draw, e, n):
    """p by the probability integral transform: e − 1 rows, uniform and independent for the flat Dirichlet.

    Row k is (1 − p_k / (1 − p_1 − … − p_{k−1}))^{e−k}, whose law is that of the last spacing's remainder.
    """
    p, left, rows = probabilities(draw, e, (n,)).double(), torch.ones(n, dtype=torch.float64), []
    for k in range(e - 1):
        rows.append((1 - p[k] / left.clamp_min(1e-12)).clamp(0, 1) ** (e - 1 - k))
        left = left - p[k]
    return torch.stack(rows)


def sigmas(*rows, cells=CELLS):
    """How many standard deviations the χ² of the cells of ``rows``, jointly, is above its mean."""
    index = torch.zeros_like(rows[0], dtype=torch.int64)
    for row in rows:
        index = index * cells + (row * cells).long().clamp_max(cells - 1)
    counts = torch.bincount(index, minlength=cells ** len(rows)).double()
    expected = counts.mean()
    freedom = len(counts) - 1
    return float(((counts - expected).square().sum() / expected - freedom) / math.sqrt(2 * freedom))


@pytest.mark.parametrize("e", range(2, 17))
def test_marginals(e):
    """Each copy's p against Beta(1, e − 1), by Kolmogorov and Smirnov."""
    p = probabilities(Draw(1, e, 0), e, (40_000,)).numpy()
    assert min(stats.kstest(row, stats.beta(1, e - 1).cdf).pvalue for row in p) > 1e-5


@pytest.mark.parametrize("e", range(2, 17))
def test_pairs_of_copies(e):
    rows = uniforms(Draw(2, 1, e), e, 100_000)
    found = [sigmas(rows[j], rows[k]) for j in range(e - 1) for k in range(j)]
    assert max(found, default=0) < MANY_SIGMAS


@pytest.mark.parametrize("e", [2, 3, 16])
def test_pairs_of_elements_within_a_row_and_between_rows(e):
    """Of a kernel of 512 columns that covers more than one chunk."""
    n = 2 * CHUNK
    rows = uniforms(Draw(3, 5, 1), e, n)
    for lag in (1, 2, 3, 8, 64, 511, 512, 513, 4096, CHUNK // 2, CHUNK - 1, CHUNK, CHUNK + 1):
        for row in (rows[0], rows[-1]):
            assert abs(sigmas(row[:-lag], row[lag:])) < MANY_SIGMAS
        assert abs(sigmas(rows[0][:-lag], rows[-1][lag:])) < MANY_SIGMAS


def test_triples_of_elements():
    row = uniforms(Draw(3, 5, 2), 3, 3 * CHUNK)[0]
    for one, two in ((1, 2), (1, 512), (512, 513), (512, 1024), (2, 4), (CHUNK, CHUNK + 1), (CHUNK, 2 * CHUNK)):
        n = len(row) - two
        assert abs(sigmas(row[:n], row[one : one + n], row[two:], cells=8)) < MANY_SIGMAS


def test_words_that_share_an_entry_of_a_table_are_independent():
    """Rows of a chunk read windows that overlap: pairs, and triples that share one entry or two."""
    rows = uniforms(Draw(3, 5, 1), 3, CHUNK)
    shared = [2 * (COLUMNS - stride) for stride in STRIDES]  # two numbers a word
    for lag in (*shared, *(lag + 1 for lag in shared), 2 * shared[0], 3 * shared[1], 5 * shared[2]):
        for row in rows:
            assert abs(sigmas(row[:-lag], row[lag:])) < MANY_SIGMAS
    both = uniforms(Draw(3, 6, 1), 2, 2 * CHUNK)[0][:CHUNK]
    for one, two in ((shared[0], 2 * shared[0]), (shared[0], shared[1]), (shared[1], shared[0] + shared[1])):
        n = CHUNK - max(one, two)
        assert abs(sigmas(both[:n], both[one : one + n], both[two : two + n], cells=8)) < MANY_SIGMAS


def test_no_number_of_a_chunk_is_correlated_with_another():
    """All lags at once, for the leading bits and for the ones behind them."""
    row = uniforms(Draw(3, 7, 1), 2, CHUNK)[0]
    for part in (row, row * 64 % 1, row * 4096 % 1):
        spectrum = torch.fft.rfft(part - part.mean())
        correlations = torch.fft.irfft(spectrum * spectrum.conj(), CHUNK)
        assert correlations[1:].abs().max() / correlations[0] < 6.5 / math.sqrt(CHUNK)


@pytest.mark.parametrize("other", [Draw(7, 1, 1), Draw(7, 2, 0), Draw(8, 1, 0), Draw(7, -1, 0)])
def test_kernels_and_steps_share_no_numbers_shifted_or_not(other):
    """All circular shifts at once: the largest of n correlations of independent rows is about √(2 ln n / n)."""
    n = CHUNK
    one, two = (torch.fft.rfft(uniforms(draw, 3, n) - 0.5) for draw in (Draw(7, 1, 0), other))
    for left in one:
        for right in two:
            correlations = torch.fft.irfft(left * right.conj(), n) * 12 / n
            assert correlations.abs().max() < 6.5 / math.sqrt(n)


def test_a_kernel_s_chunks_and_rows_do_not_repeat():
    """Three neighbouring values of one copy come once among 4096 rows of 256 numbers."""
    values = (probabilities(Draw(9, 3, 4), 2, (4096 * 256,))[0].double() * 2**17).long()
    patterns = (values[:-2] << 34) | (values[1:-1] << 17) | values[2:]
    # of n patterns of 48 bits, n² / 2^49 pairs are expected to agree by chance: about 0.002
    assert len(patterns.unique()) == len(patterns)


def test_two_copies_do_not_return_to_a_pattern():
    """In 20 000 steps; four values have 64 bits."""
    found = {tuple(probabilities(Draw(0, step, 0), 2, (4,))[0].tolist()) for step in range(20_000)}
    assert len(found) == 20_000


@pytest.mark.parametrize("e", [2, 3, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["equal", "positive"])
def test_sums_of_positive_weights_over_a_chunk_vary_as_those_of_independent_draws(e, kind):
    """Var Σ w_i p_i = Σ w_i² (e − 1) / (e² (e + 1)), to 5 of its standard errors √(2 / steps)."""
    steps, n = 200, CHUNK
    weights = torch.ones(n) if kind == "equal" else torch.rand(n, generator=torch.Generator().manual_seed(1))
    copies = torch.zeros(e, n)
    copies[0] = weights
    sums = torch.stack([mix(copies, Draw(4, step, 2)).double().sum() for step in range(steps)])
    independent = float(weights.double().square().sum()) * (e - 1) / (e * e * (e + 1))
    assert abs(float(sums.var()) / independent - 1) < 5 * math.sqrt(2 / steps)
    assert abs(float(sums.mean() - weights.double().sum() / e)) < 5 * math.sqrt(independent / steps)


def test_a_sum_is_normal_as_the_sum_of_independent_numbers_is():
    """Skewness and kurtosis see whether more than pairs are joined."""
    e, n, steps = 3, 2048, 1500
    copies = torch.zeros(e, n)
    copies[1] = 1
    sums = np.array([float(mix(copies, Draw(5, step, 2)).double().sum()) for step in range(steps)])
    assert abs(stats.skew(sums)) < 5 * math.sqrt(6 / steps)
    assert abs(stats.kurtosis(sums)) < 5 * math.sqrt(24 / steps)


def test_elements_over_steps_are_independent():
    """A few elements of two kernels, in 4000 steps."""
    steps = 4000
    found = torch.stack(
        [torch.cat([uniforms(Draw(6, step, kernel), 2, 3)[0] for kernel in (0, 1)]) for step in range(steps)]
    )
    for i in range(6):
        assert abs(sigmas(found[:-1, i], found[1:, i], cells=8)) < MANY_SIGMAS
        for j in range(i):
            assert abs(sigmas(found[:, i], found[:, j], cells=8)) < MANY_SIGMAS


def test_what_the_table_has_instead():
    """The option's documented limits: equal weights, and numbers that return shifted."""
    copies = torch.zeros(2, PERIOD)
    copies[0] = 1
    sums = torch.stack([mix(copies, Draw(4, step, 2, source="table")).double().sum() for step in range(30)])
    assert float(sums.std()) < 0.01 * math.sqrt(PERIOD / 12)
    one, two = (uniforms_of_a_table(step) for step in (1, 2))
    correlations = torch.fft.irfft(torch.fft.rfft(one) * torch.fft.rfft(two).conj(), PERIOD) * 12 / PERIOD
    assert float(correlations.max()) > 0.999


def uniforms_of_a_table(step):
    return probabilities(Draw(7, step, 0, source="table"), 2, (PERIOD,))[0].double() - 0.5
