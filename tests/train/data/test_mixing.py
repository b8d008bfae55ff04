"""Mixup and CutMix: what is mixed with what, in which shares, and that labels follow the samples."""

import doctest
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional

from collegium.search.errors import InvalidSpec
from collegium.train.data import mixing
from collegium.train.data.mixing import Mixing
from collegium.train.engine import run
from collegium.train.errors import TrainingError
from collegium.train.limits import check_study_cost, check_training_cost
from collegium.train.loop.metrics import labels_of, loss_of
from collegium.train.spec.study import StudySpec
from collegium.train.spec.training import TrainingSpec

CLASSES = 7


def images(count=600, height=9, width=6):
    """Every pixel of image i is i + 1, in three channels; its class is i mod 7."""
    values = torch.arange(1, count + 1, dtype=torch.float32)
    return values.view(-1, 1, 1, 1).expand(-1, 3, height, width).clone(), torch.arange(count) % CLASSES


def test_the_example_runs():
    assert doctest.testmod(mixing).failed == 0


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_mixes_pairs_by_beta_shares_of_their_own(alpha):
    """With one-hot samples the mixed sample is its own label; shares pass a Kolmogorov–Smirnov test."""
    x, y = torch.eye(4000), torch.arange(4000)
    mixed, labels = Mixing(4000, mixup=alpha)((x, y), seed=1)
    torch.testing.assert_close(mixed, labels, rtol=0, atol=1e-6)
    torch.testing.assert_close(labels.sum(1), torch.ones(4000))
    assert ((labels > 0).sum(1) <= 2).all()
    kept = labels.diagonal().double().numpy()
    apart = (labels > 0).sum(1) == 2  # λ is 1 where a sample meets itself, or rounds to it
    assert stats.kstest(kept[apart.numpy()], stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    partners = (labels - torch.diag(labels.diagonal())).argmax(1)[apart]
    assert len(partners.unique()) == len(partners)  # a permutation


def test_a_mixed_image_lies_between_two_images():
    x, y = images()
    mixed, labels = Mixing(CLASSES, mixup=1.0)((x, y), seed=0)
    assert mixed.shape == x.shape
    assert torch.equal(mixed.amin((1, 2, 3)), mixed.amax((1, 2, 3)))
    changed = mixed[:, 0, 0, 0] != x[:, 0, 0, 0]
    assert changed.float().mean() > 0.99
    assert labels.shape == (600, CLASSES)


@pytest.mark.parametrize("shape", [(9, 6), (1, 1), (32, 32)])
def test_cutmix_puts_a_box_of_another_image_and_its_share_of_the_label(shape):
    x, y = images(300, *shape)
    mixed, labels = Mixing(CLASSES, cutmix=1.0)((x, y), seed=2)
    for index, image in enumerate(mixed):
        foreign = image[0] != index + 1
        assert torch.equal(image[0], image[1])
        values = image[0][foreign].unique()
        expected = functional.one_hot(y[index], CLASSES).float()
        if len(values):
            assert len(values) == 1  # of one other image
            rows, columns = foreign.any(1).nonzero(), foreign.any(0).nonzero()
            box = foreign[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert box.all()  # a box
            share = foreign.float().mean()
            expected = (1 - share) * expected + share * functional.one_hot(y[int(values) - 1], CLASSES)
        torch.testing.assert_close(labels[index], expected, rtol=0, atol=1e-6)


def test_boxes_have_the_shares_of_the_paper():
    """Uniform λ, side √(1 − λ), uniform centre, cut at the border; against a count of its own."""
    x, y = images(20_000, 16, 16)
    labels = Mixing(CLASSES, cutmix=1.0)((x[:, :1], y), seed=3)[1]
    kept = labels.gather(1, y[:, None])[:, 0]
    rng, shares = np.random.default_rng(0), []
    for _ in range(20_000):
        side = int(16 * np.sqrt(1 - rng.random()))
        spans = [(max(0, c - side // 2), min(16, c - side // 2 + side)) for c in rng.integers(0, 16, 2)]
        (top, bottom), (left, right) = spans
        shares.append(1 - (bottom - top) * (right - left) / 256)
    expected = np.mean(shares) + (1 - np.mean(shares)) / CLASSES  # partners of the same class give it back
    assert float(kept.mean()) == pytest.approx(expected, abs=4 * np.std(shares) / np.sqrt(20_000) * 2**0.5)


def test_where_both_are_given_each_batch_is_mixed_by_one_of_them():
    x, y = images(40)
    kinds = Counter()
    for seed in range(300):
        mixed, _ = Mixing(CLASSES, mixup=1.0, cutmix=1.0)((x, y), seed=seed)
        uniform = bool((mixed.amin((1, 2, 3)) == mixed.amax((1, 2, 3))).all())
        kinds["mixup" if uniform else "cutmix"] += 1
    assert 110 < kinds["mixup"] < 190


def test_the_seed_alone_decides_and_the_batch_is_left_as_it_was():
    x, y = images(50)
    before = x.clone()
    mix = Mixing(CLASSES, mixup=0.3, cutmix=0.5)
    once, again, other = (mix((x, y), seed=seed) for seed in (5, 5, 6))
    assert torch.equal(x, before)
    assert all(torch.equal(one, two) for one, two in zip(once, again, strict=True))
    assert not torch.equal(once[0], other[0])


@pytest.mark.parametrize("alpha", [0.001, 1000.0])
def test_the_ends_of_alpha_give_shares(alpha):
    x, y = images(5000, 4, 4)
    for mix in (Mixing(CLASSES, mixup=alpha), Mixing(CLASSES, cutmix=alpha)):
        mixed, labels = mix((x, y), seed=0)
        assert mixed.isfinite().all()
        assert ((labels >= 0) & (labels <= 1)).all()


def test_the_loss_of_shares_is_the_mean_of_the_losses_of_the_labels():
    torch.manual_seed(0)
    logits, first, second = torch.randn(8, 5), torch.randint(5, (8,)), torch.randint(5, (8,))
    share = torch.rand(8)
    labels = share[:, None] * functional.one_hot(first, 5) + (1 - share[:, None]) * functional.one_hot(second, 5)
    for smoothing in (0.0, 0.2):
        parts = [
            functional.cross_entropy(logits, hard, label_smoothing=smoothing, reduction="none")
            for hard in (first, second)
        ]
        expected = (share * parts[0] + (1 - share) * parts[1]).mean()
        torch.testing.assert_close(loss_of(logits, labels, smoothing=smoothing), expected)
    torch.testing.assert_close(labels_of(labels), torch.where(share > 0.5, first, second))
    assert labels_of(first) is first


BOTH = {"mixup": 0.4, "cutmix": 1.0, "precision": "bf16", "accumulate": 2}


@pytest.mark.parametrize(
    ("method", "fields"),
    [("vanilla", {"mixup": 0.4}), ("distilled", {"mixup": 0.4}), ("majority", BOTH), ("sam", BOTH)],
)
def test_trainings_with_mixed_samples_learn(digits_spec, method, fields):
    spec = digits_spec({"epochs": 12, "learning_rate": 5e-3, "batch_size": 64, **fields}, method=method)
    result = run(spec)
    assert result["accuracy"]["test"] > 0.6
    assert result["recipe"]["mixup"] == 0.4


def spec(data, **recipe):
    baseline = {"family": "mlp", "inputs": 64, "hidden": [8], "outputs": 10}
    return TrainingSpec.model_validate({"architecture": {"baseline": baseline}, "data": data, "recipe": recipe})


@pytest.mark.parametrize(
    ("data", "field", "words"),
    [("synthetic-text", "mixup", "tokens cannot be mixed"), ("synthetic-text", "cutmix", "has no images")],
)
def test_what_cannot_be_mixed_is_refused_at_its_field(data, field, words):
    with pytest.raises(InvalidSpec, match=words) as raised:
        check_training_cost(spec(data, **{field: 1.0}))
    assert raised.value.path == ("recipe", field)
    study = {
        "architectures": [{"name": "A", "architecture": {"transformer": "bert"}}],
        "methods": [{"method": "vanilla", "recipe": {field: 1.0}}],
        "data": data,
    }
    with pytest.raises(InvalidSpec) as raised:
        check_study_cost(StudySpec.model_validate(study))
    assert raised.value.path == ("methods", 0, "recipe", field)


@pytest.mark.parametrize("field", ["mixup", "cutmix"])
@pytest.mark.parametrize("value", [-1.0, 1e-9, 1001.0, float("nan"), "1"])
def test_an_alpha_out_of_range_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        spec("digits", **{field: value})


def test_features_of_an_upload_are_refused_for_cutmix_when_they_are_read(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"x_{part}": rng.normal(size=(20, 64)).astype(np.float32) for part in ("train", "test")}
    labels = {f"y_{part}": np.arange(20) % 10 for part in ("train", "test")}
    np.savez(tmp_path / f"{'0' * 64}.npz", **arrays, **labels)
    with pytest.raises((InvalidSpec, TrainingError), match="has no images"):
        run(spec("0" * 64, cutmix=1.0), datasets_dir=tmp_path)
