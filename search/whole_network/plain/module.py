"""A module of the user's own, as it is or regrouped, whose kernel is measured at initialization."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from collegium.search.errors import InvalidSpec
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.networks.network import StageGrouping
from collegium.search.regroup.laws import draw_anew
from collegium.search.regroup.regroup import regroup
from collegium.search.whole_network.kernel import centre

#: Draws of small modules that are computed at once, where they can be mapped.
AT_ONCE = 64
#: Parameters of all draws that are computed at once.
PARAMETERS_AT_ONCE = 100_000


class Logits(nn.Module):
    """A module's outputs as ``(samples, outputs)``: of a map or a sequence, those at its centre.

    Of several tensors the one called ``logits`` is taken, else the first. The module stays in evaluation mode, so that
    nothing is dropped.
    """

    def __init__(self, module: nn.Module, argument: str | None, kept: list[str]) -> None:
        super().__init__()
        self.module, self.argument = module, argument
        #: Parameters that are the same in every draw.
        self.kept = [f"module.{name}" for name in kept]
        self.eval()

    def train(self, mode: bool = True) -> Logits:
        """Evaluation mode, whatever is asked for: batch norms without a record use the batch's statistics there too."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """The chosen outputs of each sample."""
        found = self.module(x) if self.argument is None else self.module(**{self.argument: x})
        return centre(_tensor(found))


def _tensor(found: Any) -> Tensor:
    """The first tensor of numbers in what a module gives."""
    if isinstance(found, Tensor):
        return found
    if isinstance(found, Mapping):
        found = [found["logits"]] if "logits" in found else list(found.values())
    for each in found if isinstance(found, list | tuple) else ():
        if isinstance(each, Tensor | Mapping | list | tuple):
            return _tensor(each)
    raise InvalidSpec(("example_input",), f"the module gives no tensor for it, but a {type(found).__name__}")


@dataclass(frozen=True)
class Subject:
    """The module that is measured: a template in single precision on the CPU, its description, and its input."""

    template: nn.Module
    described: NetworkBaseline
    argument: str | None
    outputs: int

    @classmethod
    def of(cls, model: nn.Module, described: NetworkBaseline, batch: np.ndarray, argument: str | None) -> Subject:
        """The module, tried on two samples. Raises ``InvalidSpec`` where it is not the one that was described."""
        parameters = sum(each.numel() for each in model.parameters())
        if parameters != described.parameters:
            raise InvalidSpec(
                ("baseline", "parameters"),
                f"the description has {described.parameters} and the model {parameters}: describe this model",
            )
        if any(each.device.type == "meta" for each in model.parameters()):
            raise InvalidSpec(("model",), "it is on the device 'meta' and has no numbers: build it on a real one")
        template = copy.deepcopy(model).to("cpu", torch.float32)
        with torch.no_grad():
            outputs = Logits(copy.deepcopy(template), argument, [])(torch.from_numpy(batch[:1]))
        return cls(template, described, argument, outputs.shape[1])


@dataclass(frozen=True)
class OwnCandidate:
    """``multiplicity`` members of ``widths`` in a group of branches, as a whole network; ``groupings`` has them all.

    Without ``groupings`` it is the module as it is. ``mapped``: whether draws of it can be computed at once.
    """

    name: str
    subject: Subject
    widths: tuple[int, ...]
    multiplicity: int
    parameters: int
    groupings: tuple[tuple[str, int, tuple[int, ...]], ...] = ()
    mapped: bool = field(default=False, compare=False)

    plain: ClassVar[bool] = True

    @property
    def outputs(self) -> int:
        """Logits that there are."""
        return self.subject.outputs

    @property
    def label(self) -> str:
        """Such as ``12×10``."""
        return str(StageGrouping(self.widths, self.multiplicity))

    @property
    def title(self) -> str:
        """The network in a few words."""
        name = self.subject.described.name
        return f"{self.label} in {name}" if self.groupings else name

    @property
    def key(self) -> int:
        """A number that is the same for the same groupings."""
        return int.from_bytes(hashlib.sha256(repr(self.groupings).encode()).digest()[:8])

    def at_once(self, device: str) -> int:
        """Draws to compute at once."""
        most = PARAMETERS_AT_ONCE // max(1, self.parameters)
        return max(1, min(AT_ONCE, most)) if self.mapped and device == "cpu" else 1

    def build(self) -> nn.Module:
        """The module, drawn anew by PyTorch's own generator as it is seeded."""
        seed, subject = torch.initial_seed(), self.subject
        if not self.groupings:
            made = copy.deepcopy(subject.template)
            return Logits(made, subject.argument, draw_anew(made, seed))
        members = {name: (multiplicity, widths) for name, multiplicity, widths in self.groupings}
        made = regroup(subject.template, members, baseline=subject.described, seed=seed)
        report: Any = made.regrouped
        return Logits(made, subject.argument, list(report.kept))
