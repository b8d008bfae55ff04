"""The closed, immutable, strictly typed model of which specifications are made, and the types of their fields.

A file of its own, since families of baselines are built of it and a search's specification of them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_WIDTH = 1_000_000
MAX_LAYERS = 64


class Strict(BaseModel):
    """A closed, immutable, strictly typed model."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1, max_length=MAX_LAYERS, strict=False)]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
