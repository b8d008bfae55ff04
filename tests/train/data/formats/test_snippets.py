"""Rated sentences from an archive as it is published, written here, and refused where it is wrong."""

from __future__ import annotations

import io
import tarfile
import zipfile

import numpy as np
import pytest

from collegium.train.data.catalog import load
from collegium.train.data.formats.snippets import FILE, INNER, MEMBER, read_snippets
from collegium.train.errors import DataError
from collegium.train.models.transformers import build_transformer
from collegium.train.spec.architecture import TransformerArchitecture
from collegium.train.spec.data import DataSpec

RATED = [("It's good", 2.25), ("bad , bad", -1.5), ("neither", 0.4), ("It's good", -3.0), ("just so", 0.5)]


def write_package(folder, rated=RATED, *, member=MEMBER, text=None):
    lines = "\n".join(f"{number}\t{rating}\t{sentence}" for number, (sentence, rating) in enumerate(rated, 1))
    data = (text if text is not None else lines).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as inner:
        entry = tarfile.TarInfo(member)
        entry.size = len(data)
        inner.addfile(entry, io.BytesIO(data))
    with zipfile.ZipFile(folder / FILE, "w") as outer:
        outer.writestr(INNER, packed.getvalue())
    return folder / FILE


@pytest.fixture
def sentences(tmp_path, rng):
    """A data folder with 80 sentences, which the word at their beginning makes good or bad."""
    rated = [(f"{('bad', 'good')[k % 2]} film word{rng.integers(9)} {k}", (-2.0, 2.0)[k % 2]) for k in range(80)]
    write_package(tmp_path, rated)
    return tmp_path


def test_sentences_are_read_once_each_without_those_of_no_sign(tmp_path):
    assert read_snippets(write_package(tmp_path)) == [("It's good", 1), ("bad , bad", 0), ("just so", 1)]


def test_half_is_for_training_and_every_seed_has_a_split_of_its_own(sentences):
    one, same, other = (load(DataSpec(name="movie-snippets", seed=seed), sentences) for seed in (1, 1, 2))
    assert (one.kind, one.shape, one.classes, len(one.train), len(one.test)) == ("tokens", (48,), 2, 40, 40)
    np.testing.assert_array_equal(one.test.x, same.test.x)
    assert one.test.y.tolist() != other.test.y.tolist()
    for split in (one.train, one.test):
        good = {int(x[0]) for x, y in zip(split.x, split.y, strict=True) if y == 1}
        assert len(good) == 1  # the word that makes a sentence good is one token, and begins no other sentence
        assert good.isdisjoint(int(x[0]) for x, y in zip(split.x, split.y, strict=True) if y == 0)


def test_the_vocabulary_is_that_of_the_samples_that_are_trained_on(sentences):
    data = load(DataSpec(name="movie-snippets", limit=8, validation=0.5), sentences)
    known = set(data.train.x.flatten().tolist())
    assert data.vocabulary == max(known) + 1
    assert 2 in known  # a number that occurs once is an unknown word
    assert set(data.test.x.flatten().tolist()) <= known | {2}


def test_a_transformer_fits_the_vocabulary(sentences):
    data = load(DataSpec(name="movie-snippets"), sentences)
    config = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = build_transformer(TransformerArchitecture(transformer="bert", config=config), data, seed=0)
    logits = model(input_ids=data.test.x[:4], attention_mask=(data.test.x[:4] != 0).long()).logits
    assert logits.shape == (4, 2)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"text": "1\t2.0\tgood\n2\tx\tbad\n"}, "line 2 of .* is not a number, a rating and a sentence"),
        ({"text": "1\t2.0\n"}, "line 1 of"),
        ({"member": "elsewhere.txt"}, "lacks a file"),
    ],
)
def test_a_wrong_package_is_refused_with_what_is_wrong(tmp_path, made, message):
    with pytest.raises(DataError, match=message):
        read_snippets(write_package(tmp_path, **made))


def test_a_package_that_is_truncated_or_another_is_refused(tmp_path):
    path = write_package(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="truncated"):
        read_snippets(path)
    with zipfile.ZipFile(path, "w") as other:
        other.writestr("setup.py", "")
    with pytest.raises(DataError, match="lacks a file"):
        read_snippets(path)


def test_where_the_sentences_can_be_had_is_said(tmp_path):
    with pytest.raises(DataError) as caught:
        load(DataSpec(name="movie-snippets"), tmp_path)
    assert f"put {FILE} there; get it with: pip download" in str(caught.value.remedy)
