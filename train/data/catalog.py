"""Data sets by name or id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from collegium.train.data.dataset import Arrays, Dataset
from collegium.train.data.formats.cifar import load_cifar
from collegium.train.data.formats.digits import load_digits
from collegium.train.data.formats.idx import load_mnist
from collegium.train.data.formats.image_folder import load_folder
from collegium.train.data.formats.small_imagenet import load_small_imagenet
from collegium.train.data.formats.synthetic import load_sequences, load_teacher
from collegium.train.data.formats.text import load_text_arrays
from collegium.train.data.formats.upload import load_upload
from collegium.train.data.split import split_arrays
from collegium.train.errors import DataError
from collegium.train.spec.data import DataSpec

Loader = Callable[[DataSpec], Arrays]
PublishedLoader = Callable[[Path], Arrays]

#: Made from a seed, or carried by a package.
BUILT_IN: dict[str, Loader] = {
    "digits": lambda spec: load_digits(spec.seed),
    "synthetic": lambda spec: load_teacher(spec.synthetic, spec.seed),
    "synthetic-text": lambda spec: load_sequences(spec.synthetic, spec.seed),
}
#: In their published formats, below the data folder.
PUBLISHED: dict[str, PublishedLoader] = {
    "mnist": lambda root: Arrays.of(load_mnist(root / "mnist"), source="IDX"),
    "cifar10": lambda root: Arrays.of(load_cifar("cifar10", root), source="CIFAR"),
    "cifar100": lambda root: Arrays.of(load_cifar("cifar100", root), source="CIFAR"),
    "imagenet32": lambda root: Arrays.of(load_small_imagenet("imagenet32", root), source="ImageNet batches"),
    "imagenet64": lambda root: Arrays.of(load_small_imagenet("imagenet64", root), source="ImageNet batches"),
}


def load(spec: DataSpec, data_dir: Path | None = None, datasets_dir: Path | None = None) -> Dataset:
    """The data set that ``spec`` names, split and described, on the CPU.

    A name is looked up among the built-in data, the uploaded data sets in ``datasets_dir`` (``ID.npz`` or
    ``ID.safetensors``), the published formats, and then as a folder of labelled images or text inside ``data_dir``.
    Raises ``DataError`` where the name is unknown, a file is missing or wrong, or the split leaves nothing.
    """
    if spec.name in BUILT_IN:
        return split_arrays(BUILT_IN[spec.name](spec), spec)
    uploaded = _uploaded(spec.name, datasets_dir)
    if uploaded is not None:
        return split_arrays(Arrays.of(load_upload(uploaded), source="upload"), spec)
    if spec.name in PUBLISHED and data_dir is not None:
        return split_arrays(PUBLISHED[spec.name](data_dir), spec)
    if spec.name in PUBLISHED:
        raise DataError(f"{spec.name} is read from a data folder, and none was named", "name the folder it lies in")
    folder = data_dir / spec.name if data_dir is not None else None
    if folder is None or not folder.is_dir():
        known = ", ".join([*BUILT_IN, *PUBLISHED])
        raise DataError(
            f"no data set is called {spec.name!r}",
            f"name one of {known}, the id of an upload, or a folder of images or text inside the data folder",
        )
    if (folder / "train").is_dir():
        return load_folder(spec, folder)
    assert data_dir is not None
    return split_arrays(load_text_arrays(spec.text, folder, data_dir), spec)


def _uploaded(name: str, folder: Path | None) -> Path | None:
    if folder is None:
        return None
    return next((path for kind in ("npz", "safetensors") if (path := folder / f"{name}.{kind}").is_file()), None)
