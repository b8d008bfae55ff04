"""Which kernels of a model ``expand`` chooses, which parameters it leaves, and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from collegium.train.majority.kernel import MajorityKernel
from collegium.train.majority.targets.choice import Rules, choose_kernels, is_parametrized


@dataclass(frozen=True)
class ExpansionReport:
    """``expanded``: the names of kernels; ``left``: the names of all other parameters, each with the reason.

    Printed, it lists the kernels that are chosen and, by reason, what is left; biases and norms are counted. The words
    are the same before and after ``expand``.

    >>> from collegium import ExpansionReport
    >>> print(ExpansionReport(("head.weight",), {"head.bias": "a bias or a scale: it has one axis"}))
    chosen (1): head.weight
    left (1): head.bias: a bias or a scale: it has one axis
    """

    expanded: tuple[str, ...]
    left: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line for each kernel, and one for each reason."""
        reasons: dict[str, list[str]] = {}
        for name, reason in self.left.items():
            reasons.setdefault(reason, []).append(name)
        lines = [f"chosen ({len(self.expanded)}): {_listed(self.expanded)}"]
        lines += [f"left ({len(names)}): {_listed(names)}: {reason}" for reason, names in reasons.items()]
        return "\n".join(lines)


def expansion_report(model: nn.Module, *, include: Rules | None = None, exclude: Rules | None = ()) -> ExpansionReport:
    """What ``expand`` would do to ``model`` with these rules, without doing it; of an expanded model, what it has done.

    Raises ``ValueError`` as ``expand`` does: where a rule matches nothing, or a chosen weight cannot be replaced.

    >>> import torch
    >>> from collegium import expansion_report
    >>> model = torch.nn.ModuleDict({"encoder": torch.nn.LSTM(4, 4), "head": torch.nn.Linear(4, 2)})
    >>> report = expansion_report(model)
    >>> report.expanded, report.left["head.bias"]
    (('head.weight',), 'a bias or a scale: it has one axis')
    >>> expansion_report(model, include=[torch.nn.Linear, torch.nn.LSTM]).expanded
    ('encoder.weight_ih_l0', 'encoder.weight_hh_l0', 'head.weight')
    """
    found = choose_kernels(model, include, exclude, _is_expanded)
    if found.already:
        return ExpansionReport(tuple(found.already), found.left | dict.fromkeys(found.expanded, "not chosen by expand"))
    return ExpansionReport(tuple(found.expanded), found.left)


def _is_expanded(module: nn.Module, name: str) -> bool:
    return is_parametrized(module, name) and isinstance(module.parametrizations[name][0], MajorityKernel)  # type: ignore[index]


def _listed(names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(names[:6])
    return f"{shown}, …" if len(names) > 6 else shown or "nothing"
