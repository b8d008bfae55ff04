import numpy as np
import pytest
import torch

from collegium.search.sampling.normals import cholesky_factor, covariance_root, joint_gram


def test_root_has_as_many_columns_as_the_rank():
    vectors = np.random.default_rng(0).standard_normal((6, 2))
    root = covariance_root(vectors @ vectors.T)
    assert root.shape == (6, 2)
    np.testing.assert_allclose(root @ root.T, vectors @ vectors.T, atol=1e-12)
    assert covariance_root(np.zeros((3, 3))).shape == (3, 0)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 3)), "square"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), "symmetric"),
        (np.array([[np.nan]]), "finite"),
        (np.diag([1.0, -0.1]), "semidefinite"),
        (-np.eye(2), "semidefinite"),
    ],
)
def test_what_is_no_covariance_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        covariance_root(matrix)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [0, 1, 3, 8])
def test_factors_exist_for_singular_grams(rank, dtype):
    vectors = torch.randn(50, 8, rank, generator=torch.Generator().manual_seed(0), dtype=dtype)
    vectors[:, 2] = 0
    gram = vectors @ vectors.mT
    factor = cholesky_factor(gram)
    torch.testing.assert_close(factor @ factor.mT, gram, rtol=1e-4, atol=1e-4)
    assert factor.triu(1).abs().max() == 0
    assert factor[:, 2].abs().max() < 1e-12


def test_one_by_one_grams_are_square_roots():
    assert cholesky_factor(torch.tensor([[[4.0]], [[0.0]]])).flatten().tolist() == pytest.approx([2.0, 0.0])


def test_grams_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        cholesky_factor(torch.full((1, 2, 2), float("nan")))


def test_joint_gram_of_a_pair():
    gram = np.array([[2.0, 1.0], [1.0, 2.0]])
    assert joint_gram(gram, None) is not gram or np.array_equal(joint_gram(gram, None), gram)
    np.testing.assert_array_equal(joint_gram(gram, 0.5)[:2, 2:], 0.5 * gram)
    np.testing.assert_array_equal(joint_gram(gram, 0.5)[2:, 2:], gram)
