"""Augmentations keep shapes and what they promise to keep, and follow from their generator alone."""

from __future__ import annotations

import pytest
import torch

from collegium.train.data.augment import AUGMENTATIONS, PAD, compose, flip, pad_crop, random_resized_crop
from collegium.train.data.dataset import ArraySplit, Dataset
from collegium.train.data.decoding import DecodedSplit
from collegium.train.loop.loop import augmentation
from collegium.train.spec.recipes import Recipe


@pytest.fixture
def images():
    return torch.rand(64, 3, 12, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_shape_and_determinism(images, name):
    once, again, other = (AUGMENTATIONS[name](images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert once.shape == images.shape
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_flip_mirrors_about_half_of_the_images(images):
    flipped = flip(images, torch.Generator().manual_seed(0))
    mirrored = sum(torch.equal(new, old.flip(-1)) for new, old in zip(flipped, images, strict=True))
    kept = sum(torch.equal(new, old) for new, old in zip(flipped, images, strict=True))
    assert mirrored + kept == len(images)
    assert 16 < mirrored < 48


def test_pad_crop_shifts_by_at_most_the_padding(images):
    cropped = pad_crop(images, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(images, (PAD,) * 4)
    for new, source in zip(cropped, padded, strict=True):
        windows = source.unfold(1, 12, 1).unfold(2, 10, 1)  # (3, rows, columns, 12, 10)
        matches = (windows == new[:, None, None]).all(dim=4).all(dim=3).all(dim=0)
        assert matches.any()


def test_random_resized_crop_stays_inside_a_ramp(images):
    ramp = torch.linspace(0, 1, 10).expand(64, 1, 12, 10)
    cropped = random_resized_crop(ramp, torch.Generator().manual_seed(0))
    assert cropped.min() >= 0
    assert cropped.max() <= 1
    # a crop of a ramp is a ramp: it rises from left to right, everywhere
    assert (cropped.diff(dim=-1) >= -1e-6).all()
    widths = cropped[:, 0, 0, -1] - cropped[:, 0, 0, 0]
    assert widths.min() < 0.5 < widths.max()


def test_compose_applies_in_order_and_none_for_nothing(images):
    assert compose(()) is None
    both = compose(("flip", "pad_crop"))
    generator = torch.Generator().manual_seed(3)
    expected = pad_crop(flip(images, generator), generator)
    assert both is not None
    assert torch.equal(both(images, torch.Generator().manual_seed(3)), expected)


def test_what_is_done_while_images_are_decoded_is_not_done_again(images):
    """A folder's images are cropped as they are read; those in memory are cropped in the batch."""
    recipe, labels = Recipe(augment=("random_resized_crop", "flip")), torch.zeros(64, dtype=torch.int64)
    for train, steps in ((DecodedSplit((), labels), ("flip",)), (ArraySplit(images, labels), recipe.augment)):
        data = Dataset("made", "image", (3, 12, 10), 2, train, None, train)
        expected = compose(steps)(images, torch.Generator().manual_seed(1))
        assert torch.equal(augmentation(data, recipe)(images, torch.Generator().manual_seed(1)), expected)
    decoded = Dataset("made", "image", (3, 12, 10), 2, DecodedSplit((), labels), None, train)
    assert augmentation(decoded, Recipe(augment=("random_resized_crop",))) is None
