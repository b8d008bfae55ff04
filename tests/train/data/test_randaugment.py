"""RandAugment: values that stay in range, draws that follow from the generator, and what has no use for it."""

import sys

import pytest
import torch

from collegium.search.errors import InvalidSpec
from collegium.train.data.dataset import ArraySplit
from collegium.train.data.decoding import DecodedSplit
from collegium.train.data.randaugment import GROUP, RandAugment, require_kornia, value_range
from collegium.train.engine import run
from collegium.train.errors import MissingExtra
from collegium.train.limits import check_training_cost
from collegium.train.spec.training import TrainingSpec

EACH = [(operations, magnitude) for operations in (1, 2, 15) for magnitude in (1, 10, 29)]


def images(channels=3, count=40, low=0.0, high=255.0):
    values = torch.rand(count, channels, 12, 10, generator=torch.Generator().manual_seed(0))
    return values * (high - low) + low


def augment(x, seed=0, **options):
    return RandAugment(**options)(x, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("operations", "magnitude"), EACH)
def test_images_keep_their_shape_and_their_range(channels, operations, magnitude):
    for low, high in ((0.0, 255.0), (-3.0, 2.0)):
        x = images(channels, low=low, high=high)
        given = {"operations": operations, "magnitude": magnitude, "low": low, "high": high}
        for seed in range(2):
            found = augment(x, seed, **given)
            assert found.shape == x.shape
            assert found.isfinite().all()
            assert found.min() >= low - 1e-4 * (high - low)
            assert found.max() <= high + 1e-4 * (high - low)


def test_draws_follow_from_the_generator_alone_and_leave_torchs_own():
    x = images()
    before, seen = x.clone(), torch.get_rng_state()
    once = augment(x, 3)
    torch.manual_seed(99)
    assert torch.equal(augment(x, 3), once)
    assert not torch.equal(augment(x, 4), once)
    assert torch.equal(x, before)
    torch.set_rng_state(seen)
    augment(x, 5)
    assert torch.equal(torch.get_rng_state(), seen)


def test_the_unit_of_the_values_does_not_matter():
    x = images(low=0.0, high=1.0)
    expected = augment(x, 1, low=0.0, high=1.0)
    torch.testing.assert_close(augment(x * 16, 1, low=0.0, high=16.0) / 16, expected, rtol=0, atol=2e-2)
    torch.testing.assert_close(augment(x * 4 - 2, 1, low=-2.0, high=2.0) / 4 + 0.5, expected, rtol=0, atol=2e-2)


def test_operations_differ_between_groups_of_images():
    x = images(count=2 * GROUP)
    x[GROUP:] = x[:GROUP]
    differing = sum(not torch.equal(*augment(x, seed).split(GROUP)) for seed in range(20))
    assert differing > 15


def test_a_grey_image_stays_grey():
    """One channel is that of the same image in three equal ones."""
    x = images(1)
    three = augment(x.expand(-1, 3, -1, -1), 2)
    torch.testing.assert_close(augment(x, 2), three[:, :1])


def test_the_range_of_values_is_that_of_the_samples():
    labels = torch.zeros(2, dtype=torch.int64)
    assert value_range(ArraySplit(torch.tensor([[[[0, 16]]]], dtype=torch.uint8), labels)) == (0.0, 16.0)
    assert value_range(ArraySplit(torch.tensor([[[[-1.5, 0.5]]]]), labels)) == (-1.5, 0.5)
    assert value_range(ArraySplit(torch.ones(1, 1, 2, 2), labels)) == (1.0, 2.0)
    assert value_range(DecodedSplit((), labels)) == (0.0, 255.0)


def spec(data="digits", **fields):
    baseline = {"family": "mlp", "inputs": 64, "hidden": [32], "outputs": 10}
    recipe = {"epochs": 8, "augment": ["randaugment"], "learning_rate": 5e-3, **fields}
    return TrainingSpec.model_validate({"architecture": {"baseline": baseline}, "data": data, "recipe": recipe})


def test_a_training_with_it_learns():
    result = run(spec(augment_operations=1, augment_magnitude=9, augment=["randaugment", "flip"]))
    assert result["accuracy"]["test"] > 0.5
    assert result["recipe"]["augment_magnitude"] == 9
    assert run(spec())["loss"] == run(spec())["loss"]


def test_what_it_cannot_be_used_on_is_refused():
    with pytest.raises(InvalidSpec, match="synthetic-text has no images, and randaugment takes") as raised:
        check_training_cost(spec("synthetic-text"))
    assert raised.value.path == ("recipe", "augment")
    for field, value in (("augment_operations", 0), ("augment_operations", 16), ("augment_magnitude", 30)):
        with pytest.raises(ValueError, match=field):
            spec(**{field: value})


def test_without_the_library_a_training_is_refused_with_the_remedy(monkeypatch):
    require_kornia()
    monkeypatch.setitem(sys.modules, "kornia", None)
    monkeypatch.setattr("collegium.train.data.randaugment.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="kornia is not installed") as raised:
        run(spec())
    assert raised.value.remedy == "install it with: pip install 'collegium[augment]'"
