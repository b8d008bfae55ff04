"""Dropout: which units it sets to zero, in training alone; where there is none; and that exported networks have it."""

import hashlib
import json

import pytest
import torch
from torch import nn
from torch.nn import functional

from collegium.search.errors import InvalidSpec
from collegium.search.networks.family import FAMILIES
from collegium.train.engine import run
from collegium.train.limits import check_study_cost, check_training_cost
from collegium.train.loop.context import fingerprint
from collegium.train.models.build import blueprint
from collegium.train.models.grouping import group_network
from collegium.train.spec.architecture import BaselineArchitecture
from collegium.train.spec.data import DataSpec
from collegium.train.spec.study import StudySpec
from collegium.train.spec.training import TrainingSpec

MLP = {"family": "mlp", "inputs": 12, "hidden": [40, 30], "outputs": 5}
GELU = {**MLP, "activation": "gelu"}
RESNEXT = {"family": "resnext", "layout": "cifar", "blocks": [1, 1], "cardinality": 2, "base_width": 8}
BASIC = {"family": "resnext", "layout": "cifar", "block": "basic", "blocks": [1, 1]}
BLOCK = {
    "family": "block",
    "input": {"channels": 3, "height": 8, "width": 8},
    "layers": [
        {"type": "conv", "out": "a", "kernel": 3},
        {"type": "relu"},
        {"type": "conv", "out": "b"},
        {"type": "relu"},
        {"type": "conv", "out": 5},
    ],
    "widths": {"a": 6, "b": 4},
}


def build(baseline, dropout, multiplicity=None, widths=None):
    architecture = BaselineArchitecture.model_validate(
        {"baseline": baseline, "widths": widths, "multiplicity": multiplicity}
    )
    return blueprint(group_network(architecture), dropout=dropout).build(seed=3)


def entering(model, layer, x):
    """What ``layer`` reads, and the layer before it leaves, as ``model`` computes ``x``."""
    seen = []
    handles = [
        module.register_forward_hook(
            lambda module, inputs, output: seen.append((module, inputs[0].detach(), output.detach()))
        )
        for module in model.modules()
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    called = [call for call in seen if not isinstance(call[0], nn.Dropout)]
    place = [module for module, _, _ in called].index(layer)
    return called[place][1], called[place - 1][2]


def assert_dropped(found, whole, fraction):
    kept = found != 0
    torch.testing.assert_close(found[kept], whole[kept] / (1 - fraction))
    assert float((~kept & (whole != 0)).sum() / (whole != 0).sum()) == pytest.approx(fraction, abs=0.04)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize(("baseline", "phi"), [(MLP, functional.relu), (GELU, functional.gelu)], ids=["relu", "gelu"])
def test_hidden_activations_of_an_mlp_are_dropped_and_scaled(baseline, phi, members):
    """Each layer after the first reads what is kept, divided by 1 − d; the samples and the logits lose nothing."""
    plain, dropping = (build(baseline, d, members, [40, 30]) for d in (0.0, 0.25))
    assert list(plain.state_dict()) == list(dropping.state_dict())
    x = torch.randn(400, 12)
    dropping.train()
    for layer in dropping.layers[1:]:
        found, before = entering(dropping, layer, x)
        whole = phi(before)
        if members > 1 and layer is dropping.layers[1]:
            whole = whole.unflatten(1, (members, -1)).transpose(0, 1)
        if members > 1 and layer is dropping.layers[2]:
            whole = whole.transpose(0, 1).flatten(1) / members**0.5
        assert_dropped(found, whole, 0.25)
    assert (dropping(x) != 0).all()
    torch.testing.assert_close(dropping.eval()(x), plain(x), rtol=0, atol=0)


@pytest.mark.parametrize("baseline", [RESNEXT, BASIC], ids=["bottleneck", "basic"])
def test_the_features_that_a_residual_head_reads_are_dropped(baseline):
    plain, dropping = build(baseline, 0.0), build(baseline, 0.5)
    x = torch.randn(16, 3, 16, 16)
    found, averaged = entering(dropping.train(), dropping.fc, x)
    assert_dropped(found, averaged.flatten(1), 0.5)
    plain.train()(x)
    assert torch.equal(plain.bn1.running_mean, dropping.bn1.running_mean)
    torch.testing.assert_close(dropping.eval()(x), plain.eval()(x), rtol=0, atol=0)


def test_a_block_drops_what_each_layer_but_the_last_leaves():
    plain, dropping = build(BLOCK, 0.0), build(BLOCK, 0.4)
    x = torch.randn(64, 3, 8, 8)
    dropping.train()
    for layer in dropping.layers[1:]:
        found, before = entering(dropping, layer, x)
        assert_dropped(found, functional.relu(before), 0.4)
    torch.testing.assert_close(dropping.eval()(x), plain(x), rtol=0, atol=0)


@pytest.mark.parametrize("method", ["vanilla", "majority", "sam", "ema"])
def test_trainings_drop_units_and_evaluate_without(digits_spec, tmp_path, load_and_evaluate, method):
    """The exported folder has the network with its dropout, and evaluates as the training did."""
    fields = {"epochs": 10, "learning_rate": 5e-3}
    without = run(digits_spec(fields, method=method))
    result = run(digits_spec({**fields, "dropout": 0.2}, method=method), artifact_dir=tmp_path)
    assert result["recipe"]["dropout"] == 0.2
    assert result["loss"]["train"] != without["loss"]["train"]
    assert result["accuracy"]["test"] > 0.5
    assert json.loads((tmp_path / "config.json").read_text())["collegium"]["arguments"]["dropout"] == 0.2
    assert "\n* dropout 0.2\n" in (tmp_path / "README.md").read_text()
    assert load_and_evaluate(tmp_path)["accuracy"] == result["accuracy"]["test"]


def training(architecture, **recipe):
    return TrainingSpec.model_validate({"architecture": architecture, "data": "digits", "recipe": recipe})


def test_what_has_no_dropout_is_refused_at_its_field(monkeypatch):
    t5 = training({"transformer": "t5"}, dropout=0.1)
    t5 = t5.model_copy(update={"data": t5.data.model_copy(update={"name": "synthetic-text"})})
    with pytest.raises(InvalidSpec, match=r"architecture\.config") as raised:
        check_training_cost(t5)
    assert raised.value.path == ("recipe", "dropout")
    monkeypatch.setitem(FAMILIES._loaded, "mlp", type(FAMILIES["mlp"])(**{**vars(FAMILIES["mlp"]), "dropout": False}))
    digits = {"baseline": {"preset": "mlp-digits-6x100"}}
    check_training_cost(training(digits))
    with pytest.raises(InvalidSpec, match="the family mlp have no dropout") as raised:
        check_training_cost(training(digits, dropout=0.1))
    assert raised.value.path == ("recipe", "dropout")


@pytest.mark.parametrize(
    ("methods", "recipes", "path"),
    [
        ([{"method": "vanilla"}], [{}, {"dropout": 0.1}], ("recipes", 1, "recipe", "dropout")),
        (
            [{"method": "vanilla"}, {"method": "sam", "recipe": {"dropout": 0.1}}],
            [{}],
            ("methods", 1, "recipe", "dropout"),
        ),
    ],
)
def test_a_study_names_where_the_dropout_is(methods, recipes, path):
    study = StudySpec.model_validate(
        {
            "architectures": [{"name": "A", "architecture": {"transformer": "bert"}}],
            "methods": methods,
            "recipes": [{"name": f"recipe {index}", "recipe": recipe} for index, recipe in enumerate(recipes)],
            "data": {"name": "synthetic-text", "synthetic": {"labels": "classes"}},
        }
    )
    with pytest.raises(InvalidSpec) as raised:
        check_study_cost(study)
    assert raised.value.path == path


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan"), "0.5"])
def test_a_fraction_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match="dropout"):
        training({"baseline": MLP}, dropout=value)


def test_a_training_that_names_no_later_field_goes_on_from_checkpoints_from_before():
    spec = training({"baseline": MLP})
    document = json.loads(spec.model_dump_json(exclude={"formats": True, "diagnostics": True}))
    del document["architecture"]["stages"], document["architecture"]["branches"]
    for field in ("dropout", "mixup", "cutmix", "augment_operations", "augment_magnitude", "sharpness_every"):
        assert document["recipe"].pop(field) is None
    del document["data"]["snippets"], document["data"]["synthetic"]["labels"]
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    assert fingerprint(spec) == hashlib.sha256(f"1:{torch.__version__}:{text}".encode()).hexdigest()
    assert fingerprint(training({"baseline": MLP}, dropout=0.1)) != fingerprint(spec)
    for options in ({"snippets": {"length": 9}}, {"synthetic": {"labels": "classes"}}):
        changed = spec.model_copy(update={"data": DataSpec.model_validate({"name": spec.data.name, **options})})
        assert fingerprint(changed) != fingerprint(spec)
