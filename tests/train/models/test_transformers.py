import pytest

from collegium.search.errors import InvalidSpec
from collegium.train.data.catalog import load
from collegium.train.engine import run
from collegium.train.errors import Mismatch
from collegium.train.models.transformers import build_transformer
from collegium.train.spec.training import TrainingSpec

T5 = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 1, "num_heads": 2}
SEQUENCES = {"name": "synthetic-text", "synthetic": {"samples": 200, "length": 6, "vocabulary": 12, "task": "first"}}


def training(architecture, epochs=2, **fields):
    recipe = {"epochs": epochs, "batch_size": 50, "learning_rate": 5e-3}
    return TrainingSpec.model_validate({"architecture": architecture, "data": SEQUENCES, "recipe": recipe, **fields})


def build(architecture, data_dir=None, seed=0):
    spec = training(architecture)
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


def test_a_pretrained_model_keeps_its_sizes(pretrained):
    folder, _ = pretrained
    with pytest.raises(InvalidSpec, match="keeps its sizes"):
        build({"transformer": "t5", "pretrained": "small-t5", "config": {"d_model": 8}}, folder)


def test_heads_and_labels_must_go_together():
    with pytest.raises(Mismatch, match="no decoder"):
        build({"transformer": "bert", "config": {"hidden_size": 16}})
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
