"""Subset selection, Mazzawi et al. 2024, Appendix F: e·m neurons a layer, the best m of which train in each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from collegium.search.errors import InvalidSpec
from collegium.search.fields import wrong_fields
from collegium.train.errors import Mismatch
from collegium.train.majority.targets.names import Names, covers, listed
from collegium.train.methods.majority import Patterns, check_pattern_names, check_patterns
from collegium.train.methods.method import Copies, Method, MethodOptions
from collegium.train.methods.step import ComputeLoss, Execution, StepOutput, run_microbatches

if TYPE_CHECKING:
    from torch import nn

Weight = Annotated[float, Field(ge=0, le=1e6)]

NO_HIDDEN = "the network has no hidden layer to choose neurons from"
NOT_NAMED = "what they match has no hidden layer to choose neurons from: the last layer is none"


class SubsetOptions(MethodOptions):
    """Candidates for each neuron, and the objective that chooses among them (F.9)."""

    copies: Copies = Field(3, description="candidates for each neuron, e")
    patterns: Patterns = Field(
        (), description="shell-style patterns of the names of layers that choose; none takes every hidden layer"
    )
    neighbours: Annotated[int, Field(ge=1, le=10_000)] = Field(
        10, description="nearest neighbours of a neuron whose similarity counts as redundancy"
    )
    alpha: Weight = Field(1.0, description="weight of the neurons' utility")
    beta: Weight = Field(1.0, description="weight of their redundancy")

    @model_validator(mode="after")
    def _chooses(self) -> Self:
        given = {name for name in ("neighbours", "alpha", "beta") if getattr(self, name) != _default(self, name)}
        if self.copies == 1 and given:
            message = "a single candidate leaves nothing to choose: leave it out, or give more copies"
            raise wrong_fields({(name,): message for name in sorted(given)})
        if not self.alpha and not self.beta:
            raise wrong_fields({("beta",): "without utility and redundancy there is nothing to choose by: give either"})
        if not self.beta and "neighbours" in given:
            raise wrong_fields({("neighbours",): "only beta, the weight of redundancy, uses it: leave it out"})
        return self


def _default(options: SubsetOptions, name: str) -> Any:
    return type(options).model_fields[name].default


class Subset(Method):
    """Algorithm F.1: before each step, and at the end, every hidden layer chooses its neurons anew.

    Hidden layers are the linear and convolution layers but the last, those matched by ``patterns`` if given. Inputs of
    a layer are places, not neurons: a chosen neuron keeps its place while it stays chosen, newcomers fill the gaps.
    """

    name = "subset"
    summary = "several candidates for each neuron, of which the best are trained in every step and left at the end"
    Options = SubsetOptions
    expands = True

    def check_names(self, names: Callable[[], Names | None]) -> None:
        """Refuse patterns that match nothing, or no hidden layer."""
        check_pattern_names(self.options.patterns, names)
        found, patterns = names(), self.options.patterns
        if found is None:
            return
        hidden = found.kernels[:-1]
        if not hidden:
            raise InvalidSpec(("method",), NO_HIDDEN)
        if patterns and not any(covers(pattern, kernel) for pattern in patterns for kernel in hidden):
            raise InvalidSpec(("expansion", "patterns"), f"{NOT_NAMED}; there are {listed(hidden)}")

    def prepare(self, model: nn.Module, *, seed: int) -> nn.Module:
        """Give every hidden layer e times its neurons, in place.

        Raises ``Mismatch`` where there is none, and ``InvalidSpec`` where the patterns match none.
        """
        from collegium.train.methods.parametrizations.subset import add_candidates

        check_patterns(model, self.options.patterns)
        try:
            add_candidates(model, self.expansion, self.options.patterns, seed)
        except ValueError as error:
            if self.options.patterns:
                raise InvalidSpec(("expansion", "patterns"), NOT_NAMED) from error
            raise Mismatch(NO_HIDDEN, "choose another method") from error
        return model

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
        """Forward and backward through the chosen neurons alone."""
        if step == 0:
            self.choose(model)
        return run_microbatches(model, batches, compute_loss, execution, weights)

    def after_step(self, model: nn.Module, *, step: int) -> None:
        """Choose the neurons of the next step, which are those that would be left now."""
        self.choose(model)

    def choose(self, model: nn.Module) -> None:
        """Let every hidden layer of ``model`` choose its neurons by their present weights."""
        from collegium.train.methods.parametrizations.subset import choose

        choose(model, self.options.neighbours, self.options.alpha, self.options.beta)

    def finish(self, model: nn.Module) -> nn.Module:
        """Leave the chosen neurons, in place."""
        from collegium.train.methods.parametrizations.subset import remove_candidates

        remove_candidates(model)
        return model
