"""One kernel whose copies a fused optimizer updates, and one step of it: see ``collegium.train.majority.fused``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from collegium.train.majority import launched
from collegium.train.majority.draw import Draw, length_of_chunks, mix_chunk, shares_of_chunk
from collegium.train.majority.generators.uniforms import Points
from collegium.train.majority.guards.gradient import MixedLeaf, uses
from collegium.train.majority.kernel import MajorityKernel
from collegium.train.majority.native import passes
from collegium.train.majority.updates import Work, numbers, state_tensors
from collegium.train.majority.updates import adam as _adam
from collegium.train.majority.updates import sgd as _sgd

Way = Literal["launch", "pass", "chunks"]
_torch: Any = torch  # what torch's own optimizers call has no public name


@dataclass
class FusedKernel:
    """One kernel whose copies a fused optimizer updates."""

    kernel: MajorityKernel
    copies: nn.Parameter
    leaf: MixedLeaf
    beside: Sequence[Tensor] = ()  # the other parameters of its layer
    keeps: bool = False  # whether the points of the next step, so that it need not draw them again
    points: Sequence[Points | None] = ()  # those of the draw ``drawn`` for each chunk
    drawn: Draw | None = None
    count: launched.Count = field(default_factory=launched.Count)
    _kept: tuple[Any, Any] = (None, None)

    @property
    def has_gradient(self) -> bool:
        """Whether there is a g, and no gradient of the copies beside it."""
        return self.leaf.gradient is not None and Tensor.grad.__get__(self.copies) is None  # type: ignore[attr-defined]

    @property
    def on_processor(self) -> bool:
        """Whether its update runs on a processor, instead of being a part of one launch on a GPU."""
        return self.copies.device.type == "cpu"

    def summand(self) -> tuple[Tensor, Draw, int]:
        """g, its draw and the expansion: what makes the norm of the gradient of the copies."""
        assert self.leaf.gradient is not None
        return self.leaf.gradient, self._draw(), len(self.copies)

    def norm(self) -> Tensor:
        """√ Σ_k |p_k ∘ g|²."""
        gradient, draw, _ = self.summand()
        if passes.takes(draw, len(self.copies), gradient):
            return passes.norm(gradient, draw, len(self.copies))
        norms: list[Tensor] = []
        flat = gradient.contiguous().view(-1)
        for index, part in enumerate(flat.split(length_of_chunks(draw, flat.shape[0]))):
            rows = shares_of_chunk(part, draw, index, len(self.copies))
            norms += _torch._foreach_norm(rows)
        return norm_of(norms)

    def proceed(self, step: "FusedStep") -> None:
        """Apply the optimizer to every copy and mix the weight of the next step, chunk by chunk, with operators."""
        apply, expansion = _sgd if "dampening" in step.group else _adam, len(self.copies)
        step.count()
        elements = step.gradient.shape[0]
        length = length_of_chunks(step.draw, elements)
        parts = step.gradient.split(length) if length < elements else [step.gradient]
        views = self.views(step.tensors, length)
        chunks = zip(parts, views, self.points, strict=True)
        known, self.drawn = self.drawn == step.draw, None  # none, if this is interrupted
        for index, (part, (target, weights, *moments), points) in enumerate(chunks):
            shares = shares_of_chunk(part, step.draw, index, expansion, points if known else None)
            apply(step.group, step.state, weights, shares, moments)
            mix_chunk(weights, step.following, index, target, points)
        self.drawn = step.following
        increment_version(self.copies)  # torch's fused updates do not
        self.end(step)

    def begin(self, state: dict[str, Any], group: dict[str, Any]) -> "FusedStep":
        """What the step needs. Until it ends, no mixture is valid."""
        assert self.leaf.pending is not None
        self.leaf.forget()
        draw, gradient = self._draw(), self.leaf.pending.contiguous()
        tensors = [self.copies, *state_tensors(group, state, self.copies)]
        _check_sizes(gradient, self.leaf.memory, tensors)
        if self.on_processor:
            gradient = gradient.view(-1)
        following = Draw(draw.seed, draw.step + 1, draw.kernel, draw.source)
        return FusedStep(self, group, state, gradient, tensors, draw, following)

    def end(self, step: "FusedStep") -> None:
        """Record that it has been taken, and the next weight mixed; versions have been counted."""
        step.state.pop("first", None)
        clock = self.kernel.clock
        clock.forget(self.copies)
        clock.expect(step.following)
        self.leaf.renew(self.leaf.memory, step.following)
        self.leaf.put_back()

    def views(self, tensors: list[Tensor], length: int) -> list[tuple[Any, ...]]:
        """For each chunk of ``length``: its part of the mixed weight, the rows of each of ``tensors``; made once."""
        assert self.leaf.tensor is not None
        memory = [length, *(tensor.data_ptr() for tensor in (self.leaf.tensor, *tensors))]
        if self._kept[0] != memory:
            self._kept, self.leaf.aliases = (None, None), 0
            before = uses(self.copies)
            blocks = [Tensor.detach(tensor).view(len(tensor), -1).split(length, dim=1) for tensor in tensors]
            rows = [[block.unbind() for block in column] for column in blocks]
            del blocks
            self._kept = memory, list(zip(self.leaf.tensor.detach().view(-1).split(length), *rows, strict=True))
            self.leaf.aliases = uses(self.copies) - before
            self.points, self.drawn = [self._room(target) for target, *_ in self._kept[1]], None
        return self._kept[1]

    def release(self) -> None:
        """Keep nothing of the memory of copies and state, and no points."""
        self._kept, self.points, self.drawn, self.leaf.aliases = (None, None), (), None, 0

    def _room(self, chunk: Tensor) -> Points | None:
        """Memory for the points of ``chunk``, of the mixed weight."""
        elements, count = chunk.shape[0], len(self.copies) - 1
        if not self.keeps or elements * count == 0 or self.kernel.clock.source != "independent":
            return None
        with torch.inference_mode(False):  # memory of that mode could not be written outside of it
            return Points(torch.empty(count, elements, dtype=self.copies.dtype, device="cpu"))

    def _draw(self) -> Draw:
        assert self.leaf.draw is not None
        return self.leaf.draw


@dataclass
class FusedStep:
    """One step of one kernel."""

    item: FusedKernel
    group: dict[str, Any]
    state: dict[str, Any]
    gradient: Tensor  # flat, on a processor
    tensors: list[Tensor]  # copies and state
    draw: Draw
    following: Draw

    @property
    def way(self) -> Way:
        """How the step is taken: in a launch on a GPU; on a processor in a pass of ``native``, or in chunks."""
        copies = self.tensors[0]
        if not self.item.on_processor:
            return "launch"
        takes = passes.takes(self.draw, len(copies), self.gradient, self.item.leaf.memory, *self.tensors)
        return "pass" if takes else "chunks"

    def count(self) -> float:
        """Count it where the optimizer counts, on a processor; the steps with this one."""
        steps = self.state.get("step")
        if steps is None:
            return 0.0
        steps += 1
        return float(steps)

    def to_work(self, numbers: tuple[float, ...]) -> Work:
        """The step as a part of one launch or pass."""
        is_adam, target = "dampening" not in self.group, self.item.leaf.memory
        return Work(is_adam, self.gradient, target, self.tensors, self.draw, self.following, numbers)


def take(steps: "list[FusedStep]") -> None:
    """Take ``steps``, which have begun: those of one launch or pass together."""
    ways: dict[Way, list[FusedStep]] = {}
    for step in steps:
        ways.setdefault(step.way, []).append(step)
    for step in ways.pop("chunks", ()):
        step.item.proceed(step)
    for way, some in ways.items():
        if way == "pass":
            passes.update(_works(some, [step.count() for step in some]))
        else:
            counts = launched.count_steps([step.state for step in some], [step.item.count for step in some])
            launched.update(_works(some, counts))
        increment_version([tensor for step in some for tensor in (step.item.copies, step.item.leaf.memory)])
        for step in some:
            step.item.end(step)


def _works(steps: "list[FusedStep]", counts: Sequence[float]) -> list[Work]:
    works, known = [], {}
    for step, taken in zip(steps, counts, strict=True):
        alike = id(step.group), taken, "first" in step.state
        if alike not in known:
            known[alike] = numbers(step.group, step.state, taken)
        works.append(step.to_work(known[alike]))
    return works


def _check_sizes(gradient: Tensor, mixed: Tensor, tensors: Sequence[Tensor]) -> None:
    """Raise where the update would read or write behind a tensor's end: a launch or a pass asks for none."""
    copies, *state = tensors
    if not copies.shape[1:] == gradient.shape == mixed.shape:
        raise RuntimeError(
            f"copies of shape {tuple(copies.shape)} have a gradient of shape {tuple(gradient.shape)}: they have been "
            "replaced between backward() and the optimizer's step"
        )
    for tensor in state:
        if tensor.shape != copies.shape or tensor.device != copies.device:
            raise RuntimeError(
                f"the optimizer's state for copies of shape {tuple(copies.shape)} on {copies.device} has shape "
                f"{tuple(tensor.shape)} and is on {tensor.device}: load one of this model, or clear it"
            )


def norm_of(norms: list[Tensor]) -> Tensor:
    """The joint norm, float32 at least; squares of large gradients would overflow."""
    if not norms:
        return torch.zeros(())
    wide = torch.float64 if any(norm.dtype == torch.float64 for norm in norms) else torch.float32
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device, wide) for norm in norms]))
