"""Expand a model's kernels for training, collapse them for use (Mazzawi et al. 2024, Algorithm 2.1)::

    model = expand(model, expansion=3)      # each kernel becomes three copies, mixed at random while training
    train(model)                            # any loop, any optimizer over model.parameters()
    collapse(model)                         # the plain module again: same class, same names, the mean of the copies

Variance. Independent copies of variance σ² make a weight of variance 2σ²/(e+1) in training (E Σ p_k² = 2/(e+1) for the
flat Dirichlet) and σ²/e in evaluation. ``correct_scale`` multiplies the copies so that one of the two is σ² again.
Replicated copies have the original weight, hence its variance, in both.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from train.kernel import Clock, MajorityKernel, kernels, mixing

Correction = Literal[False, "training", "evaluation"] | bool
Init = Literal["independent", "replicated"] | Callable[[Tensor, int, torch.Generator], Tensor]
Place = tuple[str, nn.Module, str]  # qualified name of the module, the module, its parameter's name

_CONVOLUTION = nn.modules.conv._ConvNd
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_NEVER = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase, nn.RMSNorm)


def expand(
    model: nn.Module,
    expansion: int = 3,
    *,
    init: Init = "independent",
    include: Iterable[type[nn.Module] | str] | None = None,
    exclude: Iterable[type[nn.Module] | str] = (),
    correct_scale: Correction = False,
    seed: int | None = None,
    kernel: Callable[[int, Clock, int], nn.Module] = MajorityKernel,
) -> nn.Module:
    """Turn the kernels of ``model`` into majority kernels, in place, and return it.

    Kernels are the trainable weights of linear layers, convolutions (grouped ones too), attention projections,
    transformers' ``Conv1D``, and those that a module's class lists in an attribute ``majority_kernels``; never
    biases, norms or embeddings. A weight that several kernels share is expanded once; one that is shared with
    something else (a tied embedding) is left alone.

    ``init``: ``"independent"`` keeps the weight as the first copy and gives the others its entries in random order,
    hence exactly its distribution; ``"replicated"`` starts all copies from the weight, as for pretrained models; or a
    function ``(weight, k, generator) -> copy``. ``include`` and ``exclude`` take module types and shell patterns for
    qualified names of modules or parameters (``"encoder.*"``). ``correct_scale``: see above; ``True`` means
    ``"training"``. ``seed`` determines the initialization and all draws; by default it is drawn from torch's global
    generator, and in a distributed run the first process decides. ``kernel`` makes the parametrization.

    Raises ``ValueError`` where nothing is to be expanded, or what is to be expanded already is parametrized.
    """
    if expansion < 1:
        raise ValueError(f"expansion must be at least 1, not {expansion}")
    if correct_scale and init == "replicated":
        raise ValueError("replicated copies keep the weight's variance: there is no scale to correct")
    groups = list(_selected(model, include, exclude))
    if not groups:
        raise ValueError("no kernel to expand: check include and exclude, and that the weights require gradients")
    seed = _agreed_seed() if seed is None else seed
    clock = Clock(seed)
    generator = torch.Generator().manual_seed(seed & (2**63 - 1))
    factor = _correction(expansion, correct_scale)
    for index, places in enumerate(groups):
        made = kernel(expansion, clock, index)
        copies = _register(places, made)
        with torch.no_grad():
            _initialize(copies, init, generator)
            if factor != 1.0:
                copies.mul_(factor)
    return model


def collapse(model: nn.Module) -> nn.Module:
    """Replace every majority kernel by the mean of its copies, in place; return ``model``, a plain module again.

    Classes and parameter names are those from before ``expand``; parameters keep their identity and their ties. Batch
    norms have gathered their statistics under sampled weights: estimate them again (``train.reestimate``).
    """
    shared: set[int] = set()
    with mixing(model, "mean"):
        for module in list(model.modules()):
            for name in _expanded(module):
                lists: Any = module.parametrizations
                copies, order = lists[name].original, lists.order
                copies.grad = None
                # The first place computes the mean into the shared parameter, the others just take it.
                parametrize.remove_parametrizations(module, name, leave_parametrized=id(copies) not in shared)
                shared.add(id(copies))
                _reorder(module._parameters, order)
    return model


def _reorder(parameters: dict[str, nn.Parameter | None], order: tuple[str, ...]) -> None:
    """Put ``parameters`` back in the order they had before they were parametrized; others come last."""
    for name in [name for name in order if name in parameters] + [name for name in parameters if name not in order]:
        parameters[name] = parameters.pop(name)


def set_step(model: nn.Module, step: int) -> None:
    """Make p that of optimizer step ``step``, for loops that count steps themselves or use no ``torch.optim``."""
    for clock in {id(k.clock): k.clock for k in kernels(model).values()}.values():
        clock.step = step


def _expanded(module: nn.Module) -> list[str]:
    if not parametrize.is_parametrized(module):
        return []
    lists = module.parametrizations.items()  # type: ignore[union-attr,operator]
    return [name for name, steps in lists if any(isinstance(step, MajorityKernel) for step in steps)]


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


def _selected(
    model: nn.Module,
    include: Iterable[type[nn.Module] | str] | None,
    exclude: Iterable[type[nn.Module] | str],
) -> Iterator[list[Place]]:
    """The places of each kernel to expand: one, or several that share a parameter."""
    wanted, unwanted = None if include is None else tuple(include), tuple(exclude)
    chosen: dict[int, list[Place]] = {}
    for prefix, module in model.named_modules():
        for name in kernel_names(module):
            full = f"{prefix}.{name}" if prefix else name
            if (wanted is not None and not _matches(module, prefix, full, wanted)) or _matches(
                module, prefix, full, unwanted
            ):
                continue
            if parametrize.is_parametrized(module, name):
                raise ValueError(f"{full} is parametrized already; exclude it, or collapse the model first")
            chosen.setdefault(id(getattr(module, name)), []).append((prefix, module, name))
    everywhere = _uses(model)
    for identity, places in chosen.items():
        if everywhere[identity] == len(places):
            yield places


def _uses(model: nn.Module) -> dict[int, int]:
    """In how many places each parameter of ``model`` is."""
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


def _register(places: list[Place], kernel: nn.Module) -> nn.Parameter:
    """Parametrize all places by one kernel; return the copies, the same parameter object as before."""
    (_, first, name), *others = places
    parameter = getattr(first, name)
    _parametrize(first, name, kernel)
    for _, module, other in others:
        # The shared parameter has its expanded shape by now, which is what the other places must hold as it is.
        _parametrize(module, other, _AsIs(), unsafe=True)[0] = kernel
    return parameter


def _parametrize(module: nn.Module, name: str, kernel: nn.Module, *, unsafe: bool = False) -> Any:
    order = tuple(module._parameters)
    parametrize.register_parametrization(module, name, kernel, unsafe=unsafe)
    lists: Any = module.parametrizations
    if not hasattr(lists, "order"):
        lists.order = order
    return lists[name]


class _AsIs(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return value


def _initialize(copies: Tensor, init: Init, generator: torch.Generator) -> None:
    if init == "replicated":
        return
    for k in range(1, len(copies)):
        if init == "independent":
            order = torch.randperm(copies[0].numel(), generator=generator).to(copies.device)
            copies[k].copy_(copies[0].reshape(-1)[order].view_as(copies[0]))
        else:
            copies[k].copy_(init(copies[0], k, generator))  # type: ignore[operator]


def _correction(expansion: int, correct: Correction) -> float:
    if correct is False:
        return 1.0
    if correct in (True, "training"):
        return math.sqrt((expansion + 1) / 2)
    if correct == "evaluation":
        return math.sqrt(expansion)
    raise ValueError(f"correct_scale must be False, True, 'training' or 'evaluation', not {correct!r}")


def _agreed_seed() -> int:
    """A seed from the global generator; in a distributed run the first process's."""
    seed = [int(torch.randint(2**62, ()))]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(seed)
    return seed[0]
