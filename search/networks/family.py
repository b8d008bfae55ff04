"""Families of networks: what a baseline of each is, how it is lowered, and the module that is trained.

A family is one file, and one line in ``FAMILIES``; another package adds its own as an entry point of the group
``collegium.families``, and it is then searched, costed and trained, here and through the service. Its file holds

1. the baseline that is posted: a ``FamilyBaseline`` with ``family: Literal["its name"]``;
2. the ``Network`` that it is lowered to: the chain whose kernel is studied, exact counts of any m × n regrouping,
   the samples that it takes, and the arguments of its module;
3. a ``Family`` of the two, with the module's class as ``package.module:Class``.

The file imports no torch. The module's own file imports torch alone, since it is copied into every checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, get_args

from collegium.registry import BrokenExtension, Registry
from collegium.search.fields import Strict
from collegium.search.networks.network import Network

Value = TypeVar("Value")


class FamilyBaseline(Strict):
    """A baseline as it is posted; a subclass has a field ``family``, the literal of its family's name."""

    @classmethod
    def family_name(cls) -> str:
        """The literal of the field ``family``. Raises ``TypeError`` where the subclass declares none."""
        declared = cls.model_fields.get("family")
        names = get_args(declared.annotation) if declared is not None else ()
        if len(names) != 1 or not isinstance(names[0], str):
            raise TypeError(f'{cls.__name__} needs a field "family: Literal[…]" with the name of its family')
        return names[0]


@dataclass(frozen=True)
class Family:
    """A family of networks.

    ``lower`` turns a baseline into its network, by arithmetic alone, and raises ``InvalidSpec`` with a path that begins
    with ``baseline``. ``module`` names the ``nn.Module`` whose arguments are ``Network.arguments``;
    ``dropout`` says whether it takes the fraction ``dropout`` besides.
    """

    summary: str
    baseline: type[FamilyBaseline]
    lower: Callable[[Any], Network]
    module: str
    dropout: bool = False

    def __post_init__(self) -> None:
        self.baseline.family_name()

    @property
    def name(self) -> str:
        """The literal by which a baseline names its family."""
        return self.baseline.family_name()

    def build(self, baseline: FamilyBaseline) -> Network:
        """The network of a baseline, which bears the family's name. Raises ``InvalidSpec``."""
        return replace(self.lower(baseline), family=self.name)


FAMILIES: Registry[Family] = Registry(
    "family",
    "collegium.families",
    {
        "mlp": "collegium.search.networks.families.mlp:MLP",
        "resnext": "collegium.search.networks.families.resnext:RESNEXT",
        "block": "collegium.search.networks.families.block:BLOCK",
        "network": "collegium.search.networks.families.network_grouping:NETWORK",
        "attention": "collegium.search.networks.families.attention:ATTENTION",
    },
)


def usable_families() -> tuple[dict[str, Family], dict[str, str]]:
    """The families that can be used, and why others cannot, by name."""
    usable, broken = {}, dict(FAMILIES.broken())
    for name, family in FAMILIES.usable():
        reason = _fault(name, family)
        if reason is None:
            usable[name] = family
        else:
            broken[name] = reason
    return usable, broken


def _fault(name: str, family: object) -> str | None:
    if not isinstance(family, Family):
        return f"the family {name!r} is a {type(family).__name__}, not a Family"
    if name == "preset" or family.name != name:
        return f"the family {name!r} has baselines of family {family.name!r}; names must agree, and 'preset' is taken"
    return None


def family_of(baseline: FamilyBaseline) -> Family:
    """The family of a baseline. Raises ``BrokenExtension`` where it cannot be used."""
    name = baseline.family_name()
    reason = _fault(name, family := FAMILIES[name])
    if reason is not None:
        raise BrokenExtension(reason)
    return family


def chosen(table: Mapping[str, Value], name: str, kind: str) -> Value:
    """The entry of a family's own table (its layouts, its blocks). Raises ``LookupError`` for a name without one.

    A specification's literals may be wider than the table by mistake; what is not known is refused, never taken for
    another one.
    """
    if name not in table:
        raise LookupError(f"no {kind} is called {name!r}; there are {', '.join(table)}")
    return table[name]
