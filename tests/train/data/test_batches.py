from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch

from collegium.train.data.arrays import Arrays
from collegium.train.data.batches import TrainingBatches, derive_seed, evaluation_batches, permutation, steps_per_epoch
from collegium.train.data.dataset import ArraySplit, Preprocessing
from collegium.train.data.split import replace_labels, split_arrays
from collegium.train.errors import DataError
from collegium.train.spec.data import DataSpec

CPU = torch.device("cpu")


def split(count=23):
    return ArraySplit(torch.arange(count, dtype=torch.float32)[:, None], torch.arange(count))


def batches(count=23, size=5, **more):
    return TrainingBatches(split(count), Preprocessing(), batch_size=size, seed=1, device=CPU, **more)


def labels(parts):
    return [y.tolist() for _, y in parts]


def joined(parts):
    return list(chain.from_iterable(parts))


def test_an_epoch_sees_every_sample_once_and_the_next_in_another_order():
    first, second = labels(batches().epoch(0)), labels(batches().epoch(1))
    assert sorted(joined(first)) == sorted(joined(second)) == list(range(23))
    assert first != second
    assert [len(part) for part in first] == [5, 5, 5, 5, 3]


def test_an_epoch_can_be_entered_anywhere():
    whole = labels(batches().epoch(3))
    for start in range(6):
        assert labels(batches().epoch(3, start)) == whole[start:]


def test_augmentation_depends_on_the_step_and_not_on_what_came_before():
    def noisy(x, generator):
        return x + torch.rand(x.shape, generator=generator)

    whole = [x for x, _ in batches(augment=noisy).epoch(2)]
    late = [x for x, _ in batches(augment=noisy).epoch(2, 3)]
    assert all(torch.equal(one, other) for one, other in zip(whole[3:], late, strict=True))
    assert not torch.equal(whole[0], next(iter(batches().epoch(2)))[0])


def test_a_last_batch_of_one_is_left_out():
    assert steps_per_epoch(21, 5) == 4
    assert steps_per_epoch(22, 5) == 5
    assert steps_per_epoch(1, 5) == 1
    assert [len(part) for part in labels(batches(21).epoch(0))] == [5, 5, 5, 5]


def test_processes_share_each_batch_equally():
    parts = [labels(batches(24, 6, rank=rank, world=2).epoch(0)) for rank in range(2)]
    whole = labels(batches(24, 6).epoch(0))
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(part) for part in whole]
    assert all(len(a) == len(b) == 3 for a, b in zip(*parts, strict=True))


def test_evaluation_sees_everything_once_in_order():
    parts = labels(evaluation_batches(split(), Preprocessing(), batch_size=10))
    assert joined(parts) == list(range(23))
    few = evaluation_batches(split(), Preprocessing(), batch_size=4, most=9)
    assert joined(labels(few)) == list(range(9))


def test_orders_and_seeds_are_reproducible_and_distinct():
    assert torch.equal(permutation(50, 1, 2), permutation(50, 1, 2))
    assert len({derive_seed(a, b) for a in range(30) for b in range(30)}) == 900
    assert all(0 <= derive_seed(a, 7) < 2**63 for a in range(100))


def arrays(count=200):
    generator = np.random.default_rng(0)
    x = generator.integers(0, 255, (count, 3, 4, 4), dtype=np.uint8)
    return Arrays(x, np.arange(count) % 10, x[:50], np.arange(50) % 10, 10)


def test_validation_is_held_out_and_the_rest_is_normalized_by_training_samples_alone():
    data = split_arrays(arrays(), DataSpec(name="images", validation=0.25))
    assert (len(data.train), len(data.validation), len(data.test)) == (150, 50, 50)
    inputs = data.preprocessing(data.train.x)
    torch.testing.assert_close(inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(inputs.std((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-5, rtol=0)
    rows = {tuple(row) for row in data.train.x.flatten(1).tolist()}
    assert all(tuple(row) not in rows for row in data.validation.x.flatten(1).tolist())


def test_a_mean_image_is_subtracted_where_the_format_asks_for_it():
    data = split_arrays(replace(arrays(), mean_image=True), DataSpec(name="imagenet32"))
    assert data.preprocessing.mean.shape == (3, 4, 4)
    torch.testing.assert_close(data.preprocessing(data.train.x).mean(0), torch.zeros(3, 4, 4), atol=1e-5, rtol=0)


def test_noise_replaces_the_asked_share_of_training_labels_by_other_classes():
    clean = split_arrays(arrays(), DataSpec(name="images", validation=0.1, seed=3))
    noisy = split_arrays(arrays(), DataSpec(name="images", validation=0.1, seed=3, label_noise=0.2))
    assert torch.equal(clean.train.x, noisy.train.x)
    assert (clean.train.y != noisy.train.y).sum() == noisy.summary["replaced_labels"] == 36
    assert torch.equal(clean.validation.y, noisy.validation.y)
    assert torch.equal(clean.test.y, noisy.test.y)
    assert 0 <= noisy.train.y.min() <= noisy.train.y.max() < 10


def test_splits_that_leave_nothing_and_noise_without_classes_are_refused():
    with pytest.raises(DataError, match="leaves 0 of 200"):
        split_arrays(arrays(), DataSpec(name="images", validation=0.001))
    with pytest.raises(DataError, match="labels that are classes"):
        replace_labels(np.zeros((4, 2), dtype=np.int64), 0, 0.5, np.random.default_rng(0))
