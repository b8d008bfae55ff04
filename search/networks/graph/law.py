"""How the parameters of a graph start, and the paths of its layers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from collegium.search.fields import Strict

#: The path of a module or parameter of the network, as ``layer1.0.conv1``.
Place = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")]
Number = Annotated[float, Field(ge=-1e12, le=1e12)]


class Law(Strict):
    """How a parameter starts: normal or uniform around 0 with the standard deviation ``value``, or constant at it."""

    kind: Literal["normal", "uniform", "constant"]
    value: Number

    @model_validator(mode="after")
    def _deviation_is_positive(self) -> Law:
        if self.kind != "constant" and self.value <= 0:
            raise ValueError("value must be above 0: it is the standard deviation")
        return self
