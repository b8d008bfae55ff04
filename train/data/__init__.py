"""Data to train on: :func:`load` takes a name or an id and gives a data set, split and described.

Published formats are read by one module each into :class:`~train.data.dataset.Arrays`; :mod:`train.data.split` holds
out validation samples, makes labels noisy and fits the normalization; :mod:`train.data.batches` walks through a split.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.data.catalog import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Loading lazily: checking an upload, which the API does, must not import torch.
    if name == "load":
        from train.data.catalog import load

        return load
    raise AttributeError(name)
