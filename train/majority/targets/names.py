"""Patterns of names, and what they match in a network, by names alone: nothing here loads torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

_SHOWN = 5
#: Parameters of ``nn.MultiheadAttention`` that are kernels.
ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True)
class Names:
    """Qualified names of a network's ``modules``, its ``parameters``, and of those of them that are ``kernels``."""

    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    kernels: tuple[str, ...]


def prefixes(name: str) -> Iterator[str]:
    """The names of the modules around and of a module: ``a.b`` is within ```` (the whole), ``a`` and ``a.b``.

    >>> list(prefixes("a.b"))
    ['', 'a', 'a.b']
    """
    yield ""
    parts = name.split(".") if name else []
    yield from (".".join(parts[: end + 1]) for end in range(len(parts)))


def covers(pattern: str, parameter: str) -> bool:
    """Whether ``pattern`` matches the parameter's own name or that of a module around it.

    >>> covers("encoder", "encoder.0.weight"), covers("*.weight", "head.weight"), covers("enc", "encoder.0.weight")
    (True, True, False)
    """
    module = parameter.rpartition(".")[0]
    return fnmatchcase(parameter, pattern) or any(fnmatchcase(prefix, pattern) for prefix in prefixes(module))


def unmatched(pattern: str, names: Sequence[str]) -> str | None:
    """What is wrong with a ``pattern`` that matches none of ``names``, and which are like it; None where one does."""
    if any(fnmatchcase(name, pattern) for name in names):
        return None
    near = difflib.get_close_matches(pattern, names, 3, 0.5)
    return f"no module or parameter is named {pattern!r}" + (f"; there are {', '.join(near)}" if near else "")


def without_kernel(names: Names) -> str:
    """What is wrong with patterns that match no kernel of the network."""
    return f"what they match has no kernel to expand; kernels are {listed(names.kernels)}"


def listed(names: Iterable[str]) -> str:
    """The first few ``names`` in words."""
    found = list(names)
    rest = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + rest
