"""Models with the tokens of a tokenizer of their own, whose padding is any of them."""

import random

import pytest
import torch
from torch.nn import functional

from collegium.train.engine import run
from collegium.train.loop.task import own_tokens
from collegium.train.spec.training import TrainingSpec

WORDS = [f"w{index}" for index in range(20)]
SPECIAL = {  # RoBERTa's and BART's order, BERT's and T5's, and one whose padding is the last of them
    "begin": ["<s>", "<pad>", "</s>", "<unk>"],
    "padding": ["<pad>", "<s>", "</s>", "<unk>"],
    "last": ["<s>", "</s>", "<unk>", "<pad>"],
}
ROBERTA = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 20, "type_vocab_size": 1, "initializer_range": 0.5,
}  # fmt: skip
BART = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "init_std": 0.5,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 20,
}  # fmt: skip


def tokenizer_of(special):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    table = {token: index for index, token in enumerate([*special, *WORDS])}
    made = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.RobertaProcessing(("</s>", table["</s>"]), ("<s>", table["<s>"]))
    names = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **{f"{role}_token": token for role, token in names.items()})


@pytest.fixture(params=SPECIAL)
def texts(request, tmp_path):
    """A tokenizer, a data folder with it and with labelled texts, and the test texts with their labels."""
    tokenizer, draw = tokenizer_of(SPECIAL[request.param]), random.Random(0)
    tokenizer.save_pretrained(tmp_path / "own")
    rows = [[draw.choice(WORDS) for _ in range(draw.randint(2, 8))] for _ in range(120)]
    labelled = [(" ".join(row), row[0]) for row in rows]
    (tmp_path / "words").mkdir()
    for name, part in (("train", labelled[:60]), ("dev", labelled[60:])):
        lines = ["sentence\tlabel", *("\t".join(row) for row in [*part, *((word, word) for word in WORDS)])]
        (tmp_path / "words" / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return tokenizer, tmp_path, [*labelled[60:], *((word, word) for word in WORDS)]


def encoded(tokenizer, rows, length):
    return tokenizer(rows, padding="max_length", max_length=length, truncation=True, return_tensors="pt")


def trained(folder, architecture, **text):
    spec = {
        "architecture": architecture,
        "data": {"name": "words", "text": {"input_length": 10, "tokenizer": "own", **text}},
        "recipe": {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3},
        "formats": ["pretrained"],
    }
    return run(TrainingSpec.model_validate(spec), data_dir=folder, artifact_dir=folder / "left")["loss"]["test"]


@pytest.mark.parametrize("pretrained", [True, False], ids=["pretrained", "fresh"])
def test_a_classifier_is_trained_as_its_tokenizer_is_used(texts, pretrained):
    """The recorded loss is that of the folder it leaves, with the tokenizer's tokens and mask."""
    from transformers import RobertaConfig, RobertaForSequenceClassification, RobertaModel

    tokenizer, folder, test = texts
    architecture = {"transformer": "roberta", "config": ROBERTA}
    if pretrained:
        ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("pad", "bos", "eos")}
        model = RobertaModel(RobertaConfig(vocab_size=len(tokenizer), **ROBERTA, **ids))
        model.save_pretrained(folder / "before")
        architecture = {"transformer": "roberta", "pretrained": "before"}
    recorded = trained(folder, architecture, labels="classes")
    model = RobertaForSequenceClassification.from_pretrained(folder / "left").eval()
    assert model.config.pad_token_id == tokenizer.pad_token_id
    given = encoded(tokenizer, [text for text, _ in test], 10)
    labels = torch.tensor([sorted(WORDS).index(label) for _, label in test])
    with torch.no_grad():
        logits = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits
    assert functional.cross_entropy(logits, labels).item() == pytest.approx(recorded, rel=1e-4)


def test_a_writer_is_trained_as_its_tokenizer_is_used(texts):
    """Labels have the tokenizer's own tokens, its first one included."""
    from transformers import BartConfig, BartForConditionalGeneration

    tokenizer, folder, test = texts
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("pad", "bos", "eos")}
    start = {"decoder_start_token_id": tokenizer.eos_token_id, "forced_eos_token_id": None}
    model = BartForConditionalGeneration(BartConfig(vocab_size=len(tokenizer), **BART, **ids, **start))
    model.save_pretrained(folder / "before")
    recorded = trained(folder, {"transformer": "bart", "pretrained": "before"}, target_length=4)
    model = BartForConditionalGeneration.from_pretrained(folder / "left").eval()
    given, wanted = (
        encoded(tokenizer, list(rows), length) for rows, length in zip(zip(*test, strict=True), (10, 4), strict=True)
    )
    labels = wanted["input_ids"].masked_fill(wanted["attention_mask"] == 0, -100)
    with torch.no_grad():
        loss = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"], labels=labels).loss
    assert loss.item() == pytest.approx(recorded, rel=1e-4)


@pytest.mark.parametrize("padding", [0, 1, 5])
def test_padding_and_zero_are_exchanged_back(padding):
    tokens = torch.tensor([[0, 1, 2, 5, padding]])
    read = own_tokens(tokens, padding)
    assert torch.equal(own_tokens(read, padding), tokens)
    assert torch.equal(read == padding, tokens == 0)
