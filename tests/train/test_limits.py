import pytest
from pydantic import ValidationError

from collegium.search.errors import InvalidSpec
from collegium.train.limits import check_study_cost, check_training_cost
from collegium.train.spec.study import StudySpec
from collegium.train.spec.training import TrainingSpec

MLP = {"family": "mlp", "inputs": 64, "hidden": [100, 100], "outputs": 10}


def training(architecture, **fields):
    return TrainingSpec.model_validate({"architecture": architecture, "data": "digits", **fields})


def test_a_small_training_costs_little():
    cost = check_training_cost(training({"baseline": MLP}))
    assert cost is not None
    assert cost.parameters == 64 * 100 + 100 * 100 + 100 * 10
    assert 4 * 4 * cost.parameters < cost.bytes < 2**22


def test_copies_cost_memory():
    vanilla = check_training_cost(training({"baseline": MLP}))
    majority = check_training_cost(training({"baseline": MLP}, method="majority", expansion=5))
    assert majority.bytes - vanilla.bytes == 4 * 4 * 4 * vanilla.parameters


@pytest.mark.parametrize(
    "architecture",
    [
        {"baseline": MLP, "width": 1000, "multiplicity": 1_000_000},
        {"baseline": {"preset": "resnet152"}, "width": 60000, "multiplicity": 60000},
        {"transformer": "t5", "config": {"d_model": 1_000_000, "d_ff": 1_000_000, "num_layers": 1000}},
    ],
)
def test_networks_too_large_to_train_are_refused(architecture):
    with pytest.raises(InvalidSpec, match="parameters") as raised:
        check_training_cost(training(architecture))
    assert raised.value.path == ("architecture",)


RESNEXT = {"family": "resnext", "layout": "cifar", "depth": 29}


def test_what_a_network_costs_whose_stages_are_grouped_each_in_its_own_way():
    tied = check_training_cost(training({"baseline": RESNEXT, "width": 8, "multiplicity": 4}))
    stages = [{"width": width, "multiplicity": 4} for width in (8, 16, 32)]
    assert check_training_cost(training({"baseline": RESNEXT, "stages": stages})) == tied
    stages[2] = {"width": 8, "multiplicity": 2}
    narrow = check_training_cost(training({"baseline": RESNEXT, "stages": stages}))
    assert narrow.parameters < tied.parameters
    assert narrow.bytes < tied.bytes
    stages[2] = {"width": 1_000_000, "multiplicity": 100_000}
    with pytest.raises(InvalidSpec, match="parameters; the most that is trained"):
        check_training_cost(training({"baseline": RESNEXT, "stages": stages}))


def test_a_training_that_does_not_fit_is_refused():
    with pytest.raises(InvalidSpec, match="GiB of memory"):
        check_training_cost(training({"baseline": {"preset": "resnet50"}}, recipe={"batch_size": 256}), available=2**30)


def test_a_soup_needs_validation_samples():
    with pytest.raises(InvalidSpec) as raised:
        check_training_cost(training({"baseline": MLP}, method="soup"))
    assert raised.value.path == ("data", "validation")


def test_a_study_names_the_architecture_that_is_wrong():
    bad = {"baseline": MLP, "widths": [3], "multiplicity": 1}
    architectures = [{"name": "A", "architecture": {"baseline": MLP}}, {"name": "B", "architecture": bad}]
    with pytest.raises(InvalidSpec) as raised:
        check_study_cost(StudySpec.model_validate({"architectures": architectures, "data": "digits"}))
    assert raised.value.path == ("architectures", 1, "architecture", "widths")


def test_early_stopping_needs_validation_samples():
    spec = training({"baseline": MLP}, recipe={"patience": 3})
    with pytest.raises(InvalidSpec) as raised:
        check_training_cost(spec)
    assert raised.value.path == ("recipe", "patience")
    study = StudySpec.model_validate(
        {
            "architectures": [{"name": "A", "architecture": {"baseline": MLP}}],
            "methods": [{"method": "vanilla", "recipe": {"patience": 3}}],
            "data": "digits",
        }
    )
    check_study_cost(study)
    assert study.training(study.architectures[0], study.methods[0], study.recipes[0]).data.validation == 0.1


@pytest.mark.parametrize(
    ("method", "field", "value"),
    [
        ("vanilla", "initialization", "independent"),
        ("ensemble", "correct_scale", True),
        ("distilled", "patterns", ["layers.*"]),
        ("majority", "step_size", 0.1),
        ("vanilla", "soup", "uniform"),
    ],
)
def test_an_option_that_the_method_does_not_have_is_refused(method, field, value):
    with pytest.raises(ValidationError, match=method) as raised:
        training({"baseline": MLP}, method=method, expansion={field: value})
    assert [error["loc"] for error in raised.value.errors()] == [("expansion", field)]
    study = {
        "architectures": [{"name": "A", "architecture": {"baseline": MLP}}],
        "methods": [method, "learned", "soup"],
        "expansion": {field: value},
        "data": "digits",
    }
    check_study_cost(StudySpec.model_validate(study))


def test_memory_follows_from_what_a_method_trains_and_keeps():
    vanilla = check_training_cost(training({"baseline": MLP}))
    for name, trained, kept in (
        ("majority", 5, 0), ("learned", 10, 0), ("subset", 5, 0), ("adversarial", 5, 2),
        ("ensemble", 1, 5), ("distilled", 1, 5),
    ):  # fmt: skip
        cost = check_training_cost(training({"baseline": MLP}, method=name, expansion=5))
        assert cost.bytes - vanilla.bytes == 4 * (4 * (trained - 1) + kept) * vanilla.parameters, name


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"methods": ["vanilla", "majority"], "expansion": {"correct_scale": True}}, ("expansion", "correct_scale")),
        (
            {"methods": ["vanilla", {"method": "majority", "expansion": {"correct_scale": True}}]},
            ("methods", 1, "expansion", "correct_scale"),
        ),
    ],
)
def test_a_study_names_the_option_that_does_not_suit_its_architecture(fields, path):
    architectures = [{"name": "A", "architecture": {"transformer": "t5", "pretrained": "folder"}}]
    study = StudySpec.model_validate({"architectures": architectures, "data": "synthetic-text", **fields})
    with pytest.raises(InvalidSpec, match="replicas") as raised:
        check_study_cost(study)
    assert raised.value.path == path


def test_copies_of_pretrained_weights_have_no_scale_to_correct():
    fields = {"method": "majority", "data": "synthetic-text"}
    pretrained = {"transformer": "t5", "pretrained": "folder"}
    with pytest.raises(InvalidSpec, match="replicas") as raised:
        check_training_cost(training(pretrained, **fields, expansion={"correct_scale": True}))
    assert raised.value.path == ("expansion", "correct_scale")
    assert (
        check_training_cost(
            training(pretrained, **fields, expansion={"correct_scale": True, "initialization": "independent"})
        )
        is None
    )


def swept(sweep, recipe, **fields):
    recipes = [{"name": "a", "recipe": recipe}]
    architectures = [{"name": "A", "architecture": {"baseline": MLP}}]
    study = {"architectures": architectures, "data": "digits", "recipes": recipes, "sweep": sweep, **fields}
    return StudySpec.model_validate(study)


SWA = {"method": "swa", "expansion": {"start": 0.25}}


@pytest.mark.parametrize(
    ("epochs", "path"),
    [((2, 6), ("sweep", "epochs")), ((6, 2), ("sweep", "epochs")), ((2, 3), ("methods", 0, "expansion", "start"))],
)
def test_points_of_a_sweep_that_would_be_refused_are_refused_when_posted(epochs, path):
    sweep = {"epochs": epochs, "learning_rate": [0.1, 0.01], "weight_decay": [0.0]}
    with pytest.raises(InvalidSpec, match="still rises there") as raised:
        check_study_cost(swept(sweep, {"epochs": 10, "warmup_epochs": 1.0}, methods=[SWA]))
    assert raised.value.path == path


def test_a_recipe_is_judged_at_the_points_of_its_sweep_alone():
    check_study_cost(swept({"epochs": [6, 9]}, {"epochs": 2, "warmup_epochs": 1.0}, methods=[SWA]))
    check_study_cost(swept({"epochs": [71]}, {"warmup_epochs": 70.0}))  # more than the data's own recipe has


SEQUENCES = {"name": "synthetic-text", "synthetic": {"samples": 60}}
WORDS = {"name": "synthetic-text", "synthetic": {"samples": 60, "labels": "classes"}}
T5 = {"transformer": "t5", "config": {"d_model": 16, "d_ff": 16, "num_layers": 1}}
BERT = {"transformer": "bert", "config": {"hidden_size": 24}}


@pytest.mark.parametrize(
    ("architecture", "data", "path"),
    [
        (T5, {**SEQUENCES, "label_noise": 0.1}, ("data", "label_noise")),
        (T5, {"name": "reviews", "label_noise": 0.1}, ("data", "label_noise")),
        (BERT, SEQUENCES, ("architecture", "transformer")),
        (BERT, {"name": "reviews"}, ("architecture", "transformer")),
        ({"transformer": "distilbert", "pretrained": "folder"}, SEQUENCES, ("architecture", "transformer")),
        ({**T5, "head": "classification"}, SEQUENCES, ("architecture", "head")),
        ({**T5, "head": "sequence"}, WORDS, ("architecture", "head")),
        ({"baseline": MLP}, {"name": "digits", "limit": 200, "validation": 0.001}, ("data", "validation")),
        ({"baseline": MLP}, {"name": "digits", "validation": 0.0005}, ("data", "validation")),
        ({"baseline": MLP}, {"name": "mnist", "limit": 4, "validation": 0.9}, ("data", "validation")),
        ({"baseline": MLP}, {"name": "synthetic", "synthetic": {"samples": 20}, "validation": 0.02},
         ("data", "validation")),
    ],
)  # fmt: skip
def test_data_that_leave_nothing_to_do_are_refused_when_posted(architecture, data, path):
    with pytest.raises(InvalidSpec) as raised:
        check_training_cost(training(architecture, data=data))
    assert raised.value.path == path


@pytest.mark.parametrize(
    ("architecture", "data"),
    [
        (T5, SEQUENCES),
        (T5, {**WORDS, "label_noise": 0.1}),
        (BERT, WORDS),
        ({**BERT, "head": "classification"}, {"name": "reviews", "text": {"labels": "classes"}}),
        ({"baseline": MLP}, {"name": "digits", "limit": 200, "validation": 0.01}),
    ],
)
def test_data_that_suit_a_training_are_not_refused(architecture, data):
    assert check_training_cost(training(architecture, data=data)) is not None


def test_a_sweep_that_would_hold_nothing_out_is_refused_when_posted():
    data = {"name": "digits", "limit": 200}
    sweep = {"learning_rate": [0.1, 0.01], "validation": 0.001}
    with pytest.raises(InvalidSpec, match="leaves 0 of 200") as raised:
        check_study_cost(swept(sweep, {}, data=data))
    assert raised.value.path == ("sweep", "validation")
    check_study_cost(swept(sweep, {}, data={**data, "validation": 0.1}))


@pytest.mark.parametrize("augment", [["flip"], ["color", "pad_crop"], ["random_resized_crop"]])
@pytest.mark.parametrize("data", ["synthetic", "movie-snippets"])
def test_images_alone_are_augmented(augment, data):
    with pytest.raises(InvalidSpec, match="has no images") as raised:
        check_training_cost(training({"baseline": MLP}, data=data, recipe={"augment": augment}))
    assert raised.value.path == ("recipe", "augment")
    check_training_cost(training({"baseline": MLP}, data=data, recipe={"augment": []}))
    check_training_cost(training({"baseline": MLP}, data=data, recipe={"name": "ce-cifar"}))  # which the result notes
    check_training_cost(training({"baseline": MLP}, recipe={"augment": augment}))
