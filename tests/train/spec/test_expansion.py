"""The options of methods: what a specification takes, stores and refuses."""

import json

import pytest
from pydantic import ValidationError

from collegium.train.methods import METHODS
from collegium.train.methods.majority import MajorityOptions
from collegium.train.methods.method import MethodOptions
from collegium.train.spec.study import StudySpec
from collegium.train.spec.training import TrainingSpec

MLP = {"baseline": {"family": "mlp", "inputs": 64, "hidden": [8], "outputs": 10}}
FORMER = {"copies": 3, "correct_scale": False, "patterns": [], "soup": "greedy"}


def parse(method, **fields):
    spec = {"architecture": MLP, "data": "digits", "method": method, **fields}
    return TrainingSpec.model_validate_json(json.dumps(spec))


def study(methods, **fields):
    spec = {"architectures": [{"name": "A", "architecture": MLP}], "data": "digits", "methods": methods, **fields}
    return StudySpec.model_validate_json(json.dumps(spec))


def options_of(spec, index):
    return spec.training(spec.architectures[0], spec.methods[index], spec.recipes[0]).expansion


def refused(error):
    return [item["loc"] for item in error.value.errors()]


@pytest.mark.parametrize("name", METHODS.names)
def test_a_training_stores_the_options_of_its_method_and_no_others(name):
    spec = parse(name)
    assert type(spec.expansion) is METHODS[name].Options
    stored = json.loads(spec.model_dump_json(exclude_none=True))
    assert stored["expansion"].keys() <= METHODS[name].Options.model_fields.keys()
    assert TrainingSpec.model_validate_json(json.dumps(stored)) == spec


@pytest.mark.parametrize("name", [name for name in METHODS.names if "copies" in METHODS[name].Options.model_fields])
def test_a_bare_number_is_the_number_of_copies(name):
    assert parse(name, expansion=5) == parse(name, expansion={"copies": 5})
    assert parse(name, expansion=5).new_method().expansion == 5


@pytest.mark.parametrize("name", [name for name in METHODS.names if METHODS[name].Options is MethodOptions])
def test_a_method_without_options_refuses_the_whole_field(name):
    for value in (1, 3, {"copies": 3}):
        with pytest.raises(ValidationError, match=f"{name} has no such option") as raised:
            parse(name, expansion=value)
        assert refused(raised) == [("expansion", "copies")]
    assert parse(name, expansion={}) == parse(name)


@pytest.mark.parametrize("name", METHODS.names)
def test_what_earlier_versions_stored_is_read(name):
    """They stored the defaults of every method's options with every training; what differs from them is refused."""
    assert parse(name, expansion=FORMER) == parse(name)
    if name != "soup":
        with pytest.raises(ValidationError) as raised:
            parse(name, expansion={**FORMER, "soup": "uniform"})
        assert refused(raised) == [("expansion", "soup")]


def test_options_may_be_given_as_objects():
    options = MajorityOptions(copies=4)
    spec = TrainingSpec.model_validate(
        {"architecture": MLP, "data": "digits", "method": "majority", "expansion": options}
    )
    assert spec.expansion == options
    with pytest.raises(ValidationError, match="soup has no such option"):
        TrainingSpec.model_validate(
            {"architecture": MLP, "data": "digits", "method": "soup", "expansion": MajorityOptions(patterns=("x",))}
        )


def test_pretrained_weights_are_replicated_unless_told_otherwise():
    def initialization(**fields):
        return parse("majority", **fields).new_method().options.initialization

    pretrained = {"architecture": {"transformer": "t5", "pretrained": "folder"}, "data": "synthetic-text"}
    assert initialization() == "perturbed"
    assert initialization(expansion={"spread": 0.5}) == "perturbed"
    assert initialization(**pretrained) == "replicated"
    assert initialization(**pretrained, expansion={"spread": 0.5}) == "perturbed"
    assert initialization(**pretrained, expansion={"initialization": "independent"}) == "independent"


@pytest.mark.parametrize("name", ["adversarial", "learned"])
def test_equal_copies_are_refused_where_nothing_separates_them(name):
    pretrained = {"architecture": {"transformer": "t5", "pretrained": "folder"}, "data": "synthetic-text"}
    assert parse(name, **pretrained).new_method().options.initialization == "perturbed"
    assert parse(name, **pretrained, expansion={"correct_scale": True}).new_method().options.correct_scale
    assert parse(name, expansion={"copies": 1, "initialization": "replicated"})  # nothing to separate
    with pytest.raises(ValidationError, match="stay equal") as raised:
        study(["majority", name], expansion={"initialization": "replicated"})
    assert refused(raised)[0][0] == "expansion"


def test_each_method_of_a_study_takes_the_options_that_it_has():
    spec = study(["vanilla", "majority", "soup"], expansion={"copies": 5, "soup": "uniform", "correct_scale": True})
    assert options_of(spec, 0) == MethodOptions()
    assert options_of(spec, 1).model_dump(exclude_unset=True) == {"copies": 5, "correct_scale": True}
    assert options_of(spec, 2).model_dump(exclude_unset=True) == {"copies": 5, "soup": "uniform"}
    assert StudySpec.model_validate_json(spec.model_dump_json(exclude_none=True)) == spec


def test_a_methods_own_options_replace_those_of_the_study():
    spec = study([{"method": "majority", "expansion": 2}, "learned"], expansion=7)
    assert (options_of(spec, 0).copies, options_of(spec, 1).copies) == (2, 7)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"methods": ["majority"], "expansion": {"copys": 3}}, ("expansion", "copys")),
        ({"methods": ["majority"], "expansion": 65}, ("expansion", "copies")),
        ({"methods": ["vanilla"], "expansion": 65}, ("expansion", "copies")),
        ({"methods": ["vanilla"], "expansion": {"soup": "best"}}, ("expansion", "soup")),
        ({"methods": ["majority"], "expansion": [3]}, ("expansion",)),
        (
            {"methods": ["vanilla", {"method": "vanilla", "name": "B", "expansion": 3}]},
            ("methods", 1, "expansion", "copies"),
        ),
        ({"methods": ["magic"]}, ("methods", 0, "method")),
    ],
)
def test_a_wrong_option_of_a_study_is_named(fields, path):
    with pytest.raises(ValidationError) as raised:
        study(**fields)
    assert refused(raised)[0] == path


def test_validation_samples_are_held_out_for_methods_that_choose_by_them():
    spec = study(["vanilla", "soup", {"method": "soup", "name": "all", "expansion": {"soup": "uniform"}}])
    held_out = [
        spec.training(spec.architectures[0], method, spec.recipes[0]).data.validation for method in spec.methods
    ]
    assert held_out == [0.0, 0.1, 0.0]


def test_the_schema_lists_every_method_and_option():
    schema = TrainingSpec.model_json_schema()
    assert schema["properties"]["method"]["enum"] == list(METHODS.names)
    text = json.dumps(schema["properties"]["expansion"]) + json.dumps(schema["$defs"])
    for name in METHODS.names:
        for option in METHODS[name].Options.model_fields.values():
            assert json.dumps(option.description) in text
