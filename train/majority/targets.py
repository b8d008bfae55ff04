"""Which parameters of a model are kernels, and which modules share each of them."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.utils import parametrize

KernelTarget = tuple[nn.Module, str]  # a module and the name of one of its own parameters
Rules = Iterable[type[nn.Module] | str]

_CONVOLUTION = nn.modules.conv._ConvNd
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def kernel_targets(model: nn.Module, include: Rules | None = None, exclude: Rules = ()) -> list[list[KernelTarget]]:
    """The targets of each kernel of ``model``: one, or all that share the parameter, in the order of its modules.

    ``include`` and ``exclude`` are module types and shell patterns for qualified names of modules or parameters. A
    kernel that is also used where nothing is to be expanded, as a tied embedding is, is left out. Raises
    ``ValueError`` where a kernel is parametrized already.
    """
    wanted, unwanted = None if include is None else tuple(include), tuple(exclude)
    chosen: dict[int, list[KernelTarget]] = {}
    for prefix, module in model.named_modules():
        for name in kernel_names(module):
            full = f"{prefix}.{name}" if prefix else name
            if wanted is not None and not _matches(module, prefix, full, wanted):
                continue
            if _matches(module, prefix, full, unwanted):
                continue
            if parametrize.is_parametrized(module, name):
                raise ValueError(f"{full} is parametrized already; exclude it, or collapse the model first")
            chosen.setdefault(id(getattr(module, name)), []).append((module, name))
    uses = _uses(model)
    return [targets for identity, targets in chosen.items() if uses[identity] == len(targets)]


def kernel_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of ``module`` itself, not its children, that are kernels."""
    advertised = getattr(type(module), "majority_kernels", None)
    if advertised is not None:
        names = tuple(advertised)
    elif isinstance(module, nn.MultiheadAttention):
        names = _ATTENTION
    elif isinstance(module, nn.Linear | nn.Bilinear | _CONVOLUTION) or _is_transformers_conv1d(module):
        names = ("weight",)
    else:
        return ()
    return tuple(name for name in names if _is_kernel(getattr(module, name, None)))


def _is_kernel(weight: object) -> bool:
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


def _matches(module: nn.Module, prefix: str, full: str, rules: tuple[type[nn.Module] | str, ...]) -> bool:
    return any(
        fnmatchcase(prefix, rule) or fnmatchcase(full, rule) if isinstance(rule, str) else isinstance(module, rule)
        for rule in rules
    )
