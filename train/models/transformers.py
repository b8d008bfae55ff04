"""Transformers of the ``transformers`` library, from a configuration or from a local pretrained folder.

The library is an optional extra and is imported here alone. Nothing is ever fetched from a network, and pretrained
weights are read from safetensors files only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from collegium.search.errors import InvalidSpec, Location
from collegium.train.data.dataset import Batch, Dataset
from collegium.train.errors import Mismatch, MissingExtra
from collegium.train.loop.task import task_for
from collegium.train.models.build import seeded
from collegium.train.models.grouping import arrays_for
from collegium.train.spec.architecture import TransformerArchitecture

PADDING, END = 0, 1  # of tokens without a tokenizer
#: Parameters up to which a model is built to find the setting that is wrong.
QUICKLY_TRIED = 30_000_000


def build_transformer(
    architecture: TransformerArchitecture, data: Dataset, *, seed: int, data_dir: Path | None = None
) -> nn.Module:
    """The transformer, with the data's vocabulary and a head for its labels.

    Fresh weights follow from ``seed`` alone. Raises ``InvalidSpec`` for a wrong configuration, ``Mismatch`` where data
    and head do not go together, and ``MissingExtra`` where ``transformers`` is not installed.
    """
    library = _library()
    if data.kind != "tokens":
        raise arrays_for(data.name)
    head = architecture.head or ("sequence" if data.classes == 0 else "classification")
    if (head == "sequence") != (data.classes == 0):
        wanted = "sequences" if data.classes == 0 else "classes"
        raise Mismatch(f"the labels of {data.name} are {wanted}, which a {head} head does not give", "leave head out")
    if head == "sequence" and not architecture.is_decoder:
        raise Mismatch(f"{architecture.transformer} has no decoder", "choose t5 or bart for labels that are sequences")
    kind = "AutoModelForSeq2SeqLM" if head == "sequence" else "AutoModelForSequenceClassification"
    factory = getattr(library, kind)
    with seeded(seed):
        if architecture.pretrained is not None:
            folder = _folder(architecture.pretrained, data_dir)
            _check_kind(library, architecture, folder)
            model = _pretrained(factory, architecture, data, folder)
        else:
            model = _from_settings(library, factory, architecture, data)
    _check_vocabulary(model, data)
    try:
        _read(model, data, _sample(data))
    except MemoryError:
        raise
    except Exception as error:
        if architecture.pretrained is not None:
            message = f"it does not read samples of {data.name}: {_reason(error)}"
            raise InvalidSpec(("architecture", "pretrained"), message) from error
        message = f"a model of these settings does not read samples of {data.name}: {_reason(error)}"
        raise InvalidSpec(_place(library, factory, architecture, data), message) from error
    return model


def _from_settings(library: Any, factory: Any, architecture: TransformerArchitecture, data: Dataset) -> nn.Module:
    config = _config(library, architecture, data)
    try:
        return factory.from_config(config)
    except MemoryError:
        raise
    except Exception as error:
        place = _place(library, factory, architecture, data)
        raise InvalidSpec(place, f"no model can be built of these settings: {_reason(error)}") from error


def _sample(data: Dataset) -> Batch:
    return next(iter(data.train.batches(torch.zeros(1, dtype=torch.long), 1)))


@torch.no_grad()
def _read(model: nn.Module, data: Dataset, sample: Batch) -> None:
    """Evaluate ``sample``, as training will."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    logits = task_for(data, model).logits(model, *(part.to(device) for part in sample))
    model.train(was_training)
    if not logits.isfinite().all():
        raise ValueError("its outputs are not finite")


def _place(library: Any, factory: Any, architecture: TransformerArchitecture, data: Dataset) -> Location:
    """The setting without which a model is built and reads samples, where there is one and it is quickly tried."""
    sample = _sample(data)
    for name in architecture.config:
        rest = {other: value for other, value in architecture.config.items() if other != name}
        try:
            config = _config(library, architecture.model_copy(update={"config": rest}), data)
            with torch.device("meta"):
                model = factory.from_config(config)
            if model.num_parameters() > QUICKLY_TRIED:
                continue
            _read(factory.from_config(config), data, sample)
        except Exception:
            continue
        return ("architecture", "config", name)
    return ("architecture", "config")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra(
            "transformers is not installed", "install it with: pip install 'collegium[transformers]'"
        ) from error
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _folder(name: str, data_dir: Path | None) -> Path:
    # ``name`` has no separators (collegium.train.spec.architecture.Key), so it cannot leave the data folder.
    folder = None if data_dir is None else data_dir / name
    if folder is None or not (folder / "config.json").is_file():
        raise InvalidSpec(
            ("architecture", "pretrained"),
            f"the data folder has no folder {name!r} with a config.json",
        )
    return folder


def _sizes(data: Dataset) -> dict[str, Any]:
    return {} if data.classes == 0 else {"num_labels": data.classes}


def _check_kind(library: Any, architecture: TransformerArchitecture, folder: Path) -> None:
    """Refuse a folder of another model type than the one that is named, which would be trained under its name."""
    try:
        found = library.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).model_type
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(error) from error
    if found != architecture.transformer:
        message = (
            f"the folder {architecture.pretrained!r} holds a model of type {found!r}, not {architecture.transformer!r}"
        )
        raise InvalidSpec(("architecture", "transformer"), message)


def _unreadable(error: Exception) -> InvalidSpec:
    return InvalidSpec(("architecture", "pretrained"), f"the folder cannot be loaded: {error}")


def _pretrained(factory: Any, architecture: TransformerArchitecture, data: Dataset, folder: Path) -> nn.Module:
    fixed = {key for key in architecture.config if "dropout" not in key}
    if fixed:
        raise InvalidSpec(
            ("architecture", "config", sorted(fixed)[0]),
            "a pretrained model keeps its sizes; only dropout can change",
        )
    try:
        return factory.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, **architecture.config, **_sizes(data)
        )
    except MemoryError:
        raise
    except Exception as error:
        if "ignore_mismatched_sizes" in str(error):  # which the library advises, and no specification can say
            headless = (
                f", as the head of a classifier of {data.classes} classes: a folder without a head is given a new one "
                "(`AutoModel.from_pretrained(FOLDER).save_pretrained(OTHER)` leaves one)"
            )
            raise InvalidSpec(
                ("architecture", "pretrained"),
                f"the folder has weights of other sizes than these data want{headless if data.classes else ''}",
            ) from error
        raise _unreadable(error) from error


def _config(library: Any, architecture: TransformerArchitecture, data: Dataset) -> Any:
    default = library.AutoConfig.for_model(architecture.transformer)
    for key in architecture.config:
        if key.startswith("_") or not hasattr(default, key):
            raise InvalidSpec(("architecture", "config", key), f"{architecture.transformer} has no such setting")
    settings = {
        "vocab_size": max(data.vocabulary, 2),
        "pad_token_id": data.padding,
        "eos_token_id": END,
        **_sizes(data),
    }
    if architecture.is_decoder:
        settings["decoder_start_token_id"] = PADDING
    try:
        return library.AutoConfig.for_model(architecture.transformer, **{**settings, **architecture.config})
    except Exception as error:
        raise InvalidSpec(("architecture", "config"), _reason(error)) from error


def _check_vocabulary(model: Any, data: Dataset) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if rows < data.vocabulary:
        raise Mismatch(
            f"{data.name} uses {data.vocabulary} tokens and the model knows {rows}",
            "give it a larger vocab_size",
        )
