"""The data that a training names, and what is done to it before training. Nothing here loads torch.

Options of a data format are a field of :class:`DataSpec` under the format's ``options_name``.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, create_model, model_serializer

from collegium.search.fields import Strict
from collegium.train.data.catalog import data_formats
from collegium.train.spec.architecture import Key
from collegium.train.spec.recipes import Fraction

Seed = Annotated[int, Field(ge=0, le=2**53 - 1)]


class _Data(Strict):
    name: Key
    validation: Fraction = 0.0
    label_noise: Fraction = 0.0
    limit: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    test_limit: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    seed: Seed = 0


def _options() -> dict[str, Any]:
    """A field for each format's options. Those of other packages are absent unless they are given."""
    fields: dict[str, Any] = {}
    for found in data_formats():
        if found.options is not None and found.options_name not in {*_Data.model_fields, *fields}:
            built_in = type(found).__module__.startswith("collegium.")
            fields[found.options_name] = (found.options, found.options()) if built_in else (found.options | None, None)
    return fields


def _with_options(base: type[_Data]) -> type[_Data]:
    return create_model("_DataWithOptions", __base__=base, __module__=__name__, **_options())


class DataSpec(_with_options(_Data)):
    """A data set, by a published name or by the id of an uploaded one, and what is done to it before training.

    ``validation`` is the fraction of the training samples that is held out. ``label_noise`` is the fraction of the
    remaining training labels that is replaced by labels drawn uniformly from the other classes; validation and test
    labels stay clean. ``limit`` keeps that many training and test samples, ``test_limit`` that many test samples
    in its place: drawn ones of folders and uploads, which may be in the order of their classes, and the first ones of
    published data. All choices follow from ``seed`` alone, so that trainings with different seeds share one split.
    """

    @model_serializer(mode="wrap")
    def _without_absent_options(self, serialize: SerializerFunctionWrapHandler):  # typed, it would hide the schema
        # A specification is stored, and read again where another package's format may not be installed.
        return {key: value for key, value in serialize(self).items() if value is not None or key in _Data.model_fields}


def by_name(value: Any) -> Any:
    """A bare name as an object with that name; anything else as it is."""
    return {"name": value} if isinstance(value, str) else value
