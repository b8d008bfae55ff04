"""A module of the user's own, as it is or regrouped, whose kernel is measured at initialization."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from collegium.search.errors import InvalidSpec
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.networks.graph.reading import PLACES, Position, at_position, logits_at, own_position
from collegium.search.networks.network import StageGrouping
from collegium.search.regroup.laws import draw_anew
from collegium.search.regroup.regroup import copy_of, regroup
from collegium.search.whole_network.inputs.samples import Samples
from collegium.search.whole_network.plain.inputs import Call
from collegium.search.whole_network.plain.outputs import entry_of
from collegium.search.whole_network.spec import NetworkKernelSpec

#: Draws of small modules that are computed at once, where they can be mapped.
AT_ONCE = 64
#: Parameters of all draws that are computed at once.
PARAMETERS_AT_ONCE = 100_000
#: Samples on which a module is tried.
TRIED = 2


class Logits(nn.Module):
    """A module's outputs as ``(samples, outputs)``, called with the tensors of a batch as ``call`` says.

    Of several outputs that of ``spec.output`` is taken, read at ``spec.position``. The module stays in evaluation mode,
    so that nothing is dropped.
    """

    def __init__(self, module: nn.Module, call: Call, spec: NetworkKernelSpec, kept: list[str]) -> None:
        super().__init__()
        self.module, self.call, self.spec = module, call, spec
        #: Parameters that are the same in every draw.
        self.kept = [f"module.{name}" for name in kept]
        self.eval()

    def train(self, mode: bool = True) -> Logits:
        """Evaluation mode, whatever is asked for: batch norms without a record use the batch's statistics there too."""
        return super().train(False)

    def forward(self, *tensors: Tensor) -> Tensor:
        """The chosen outputs of each sample."""
        found, _ = self.chosen(*tensors)
        return at_position(found, self.position_of(found, tensors))

    def chosen(self, *tensors: Tensor) -> tuple[Tensor, str]:
        """The output that is measured, and its name."""
        args, kwargs = self.call.arguments([each.clone() for each in tensors])  # a module may write into what it reads
        return entry_of(self.module(*args, **kwargs), self.spec.output)

    def position_of(self, found: Tensor, tensors: Sequence[Tensor]) -> Position:
        """Where it is read."""
        integers = (tuple(each.shape[1:]) for each in tensors if not each.is_floating_point() and each.dim())
        return self.spec.position or own_position(tuple(found.shape), integers)


@dataclass(frozen=True)
class Subject:
    """The module that is measured: a template in single precision on the CPU, its description, and how it is called.

    ``outputs`` are the logits that ``reading`` names in words.
    """

    template: nn.Module
    described: NetworkBaseline
    call: Call
    spec: NetworkKernelSpec
    outputs: int
    reading: str

    @classmethod
    def of(
        cls, model: nn.Module, described: NetworkBaseline, batch: Samples, call: Call, spec: NetworkKernelSpec
    ) -> Subject:
        """The module, tried on the first samples. Raises ``InvalidSpec`` where it is not the one that was described."""
        parameters = sum(each.numel() for each in model.parameters())
        if parameters != described.parameters:
            raise InvalidSpec(
                ("baseline", "parameters"),
                f"the description has {described.parameters} and the model {parameters}: describe this model",
            )
        if any(each.device.type == "meta" for each in model.parameters()):
            raise InvalidSpec(("model",), "it is on the device 'meta' and has no numbers: build it on a real one")
        try:
            template = copy_of(model).to("cpu", torch.float32)
        except ValueError as error:
            raise InvalidSpec(("model",), f"{error}: give a model without it, which is drawn again and again") from None
        logits = Logits(copy.deepcopy(template), call, spec, [])
        tensors = [torch.from_numpy(each) for each in batch.first(TRIED).arrays]
        with torch.no_grad():
            found, name = logits.chosen(*tensors)
        tried = min(TRIED, batch.count)
        if not found.dim() or len(found) != tried:
            raise InvalidSpec(
                ("network", "output"),
                f"of {tried} samples it has the shape {tuple(found.shape)}, whose first axis is not that of samples",
            )
        position = logits.position_of(found, tensors)
        outputs = logits_at(tuple(found.shape), position)
        return cls(template, described, call, spec, outputs, _in_words(name, position, found.dim()))


def _in_words(name: str, position: Position, axes: int) -> str:
    place = f" {PLACES[position]}" if axes > 2 else ""
    return f" of the output {name!r}{place}" if name else place


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
            return Logits(made, subject.call, subject.spec, draw_anew(made, seed))
        members = {name: (multiplicity, widths) for name, multiplicity, widths in self.groupings}
        made = regroup(subject.template, members, baseline=subject.described, seed=seed)
        report: Any = made.regrouped
        return Logits(made, subject.call, subject.spec, list(report.kept))
