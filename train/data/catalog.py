"""Data sets by name or id, and what is known of them before any is read. Torch is loaded by :func:`load` alone.

A name is looked up among the names of all formats; then each format that has none is asked for its files, in the order
of the table: the uploaded data sets, folders of labelled images, folders of labelled text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collegium.registry import Registry
from collegium.train.data.format import GENERIC_RECIPE, DataFormat, Folders, Sample
from collegium.train.errors import DataError

if TYPE_CHECKING:
    from collegium.train.data.dataset import Dataset
    from collegium.train.spec.data import DataSpec

DEBIAN = Path("/usr/share/datasets")
"""Where Debian's packages of data sets put them, each as a folder of its name."""
DATA_FORMATS: Registry[type[DataFormat]] = Registry(
    "data format",
    "collegium.data_formats",
    {
        "digits": "collegium.train.data.formats.digits:Digits",
        "teacher": "collegium.train.data.formats.synthetic:Teacher",
        "sequences": "collegium.train.data.formats.synthetic:Sequences",
        "idx": "collegium.train.data.formats.idx:Idx",
        "cifar": "collegium.train.data.formats.cifar:Cifar",
        "small-imagenet": "collegium.train.data.formats.small_imagenet:SmallImageNet",
        "movie-snippets": "collegium.train.data.formats.snippets:MovieSnippets",
        "upload": "collegium.train.data.formats.upload:Upload",
        "image-folder": "collegium.train.data.formats.image_folder:ImageFolder",
        "text-folder": "collegium.train.data.formats.text:TextFolder",
    },
)


def data_formats() -> Iterator[DataFormat]:
    """Every format that can be used, the built-in ones first."""
    return (made() for _, made in DATA_FORMATS.usable())


def named_data() -> dict[str, DataFormat]:
    """The data sets that have a name of their own, and their formats."""
    found: dict[str, DataFormat] = {}
    for data_format in data_formats():
        for name in data_format.names:
            found.setdefault(name, data_format)
    return found


def find(name: str, folders: Folders) -> DataFormat:
    """The format of the data set ``name``. Raises ``DataError``, naming what there is or where files are missing."""
    named = named_data()
    if name in named:
        _require_files(name, named[name], folders)
        return named[name]
    found = _found(name, folders)
    if found is not None:
        return found
    raise DataError(_unknown(name, folders), f"name one of {', '.join(named)}, or {_layouts()}")


def missing_files(name: str, folder: Path | None) -> tuple[str, ...]:
    """The files or folders any one of which ``folder`` should hold for the named data set; none where one is there."""
    named = named_data()
    files = named[name].files(name) if name in named else ()
    found = folder is not None and any((folder / file).exists() for file in files)
    return () if found else files


def usual_folders(named: Path | None) -> tuple[Path, ...]:
    """Where commands look for published data: ``named`` alone if it is given, else COLLEGIUM_DATA_DIR and Debian's."""
    if named is not None:
        return (named,)
    usual = os.environ.get("COLLEGIUM_DATA_DIR")
    return (*([Path(usual)] if usual else []), DEBIAN)


def known_sample(spec: DataSpec, folders: Folders | None = None) -> Sample | None:
    """A sample of the data, as far as it is known without reading any; ``folders`` also identifies what has no name."""
    data_format = _named(spec.name) if folders is None else format_of(spec.name, folders)
    return None if data_format is None else data_format.sample(spec)


def format_of(name: str, folders: Folders) -> DataFormat | None:
    """The format of the data set ``name``, whether or not its files are there; None where nothing says it."""
    return _named(name) or _found(name, folders)


def _named(name: str) -> DataFormat | None:
    """What ``named_data`` has for one name."""
    return next((each for each in data_formats() if name in each.names), None)


def foreign_options(spec: DataSpec, data_format: DataFormat | None = None) -> list[str]:
    """Options other than defaults that ``spec`` gives and the format of its data does not have, by their field.

    The format is ``data_format``, or that of the data's name.
    """
    data_format = data_format or _named(spec.name)
    if data_format is None:
        return []
    others = {found.options_name: found.options for found in data_formats() if found.options is not None}
    others.pop(data_format.options_name, None)
    given = {name: options for name, options in others.items() if name in spec.model_fields_set}
    return [name for name, options in given.items() if getattr(spec, name) not in (None, options())]


def recipe_for(name: str) -> str:
    """The recipe of the named data set's format, or the generic one."""
    data_format = _named(name)
    return GENERIC_RECIPE if data_format is None else data_format.recipe(name)


def describe_formats() -> list[dict[str, Any]]:
    """Every format as plain values: its data sets with their files and recipes, or its layout, and its options."""
    return [
        {
            "name": name,
            "summary": made.summary,
            "data": [_describe_data(made(), data) for data in made.names],
            "layout": made.layout,
            "options_name": made.options_name,
            "options": made.options.model_json_schema() if made.options is not None else None,
        }
        for name, made in DATA_FORMATS.usable()
    ]


def load(spec: DataSpec, data_dir: Path | None = None, datasets_dir: Path | None = None) -> Dataset:
    """The data set that ``spec`` names, split and described, on the CPU.

    ``data_dir`` holds published data and folders of images and text, ``datasets_dir`` uploads (``ID.npz`` or
    ``ID.safetensors``). Raises ``DataError`` where the name is unknown, a file is missing or wrong, or the split
    leaves nothing.
    """
    from collegium.train.data.arrays import Arrays
    from collegium.train.data.split import split_arrays

    folders = Folders(data_dir, datasets_dir)
    found = find(spec.name, folders).load(spec, folders)
    return split_arrays(found, spec) if isinstance(found, Arrays) else found


def _found(name: str, folders: Folders) -> DataFormat | None:
    """The format of data that has no name of its own, found by its files."""
    if not _is_plain(name):
        return None
    return next((data_format for data_format in data_formats() if data_format.finds(name, folders)), None)


def _require_files(name: str, data_format: DataFormat, folders: Folders) -> None:
    if data_format.files(name) and folders.data is None:
        raise DataError(f"{name} is read from a data folder, and none was named", "name the folder that holds it")
    missing = missing_files(name, folders.data)
    if missing:
        raise DataError(
            f"{name} is not in the data folder", f"put {' or '.join(missing)} there{data_format.source(name)}"
        )


def _unknown(name: str, folders: Folders) -> str:
    broken = "".join(f"; {reason}" for reason in DATA_FORMATS.broken().values())
    if folders.data is not None and _is_plain(name) and (folders.data / name).is_dir():
        return f"the folder {name!r} holds data of no known format{broken}"
    return f"no data set is called {name!r}{broken}"


def _is_plain(name: str) -> bool:
    """Whether ``name`` names a file or folder, and is no path to elsewhere."""
    return not name.startswith(".") and "/" not in name and "\\" not in name


def _layouts() -> str:
    return ", or ".join(data_format.layout for data_format in data_formats() if data_format.layout)


def _describe_data(data_format: DataFormat, name: str) -> dict[str, Any]:
    return {"name": name, "files": list(data_format.files(name)), "recipe": data_format.recipe(name)}
