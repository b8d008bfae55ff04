"""Data sets by name or id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from train.data.dataset import Arrays, Dataset
from train.data.digits import load_digits
from train.data.problem import DataProblem
from train.data.split import split_arrays
from train.data.synthetic import load_sequences, load_teacher
from train.spec import DataSpec

Loader = Callable[[DataSpec, Path | None], Arrays]
"""From a spec and the folder of published data sets to whole arrays."""

BUILT_IN: dict[str, Loader] = {
    "digits": lambda spec, _: load_digits(),
    "synthetic": lambda spec, _: load_teacher(spec.synthetic, spec.seed),
    "synthetic-text": lambda spec, _: load_sequences(spec.synthetic, spec.seed),
}


def load(spec: DataSpec, data_dir: Path | None = None, datasets_dir: Path | None = None) -> Dataset:
    """The data set that ``spec`` names, split and described, on the CPU.

    ``data_dir`` holds published data sets by name, ``datasets_dir`` uploaded ones by id. Raises ``DataProblem`` where
    the name is unknown, a file is missing or wrong, or the split leaves nothing.
    """
    loader = BUILT_IN.get(spec.name)
    if loader is None:
        raise DataProblem(f"no data set is called {spec.name!r}", f"known are {', '.join(BUILT_IN)}")
    return split_arrays(loader(spec, data_dir), spec)
