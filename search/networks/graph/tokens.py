"""A graph that reads tokens alone: masks, types and positions of tokens become operations on them.

A network of text reads tokens, and often tensors that follow from them. Text data have tokens alone, as many for each
sample as the longest text has: those that are ``PADDING`` stand behind the end. A network whose own padding is another
token reads these two in each other's place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from collegium.search.networks.graph.content import UNBOUNDED, ConstantLayer, Input
from collegium.search.networks.graph.operations import CONSTANT, INPUT
from collegium.search.networks.graph.spec import Graph, Node

#: The token that stands where a text has ended.
PADDING = 0
#: What an input is made of: the tokens themselves; 1 or true where there is a token, or where there is padding; the
#: number of the text that a token is of; the place of a token.
Role = Literal["tokens", "kept", "padded", "types", "positions"]
#: In words.
GIVEN: Mapping[Role, str] = {
    "kept": "1 where there is a token, 0 where there is padding",
    "padded": "1 where there is padding, 0 where there is a token",
    "types": "0 everywhere",
    "positions": "0, 1, 2, …",
}
_NAMED: Mapping[str, Role] = {
    "token_type_ids": "types",
    "segment_ids": "types",
    "position_ids": "positions",
    "positions": "positions",
}


class UnknownInput(ValueError):
    """The input at ``place`` is none that follows from tokens."""

    def __init__(self, place: int, message: str) -> None:
        super().__init__(message)
        self.place, self.message = place, message


def token_roles(inputs: Sequence[Input]) -> tuple[Role, ...] | None:
    """What each input is made of; None where no tokens are read, which are integers that index a table.

    By its name: ``token_type_ids`` and ``segment_ids``, ``position_ids`` and ``positions``, and every other name with
    ``mask`` in it, which is true at padding where ``pad`` is in it too. Raises ``UnknownInput`` for any other one.

    >>> ids = Input(name="input_ids", shape=(6,), content="integer", below=11)
    >>> token_roles([ids, Input(name="attention_mask", shape=(6,), content="boolean")])
    ('tokens', 'kept')
    >>> token_roles([ids, Input(name="key_padding_mask", shape=(6,), content="boolean")])
    ('tokens', 'padded')
    >>> token_roles([Input(name="x", shape=(6,))]) is None
    True
    """
    tokens = [place for place, each in enumerate(inputs) if _role(each) is None and _are_tokens(each)]
    if not tokens:
        return None
    own = inputs[tokens[0]]
    found: list[Role] = []
    for place, each in enumerate(inputs):
        role = "tokens" if place == tokens[0] else _role(each)
        if role is None:
            known = f"{', '.join(_NAMED)}, or a name with 'mask' in it"
            raise UnknownInput(place, f"{each.name!r} does not follow from the tokens {own.name!r}: those are {known}")
        if each.shape != own.shape:
            raise UnknownInput(place, f"{each.name!r} has the shape {each.shape}, and the tokens {own.name!r} have not")
        if role in ("types", "positions") and each.content != "integer":
            raise UnknownInput(place, f"{each.name!r} must be integers, and has {each.content}s")
        if role == "positions" and each.below is not None and each.below < own.shape[0]:
            raise UnknownInput(place, f"{each.name!r} is below {each.below}, and there are {own.shape[0]} tokens")
        found.append(role)
    return tuple(found)


def _role(given: Input) -> Role | None:
    name = given.name.lower()
    if "mask" in name:
        return "padded" if "pad" in name else "kept"
    return _NAMED.get(name)


def _are_tokens(given: Input) -> bool:
    return given.content == "integer" and len(given.shape) == 1 and (given.below or UNBOUNDED) < UNBOUNDED


def own_padding(graph: Graph, roles: Sequence[Role]) -> int | None:
    """The token that stands for padding in the network: the row of padding of a table of tokens; None without one."""
    place = roles.index("tokens")
    found = {0} if place == 0 else set()
    for index, node in enumerate(graph.nodes, start=1):
        moved = node.op in ("reshape", "expand", "permute", "slice") and node.reads[0] in found
        if moved or (node.op == INPUT and node.options["place"] == place):
            found.add(index)
        elif node.op == "take" and node.reads[1] in found and "padding" in node.options:
            return int(node.options["padding"])  # type: ignore[arg-type]
    return None


def on_tokens(graph: Graph, roles: Sequence[Role], length: int) -> Graph:
    """The same network as a function of ``length`` tokens alone, which padding follows up to as many as it reads.

    Where its own padding is another token than ``PADDING``, the two are exchanged before it reads them.
    Layers and their parameters have the names that they had. ``length`` is at most what the network reads.
    """
    made = _OnTokens(graph, roles, length)
    own = graph.inputs[roles.index("tokens")]
    read = Input(name=own.name, shape=(length,), content="integer", below=own.below)
    return graph.model_copy(
        update={"layers": (*graph.layers, *made.layers), "nodes": tuple(made.nodes), "inputs": (read,)}
    )


class _OnTokens:
    """The nodes of a graph in order, with those that make its other inputs of the tokens."""

    def __init__(self, graph: Graph, roles: Sequence[Role], length: int) -> None:
        self._inputs, self._roles, self._length = graph.inputs, roles, length
        self._taken = {layer.path for layer in graph.layers}
        self.layers: list[ConstantLayer] = []
        self.nodes: list[Node] = []
        self._padding = own_padding(graph, roles) or PADDING
        self._tokens = self._exchanged(self._padded())
        self._of_input: dict[int, int] = {}
        place = {0: self._value(0)}
        for index, node in enumerate(graph.nodes, start=1):
            if node.op == INPUT:
                place[index] = self._value(int(node.options["place"]))  # type: ignore[arg-type]
            else:
                reads = tuple(place[each] for each in node.reads)
                place[index] = self._add(node.model_copy(update={"reads": reads}))

    def _add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes)

    def _padded(self) -> int:
        """The tokens, with padding up to as many as the network reads."""
        missing = self._inputs[self._roles.index("tokens")].shape[0] - self._length
        if not missing:
            return 0
        return self._add(Node(op="cat", reads=(0, self._constant("padding", missing)), options={"axis": 1}))

    def _exchanged(self, tokens: int) -> int:
        """The tokens with ``PADDING`` and the network's own padding in each other's place, by a table of all."""
        if self._padding == PADDING:
            return tokens
        below, own = self._inputs[self._roles.index("tokens")].below or 0, self._padding
        runs = [(own, 1), (PADDING + 1, own - PADDING - 1), (PADDING, 1), (own + 1, below - own - 1)]
        rows = tuple(self._row("exchanged", size, start, 1) for start, size in runs if size)
        table = self._add(Node(op="cat", reads=rows, options={"axis": 0}))
        return self._add(Node(op="take", reads=(table, tokens), options={"axis": 0}))

    def _constant(self, name: str, size: int, *, start: int = 0, step: int = 0) -> int:
        """Integers ``(batch, size)``, the same for every sample."""
        read = self._row(name, size, start, step)
        return self._add(Node(op="expand", reads=(read,), options={"shape": (-1, size)}))

    def _row(self, name: str, size: int, start: int, step: int) -> int:
        """Integers ``(size,)``: ``start`` and so on by steps."""
        path = f"{name}_of_tokens"
        while path in self._taken:
            path += "_"
        self._taken.add(path)
        self.layers.append(
            ConstantLayer(kind="constant", path=path, shape=(size,), content="integer", start=start, steps=(step,))
        )
        return self._add(Node(op=CONSTANT, layer=path))

    def _value(self, place: int) -> int:
        if place not in self._of_input:
            self._of_input[place] = _MADE[self._roles[place]](self, self._inputs[place])
        return self._of_input[place]

    def _own(self, given: Input) -> int:
        return self._tokens

    def _mask(self, given: Input, relation: str) -> int:
        options = {"relation": relation, "number": self._padding}
        found = self._add(Node(op="compare", reads=(self._tokens,), options=options))
        convert = {"integer": "as_integer", "number": "as_number"}.get(given.content)
        return found if convert is None else self._add(Node(op=convert, reads=(found,)))

    def _kept(self, given: Input) -> int:
        return self._mask(given, "not_equal")

    def _at_padding(self, given: Input) -> int:
        return self._mask(given, "equal")

    def _types(self, given: Input) -> int:
        return self._constant("types", given.shape[0])

    def _positions(self, given: Input) -> int:
        return self._constant("positions", given.shape[0], step=1)


_MADE: Mapping[Role, Callable[[Any, Input], int]] = {
    "tokens": _OnTokens._own,
    "kept": _OnTokens._kept,
    "padded": _OnTokens._at_padding,
    "types": _OnTokens._types,
    "positions": _OnTokens._positions,
}
