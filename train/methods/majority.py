"""Majority kernels, Mazzawi et al. 2024, Algorithm 2.1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from collegium.search.errors import InvalidSpec
from collegium.search.fields import each_once, wrong_fields
from collegium.train.majority.targets.names import Names, covers, listed, unmatched, without_kernel
from collegium.train.methods.method import Copies, Method, MethodOptions
from collegium.train.methods.step import ComputeLoss, Execution, StepOutput, run_microbatches

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from collegium.train.majority.clock import Clock
    from collegium.train.majority.kernel import MajorityKernel

LEAST_SPREAD = 1e-6
"""Copies that are closer to each other than this, relative to the weight, are equal to float32's rounding."""

Patterns = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=128)], ...],
    Field(max_length=64, strict=False),
    AfterValidator(each_once),
]


class MajorityOptions(MethodOptions):
    """Copies of each kernel and how they begin; those of ``collegium.expand``."""

    separates: ClassVar[bool] = True
    """Whether training takes copies apart that begin equal, as randomly drawn p do."""
    copies: Copies = Field(3, description="copies of each kernel, e")
    initialization: Literal["perturbed", "independent", "replicated"] | None = Field(
        None,
        description="perturbed: the weight and noise that sums to zero over the copies; independent: every copy drawn "
        "anew, as published for training from scratch; replicated: all copies equal, which a method without random "
        "draws cannot train. By default replicated for pretrained weights where the method draws, and perturbed "
        "otherwise",
    )
    spread: Annotated[float, Field(ge=0, le=8)] | None = Field(
        None,
        description="how far perturbed copies are from their mean, relative to it: 0.1 where it is not given; more "
        "regularizes, and trains slower",
    )
    correct_scale: bool = Field(
        False, description="give the weight, as it is sampled in training, the variance of a single kernel"
    )
    patterns: Patterns = Field(
        (), description="shell-style patterns of the names of modules to expand; none expands every kernel"
    )

    @model_validator(mode="after")
    def _scale_of_replicas(self) -> Self:
        if self.correct_scale and (self.initialization == "replicated" or self.spread == 0):
            message = "replicated copies keep the weight's variance: there is no scale to correct"
            raise wrong_fields({("correct_scale",): message})
        if self.copies == 1 and (self.spread or self.correct_scale):
            field = "spread" if self.spread else "correct_scale"
            raise wrong_fields({(field,): "a single copy is the kernel itself: leave it out, or give more copies"})
        if self.spread is not None and self.initialization not in ("perturbed", None):
            message = f"a spread is what perturbed copies have: leave it out with {self.initialization!r}"
            raise wrong_fields({("spread",): message})
        return self

    @model_validator(mode="after")
    def _copies_can_part(self) -> Self:
        if self.separates or self.copies == 1:
            return self
        message = "without random draws, equal copies have equal gradients and stay equal, which is plain training"
        if self.initialization == "replicated":
            raise wrong_fields({("initialization",): f"{message}: choose perturbed or independent"})
        if self.spread is not None and self.spread < LEAST_SPREAD:
            raise wrong_fields({("spread",): f"{message}: give at least {LEAST_SPREAD}, such as 0.1"})
        return self

    def suited_to(self, *, pretrained: bool) -> Self:
        """The initialization filled in. Raises ``InvalidSpec`` for a scale correction of pretrained weights."""
        if self.initialization is not None:
            return self
        replicated = pretrained and self.spread is None and self.separates
        if self.correct_scale and replicated:
            raise InvalidSpec(
                ("expansion", "correct_scale"),
                "copies of pretrained weights are replicas, which keep the variance: leave it out, or ask for the "
                "initialization 'perturbed'",
            )
        return self.model_copy(update={"initialization": "replicated" if replicated else "perturbed"})


def check_patterns(model: nn.Module, patterns: Sequence[str]) -> None:
    """Raise ``InvalidSpec`` where a pattern matches nothing of ``model``, or all together no kernel."""
    from collegium.train.majority.targets.choice import kernel_targets

    try:
        found = kernel_targets(model, patterns or None)
    except ValueError as error:
        raise InvalidSpec(("expansion", "patterns"), str(error)) from error
    if patterns and not found:
        raise InvalidSpec(("expansion", "patterns"), "what they match has no kernel to expand")


def check_pattern_names(patterns: Sequence[str], known: Callable[[], Names | None]) -> None:
    """As ``check_patterns``, for a network that is not built; the path is that of the pattern."""
    names = known() if patterns else None
    if names is None:
        return
    every = [*names.modules, *names.parameters]
    for index, pattern in enumerate(patterns):
        wrong = unmatched(pattern, every)
        if wrong:
            raise InvalidSpec(("expansion", "patterns", index), f"{wrong}; kernels are {listed(names.kernels)}")
    if not any(covers(pattern, kernel) for pattern in patterns for kernel in names.kernels):
        raise InvalidSpec(("expansion", "patterns"), without_kernel(names))


class Majority(Method):
    """Every kernel is trained as e copies, mixed anew at random in every step; their mean is the trained kernel."""

    name = "majority"
    summary = "majority kernels: copies of each kernel, mixed at random in every step, collapse to their mean"
    Options = MajorityOptions
    expands = True

    def __init__(self, options: MajorityOptions | None = None) -> None:
        super().__init__(options)
        self._clock: Clock | None = None
        self._evaluations = 0

    def check_names(self, names: Callable[[], Names | None]) -> None:
        """Refuse patterns that match nothing, or no kernel."""
        check_pattern_names(self.options.patterns, names)

    def prepare(self, model: nn.Module, *, seed: int) -> nn.Module:
        """Expand ``model`` in place."""
        from collegium.train.majority.expand import expand
        from collegium.train.majority.kernel import majority_kernels

        check_patterns(model, self.options.patterns)
        expand(
            model,
            self.expansion,
            init=self.options.initialization or "perturbed",
            spread=self.options.spread,
            include=self.options.patterns or None,
            correct_scale=self.options.correct_scale,
            seed=seed,
            kernel=self._make_kernel,
        )
        self._clock = next(iter(majority_kernels(model).values())).clock
        return model

    def _make_kernel(self, expansion: int, clock: Clock, index: int) -> MajorityKernel:
        from collegium.train.majority.kernel import MajorityKernel

        return MajorityKernel(expansion, clock, index)

    def optimizer(self, model: nn.Module, optimizer: Optimizer) -> Optimizer:
        """Fuse the gradient of the copies with their update, where that pays."""
        from collegium.train.majority.fused import fuse

        return fuse(optimizer, model)

    def step(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        compute_loss: ComputeLoss,
        *,
        step: int,
        execution: Execution = Execution(),
        weights: Sequence[float] | None = None,
    ) -> StepOutput:
        """Forward and backward under the p of this step, the same for all microbatches and processes."""
        self.clock.set_step(step)
        with self._mixed(model):
            return run_microbatches(model, batches, compute_loss, execution, weights)

    def _mixed(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Context in which compiled graphs read the weights that the fused update mixes."""
        if not self.compiles:
            return nullcontext()
        from collegium.train.majority.kernel import mixed_before

        return mixed_before(model)

    @property
    def clock(self) -> Clock:
        """The clock of the prepared model's kernels."""
        if self._clock is None:
            raise RuntimeError("prepare a model first")
        return self._clock

    def sampled(self, model: nn.Module) -> AbstractContextManager[Any] | None:
        """Context in which evaluation mixes the copies by a fresh draw; each call gives another."""
        return self._sampled(model)

    @contextmanager
    def _sampled(self, model: nn.Module) -> Iterator[None]:
        from collegium.train.majority.kernel import mixing

        self._evaluations += 1
        with mixing(model, "sample", step=-self._evaluations):
            yield

    def finish(self, model: nn.Module) -> nn.Module:
        """Collapse every kernel to the mean of its copies, in place."""
        from collegium.train.majority.expand import collapse

        return collapse(model)
