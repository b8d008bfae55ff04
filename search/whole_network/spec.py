"""How the tangent kernel of whole networks is measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from collegium.search.fields import Strict, wrong_fields
from collegium.search.networks.graph.reading import Position

Parameterization = Literal["standard", "ntk"]
Norm = Literal["batch", "none"]


class NetworkKernelSpec(Strict):
    """The measurement of whole networks' kernels K(x, x') = Σ_p rate_p ∂F/∂p(x) · ∂F/∂p(x') at initialization.

    ``parameterization`` ``standard``: the module's own initialization, every rate 1, as it is trained. ``ntk``: weights
    √(gain / fan_in) W with W ~ N(0, 1) (Littwin et al. 2020, Eq. 3), so that a weight's rate is its initial variance;
    what starts as a constant (biases, gains and shifts of norms) has rate 1.

    ``norm`` ``batch``: batch norms in training mode on a batch of ``images``. ``none``: batch norms are left out, and
    weights have variance gain / fan_in, since a module's own variances presume its norms.

    ``inputs`` of the batch and ``outputs`` of the logits are measured for each initialization. ``pixels`` is the extent
    of the images where the network takes any; None: the network's own, at most 48. Initializations are drawn until the
    ratio of each variance to the baseline's has the standard error ``relative_error`` or ``max_seconds`` have passed.

    ``position`` is where the logits of a map or of a sequence of tokens are read: at its centre, at one token, or
    averaged; None: at the last of as many tokens as the network reads, else at the centre. ``output`` names the entry
    of what a module at hand gives, by its key or its place; None: ``logits``, or the first tensor of numbers.

    >>> NetworkKernelSpec(images=4).inputs
    2
    """

    parameterization: Parameterization = "standard"
    norm: Norm = "batch"
    images: Annotated[int, Field(ge=1, le=1024)] = 8
    inputs: Annotated[int, Field(ge=1, le=64)] = 2
    outputs: Annotated[int, Field(ge=1, le=64)] = 1
    pixels: Annotated[int, Field(ge=1, le=1024)] | None = None
    position: Position | None = None
    output: Annotated[str, Field(min_length=1, max_length=128)] | Annotated[int, Field(ge=0, le=255)] | None = None
    relative_error: Annotated[float, Field(ge=0.005, le=0.5)] = 0.05
    max_seconds: Annotated[float, Field(gt=0, le=86_400)] = 600.0

    @model_validator(mode="after")
    def _inputs_are_of_the_batch(self) -> NetworkKernelSpec:
        if self.inputs > self.images:
            field = "inputs" if "inputs" in self.model_fields_set else "images"
            message = f"'inputs' are measured out of the batch: at most images = {self.images}, not {self.inputs}"
            raise wrong_fields({(field,): message})
        return self
