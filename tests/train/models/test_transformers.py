import pytest

from collegium.search.errors import InvalidSpec
from collegium.search.parse import parse_spec
from collegium.train.data.catalog import load
from collegium.train.engine import run
from collegium.train.errors import Mismatch
from collegium.train.limits import check_training_cost
from collegium.train.models.transformers import build_transformer
from collegium.train.spec.training import TrainingSpec

T5 = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 1, "num_heads": 2}
SEQUENCES = {"name": "synthetic-text", "synthetic": {"samples": 200, "length": 6, "vocabulary": 12, "task": "first"}}


def training(architecture, epochs=2, **fields):
    recipe = {"epochs": epochs, "batch_size": 50, "learning_rate": 5e-3}
    return TrainingSpec.model_validate({"architecture": architecture, "data": SEQUENCES, "recipe": recipe, **fields})


def build(architecture, data_dir=None, seed=0, **fields):
    spec = training(architecture, **fields)
    return build_transformer(spec.architecture, load(spec.data), seed=seed, data_dir=data_dir)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A data folder with a T5 that has been trained a little, and that training's result."""
    folder = tmp_path_factory.mktemp("data")
    spec = training({"transformer": "t5", "config": {**T5, "dropout_rate": 0.0}}, formats=["safetensors", "pretrained"])
    return folder, run(spec, artifact_dir=folder / "small-t5")


def test_a_t5_learns_and_leaves_what_from_pretrained_takes(pretrained):
    from transformers import AutoModelForSeq2SeqLM

    folder, result = pretrained
    model = AutoModelForSeq2SeqLM.from_pretrained(folder / "small-t5", local_files_only=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == result["parameters"]
    assert result["loss"]["test"] < 2.4
    assert result["widths"] is None


@pytest.mark.slow
def test_a_stranger_gets_the_recorded_accuracy_of_a_transformer(pretrained, load_and_evaluate):
    folder, result = pretrained
    assert load_and_evaluate(folder / "small-t5") == {"accuracy": result["accuracy"]["test"], "samples": 100}


def test_fine_tuning_starts_from_the_pretrained_weights(pretrained):
    folder, before = pretrained
    spec = training({"transformer": "t5", "pretrained": "small-t5"}, epochs=1, formats=[])
    after = run(spec, data_dir=folder)
    assert after["loss"]["train"] < before["loss"]["train"]


def test_an_ensemble_of_one_leaves_what_from_pretrained_takes(tmp_path):
    from transformers import AutoModelForSeq2SeqLM

    fields = {"method": "ensemble", "expansion": 1, "formats": ["pretrained"]}
    result = run(training({"transformer": "t5", "config": T5}, epochs=1, **fields), artifact_dir=tmp_path)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, local_files_only=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == result["parameters"]


def test_dropout_follows_from_the_seed(tmp_path):
    spec = training({"transformer": "t5", "config": {**T5, "dropout_rate": 0.3}}, formats=["pretrained"])
    losses = [run(spec, artifact_dir=tmp_path / name)["loss"] for name in "ab"]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("architecture", "path"),
    [
        ({"transformer": "t5", "config": {"d_modell": 8}}, ("architecture", "config", "d_modell")),
        ({"transformer": "t5", "pretrained": "not-there"}, ("architecture", "pretrained")),
    ],
)
def test_a_wrong_configuration_is_named(architecture, path, tmp_path):
    with pytest.raises(InvalidSpec) as raised:
        build(architecture, tmp_path)
    assert raised.value.path == path


def test_a_head_for_other_classes_is_refused_by_name_and_one_that_is_missing_is_new(tmp_path):
    from transformers import AutoModel, BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=32, num_labels=3, max_position_embeddings=12, **BERT)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "whole")
    AutoModel.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "headless")
    with pytest.raises(InvalidSpec, match="a folder without a head is given a new one") as raised:
        build({"transformer": "bert", "pretrained": "whole"}, tmp_path, data=CLASSES)
    assert raised.value.path == ("architecture", "pretrained")
    model = build({"transformer": "bert", "pretrained": "headless"}, tmp_path, data=CLASSES)
    assert model.classifier.out_features not in (0, 3)


CLASSES = {"name": "synthetic-text", "synthetic": {"samples": 60, "length": 12, "labels": "classes", "task": "maximum"}}
BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}  # fmt: skip
DISTIL = {"dim": 16, "hidden_dim": 16, "n_layers": 1, "n_heads": 2}
SMALL = {"t5": T5, "bart": BART, "bert": BERT, "roberta": BERT, "electra": BERT, "distilbert": DISTIL}


def document(kind, **config):
    return {"architecture": {"transformer": kind, "config": {**SMALL[kind], **config}}, "data": CLASSES}


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("bert", "hidden_size", 0), ("bert", "hidden_size", 16.5), ("bert", "vocab_size", -1), ("bart", "d_model", 0),
        ("t5", "d_kv", True), ("t5", "d_ff", None), ("t5", "relative_attention_num_buckets", 0),
        ("bert", "num_attention_heads", "two"), ("bert", "num_hidden_layers", -1), ("distilbert", "n_layers", 0),
        ("bart", "decoder_layers", 0), ("bert", "hidden_dropout_prob", 2), ("bert", "hidden_dropout_prob", -1),
        ("t5", "dropout_rate", 1.0), ("bart", "encoder_layerdrop", -0.5), ("electra", "summary_last_dropout", "much"),
        ("bert", "layer_norm_eps", -5), ("t5", "layer_norm_epsilon", 0), ("bert", "initializer_range", -1),
        ("bart", "init_std", 0.0), ("roberta", "pad_token_id", -1), ("bert", "num_labels", 7),
        ("bert", "problem_type", "regression"), ("bert", "num_attention_heads", 3), ("distilbert", "n_heads", 3),
        ("bart", "decoder_attention_heads", 5),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused_when_posted(kind, name, value):
    with pytest.raises(InvalidSpec) as raised:
        parse_spec(TrainingSpec, document(kind, **{name: value}))
    assert raised.value.path == ("architecture", "config", name)


def test_a_padding_token_is_one_of_the_vocabulary():
    with pytest.raises(InvalidSpec, match="below vocab_size, 40"):
        parse_spec(TrainingSpec, document("bert", vocab_size=40, pad_token_id=40))
    parse_spec(TrainingSpec, document("bert", vocab_size=41, pad_token_id=40, bos_token_id=None))


@pytest.mark.parametrize(("kind", "positions"), [("bert", 12), ("roberta", 13), ("bart", 12), ("distilbert", 12)])
def test_samples_longer_than_the_positions_are_refused_when_posted(kind, positions):
    check_training_cost(parse_spec(TrainingSpec, document(kind, max_position_embeddings=positions)))
    with pytest.raises(InvalidSpec, match=f"12 tokens: give at least {positions}") as raised:
        check_training_cost(parse_spec(TrainingSpec, document(kind, max_position_embeddings=positions - 1)))
    assert raised.value.path == ("architecture", "config", "max_position_embeddings")


@pytest.mark.parametrize("kind", SMALL)
def test_every_kind_is_built_and_reads_a_sample_at_the_least_positions(kind):
    least = {} if kind == "t5" else {"max_position_embeddings": 12 + (kind == "roberta")}
    spec = parse_spec(TrainingSpec, document(kind, **least))
    model = build_transformer(spec.architecture, load(spec.data), seed=0)
    assert model.training


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("bert", "hidden_act", "zzz"), ("t5", "feed_forward_proj", "foo"), ("bert", "pad_token_id", 999),
        ("t5", "relative_attention_num_buckets", 1), ("bert", "chunk_size_feed_forward", 5),
        ("bert", "return_dict", False),
        ("bert", "max_position_embeddings", 10), ("roberta", "max_position_embeddings", 12),
        ("bart", "activation_function", "zzz"),
    ],
)  # fmt: skip
def test_settings_of_which_no_model_can_be_built_are_named(kind, name, value):
    spec = parse_spec(TrainingSpec, document(kind, **{name: value}))
    with pytest.raises(InvalidSpec) as raised:
        build_transformer(spec.architecture, load(spec.data), seed=0)
    assert raised.value.path == ("architecture", "config", name)


def test_a_pretrained_model_that_does_not_read_the_samples_is_named(tmp_path):
    spec = parse_spec(TrainingSpec, document("bert", max_position_embeddings=12))
    build_transformer(spec.architecture, load(spec.data), seed=0).save_pretrained(tmp_path / "short")
    longer = {**CLASSES, "synthetic": {**CLASSES["synthetic"], "length": 20}}
    architecture = {"transformer": "bert", "pretrained": "short"}
    spec = parse_spec(TrainingSpec, {"architecture": architecture, "data": longer})
    with pytest.raises(InvalidSpec, match="does not read samples") as raised:
        build_transformer(spec.architecture, load(spec.data), seed=0, data_dir=tmp_path)
    assert raised.value.path == ("architecture", "pretrained")


def test_a_pretrained_model_keeps_its_sizes(pretrained):
    folder, _ = pretrained
    with pytest.raises(InvalidSpec, match="keeps its sizes"):
        build({"transformer": "t5", "pretrained": "small-t5", "config": {"d_model": 8}}, folder)


TINY_BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.mark.parametrize("named", ["roberta", "electra", "t5"])
def test_a_folder_of_another_kind_is_not_trained_under_the_name(tmp_path, named):
    """Folders of BERT and RoBERTa load as classifiers alike."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=300, num_labels=2, **TINY_BERT)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "small")
    fields = {"data": {"name": "movies", "text": {"labels": "classes", "input_length": 12}}}
    rows = "\n".join(
        ["sentence\tlabel", *(f"{word} film {row}\t{word}" for row in range(4) for word in ("bad", "good"))]
    )
    (tmp_path / "movies").mkdir()
    for split in ("train", "dev"):
        (tmp_path / "movies" / f"{split}.tsv").write_text(rows + "\n")
    with pytest.raises(InvalidSpec, match=f"a model of type 'bert', not '{named}'") as raised:
        run(training({"transformer": named, "pretrained": "small"}, **fields), data_dir=tmp_path)
    assert raised.value.path == ("architecture", "transformer")
    right = training({"transformer": "bert", "pretrained": "small"}, epochs=1, formats=[], **fields)
    assert run(right, data_dir=tmp_path)["steps"] == 1


@pytest.mark.parametrize("config", ["{", "{}", '{"model_type": "nothing"}'])
def test_a_folder_that_is_none_is_named(tmp_path, config):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text(config)
    with pytest.raises(InvalidSpec, match="cannot be loaded") as raised:
        build({"transformer": "t5", "pretrained": "small"}, tmp_path)
    assert raised.value.path == ("architecture", "pretrained")


def test_heads_and_labels_must_go_together():
    with pytest.raises(Mismatch, match="no decoder"):
        build({"transformer": "bert", "config": {"hidden_size": 24}})
    with pytest.raises(Mismatch, match="sequences"):
        build({"transformer": "t5", "config": T5, "head": "classification"})
    spec = training({"transformer": "t5", "config": T5}).model_copy(
        update={"data": TrainingSpec.model_validate({"architecture": {"search": "j"}, "data": "digits"}).data}
    )
    with pytest.raises(Mismatch, match="does not hold sequences"):
        build_transformer(spec.architecture, load(spec.data), seed=0)


def test_a_vocabulary_that_is_too_small_is_refused():
    with pytest.raises(Mismatch, match="12 tokens and the model knows 8"):
        build({"transformer": "t5", "config": {**T5, "vocab_size": 8}})


@pytest.mark.slow
def test_a_model_that_cannot_become_a_program_is_left_without_one(tmp_path):
    folder = tmp_path / "data" / "reviews"
    folder.mkdir(parents=True)
    for split in ("train", "dev"):
        rows = [f"{word} film {index}\t{word}" for index in range(8) for word in ("good", "bad")]
        (folder / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    spec = TrainingSpec.model_validate(
        {
            "architecture": {"transformer": "t5", "config": T5},
            "data": {"name": "reviews", "text": {"labels": "classes", "input_length": 12}},
            "recipe": {"epochs": 1, "batch_size": 8},
        }
    )
    result = run(spec, data_dir=tmp_path / "data", artifact_dir=tmp_path / "left")
    assert [note["kind"] for note in result["notes"]] == ["program_missing"]
    left = {path.name for path in (tmp_path / "left").iterdir()}
    assert {"model.safetensors", "config.json"} <= left
    assert not {"load.py", "program.pt2"} & left
