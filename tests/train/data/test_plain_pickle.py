"""Pickles of plain arrays are read; whatever names code is refused."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from collegium.train.data.plain_pickle import read_plain_pickle
from collegium.train.errors import DataError


class _Evil:
    def __reduce__(self):
        return (os.system, ("echo run",))


@pytest.mark.parametrize("payload", [_Evil(), {"data": _Evil()}, [1, 2]])
def test_a_pickle_that_names_code_or_holds_no_dictionary_is_refused(payload):
    with pytest.raises(DataError):
        read_plain_pickle(pickle.dumps(payload), "batch")


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_a_cut_pickle_is_refused(cut):
    with pytest.raises(DataError):
        read_plain_pickle(pickle.dumps({"data": np.zeros(1000)})[:cut], "batch")
