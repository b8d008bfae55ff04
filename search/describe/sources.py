"""Modules by name: of torchvision, timm and transformers, and what a factory of the user's own makes.

Modules are built on the device ``meta`` first, where their code allows it, and anew with numbers where they have at
most ``MOST_NUMBERS`` parameters: off these a description reads how parameters start. One of any size costs no more
memory than that. No weights are downloaded. ``transformers:`` reads the configuration of a folder, or of a name through
that library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

FORMS = "torchvision:NAME, timm:NAME, transformers:NAME_OR_FOLDER, package.module:factory"
IMAGE, _TOKENS = (3, 224, 224), 128
#: Parameters up to which a module is built with its numbers: 1 GiB of them in single precision.
MOST_NUMBERS = 2**28
#: By default these draw by a law of their own that is slow, and warn; later releases have PyTorch's.
TORCHVISION_OPTIONS: dict[str, dict[str, Any]] = {
    name: {"init_weights": False} for name in ("googlenet", "inception_v3")
}
#: The images of torchvision's networks that are not made for the usual ones.
TORCHVISION_IMAGES = {"inception_v3": (3, 299, 299)}


class SourceError(Exception):
    """A module that cannot be had: the message says why, and what would be right."""


@dataclass(frozen=True)
class Sample:
    """What a module is given: numbers of a ``shape`` or a row of ``tokens``; its usual input where it is neither."""

    shape: tuple[int, ...] | None = None
    tokens: int | None = None


def load(source: str, sample: Sample) -> tuple[nn.Module, Any]:
    """The module that a source names, and an example input of one sample. Raises ``SourceError``."""
    kind, separator, name = source.partition(":")
    if not separator or not kind or not name:
        raise SourceError(f"{source!r} names no module; give one of {FORMS}")
    loader = {"torchvision": _torchvision, "timm": _timm, "transformers": _transformers}.get(kind)
    return _factory(kind, name, sample) if loader is None else loader(name, sample)


def _torchvision(name: str, sample: Sample) -> tuple[nn.Module, Any]:
    models = _imported("torchvision.models", "torchvision")
    if name not in models.list_models():
        raise SourceError(f"torchvision has no model {name!r}; torchvision.models.list_models() has their names")
    options = TORCHVISION_OPTIONS.get(name, {})
    model = _built(f"torchvision:{name}", lambda: models.get_model(name, weights=None, **options))
    return _given(model, sample, TORCHVISION_IMAGES.get(name, IMAGE))


def _timm(name: str, sample: Sample) -> tuple[nn.Module, Any]:
    timm = _imported("timm", "timm")
    if not timm.is_model(name):
        raise SourceError(f"timm has no model {name!r}; timm.list_models() has their names")
    model = _built(f"timm:{name}", lambda: timm.create_model(name, pretrained=False))
    usual = getattr(model, "default_cfg", {}).get("input_size", IMAGE)
    return _given(model, sample, tuple(usual))


def _transformers(name: str, sample: Sample) -> tuple[nn.Module, Any]:
    library = _imported("transformers", "transformers")
    if (Path(name).is_absolute() or name.startswith(".")) and not Path(name).is_dir():
        raise SourceError(f"there is no folder {name}")
    try:
        config = library.AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise SourceError(f"transformers has no configuration {name!r}: {_line(error)}") from error
    classes = [getattr(library, each, None) for each in getattr(config, "architectures", None) or ()]
    chosen = next((each for each in classes if each is not None), None)
    make = (lambda: chosen(config)) if chosen is not None else (lambda: library.AutoModel.from_config(config))
    model = _built(f"transformers:{name}", make)
    return model, _transformers_input(model, config, sample)


def _transformers_input(model: Any, config: Any, sample: Sample) -> dict[str, torch.Tensor]:
    """By the name of the model's main input: pixels, or tokens, for the decoder too where there is one."""
    main = getattr(model, "main_input_name", "input_ids")
    if main != "input_ids" and sample.tokens is None:
        size = getattr(config, "image_size", None) or IMAGE[1]
        height, width = size if isinstance(size, list | tuple) else (size, size)
        shape = sample.shape or (getattr(config, "num_channels", 3), height, width)
        return {main: _zeros(shape)}
    ids = _ids(sample.tokens or _TOKENS)
    decoder = {"decoder_input_ids": ids} if getattr(config, "is_encoder_decoder", False) else {}
    return {"input_ids": ids, **decoder}


def _factory(module: str, name: str, sample: Sample) -> tuple[nn.Module, Any]:
    found: Any = _imported(module, None)
    for part in name.split("."):
        if not hasattr(found, part):
            raise SourceError(f"{module} has no {name!r}")
        found = getattr(found, part)
    source = f"{module}:{name}"
    model = found if isinstance(found, nn.Module) else _built(source, found) if callable(found) else None
    if not isinstance(model, nn.Module):
        raise SourceError(f"{source} is neither an nn.Module nor a function without arguments that makes one")
    if sample == Sample():
        raise SourceError("say what the module takes: --input 3x224x224 for numbers, or --tokens 128 for token ids")
    return _given(model, sample, ())


def _given(model: nn.Module, sample: Sample, usual: tuple[int, ...]) -> tuple[nn.Module, Any]:
    return model, _ids(sample.tokens) if sample.tokens is not None else _zeros(sample.shape or usual)


def _zeros(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.zeros(1, *shape)


def _ids(count: int) -> torch.Tensor:
    return torch.zeros(1, count, dtype=torch.long)


def _built(source: str, make: Callable[[], Any]) -> Any:
    """Without memory where it is large and its code allows that: some constructors compute with numbers."""
    try:
        with torch.device("meta"):
            made = make()
    except Exception:  # what fails without numbers is asked again with them, and then says why
        return _made(source, make)
    if not isinstance(made, nn.Module) or sum(each.numel() for each in made.parameters()) > MOST_NUMBERS:
        return made
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the laws that are read off the numbers are the same each time
        return _made(source, make)


def _made(source: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:  # the user's code may raise anything
        raise SourceError(f"{source} raised {_line(error)}") from error


def _imported(module: str, extra: str | None) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        if extra is not None and missing.partition(".")[0] == extra:
            raise SourceError(f"{extra} is not installed; install it with: pip install {extra}") from error
        raise SourceError(f"{module} cannot be imported: there is no module {missing!r}") from error
    except Exception as error:  # a module may fail in any way while it is imported
        raise SourceError(f"{module} cannot be imported: {_line(error)}") from error


def _line(error: BaseException) -> str:
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
