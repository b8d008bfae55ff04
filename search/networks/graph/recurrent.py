"""Recurrent layers of a graph: LSTM, GRU and plain ones, of several layers and in both directions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from collegium.search.fields import Strict, Width
from collegium.search.networks.graph.law import Law, Place

#: Rows of each weight for one hidden number.
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
Name = Annotated[str, Field(max_length=64, pattern=r"^(weight|bias)_(ih|hh)_l[0-9]{1,2}(_reverse)?$")]


class RecurrentLayer(Strict):
    """PyTorch's LSTM, GRU or RNN (``cell``) of ``count`` layers, which starts from states of zeros, or from those read.

    ``laws`` has that of each parameter by its own name. With ``batch_first`` samples are along the first axis, else
    along the second. It gives its outputs; with ``states`` one row for each sample, of its outputs, the last hidden
    states of each layer and direction, and of an LSTM the last ones of its cells.
    """

    kind: Literal["recurrent"]
    path: Place
    cell: Literal["lstm", "gru", "rnn_tanh", "rnn_relu"]
    inputs: Width
    hidden: Width
    count: Annotated[int, Field(ge=1, le=64)] = 1
    bidirectional: bool = False
    bias: bool = True
    batch_first: bool = True
    dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    states: bool = False
    laws: Annotated[dict[Name, Law], Field(max_length=512)]

    @model_validator(mode="after")
    def _each_parameter_has_a_law(self) -> RecurrentLayer:
        expected = dict(self.shapes())
        odd = sorted(self.laws.keys() ^ expected.keys())
        if odd:
            raise ValueError(f"laws must be those of {', '.join(list(expected)[:4])} … alone; {odd[0]!r} is not right")
        if self.dropout and self.count == 1:
            raise ValueError("dropout stands between layers, and there is one: it must be 0")
        return self

    @property
    def directions(self) -> int:
        """Two where it runs both ways."""
        return 1 + self.bidirectional

    @property
    def outputs(self) -> int:
        """Numbers of each step."""
        return self.directions * self.hidden

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Each parameter's name and shape, in PyTorch's order."""
        rows = GATES[self.cell] * self.hidden
        for layer in range(self.count):
            inputs = self.inputs if layer == 0 else self.outputs
            for end in ("", "_reverse")[: self.directions]:
                yield f"weight_ih_l{layer}{end}", (rows, inputs)
                yield f"weight_hh_l{layer}{end}", (rows, self.hidden)
                if self.bias:
                    yield f"bias_ih_l{layer}{end}", (rows,)
                    yield f"bias_hh_l{layer}{end}", (rows,)

    def result(self, read: tuple[int, ...], *states: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """The shape that it gives, with the batch as a negative size, and its multiply–accumulates for one sample.

        ``states`` are what it starts from, if it reads any: hidden states, and of an LSTM those of its cells. Raises
        ``ValueError``.
        """
        batch, time = (0, 1) if self.batch_first else (1, 0)
        if len(read) != 3 or read[batch] >= 0 or read[time] < 0 or read[2] != self.inputs:
            axes = "samples, steps" if self.batch_first else "steps, samples"
            raise ValueError(f"{self.path!r} reads ({axes}, {self.inputs} numbers), and not the shape {read}")
        expected = (self.directions * self.count, read[batch], self.hidden)
        kinds = 2 if self.cell == "lstm" else 1
        if states and (len(states) != kinds or any(each != expected for each in states)):
            raise ValueError(f"{self.path!r} starts from {kinds} states of {expected}, or from none, and not {states}")
        steps, samples = read[time], -read[batch]
        weights = sum(shape[0] * shape[1] for _, shape in self.shapes() if len(shape) == 2)
        numbers = self.outputs * steps
        if self.states:
            numbers += self.directions * self.count * self.hidden * kinds
            return (read[batch], numbers), samples * steps * weights
        shape = [read[0], read[1], self.outputs]
        return tuple(shape), samples * steps * weights

    def kept(self, read: tuple[int, ...]) -> int:
        """Numbers of one sample that its gradients need beside its outputs: gates and states of each step."""
        steps = abs(read[0] * read[1])
        return steps * self.outputs * (self.count * (GATES[self.cell] + 2) - 1)
