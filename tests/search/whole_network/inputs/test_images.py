"""Batches of inputs: Gaussian fields of the right covariance, and images of data."""

from __future__ import annotations

import numpy as np
import pytest

from collegium.search.errors import InvalidSpec
from collegium.search.whole_network.inputs.images import gaussian_fields, images_of_data, sample_shape
from collegium.search.whole_network.spec import NetworkKernelSpec


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.7, 0.9])
def test_fields_have_the_covariance_of_their_distance(correlation):
    fields = gaussian_fields(400, (4, 10, 6), correlation, seed=1)
    assert fields.dtype == np.float32
    flat = fields.reshape(1600, 60)
    covariance = flat.T @ flat / len(flat)
    rows, columns = np.divmod(np.arange(60), 6)
    expected = correlation ** np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    # scaling each image to a mean square of 1 moves the covariance by a little where pixels are alike
    assert np.abs(covariance - expected).max() < 0.13


def test_smooth_fields_are_exact_before_scaling():
    fields = gaussian_fields(64, (64, 16, 16), 0.95, seed=2)
    neighbours = np.mean(fields[..., 1:] * fields[..., :-1])
    assert neighbours == pytest.approx(0.95, abs=0.01)
    assert np.mean(fields[..., 8:] * fields[..., :-8]) == pytest.approx(0.95**8, abs=0.03)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95, 0.999, 1.0])
def test_each_image_has_unit_mean_square_and_follows_from_its_seed(correlation):
    fields = gaussian_fields(3, (3, 12, 12), correlation, seed=5)
    assert np.square(fields).mean(axis=(1, 2, 3)) == pytest.approx(np.ones(3), rel=1e-5)
    assert np.array_equal(fields, gaussian_fields(3, (3, 12, 12), correlation, seed=5))
    assert not np.array_equal(fields, gaussian_fields(3, (3, 12, 12), correlation, seed=6))


def test_data_is_standardised_repeated_and_averaged_over_equal_areas(residual_network):
    data = np.random.default_rng(0).integers(0, 255, (50, 28, 28), dtype=np.uint8)
    batch = images_of_data(4, residual_network, (3, 14, 14), data)
    assert batch.shape == (4, 3, 14, 14)
    assert np.array_equal(batch[:, 0], batch[:, 2])
    assert np.mean(np.square(batch)) == pytest.approx(1, rel=1e-5)
    centred = data.astype(float) - data.mean()
    expected = centred[[0, 16, 32, 49]].reshape(4, 14, 2, 14, 2).mean((2, 4))
    assert np.corrcoef(batch[:, 0].ravel(), expected.ravel())[0, 1] == pytest.approx(1)


def test_areas_that_are_no_multiples_keep_the_mean(residual_network):
    data = np.random.default_rng(0).standard_normal((4, 3, 10, 10))
    ours = images_of_data(4, residual_network, (3, 7, 7), data)
    centred = data - data.mean(axis=(0, 2, 3), keepdims=True)
    scale = ours.mean(axis=(2, 3)) / centred.mean(axis=(2, 3))
    assert np.ptp(scale) < 1e-4 * abs(scale.mean())


def test_flat_data_becomes_what_the_network_takes(mlp_network):
    data = np.random.default_rng(1).standard_normal((9, 1, 2, 3))
    assert images_of_data(5, mlp_network, (6, 1, 1), data).shape == (5, 6, 1, 1)


@pytest.mark.parametrize(
    ("data", "pixels", "path", "words"),
    [
        (np.ones((9, 3, 32, 32)), 32, ("inputs", "data"), "constant"),
        (np.random.default_rng(0).standard_normal((9, 4, 32, 32)), 32, ("inputs", "data"), "1 or 3 channels"),
        (np.random.default_rng(0).standard_normal((3, 3, 32, 32)), 32, ("network", "images"), "has 3 images"),
        (np.random.default_rng(0).standard_normal((9, 3, 8, 8)), 32, ("network", "pixels"), "have 8 pixels"),
    ],
)
def test_data_that_does_not_fit_is_refused_with_the_field(residual_network, data, pixels, path, words):
    with pytest.raises(InvalidSpec, match=words) as caught:
        images_of_data(8, residual_network, (3, pixels, pixels), data)
    assert caught.value.path == path


def test_pixels_are_the_networks_own_or_those_asked_for(residual_network, mlp_network):
    assert sample_shape(residual_network, NetworkKernelSpec(), None) == (3, 32, 32)
    assert sample_shape(residual_network, NetworkKernelSpec(pixels=17), None) == (3, 17, 17)
    assert sample_shape(residual_network, NetworkKernelSpec(), np.zeros((9, 28, 28))) == (3, 28, 28)
    assert sample_shape(residual_network, NetworkKernelSpec(), np.zeros((9, 3, 300, 200))) == (3, 48, 48)
    assert sample_shape(mlp_network, NetworkKernelSpec(), None) == (6, 1, 1)
    with pytest.raises(InvalidSpec, match="takes 1×1 inputs alone") as caught:
        sample_shape(mlp_network, NetworkKernelSpec(pixels=8), None)
    assert caught.value.path == ("network", "pixels")
