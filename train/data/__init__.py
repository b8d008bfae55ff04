"""Data to train on: :func:`load` takes a name or an id and gives a data set, split and described.

:mod:`~collegium.train.data.catalog` lists the formats and finds the one that a name belongs to; each of
:mod:`~collegium.train.data.formats` reads :class:`~collegium.train.data.arrays.Arrays`;
:mod:`~collegium.train.data.split` holds out validation samples, makes labels noisy and fits the normalization;
:mod:`~collegium.train.data.batches` yields a split's batches.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collegium.train.data.catalog import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Loading lazily: checking an upload, which the API does, must not import torch.
    if name == "load":
        from collegium.train.data.catalog import load

        return load
    raise AttributeError(name)
