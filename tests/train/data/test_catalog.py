"""Data sets by name: folders of images and text, published formats, uploads, and names that lead nowhere."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from collegium.train.data.batches import TrainingBatches, permutation
from collegium.train.data.catalog import (
    DATA_FORMATS,
    data_formats,
    describe_formats,
    find,
    known_sample,
    load,
    named_data,
    recipe_for,
)
from collegium.train.data.dataset import Preprocessing
from collegium.train.data.decoding import DecodedSplit
from collegium.train.data.format import Folders
from collegium.train.data.formats.idx import FILES as IDX_FILES
from collegium.train.errors import DataError
from collegium.train.loop.loop import draws_while_decoding
from collegium.train.spec.data import DataSpec
from collegium.train.spec.recipes import RECIPES, RecipeSpec, merge_recipe


def spec(name, **more):
    return DataSpec.model_validate({"name": name} | more)


@pytest.fixture
def pictures(tmp_path):
    """Twelve training and four test pictures of two classes: red on the left for ``a``, blue for ``b``."""
    for split, count in (("train", 6), ("val", 2)):
        for name, colour in (("a", (255, 0, 0)), ("b", (0, 0, 255))):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = np.zeros((300 + 20 * index, 260, 3), np.uint8)
                pixels[:, :130] = colour
                Image.fromarray(pixels).save(folder / f"{index}.{'jpg' if index % 2 else 'png'}")
    return tmp_path


def test_a_folder_of_images_is_decoded_and_labelled(pictures):
    data = load(spec("pets", validation=0.25), pictures)
    assert (len(data.train), len(data.validation), len(data.test)) == (9, 3, 4)
    assert (data.shape, data.classes) == ((3, 224, 224), 2)
    (x, y), *_ = data.test.batches(torch.arange(4), 4)
    assert x.dtype == torch.uint8
    red, blue = x[:, 0, 100, 20], x[:, 2, 100, 20]
    assert y.tolist() == [int(b > r) for r, b in zip(red, blue, strict=True)] == [0, 0, 1, 1]


def test_a_limited_test_of_a_folder_has_images_of_all_classes(pictures):
    found = [load(spec("pets", test_limit=2, seed=seed), pictures).test.labels.tolist() for seed in range(8)]
    assert [0, 1] in found
    assert all(labels == sorted(labels) for labels in found)


@pytest.mark.parametrize(
    ("augment", "cropped"), [([], False), (["flip"], False), (["random_resized_crop"], True), (None, True)]
)
def test_images_are_cropped_at_random_where_the_recipe_says_so(pictures, augment, cropped):
    data = load(spec("pets"), pictures)
    recipe = merge_recipe(RecipeSpec(augment=augment), "ce-imagenet")
    draws = draws_while_decoding(data, recipe)
    batches = TrainingBatches(
        data.train, Preprocessing(), batch_size=8, seed=0, device=torch.device("cpu"), draws=draws
    )
    seen = torch.cat([x for x, _ in batches.epoch(0)])
    plain = torch.cat([x for x, _ in data.train.batches(permutation(len(data.train), 0, 0), 8)])
    assert torch.equal(seen, plain[: len(seen)]) != cropped


def test_random_crops_follow_from_the_draw_and_the_sample(pictures):
    split = load(spec("pets"), pictures).train
    assert isinstance(split, DecodedSplit)

    def crops(order, draw):
        return torch.cat([x for x, _ in split.batches(torch.tensor(order), 2, draw=draw)])

    forwards, backwards, other = crops([0, 1, 2], 5), crops([2, 1, 0], 5), crops([0, 1, 2], 6)
    assert torch.equal(forwards, backwards.flip(0))
    assert not torch.equal(forwards, other)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "pets/val/a/0.png").write_bytes(b"no image"), "a/0.png is no readable image"),
        (lambda root: (root / "pets/val").rename(root / "pets/elsewhere"), "no val or test folder"),
        (lambda root: (root / "pets/train/b").rename(root / "b"), "has 1 class\\."),
    ],
)
def test_a_wrong_folder_is_refused(pictures, damage, message):
    damage(pictures)
    with pytest.raises(DataError, match=message):
        list(load(spec("pets"), pictures).test.batches(torch.arange(4), 4))


def test_text_becomes_bytes_or_classes(tmp_path):
    folder = tmp_path / "cola"
    folder.mkdir()
    (folder / "train.tsv").write_text("sentence\tlabel\nab\tyes\nc\tno\n", encoding="utf-8")
    (folder / "dev.tsv").write_text("sentence\tlabel\nd\tno\n", encoding="utf-8")
    text = {"input_length": 4, "target_length": 4}
    data = load(spec("cola", text=text), tmp_path)
    order = torch.tensor([0, 1])
    rows = {
        tuple(x.tolist()): y.tolist() for batch in data.train.batches(order, 2) for x, y in zip(*batch, strict=True)
    }
    assert rows[(ord("a") + 3, ord("b") + 3, 1, 0)] == [ord("y") + 3, ord("e") + 3, ord("s") + 3, 1]
    assert rows[(ord("c") + 3, 1, 0, 0)] == [ord("n") + 3, ord("o") + 3, 1, -100]
    classified = load(spec("cola", text=text | {"labels": "classes"}), tmp_path)
    assert classified.classes == 2
    assert next(iter(classified.test.batches(torch.tensor([0]), 1)))[1].tolist() == [0]


def test_text_of_one_class_is_refused(tmp_path):
    (tmp_path / "rte").mkdir()
    for name in ("train", "dev"):
        (tmp_path / "rte" / f"{name}.tsv").write_text("sentence\tlabel\nx\tyes\ny\tyes\n", encoding="utf-8")
    with pytest.raises(DataError, match="all training rows have the label 'yes'"):
        load(spec("rte", text={"labels": "classes"}), tmp_path)


def test_a_test_label_that_training_lacks_is_refused(tmp_path):
    (tmp_path / "rte").mkdir()
    for name, label in (("train", "yes"), ("dev", "perhaps")):
        (tmp_path / "rte" / f"{name}.tsv").write_text(f"sentence\tlabel\nx\t{label}\n", encoding="utf-8")
    with pytest.raises(DataError, match="perhaps"):
        load(spec("rte", text={"labels": "classes"}), tmp_path)


def test_an_upload_is_found_by_its_id(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(6, 4)), np.arange(6) % 2
    with (tmp_path / "abc123.npz").open("wb") as file:
        np.savez(file, x_train=x, y_train=y, x_test=x, y_test=y)
    data = load(spec("abc123"), None, tmp_path)
    assert (data.kind, data.shape, data.classes) == ("features", (4,), 2)


@pytest.mark.parametrize("name", ["nothing", "mnist", "fashion-mnist", "cifar10", "imagenet32"])
def test_data_that_is_not_there_is_refused_with_what_would_be_right(tmp_path, name):
    with pytest.raises(DataError) as caught:
        load(spec(name), tmp_path, tmp_path)
    assert caught.value.remedy


def test_label_noise_touches_training_labels_alone():
    clean, noisy = load(spec("digits")), load(spec("digits", label_noise=0.2))
    (_, before), (_, after) = (next(iter(d.train.batches(torch.arange(800), 800))) for d in (clean, noisy))
    assert round(len(clean.train) * 0.2) == noisy.summary["replaced_labels"]
    assert 0.1 < (before != after).double().mean() < 0.3
    assert torch.equal(clean.test.y, noisy.test.y)


def test_what_is_known_before_reading_is_what_is_read(pictures):
    for asked in (
        spec("digits"),
        spec("synthetic", synthetic={"inputs": 5}),
        spec("synthetic-text", synthetic={"length": 7}),
        spec("pets"),
    ):
        data, sample = load(asked, pictures), known_sample(asked, Folders(pictures))
        assert sample is not None
        assert (data.kind, data.shape) == (sample.kind, sample.shape)
    assert known_sample(spec("pets")) is None


def test_every_name_belongs_to_one_format():
    names = [name for data_format in data_formats() for name in data_format.names]
    assert sorted(names) == sorted(set(names)) == sorted(named_data())


@pytest.mark.parametrize("data_format", list(data_formats()), ids=lambda data_format: type(data_format).__name__)
def test_every_format_says_how_it_is_found_and_trained(data_format):
    assert data_format.summary
    assert data_format.names or data_format.layout
    for name in data_format.names:
        assert recipe_for(name) in RECIPES


def test_data_that_no_format_names_has_the_generic_recipe():
    assert recipe_for("0" * 64) == recipe_for("pets") == "generic"


@pytest.mark.parametrize("name", ["../mnist", ".hidden", "a/b", ".."])
def test_a_path_is_no_name(tmp_path, name):
    (tmp_path / "a" / "b" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="no data set is called"):
        find(name, Folders(tmp_path / "a"))


def test_a_folder_of_no_known_format_is_refused_with_the_layouts(tmp_path):
    (tmp_path / "things").mkdir()
    with pytest.raises(DataError, match="no known format") as caught:
        load(spec("things"), tmp_path)
    assert "train/<class>" in caught.value.remedy
    assert "train.tsv" in caught.value.remedy


def test_formats_are_described_without_reading_any_data():
    described = {item["name"]: item for item in describe_formats()}
    assert list(described) == list(DATA_FORMATS.names)
    assert {data["name"]: data["files"] for data in described["idx"]["data"]} == {
        "mnist": ["mnist"],
        "fashion-mnist": ["fashion-mnist"],
    }
    assert described["text-folder"]["options"]["properties"]["input_length"]["default"] == 128
    json.dumps(list(described.values()))


def test_importing_every_format_loads_no_torch():
    code = (
        "import sys\n"
        "from collegium.train.data.catalog import DATA_FORMATS, data_formats\n"
        "assert len(list(data_formats())) == len(DATA_FORMATS.names)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


CIFAR10 = ("cifar-10-binary.tar.gz", "cifar-10-batches-py", "data_batch_1.bin … test_batch.bin")
NEEDED = {
    "mnist": tuple(IDX_FILES.values()),
    "fashion-mnist": (*IDX_FILES.values(), "/usr/share/datasets"),
    "cifar10": CIFAR10,
    "cifar100": ("cifar-100-python.tar.gz", "cifar-100-binary", "train.bin … test.bin"),
    "imagenet": ("train/<class>/…", "val/<class>/…"),
    "imagenet32": ("train_data_batch_1 to train_data_batch_10", "val_data", ".npz"),
    "imagenet64": ("train_data_batch_1 to train_data_batch_10", "val_data", ".npz"),
    "movie-snippets": ("vaderSentiment-0.5.zip", "pip download"),
}


def test_a_missing_data_set_is_refused_by_naming_its_files(tmp_path):
    """Of a folder, also what it holds."""
    assert set(NEEDED) == {name for name, made in named_data().items() if made.files(name)}
    for name, words in NEEDED.items():
        with pytest.raises(DataError, match="is not in the data folder") as caught:
            load(DataSpec(name=name), tmp_path)
        assert [word for word in (name, *words) if word not in str(caught.value)] == []
