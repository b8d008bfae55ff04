"""Transformers of the ``transformers`` library, from a configuration or from a local pretrained folder.

The library is an optional extra and is imported here alone. Nothing is ever fetched from a network, and pretrained
weights are read from safetensors files only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from collegium.search.errors import InvalidSpec
from collegium.train.data.dataset import Dataset
from collegium.train.errors import Mismatch, MissingExtra
from collegium.train.models.build import seeded
from collegium.train.models.grouping import arrays_for
from collegium.train.spec.architecture import TransformerArchitecture

PADDING, END = 0, 1


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
            model = _pretrained(factory, architecture, data, _folder(architecture.pretrained, data_dir))
        else:
            model = factory.from_config(_config(library, architecture, data))
    _check_vocabulary(model, data)
    return model


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
    except (OSError, ValueError, KeyError) as error:
        raise InvalidSpec(("architecture", "pretrained"), f"the folder cannot be loaded: {error}") from error


def _config(library: Any, architecture: TransformerArchitecture, data: Dataset) -> Any:
    default = library.AutoConfig.for_model(architecture.transformer)
    for key in architecture.config:
        if key.startswith("_") or not hasattr(default, key):
            raise InvalidSpec(("architecture", "config", key), f"{architecture.transformer} has no such setting")
    settings = {"vocab_size": max(data.vocabulary, 2), "pad_token_id": PADDING, "eos_token_id": END, **_sizes(data)}
    if architecture.is_decoder:
        settings["decoder_start_token_id"] = PADDING
    try:
        return library.AutoConfig.for_model(architecture.transformer, **{**settings, **architecture.config})
    except (TypeError, ValueError, KeyError) as error:
        raise InvalidSpec(("architecture", "config"), str(error)) from error


def _check_vocabulary(model: Any, data: Dataset) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if rows < data.vocabulary:
        raise Mismatch(
            f"{data.name} uses {data.vocabulary} tokens and the model knows {rows}",
            "give it a larger vocab_size",
        )
