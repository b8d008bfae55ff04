"""What settings of a transformer's configuration may be, as far as their meaning bounds them in every model type.

Here are names and numbers alone, so that a wrong setting is refused when it is posted; whether a model can be built of
settings that pass is known where it is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

Setting = int | float | bool | str | None

SIZES = frozenset(
    {
        "vocab_size", "d_model", "d_kv", "d_ff", "hidden_size", "intermediate_size", "dim", "hidden_dim",
        "embedding_size", "encoder_ffn_dim", "decoder_ffn_dim", "num_heads", "num_attention_heads", "n_heads",
        "encoder_attention_heads", "decoder_attention_heads", "max_position_embeddings", "type_vocab_size",
        "relative_attention_num_buckets", "relative_attention_max_distance",
    }
)  # fmt: skip
LAYERS = frozenset(
    {"num_layers", "num_decoder_layers", "num_hidden_layers", "encoder_layers", "decoder_layers", "n_layers"}
)
POSITIVE = frozenset({"layer_norm_eps", "layer_norm_epsilon", "initializer_range", "initializer_factor", "init_std"})
#: Settings that follow from the data.
OF_THE_DATA = frozenset({"num_labels", "problem_type"})
#: Settings that may be null: what they are then is the library's choice.
OPTIONAL = frozenset({"num_decoder_layers", "classifier_dropout"})
#: Widths that heads divide, by the setting that counts the heads, with what both are where they are left out.
DIVIDED: dict[str, tuple[tuple[tuple[str, int], tuple[str, int]], ...]] = {
    "bart": (
        (("d_model", 1024), ("encoder_attention_heads", 16)),
        (("d_model", 1024), ("decoder_attention_heads", 16)),
    ),
    "bert": ((("hidden_size", 768), ("num_attention_heads", 12)),),
    "roberta": ((("hidden_size", 768), ("num_attention_heads", 12)),),
    "electra": ((("hidden_size", 256), ("num_attention_heads", 4)),),
    "distilbert": ((("dim", 768), ("n_heads", 12)),),
}


def wrong_settings(transformer: str, config: Mapping[str, Setting]) -> dict[str, str]:
    """The settings that no model can have, each with what would be right.

    >>> wrong_settings("bert", {"hidden_size": 15, "num_attention_heads": 2})
    {'num_attention_heads': '2 heads do not divide hidden_size, 15'}
    """
    wrong = {name: message for name, value in config.items() for message in _wrong(name, value, config)}
    if wrong.keys() & SIZES:
        return wrong
    return wrong | dict(_undivided(transformer, config))


def _wrong(name: str, value: Setting, config: Mapping[str, Setting]) -> Iterator[str]:
    if name in OF_THE_DATA:
        yield "the data decides it: leave it out"
    elif value is None and (name in OPTIONAL or name.endswith("_token_id")):
        return
    elif name in SIZES | LAYERS:
        if not _is_integer(value) or value < 1:
            yield "give a whole number of 1 or more"
    elif "dropout" in name or name.endswith("layerdrop"):
        if not _is_number(value) or not 0 <= value < 1:
            yield "give a probability of at least 0 and below 1"
    elif name in POSITIVE:
        if not _is_number(value) or value <= 0:
            yield "give a number above 0"
    elif name.endswith("_token_id"):
        vocabulary = config.get("vocab_size")
        if not _is_integer(value) or value < 0:
            yield "give a token, a whole number of 0 or more"
        elif _is_integer(vocabulary) and value >= vocabulary:
            yield f"give a token below vocab_size, {vocabulary}"


def _undivided(transformer: str, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for (width, own_width), (heads, own_heads) in DIVIDED.get(transformer, ()):
        size, count = config.get(width, own_width), config.get(heads, own_heads)
        if size % count:
            yield heads if heads in config else width, f"{count} heads do not divide {width}, {size}"


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
