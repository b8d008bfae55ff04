"""Majority kernels on one page (Mazzawi et al. 2024, Algorithm 2.1).

A kernel w, the weight of a linear layer or a convolution, is trained as e copies that the layer reads as one::

    expand     w → w_1 … w_e
    mix        ⟨w⟩ = Σ_k p_k ∘ w_k            p random on the simplex, for each entry of w, in each step (Eq. 2.1)
    step       w_k ← w_k − η p_k ∘ ∂L/∂⟨w⟩    any loop, any optimizer over the copies
    collapse   w̄ = (w_1 + … + w_e) / e        the plain network again, with its names and its cost

Expand. The layer's parameter becomes the stack of its copies; the model is used and trained as before.

>>> layer = expand(nn.Linear(5, 2, bias=False), expansion=3, seed=0)
>>> copies = next(layer.parameters())
>>> copies.shape
torch.Size([3, 2, 5])

Mix. p has the flat Dirichlet law, that of normalised exponentials (Eq. 2.2). It follows from the seed, the step, the
kernel and the entry alone, so it is computed again wherever it is needed (``draw.py``) and never stored.

>>> from collegium.train.majority.draw import probabilities
>>> p = probabilities(layer.parametrizations.weight[0].draw, 3, (2, 5))
>>> bool(torch.isclose(layer.weight, (p * copies).sum(0)).all())
True

Step. Each copy receives its share p_k of the gradient g = ∂L/∂⟨w⟩; an optimizer's step is followed by another p.

>>> optimizer, inputs = torch.optim.SGD(layer.parameters(), lr=0.1), torch.ones(1, 5)
>>> layer(inputs).sum().backward()  # here g = 1
>>> bool(torch.isclose(copies.grad, p).all())
True
>>> optimizer.step()
>>> bool(torch.isclose(layer.weight, (p * copies).sum(0)).any())
False

Collapse. In evaluation the layer reads the mean of its copies; collapsing makes that mean its plain weight.

>>> mean = layer.eval()(inputs)
>>> torch.equal(collapse(layer)(inputs), mean), [name for name, _ in layer.named_parameters()]
(True, ['weight'])

Start. By default the copies are the weight and a little noise that sums to zero over them, so that the mean is the
weight and the model evaluates as before; ``start.py`` has the other starts and the variance that each gives.

>>> plain = nn.Linear(5, 2)
>>> weight = plain.weight.detach().clone()
>>> torch.allclose(collapse(expand(plain)).weight, weight, atol=1e-6)
True

The functions below are the two ends, ``expand`` and ``collapse``; ``kernel.py`` is what the layer reads in between.
"""

import operator
from collections.abc import Callable

import torch
from torch import Tensor, nn

from collegium.train.majority.clock import Clock, detach_clocks, one_pass
from collegium.train.majority.generators.uniforms import SOURCES, Source
from collegium.train.majority.guards.watch import guard_methods, unguard_methods, watch
from collegium.train.majority.kernel import (
    MajorityKernel,
    is_sharded,
    majority_clocks,
    majority_copies,
    majority_kernels,
    mixing,
)
from collegium.train.majority.start import Correction, Init, checked_start, initialize, scale_factor, start_generator
from collegium.train.majority.targets.choice import KernelTarget, Rules, choose_kernels
from collegium.train.majority.targets.parametrization import register_shared, remove

MakeKernel = Callable[[int, Clock, int], MajorityKernel]


def expand(
    model: nn.Module,
    expansion: int = 3,
    *,
    init: Init = "perturbed",
    spread: float | None = None,
    include: Rules | None = None,
    exclude: Rules | None = (),
    correct_scale: Correction = False,
    seed: int | None = None,
    kernel: MakeKernel = MajorityKernel,
    draws: Source = "independent",
) -> nn.Module:
    """Turn the kernels of ``model`` into majority kernels, in place, and return it.

    Kernels are the trainable weights of linear layers, convolutions (grouped ones too), attention projections,
    transformers' ``Conv1D``, and those that a module's class lists in an attribute ``majority_kernels``; never
    biases, norms or embeddings. A weight that several kernels share is expanded once; one that is shared with
    something else (a tied embedding) is left alone. ``expansion_report`` lists what is expanded, what not, and why.

    ``init`` is how the copies begin. ``"perturbed"``: the weight and Gaussian noise that sums to zero over the copies,
    of ``spread`` times the weight's root mean square (0.1; more regularizes, and trains slower); ``"replicated"``:
    all equal to the weight; ``"independent"``, as Mazzawi et al. (2024) train from scratch: the weight as the first
    copy and its entries in random order as the others, which makes their mean smaller by √e, another function, and no
    start for weights that are trained already; or a function ``(weight, k, generator) -> copy``.
    ``include`` and ``exclude`` take module types and shell patterns for
    qualified names of modules or parameters (``"encoder.*"``), or one of them; what they say of a module holds for all
    that is in it. Recurrent weights are expanded where ``include`` covers them (``[nn.Linear, nn.LSTM]``), other
    parameters, as stacked experts, where it names them (``"*.experts.gate_up_proj"``). ``correct_scale``
    multiplies the copies so that the weight's variance is the original one, in ``"training"`` (or ``True``) or in
    ``"evaluation"``. ``seed`` determines the initialization and all draws; by default it is drawn from
    torch's global generator, and in a distributed run the first process decides; parts of a model that are expanded
    one by one with the same seed draw the same p. ``kernel`` makes the parametrization.
    ``draws``: ``"independent"``, as the paper has it, or ``"table"``, which reads p from tables of quantiles and is not
    independent between elements (``collegium.train.majority.generators.table`` lists what that means).

    Raises ``ValueError``, and leaves the model as it was, where nothing is to be expanded, a rule matches nothing, or
    what is to be expanded is parametrized, computed, sharded or without a shape.

    >>> import torch
    >>> from collegium import collapse, expand
    >>> model = expand(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)), expansion=3)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> model(torch.ones(5, 4)).sum().backward()
    >>> optimizer.step()
    >>> collapse(model)[0].weight.shape
    torch.Size([8, 4])
    """
    expansion, spread = _checked(expansion), checked_start(init, spread, correct_scale)
    factor = scale_factor(init, expansion, spread, correct_scale)
    if draws not in SOURCES:
        raise ValueError(f"draws must be one of {', '.join(map(repr, SOURCES))}, not {draws!r}")
    seed = None if seed is None else _whole(seed, "seed")
    groups = _chosen(model, include, exclude)
    seed = _agreed_seed() if seed is None else seed
    clock = Clock(seed, source=draws)
    generator = start_generator(seed)
    modules = _holders(model, groups)
    done: list[Tensor] = []
    try:
        for index, targets in enumerate(groups):
            watch(getattr(*targets[0]), expanded=True)
            done.append(register_shared(targets, kernel(expansion, clock, index)))
            with torch.no_grad():
                initialize(done[-1], init, spread, generator)
    except BaseException:
        _restore(model, clock)
        for (module, name), *_ in groups:
            watch(getattr(module, name), expanded=False)
        raise
    for copies in done:
        copies.grad = None  # of the shape from before
        if factor != 1.0:
            with torch.no_grad():
                copies.mul_(factor)
    clock.set_step(0)  # registering has read the weights
    clock.attach(modules)
    guard_methods(model)
    return model


def collapse(model: nn.Module) -> nn.Module:
    """Replace every majority kernel by the mean of its copies, in place; return ``model``, a plain module again.

    Classes and parameter names are those from before ``expand``; parameters keep their identity and their ties. Batch
    norms have gathered their statistics under sampled weights: estimate them again (``collegium.train.loop.norms``).
    Raises ``ValueError`` for a model that is sharded.

    >>> import torch
    >>> from collegium import collapse, expand
    >>> model = expand(torch.nn.Linear(4, 2), expansion=3).eval()
    >>> before = model(torch.ones(1, 4))
    >>> torch.allclose(collapse(model)(torch.ones(1, 4)), before)
    True
    >>> [name for name, _ in model.named_parameters()]
    ['weight', 'bias']
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"what is collapsed is a torch.nn.Module, not {model!r:.80}")
    kernels = list(majority_kernels(model).values())
    copies = [parameter for _, parameter in majority_copies(model)]
    if any(is_sharded(parameter, kernel.expansion) for kernel, parameter in majority_copies(model)):
        raise ValueError(
            "the copies are sharded (FSDP): load the full state_dict into an expanded model that is not, "
            "and collapse that"
        )
    with mixing(model, "mean"), one_pass(majority_clocks(model), model):
        remove(model, MajorityKernel)
    for kernel in kernels:
        kernel.leaf = None
    for parameter in copies:
        watch(parameter, expanded=False)
    if kernels:
        for module in model.modules():
            detach_clocks(module)
        unguard_methods(model)
    return model


def set_step(model: nn.Module, step: int) -> None:
    """Make p that of optimizer step ``step``, for loops that count steps themselves or use no ``torch.optim``.

    >>> import torch
    >>> from collegium import expand, set_step
    >>> model = expand(torch.nn.Linear(4, 2), expansion=3, seed=0)
    >>> set_step(model, 7)
    >>> seventh = model.weight.clone()
    >>> set_step(model, 8)
    >>> torch.equal(model.weight, seventh)
    False
    """
    step = _whole(step, "step")
    for clock in majority_clocks(model):
        clock.set_step(step)


def _whole(value: int, name: str) -> int:
    """``value``, if it is a whole number. Raises ``ValueError``."""
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, not {value!r}") from None


def _checked(expansion: int) -> int:
    """``expansion``, if it is a number of copies. Raises ``ValueError``."""
    number = _whole(expansion, "expansion")
    if number < 1 or isinstance(expansion, bool):
        raise ValueError(f"expansion must be at least 1, not {expansion}")
    return number


def _chosen(model: nn.Module, include: Rules | None, exclude: Rules | None) -> list[list[KernelTarget]]:
    """The targets of each kernel. Raises ``ValueError`` where there are none, with the reasons."""
    found = choose_kernels(model, include, exclude)
    if not found.groups:
        left = [f"; {name}: {reason}" for name, reason in found.left.items() if "one axis" not in reason]
        left.sort(key=lambda line: "include" not in line)  # what can be done about it comes first
        raise ValueError(
            "no kernel to expand: check include and exclude, and that the weights require gradients" + "".join(left[:3])
        )
    return found.groups


def _restore(model: nn.Module, clock: Clock) -> None:
    """Undo what has been registered: the first copy still is the weight."""
    for each in majority_kernels(model).values():
        if each.clock is clock:
            each.override = lambda copies: copies[0]
    remove(model, MajorityKernel, lambda each: each.clock is clock)


def _holders(model: nn.Module, groups: list[list[KernelTarget]]) -> list[nn.Module]:
    """The modules of ``model`` that have one of the kernels, directly or in a module below."""
    owners = {id(module) for targets in groups for module, _ in targets}
    return [module for module in model.modules() if any(id(below) in owners for below in module.modules())]


def _agreed_seed() -> int:
    """A seed from the global generator; in a distributed run the first process's."""
    seed = [int(torch.randint(2**62, (), device="cpu"))]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(seed)
    return seed[0]
