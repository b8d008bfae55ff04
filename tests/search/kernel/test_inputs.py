"""Inputs as Gram matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from collegium.search.kernel.inputs import (
    Gram,
    KernelInputs,
    check_gram,
    correlation_gram,
    is_diagonal,
    mean_patch_gram,
    patch_gram,
)
from collegium.search.kernel.receptive_field import Window
from collegium.search.networks.chain import Chain, WeightLayer
from collegium.search.networks.network import Stem
from collegium.search.spec import InputsSpec, PairSpec


def test_default_correlation_is_that_of_natural_images(bottleneck):
    gram = KernelInputs().gram_over(bottleneck, "unit").matrix
    assert gram.shape == (9, 9)
    assert gram[0, :3] == pytest.approx([2.0, 2 * 0.95, 2 * 0.95**2])
    assert gram[0, 4] == pytest.approx(2 * 0.95 ** np.sqrt(2))


def test_pooled_entries_see_the_whole_map(bottleneck):
    assert KernelInputs(correlation=0.5).gram_over(bottleneck, "pooled").matrix.shape == (64, 64)


@given(st.floats(0, 1), st.integers(1, 5), st.integers(1, 5))
def test_correlations_give_gram_matrices(correlation, height, width):
    gram = correlation_gram(correlation, height, width)
    assert np.diag(gram) == pytest.approx(2.0)
    assert np.linalg.eigvalsh(gram)[0] >= -1e-9


def test_no_correlation_is_white_noise():
    assert np.array_equal(correlation_gram(0.0, 2, 2), 2 * np.eye(4))


def test_a_given_gram_is_taken_as_it_is(bottleneck):
    rows = tuple(map(tuple, (np.eye(9) * 3 + 1).tolist()))
    inputs = KernelInputs.of(InputsSpec(gram=rows), bottleneck, "unit")
    assert np.array_equal(inputs.gram_over(bottleneck, "unit").matrix, np.eye(9) * 3 + 1)


@pytest.mark.parametrize(
    ("gram", "message"),
    [
        ([[1.0, 0.0]], "not square"),
        ([[1.0, 0.0], [0.0]], "not square"),
        ([[1.0]], "sees 2 input positions"),
        ([[0.0, 0.0], [0.0, 0.0]], "is zero"),
        ([[1.0, 0.5], [0.2, 1.0]], "not symmetric"),
        ([[1.0, 2.0], [2.0, 1.0]], "not positive semi-definite"),
    ],
)
def test_what_is_no_gram_matrix_is_refused(gram, message):
    with pytest.raises(ValueError, match=message):
        check_gram(gram, 2)


@pytest.mark.parametrize(
    ("gram", "message"),
    [
        ([np.eye(2)], "1 Gram matrix is given, .* the first layer has 2 groups"),
        ([np.eye(2)] * 3, "3 Gram matrices are given, .* the first layer has 2 groups"),
        ([[[1.0, 0.0]], np.eye(2)], "group 0: the Gram matrix is not square"),
        ([np.eye(2), [[1.0, 0.0], [0.0]]], "group 1: the Gram matrix is not square"),
        ([np.eye(2), np.eye(3)], "group 1: .* sees 2 input positions"),
        ([np.eye(2), [[1.0, 2.0], [2.0, 1.0]]], "group 1: .* not positive semi-definite"),
        (np.zeros((2, 2, 2)), "all Gram matrices are zero"),
    ],
)
def test_what_is_no_gram_matrix_for_each_group_is_refused(gram, message):
    with pytest.raises(ValueError, match=message):
        check_gram(gram, 2, 2)


def test_each_group_may_have_a_gram_matrix_of_its_own():
    given = [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]
    gram = check_gram(given, 2, 2)
    assert gram.grouped
    assert gram.rows() == given
    assert Gram(gram.rows()) == gram
    assert check_gram(gram, 2, 2) is gram
    assert not check_gram(given[:1], 2).grouped  # of one group it is the whole input's
    with pytest.raises(ValueError, match=r"2 Gram matrices are given, .* the first layer has 1 group:"):
        check_gram(gram, 2)


def test_equal_groups_are_assumed_where_nothing_is_given_of_each(bottleneck):
    grouped = Chain(4, 1, 1, (WeightLayer("conv", 4, groups=2), WeightLayer("conv", 1, "linear")), ())
    one, each = Gram([[2.0]]), Gram([[[2.0]], [[1.0]]])
    assert grouped.first_groups == 2
    assert KernelInputs().assumes_equal_groups(grouped)
    assert KernelInputs(gram=one).assumes_equal_groups(grouped)
    assert not KernelInputs(gram=each).assumes_equal_groups(grouped)
    assert not KernelInputs().assumes_equal_groups(bottleneck)


def test_patches_of_each_group(basic):
    grams = np.stack([correlation_gram(0.7, 5, 5), correlation_gram(0.1, 5, 5)])
    together = patch_gram(basic, "unit", grams)
    assert together == pytest.approx(np.stack([patch_gram(basic, "unit", gram) for gram in grams]))


def test_images_have_a_gram_matrix_for_each_group_of_channels():
    rng = np.random.default_rng(3)
    white, flat = rng.standard_normal((200, 2, 6, 6)), 2 * rng.standard_normal((200, 2, 1, 1)) * np.ones((6, 6))
    images, window = np.concatenate([white, flat], axis=1), Window(0, 0, 2, 2)
    each = mean_patch_gram(images, window, stem=None, groups=2)
    whole = mean_patch_gram(images, window, stem=None)
    assert each.grouped
    assert each.matrix.mean(0) == pytest.approx(whole.matrix)
    apart = [mean_patch_gram(part, window, stem=None).matrix for part in (white, flat)]
    ratio = np.trace(each.matrix[1]) / np.trace(each.matrix[0])
    assert ratio == pytest.approx(flat.var() / white.var(), rel=0.05)
    for own, alone in zip(each.matrix, apart, strict=True):
        assert own / np.trace(own) == pytest.approx(alone / np.trace(alone), abs=1e-3)
    assert not mean_patch_gram(images, window, stem=Stem(3), groups=2).grouped  # random filters read every channel


def test_gram_matrices_are_equal_by_value_read_only_and_square():
    gram = Gram(np.eye(2))
    assert gram == Gram([[1, 0], [0, 1]])
    assert hash(gram) == hash(Gram(np.eye(2)))
    assert gram != Gram(2 * np.eye(2))
    assert Gram(gram.rows()) == gram
    with pytest.raises(ValueError, match="read-only"):
        gram.matrix[0, 0] = 3
    with pytest.raises(ValueError, match="is square"):
        Gram([[1.0, 2.0]])


def test_a_checked_gram_is_not_checked_again():
    gram = check_gram([[2.0, 1.0], [1.0, 2.0]], 2)
    assert check_gram(gram, 2) is gram
    with pytest.raises(ValueError, match="sees 3 input positions"):
        check_gram(gram, 3)


def test_the_joint_gram_of_two_inputs_gives_the_joint_gram_of_their_patches(basic):
    gram = correlation_gram(0.7, 5, 5)
    single = patch_gram(basic, "unit", gram)
    joint = patch_gram(basic, "unit", np.kron([[1.0, 0.5], [0.5, 1.0]], gram))
    assert joint == pytest.approx(np.kron([[1.0, 0.5], [0.5, 1.0]], single))
    with pytest.raises(ValueError, match="must cover 5 × 5 positions"):
        patch_gram(basic, "unit", np.eye(24))


def test_data_must_be_measured_first(bottleneck):
    with pytest.raises(ValueError, match="must be computed first"):
        KernelInputs.of(InputsSpec(data="digits"), bottleneck, "unit")


def test_the_patches_of_a_basic_block_have_the_gram_matrix_of_3x3_windows(basic):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 5, 5))
    flat = x.reshape(64, 25)
    patches = np.stack([x[:, i : i + 3, j : j + 3].ravel() for i in range(3) for j in range(3)])
    expected = 2 / (64 * 9) * patches @ patches.T
    assert patch_gram(basic, "unit", 2 / 64 * flat.T @ flat) == pytest.approx(expected)


def test_padding_reads_zero():
    # on a 2×2 map the middle unit of a 3×3 layer sees all four positions, five of its taps lie outside
    chain = Chain(1, 2, 2, (WeightLayer("conv", 1, "linear", kernel=3, padding=1),), ())
    assert patch_gram(chain, "unit", np.eye(4)) == pytest.approx(np.array([[4 / 9]]))


def test_dense_and_strided_first_layers():
    dense = Chain(3, 2, 2, (WeightLayer("dense", 4), WeightLayer("dense", 1, "linear")), ())
    assert patch_gram(dense, "unit", np.diag([1.0, 2, 3, 4])) == pytest.approx(np.array([[2.5]]))
    layers = (WeightLayer("conv", 4, stride=2), WeightLayer("conv", 1, "linear", kernel=2))
    strided = Chain(3, 8, 8, layers, ())
    window = correlation_gram(0.5, 3, 3)
    corners = [0, 2, 6, 8]
    assert patch_gram(strided, "unit", window) == pytest.approx(window[np.ix_(corners, corners)])


def test_two_equal_inputs_are_a_diagonal_entry():
    assert is_diagonal(None)
    assert is_diagonal(PairSpec(cosine=1.0))
    assert not is_diagonal(PairSpec(cosine=-1.0))


def test_patch_gram_of_smooth_images_is_recovered():
    rng = np.random.default_rng(1)
    root = np.linalg.cholesky(correlation_gram(0.8, 6, 6) / 2)
    images = (rng.standard_normal((4000, 36)) @ root.T).reshape(4000, 6, 6)
    measured = mean_patch_gram(images, Window(0, 0, 3, 3), stem=None).matrix
    assert measured == pytest.approx(correlation_gram(0.8, 3, 3), abs=0.05)
    assert np.trace(measured) == pytest.approx(18.0)


def test_a_rectified_stem_of_white_images_is_the_arc_cosine_kernel():
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (2000, 3, 5, 5)).astype(np.uint8)
    measured = mean_patch_gram(images, Window(0, 0, 1, 2), stem=Stem(1)).matrix
    # neighbouring pixels are independent, but rectified features keep a mean: the cosine tends to 1/π with the taps
    assert 1 / np.pi < measured[0, 1] / 2 < 0.36
    wide = mean_patch_gram(images, Window(0, 0, 1, 2), stem=Stem(5)).matrix
    assert wide[0, 1] / 2 == pytest.approx(1 / np.pi, abs=0.005)


def test_a_pooled_stem_is_what_torch_computes(monkeypatch):
    """The Gram matrix behind a 7×7 convolution of stride 2, a rectifier and a max-pool, over many random filters."""
    monkeypatch.setattr("collegium.search.kernel.stem.FILTERS", 4096)
    images = smooth_images(60, 3, 9)  # with the padding one window each
    measured = mean_patch_gram(images, Window(0, 0, 3, 3), stem=Stem(7, pooled=True)).matrix
    standard = torch.from_numpy((images - images.mean((0, 2, 3), keepdims=True)).astype(np.float32))
    filters = torch.randn(4096, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    maps = functional.conv2d(functional.pad(standard, [5, 5, 5, 5]), filters, stride=2).relu()
    features = functional.max_pool2d(maps, 3, stride=2).flatten(2)
    expected = torch.einsum("bcp,bcq->pq", features, features)
    assert measured == pytest.approx((expected * 18 / expected.trace()).numpy(), rel=0.03)


def test_a_max_pool_makes_even_white_images_correlated():
    """A maximum of nine is far above zero: its mean outweighs its spread."""
    images = np.random.default_rng(6).standard_normal((400, 3, 30, 30))
    plain, pooled = (
        mean_patch_gram(images, Window(0, 0, 1, 2), stem=Stem(7, pooled)).matrix for pooled in (False, True)
    )
    assert plain[0, 1] / 2 == pytest.approx(1 / np.pi, abs=0.02)
    assert 0.85 < pooled[0, 1] / 2 < 0.95


def smooth_images(count, channels, side):
    noise = np.random.default_rng(4).standard_normal((count, channels, side + 2, side + 2))
    return np.sum([noise[:, :, i : i + side, j : j + side] for i in range(3) for j in range(3)], axis=0)


@given(st.floats(0.1, 50), st.floats(-100, 100))
def test_brightness_and_contrast_do_not_matter(contrast, brightness):
    images = np.random.default_rng(3).standard_normal((20, 2, 6, 6))
    one = mean_patch_gram(images, Window(0, 0, 2, 2), stem=Stem()).matrix
    assert mean_patch_gram(images * contrast + brightness, Window(0, 0, 2, 2), stem=Stem()).matrix == pytest.approx(
        one, abs=1e-3
    )


def test_unusable_images_are_refused():
    with pytest.raises(ValueError, match="smaller than"):
        mean_patch_gram(np.ones((4, 2, 2)), Window(0, 0, 3, 3), stem=None)
    with pytest.raises(ValueError, match="constant"):
        mean_patch_gram(np.ones((4, 8, 8)), Window(0, 0, 3, 3), stem=Stem())
    with pytest.raises(ValueError, match="must have shape"):
        mean_patch_gram(np.ones((4, 8)), Window(0, 0, 3, 3), stem=Stem())


def test_few_windows_are_spread_over_the_data():
    images = np.zeros((50, 9, 9))
    images[25:] = np.random.default_rng(4).standard_normal((25, 9, 9))
    few = mean_patch_gram(images, Window(0, 0, 2, 2), placements=500, stem=None).matrix
    every = mean_patch_gram(images, Window(0, 0, 2, 2), placements=10**6, stem=None).matrix
    assert few == pytest.approx(every, abs=0.2)
