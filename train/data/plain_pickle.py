"""Reading the pickles in which some data sets were published, without running anything that they could name.

Only NumPy's array constructor and data types can be named; every other global is refused, so a crafted file can
at worst be refused or fill memory up to the size limit that its caller sets.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from collegium.train.errors import DataError


def _encode(text: str, encoding: str) -> bytes:
    """The bytes that Python 2 strings became in protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding} is not used by arrays")
    return text.encode("latin1")


_RECONSTRUCT = np.zeros(1).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("_codecs", "encode"): _encode,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _ALLOWED[(module, name)]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside itself")


def read_plain_pickle(data: bytes, name: str) -> dict[str, Any]:
    """The dictionary of plain arrays and lists in ``data``, its keys as text. Raises ``DataError``."""
    try:
        value = _PlainUnpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a crafted or cut file can fail in any way inside the unpickler
        raise DataError(f"{name} is no pickle of plain arrays: {error}", "fetch the published file") from error
    if not isinstance(value, dict):
        raise DataError(f"{name} holds no dictionary", "fetch the published file")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): item for key, item in value.items()}
