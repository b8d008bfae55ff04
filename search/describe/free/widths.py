"""Which inner widths are free indeed: the module runs with others, and its code must ask torch for the same.

A trace has the numbers that code reads off a shape as constants. So the module is run once as it is and twice with
other members, all branches at once, with tensors that have no memory. Where a run stops, gives another output or asks
torch for something else, the branches are tried one after another, and the widths of those that fail one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Generator, Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree

from collegium.search.describe.free.recorded import Event, Recorder, WidthRead, shapes_of
from collegium.search.describe.free.trials import Candidate, Members, tried
from collegium.search.describe.trace import Piece, line_of, of_no_account, quiet, stopping_place
from collegium.search.regroup.members import places_of

#: Runs with other widths; branches that are left undecided then are not split.
MOST_RUNS = 256
_MANY = "more branches read their widths than are tried one by one"


@dataclass(frozen=True)
class Fixed:
    """Why a candidate's widths are not all free: the layers whose outputs' width is read, or all of them if none is."""

    why: str
    after: tuple[int, ...] = ()


@dataclass
class _Runs:
    """Runs of one module, counted, with what its pieces do as they are."""

    model: nn.Module
    watched: Mapping[Piece, Sequence[str]]
    whole: Callable[[], object] | None
    own: dict[Piece, tuple[list[Event], list[tuple[int, ...]]] | None] = field(default_factory=dict)
    left: int = MOST_RUNS
    #: In it tensors have a shape, a type and a device, and no memory.
    mode: FakeTensorMode = field(default_factory=lambda: FakeTensorMode(allow_non_fake_inputs=True))

    def fails(self, trials: Sequence[tuple[Candidate, Members]]) -> str | None:
        """Why the module is not the same function with these branches regrouped; None where it is, or cannot be run."""
        self.left -= 1
        for piece in dict.fromkeys(candidate.piece for candidate, _ in trials):
            own = self._as_it_is(piece)
            of_piece = [trial for trial in trials if trial[0].piece is piece]
            why = None if own is None else self._differs(piece, of_piece, *own)
            if why is not None:
                return why
        return None if self.whole is None else self._stops(trials)

    def _as_it_is(self, piece: Piece) -> tuple[list[Event], list[tuple[int, ...]]] | None:
        """Events and outputs of a piece; None where it does not run without memory."""
        if piece not in self.own:
            recorder = Recorder()
            try:
                outputs = self._run(piece, (), recorder)
                self.own[piece] = recorder.events, outputs
            except Exception:  # a user's code may raise anything
                self.own[piece] = None
        return self.own[piece]

    def _differs(
        self,
        piece: Piece,
        trials: Sequence[tuple[Candidate, Members]],
        events: list[Event],
        expected: list[tuple[int, ...]],
    ) -> str | None:
        recorder = Recorder(events)
        try:
            outputs = self._run(piece, trials, recorder)
        except WidthRead as read:
            place = line_of(read)
            return f"{f'{place}: ' if place else ''}{read}{_behind(recorder)}"
        except Exception as error:  # a user's code may raise anything
            return f"the module stops at {stopping_place(error)}{_behind(recorder)}"
        if outputs != expected:
            changed = [pair for pair in zip(expected, outputs, strict=False) if pair[0] != pair[1]]
            return "an output has the shape {1} in place of {0}".format(*changed[0]) if changed else "it has others"
        return None

    def _run(
        self, piece: Piece, trials: Sequence[tuple[Candidate, Members]], recorder: Recorder
    ) -> list[tuple[int, ...]]:
        with tried(self.model, trials, recorder, self.watched[piece], self.mode) as made:
            args, kwargs = _pytree.tree_map_only(Tensor, self.mode.from_tensor, (piece.args, dict(piece.kwargs)))
            return shapes_of(made.get_submodule(piece.path), args, kwargs, recorder)

    def _stops(self, trials: Sequence[tuple[Candidate, Members]]) -> str | None:
        """Why the whole module, part of which could not be traced, does not run with these branches and new numbers."""
        assert self.whole is not None
        generator = Generator().manual_seed(0)
        try:
            with of_no_account(self.model), quiet():
                places = places_of(self.model)
                for candidate, members in trials:
                    candidate.regroup(self.model, places, members, generator)
                self.whole()
        except Exception as error:  # a user's code may raise anything
            return f"the module stops at {stopping_place(error)}"
        return None


def _behind(recorder: Recorder) -> str:
    return f", behind {recorder.last!r}" if recorder.last else ""


def fixed_widths(
    model: nn.Module, candidates: Sequence[Candidate], whole: Callable[[], object] | None = None
) -> dict[Candidate, Fixed]:
    """Of the candidates those whose inner widths are not all free, and why.

    ``whole`` runs the model, part of which could not be traced, with its example. The model is left as it was.
    """
    if not candidates:
        return {}
    watched: dict[Piece, list[str]] = {}
    for candidate in candidates:
        watched.setdefault(candidate.piece, []).extend(candidate.paths)
    modules = dict(model.named_modules(remove_duplicate=False))
    present = {piece: [path for path in paths if path in modules] for piece, paths in watched.items()}
    runs = _Runs(model, present, whole)
    alike: dict[object, list[Candidate]] = {}
    for candidate in candidates:
        alike.setdefault((candidate.piece, candidate.branch.layers, candidate.branch.widths), []).append(candidate)
    accepted: list[Candidate] = []
    refused: dict[Candidate, str] = {}
    _sort([each for group in alike.values() for each in group], runs, accepted, refused)
    found: dict[Candidate, Fixed] = {}
    for group in alike.values():
        failing = [each for each in group if each in refused]
        if failing:
            found |= _diagnosed(failing, runs, refused)
    return found


def _sort(group: Sequence[Candidate], runs: _Runs, accepted: list[Candidate], refused: dict[Candidate, str]) -> None:
    """Each of the group to those that the module is the same function with, or to those with a reason why not."""
    why = _MANY if runs.left <= 0 else _fails([*accepted, *group], runs)
    if why is None:
        accepted += group
    elif len(group) == 1 or runs.left <= 0:
        refused |= dict.fromkeys(group, why)
    else:
        middle = len(group) // 2
        _sort(group[:middle], runs, accepted, refused)
        _sort(group[middle:], runs, accepted, refused)


def _fails(group: Sequence[Candidate], runs: _Runs) -> str | None:
    wide = [(each, each.wider) for each in group]
    return runs.fails(wide) or runs.fails([(each, each.narrow) for each in group])


def _diagnosed(group: Sequence[Candidate], runs: _Runs, refused: Mapping[Candidate, str]) -> dict[Candidate, Fixed]:
    """The widths of equal candidates that are read: each is tried alone."""
    branch = group[0].branch
    reasons: dict[int, str] = {}
    for index, (first, *_) in enumerate(branch.free):
        trials = ([(each, members) for each in group] for members in group[0].one_other(index))
        why = next((why for trial in trials if runs.left > 0 and (why := runs.fails(trial)) is not None), None)
        if why is not None:
            reasons[first - 1] = why
    if not reasons or len(branch.free) == 1:
        return {each: Fixed(f"it cannot have other members: {refused[each]}") for each in group}
    why = next(iter(reasons.values()))
    return {each: Fixed(f"code reads the width of its outputs: {why}", tuple(reasons)) for each in group}
