"""The workload for which time and memory are wanted: inference or training, batch, images, precision, threads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from collegium.search.fields import Strict, wrong_fields

Mode = Literal["inference", "training"]
Precision = Literal["fp32", "tf32", "bf16"]


class Workload(Strict):
    """What is run: the forward pass of a batch, or a whole training step, on the worker's own device.

    A training step is forward pass, backward pass and the ``optimizer``'s update (``sgd`` has a momentum). ``bf16``
    casts the whole network for inference, and is mixed precision in training, as the recipes' ``precision`` is.
    ``image_size`` is the extent of square images, None the network's own; ``threads`` those of a processor, None as
    many as the process uses, or one where that is faster. ``channels_last`` is the memory layout of images.

    >>> Workload(mode="training", batch_size=64).describe()
    'training step of 64 samples, fp32, sgd'
    """

    mode: Mode = "inference"
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 1
    image_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    precision: Precision = "fp32"
    channels_last: bool = False
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"

    @model_validator(mode="after")
    def _batch_norm_has_a_batch(self) -> Workload:
        if self.mode == "training" and self.batch_size < 2:
            message = "a training step needs a batch_size of at least 2: batch norm has no moments of one"
            raise wrong_fields({("batch_size",): message}, missing="batch_size" not in self.model_fields_set)
        return self

    @property
    def training(self) -> bool:
        """Whether a step includes the backward pass and the update."""
        return self.mode == "training"

    def describe(self) -> str:
        """The workload in a few words."""
        samples = "1 sample" if self.batch_size == 1 else f"{self.batch_size} samples"
        words = [f"training step of {samples}" if self.training else f"inference of {samples}"]
        if self.image_size is not None:
            words.append(f"{self.image_size}×{self.image_size} images")
        words.append(self.precision)
        if self.channels_last:
            words.append("channels last")
        if self.training:
            words.append(self.optimizer)
        if self.threads is not None:
            words.append("1 thread" if self.threads == 1 else f"{self.threads} threads")
        return ", ".join(words)
