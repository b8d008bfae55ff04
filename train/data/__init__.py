"""Data to train on: :func:`train.data.catalog.load` takes a name or an id and gives a :class:`train.data.dataset.Dataset`.

Published formats are read by one module each into :class:`~train.data.dataset.Arrays`; :mod:`train.data.split` holds
out validation samples, makes labels noisy and fits the normalization; :mod:`train.data.batches` walks through a split.
"""
