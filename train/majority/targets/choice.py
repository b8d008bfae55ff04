"""Which parameters of a model are kernels, which modules share each of them, and why others are not expanded."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from collegium.train.majority.targets.names import ATTENTION, prefixes, unmatched

KernelTarget = tuple[nn.Module, str]  # a module and the name of one of its own parameters
Rule = type[nn.Module] | str
Rules = Iterable[Rule] | Rule

_CONVOLUTION = nn.modules.conv._ConvNd
_EMBEDDINGS = nn.Embedding | nn.EmbeddingBag
_NORMS = nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm
_RECURRENT = nn.RNNBase | nn.RNNCellBase


@dataclass
class KernelChoice:
    """``groups``: the targets of each kernel, one or all that share the parameter, in the order of the modules.

    ``expanded``: the qualified names of their parameters; ``left``: those of all others, each with the reason;
    ``already``: those that have been expanded before.
    """

    groups: list[list[KernelTarget]] = field(default_factory=list)
    expanded: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    already: list[str] = field(default_factory=list)


def kernel_targets(
    model: nn.Module, include: Rules | None = None, exclude: Rules | None = ()
) -> list[list[KernelTarget]]:
    """The targets of each kernel of ``model``: the ``groups`` of ``choose_kernels``."""
    return choose_kernels(model, include, exclude).groups


def choose_kernels(
    model: nn.Module,
    include: Rules | None = None,
    exclude: Rules | None = (),
    is_expanded: Callable[[nn.Module, str], bool] = lambda module, name: False,
) -> KernelChoice:
    """The kernels of ``model``; those that ``is_expanded`` says are expanded already are listed as that.

    ``include`` and ``exclude`` are module types and shell patterns for qualified names of modules or parameters, or a
    single one. What they say of a module holds for all that is in it. Recurrent weights are kernels where ``include``
    covers them, other parameters of two or more axes where the last part of one of its patterns names them. A kernel
    that is also used where nothing is to be expanded, as a tied embedding is, is left out.

    Raises ``ValueError`` where a rule matches nothing, or what is chosen has no parameter of its own to be expanded: it
    is parametrized or computed, sharded, or still without a shape.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"what is expanded is a torch.nn.Module, not {model!r:.80}")
    wanted, unwanted = None if include is None else _rules("include", include), _rules("exclude", exclude)
    _check_rules(model, {"include": wanted or (), "exclude": unwanted})
    found = KernelChoice()
    chosen: dict[int, list[KernelTarget]] = {}
    names: dict[int, list[str]] = {}
    for full, ancestors, module, name in _weights(model):
        if is_expanded(module, name):
            found.already.append(full)
            continue
        reason = _reason(full, ancestors, module, name, wanted, unwanted)
        if reason:
            found.left[full] = reason
            continue
        _check_weight(module, name, full)
        chosen.setdefault(id(module._parameters[name]), []).append((module, name))
        names.setdefault(id(module._parameters[name]), []).append(full)
    uses = _uses(model)
    for identity, targets in chosen.items():
        if uses[identity] == len(targets):
            found.groups.append(targets)
            found.expanded += names[identity]
        else:
            found.left |= dict.fromkeys(names[identity], "shared with what is no kernel, as a tied embedding is")
    return found


def kernel_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of ``module`` itself, not its children, that are kernels by default and trainable."""
    names = _default_names(module)
    return tuple(name for name in names if _is_trainable(module._parameters.get(name)))


def _default_names(module: nn.Module) -> tuple[str, ...]:
    advertised = getattr(type(module), "majority_kernels", None)
    if advertised is not None:
        return (advertised,) if isinstance(advertised, str) else tuple(advertised)
    if isinstance(module, nn.MultiheadAttention):
        return ATTENTION
    if isinstance(module, nn.Linear | nn.Bilinear | _CONVOLUTION) or _is_transformers_conv1d(module):
        return ("weight",)
    return ()


def _weights(model: nn.Module) -> Iterator[tuple[str, list[tuple[str, nn.Module]], nn.Module, str]]:
    """Every parameter, and every kernel's name without one: full name, modules around it, module, own name."""
    modules = dict(model.named_modules())
    for prefix, module in modules.items():
        replaced: Any = module._modules.get("parametrizations") or ()
        names = dict.fromkeys((*replaced, *module._parameters, *_default_names(module)))
        ancestors = [(above, modules[above]) for above in prefixes(prefix) if above in modules]
        if any(isinstance(above, nn.utils.parametrize.ParametrizationList) for _, above in ancestors):
            continue
        for name in names:
            if module._parameters.get(name, ...) is not None and _has(module, name):
                yield f"{prefix}.{name}" if prefix else name, ancestors, module, name


def _has(module: nn.Module, name: str) -> bool:
    return name in module._parameters or name in module.__dict__ or is_parametrized(module, name)


def is_parametrized(module: nn.Module, name: str) -> bool:
    """Whether ``module`` itself, not one that it forwards attributes to, has a parametrization of ``name``."""
    lists = module._modules.get("parametrizations")
    return isinstance(lists, nn.ModuleDict) and name in lists


def _reason(
    full: str,
    ancestors: list[tuple[str, nn.Module]],
    module: nn.Module,
    name: str,
    wanted: tuple[Rule, ...] | None,
    unwanted: tuple[Rule, ...],
) -> str | None:
    """Why a parameter is not expanded, or None."""
    for rule in unwanted:
        if _matches(rule, full, ancestors):
            return f"excluded by {_shown(rule)}"
    parameter = module._parameters.get(name)
    if parameter is not None:
        if not parameter.is_floating_point():
            return f"of type {parameter.dtype}"
        if not parameter.requires_grad:
            return "frozen: it does not require gradients"
    covered = wanted is None or any(_matches(rule, full, ancestors) for rule in wanted)
    if name in _default_names(module):
        return None if covered else "not covered by include"
    return _other_reason(full, module, name, wanted, covered)


def _other_reason(
    full: str, module: nn.Module, name: str, wanted: tuple[Rule, ...] | None, covered: bool
) -> str | None:
    """Why a parameter that is no kernel by default is not expanded, or None."""
    parameter = module._parameters.get(name)
    if parameter is None:
        return "parametrized"
    kind = type(module).__name__.removeprefix("Parametrized" if "parametrizations" in module._modules else "")
    if isinstance(module, _EMBEDDINGS):
        return "an embedding"
    if isinstance(module, _NORMS):
        return "a norm"
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        return f"a parameter of {kind} without a shape"
    if parameter.dim() < 2:
        return "a bias or a scale: it has one axis"
    if isinstance(module, _RECURRENT):
        if wanted is not None and covered:
            return None
        return f"a weight of {kind}: recurrent weights are expanded where include names them or their module"
    if wanted is not None and any(isinstance(rule, str) and _names(rule, full) for rule in wanted):
        return None
    return f"a parameter of {kind}, not a layer known here: to expand it, name it in include ({full!r})"


def _names(rule: str, full: str) -> bool:
    """Whether ``rule`` matches a parameter by its own name, not only by what it is in."""
    return fnmatchcase(full, rule) and bool(rule.rsplit(".", 1)[-1].strip("*?"))


def _matches(rule: Rule, full: str, ancestors: list[tuple[str, nn.Module]]) -> bool:
    if isinstance(rule, str):
        return fnmatchcase(full, rule) or any(fnmatchcase(prefix, rule) for prefix, _ in ancestors)
    return any(isinstance(module, rule) for _, module in ancestors)


def _rules(name: str, rules: Rules | None) -> tuple[Rule, ...]:
    given: Any = () if rules is None else rules
    alone = isinstance(rules, str | bytes | type | nn.Module) or not isinstance(rules, Iterable | None)
    listed: tuple[Any, ...] = (given,) if alone else tuple(given)
    for rule in listed:
        if not isinstance(rule, str) and not (isinstance(rule, type) and issubclass(rule, nn.Module)):
            raise ValueError(f"{name} takes module types and shell patterns of names ('encoder.*'), not {rule!r:.80}")
        if rule == "":
            raise ValueError(f"{name} has an empty name, which is that of the whole model: leave it out")
    return listed


def _check_rules(model: nn.Module, rules: dict[str, tuple[Rule, ...]]) -> None:
    modules = dict(model.named_modules())
    names = [*modules, *(full for full, *_ in _weights(model))]
    for argument, listed in rules.items():
        for rule in listed:
            if isinstance(rule, str):
                wrong = unmatched(rule, names)
                if wrong:
                    raise ValueError(f"{argument}: {wrong}")
            elif argument == "include" and not any(isinstance(module, rule) for module in modules.values()):
                raise ValueError(f"{argument}: the model has no {rule.__name__}")


def _check_weight(module: nn.Module, name: str, full: str) -> None:
    """Raise ``ValueError`` unless the parameter can be replaced."""
    if is_parametrized(module, name):
        raise ValueError(f"{full} is parametrized already; exclude it, or collapse the model first")
    parameter = module._parameters.get(name)
    if parameter is None:
        raise ValueError(
            f"{full} is no parameter: it is computed from others (weight_norm, spectral_norm, pruning, a "
            "hypernetwork), or sharded. Undo that before expand, or exclude it"
        )
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        raise ValueError(f"{full} has no shape yet: pass a batch through the model before expand")
    if hasattr(parameter, "placements"):
        raise ValueError(f"{full} is sharded (DTensor): expand the model first, then shard it")


def _is_trainable(weight: object) -> bool:
    return isinstance(weight, Tensor) and weight.is_floating_point() and weight.requires_grad


def _is_transformers_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers.")


def _uses(model: nn.Module) -> dict[int, int]:
    """How often each parameter of ``model`` is used, by its identity."""
    count: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            count[id(parameter)] = count.get(id(parameter), 0) + 1
    return count


def _shown(rule: Rule) -> str:
    return repr(rule) if isinstance(rule, str) else rule.__name__
