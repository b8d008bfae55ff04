"""The law by which a parameter starts, read off the numbers that it has, and parameters drawn anew by it.

A module does not record how it was initialized. Its numbers show it: a constant stays what it is, PyTorch's own law of
linear layers and convolutions is uniform between ±1/√fan_in, and other numbers are uniform or normal around zero with
the mean square that they have. Of a module that has been trained the mean square is that of the trained numbers.
"""

from __future__ import annotations

import inspect
import math
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from collegium.search.whole_network.initialization import Fill

#: Largest |w| over the root mean square of numbers that are uniform around zero: √3, and room for rounding.
UNIFORM = 1.75
#: Fewest numbers by which a uniform distribution is distinguished from a normal one.
FEWEST_NUMBERS = 32
#: Standard errors within which a mean square is that of PyTorch's own law.
ERRORS = 4.0
#: Layers whose numbers are drawn by the law that they show.
DRAWN = (
    nn.Linear, _ConvNd, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention,
)  # fmt: skip


def law(values: Tensor, growth: float = 1.0, fan_in: int | None = None) -> Fill:
    """How numbers like ``values`` are drawn, with ``growth`` times their variance; a constant stays what it is.

    ``fan_in`` is that of the linear layer or convolution that the numbers belong to: where they are within ±1/√fan_in
    and have the mean square of numbers uniform there, that is their law, exactly. Raises ``ValueError`` where a number
    is not finite.

    >>> law(torch.full((3,), 2.0))
    Fill(kind='constant', a=2.0, b=0.0)
    >>> law(nn.Linear(100, 50).weight, fan_in=100)
    Fill(kind='uniform', a=-0.1, b=0.1)
    """
    numbers = values.detach().float().flatten()
    if not bool(numbers.isfinite().all()):
        raise ValueError("its numbers are not all finite")
    square = numbers.square().mean().item()
    if fan_in is not None and square > 0 and _is_own_law(numbers, square, fan_in):
        bound = fan_in**-0.5 * math.sqrt(growth)
        return Fill("uniform", -bound, bound)
    if bool((numbers == numbers[0]).all()):
        return Fill("constant", numbers[0].item(), 0.0)
    deviation = math.sqrt(square * growth)
    if len(numbers) >= FEWEST_NUMBERS and numbers.abs().max().item() <= UNIFORM * math.sqrt(square):
        return Fill("uniform", -math.sqrt(3) * deviation, math.sqrt(3) * deviation)
    return Fill("normal", 0.0, deviation)


def _is_own_law(numbers: Tensor, square: float, fan_in: int) -> bool:
    """Whether numbers are uniform on ±1/√fan_in: u² has the mean 1/(3 fan_in) and a relative deviation of √(4/5)."""
    if len(numbers) > 1 and bool((numbers == numbers[0]).all()):
        return False
    within = numbers.abs().max().item() <= fan_in**-0.5 * (1 + 1e-3)
    return within and abs(3 * fan_in * square - 1) <= ERRORS * math.sqrt(0.8 / len(numbers))


def fan_in(layer: nn.Module) -> int | None:
    """Inputs of one unit of a plain linear layer or convolution; None of any other module."""
    weight = layer._parameters.get("weight")
    plain = isinstance(layer, nn.Linear) or (isinstance(layer, _ConvNd) and not layer.transposed)
    return weight[0].numel() if plain and weight is not None and weight.numel() else None


def fill(parameter: Tensor, by: Fill, generator: Generator) -> None:
    """Overwrite a parameter; the numbers are the same on every device."""
    with torch.no_grad():
        if parameter.device.type == "cpu" and parameter.dtype == torch.float32:
            by.apply(parameter, generator)
        elif parameter.device.type != "meta":
            drawn = torch.empty(parameter.shape)
            by.apply(drawn, generator)
            parameter.copy_(drawn)


def draw_anew(model: nn.Module, seed: int, without: Collection[str] = ()) -> list[str]:
    """Draw every parameter of ``model`` anew, in place, except those of the modules named ``without``.

    Modules of classes that are not PyTorch's start by their own ``reset_parameters``. PyTorch's layers are drawn by the
    ``law`` of the numbers that they have, which is what the model's constructor made them; norms and the like whose
    numbers are not constant any more are reset, and running statistics are. Rows of padding (``padding_idx``) that are
    zero stay so. A parameter's numbers follow from ``seed`` and its name. Shared parameters stay shared.

    What keeps its numbers is named in the list that is returned: parameters that need no gradient, parameters that are
    computed from others, and those of modules that have no ``reset_parameters`` of their own.

    Raises ``ValueError`` with the name of a parameter whose numbers are not finite.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> before = model[0].weight.clone()
    >>> draw_anew(model, seed=1), bool((model[0].weight == before).any())
    ([], False)
    """
    padding = _rows_of_padding(model)
    laws = _laws(model, without, padding)
    for name, module in model.named_modules(remove_duplicate=True):
        if name not in without and _resets(module, laws, name):
            with _seeded(model, seed_of(seed, name)):
                module.reset_parameters()  # type: ignore[operator]
        if isinstance(module, _NormBase) and name not in without:
            module.reset_running_stats()
    generator, kept = Generator(), []
    for name, parameter, by in laws.values():
        if isinstance(by, Fill):
            fill(parameter, by, generator.manual_seed(seed_of(seed, name)))
            with torch.no_grad():
                for row in padding.get(id(parameter), ()):
                    parameter[row].zero_()
        elif by == "kept":
            kept.append(name)
    return kept


#: Of a parameter, by its identity: its name, itself, and its law, or ``reset`` or ``kept``.
_Laws = dict[int, tuple[str, nn.Parameter, Fill | str]]


#: Of tables of embeddings, by their identity, the rows that stand for padding and are zero.
_Padding = Mapping[int, set[int]]


def _rows_of_padding(model: nn.Module) -> _Padding:
    found: dict[int, set[int]] = {}
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.padding_idx is not None:
            table = module._parameters.get("weight")
            if table is not None and not table.is_meta and not bool(table[module.padding_idx].any()):
                found.setdefault(id(table), set()).add(module.padding_idx)
    return found


def _laws(model: nn.Module, without: Collection[str], padding: _Padding) -> _Laws:
    """Every parameter once, under its first name; those of ``without`` are left out wherever else they occur."""
    found: _Laws = {}
    for prefix, module in model.named_modules():
        for own, parameter in module._parameters.items():
            if parameter is None or id(parameter) in found:
                continue
            name = f"{prefix}.{own}" if prefix else own
            found[id(parameter)] = (name, parameter, _law_of(name, module, parameter, padding))
    left_out = {id(each) for path in without for each in model.get_submodule(path)._parameters.values()}
    return {key: value for key, value in found.items() if key not in left_out}


def _law_of(name: str, module: nn.Module, parameter: nn.Parameter, padding: _Padding) -> Fill | str:
    if not parameter.requires_grad or not parameter.is_floating_point() or parametrize.is_parametrized(module):
        return "kept"
    if parameter.device.type == "meta" or not parameter.numel():
        return "nothing"
    if isinstance(module, DRAWN):
        rows = padding.get(id(parameter), set())
        drawn = [row for row in range(len(parameter)) if row not in rows] if rows else []
        try:
            return law(parameter[drawn] if drawn else parameter, fan_in=fan_in(module))
        except ValueError as error:
            raise ValueError(f"{name} cannot be drawn anew: {error}") from None
    if _resettable(module) and not _is_torchs(module):
        return "reset"
    return "reset" if _constant(parameter) == "kept" and _resettable(module) else _constant(parameter)


def _constant(parameter: nn.Parameter) -> Fill | str:
    """What is constant stays what it is, whatever starts it; there is nothing to keep."""
    values = parameter.detach().flatten()
    constant = parameter.numel() > 1 and bool((values == values[0]).all())
    return Fill("constant", values[0].item(), 0.0) if constant else "kept"


def _resets(module: nn.Module, laws: _Laws, name: str) -> bool:
    """Whether a module starts by its ``reset_parameters``: a class of the user's own, or a norm that was trained."""
    if not _resettable(module) or isinstance(module, DRAWN):
        return False
    if not _is_torchs(module):
        return True
    return any(laws.get(id(each), ("", None, ""))[2] == "reset" for each in module._parameters.values())


def _is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn")


def _resettable(module: nn.Module) -> bool:
    """Whether a module has a ``reset_parameters`` that needs no arguments."""
    reset = getattr(module, "reset_parameters", None)
    if not callable(reset):
        return False
    required = (each for each in inspect.signature(reset).parameters.values() if each.default is each.empty)
    return all(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in required)


def seed_of(seed: int, name: str) -> int:
    """A seed for what is drawn under ``name``: none that the model may have been made under."""
    return int(np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def _seeded(model: nn.Module, seed: int) -> Iterator[None]:
    """PyTorch's generators of the model's devices seeded, and afterwards as they were before."""
    cuda = sorted({each.device.index or 0 for each in model.parameters() if each.device.type == "cuda"})
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield
