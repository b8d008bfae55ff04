"""Fields that there are not: the message names those that there are."""

import pytest

from collegium.search.errors import InvalidSpec
from collegium.search.parse import MOST_LISTED, parse_spec
from collegium.search.spec import SearchSpec
from collegium.train.spec.training import TrainingSpec

MLP = {"family": "mlp", "inputs": 64, "hidden": [10], "outputs": 10}


def faults(model, document) -> dict[tuple, str]:
    with pytest.raises(InvalidSpec) as caught:
        parse_spec(model, document)
    return dict(caught.value.errors)


@pytest.mark.parametrize(
    ("document", "location", "near"),
    [
        ({"baseline": MLP, "budgett": 3}, ("budgett",), "budget"),
        ({"baseline": MLP, "space": {"min_widht": 3}}, ("space", "min_widht"), "min_width"),
        ({"baseline": {**MLP, "biass": True}}, ("baseline", "biass"), "bias"),
        (
            {"baseline": {"family": "resnext", "layout": "cifar", "depth": 29, "chanels": 16}},
            ("baseline", "chanels"),
            "channels",
        ),
        (
            {"baseline": {**MLP, "activation": {"name": "leaky_relu", "negative_slop": 0.1}}},
            ("baseline", "activation", "negative_slop"),
            "negative_slope",
        ),
    ],
)
def test_the_nearest_field_of_that_place_is_named(document, location, near):
    assert f"did you mean '{near}'?" in faults(SearchSpec, document)[location]


def test_without_a_near_one_the_fields_of_that_place_are_listed():
    said = faults(SearchSpec, {"baseline": MLP, "space": {"kind": "vector"}})[("space", "kind")]
    assert said.startswith("there is no such field here; the fields are mode, widths,")
    assert "hidden" not in said


def test_fields_of_another_family_are_not_offered():
    said = faults(SearchSpec, {"baseline": {**MLP, "depth": 3}})[("baseline", "depth")]
    assert "hidden" in said
    assert "base_width" not in said


def test_fields_of_trainings_are_named_as_well():
    document = {"architecture": {"baseline": MLP}, "data": "digits", "recipe": {"learningrate": 1}}
    assert "did you mean 'learning_rate'?" in faults(TrainingSpec, document)[("recipe", "learningrate")]


def test_of_many_the_first_few_are_looked_up():
    document = {"baseline": MLP, **{f"budget{index}": 1 for index in range(3 * MOST_LISTED)}}
    said = faults(SearchSpec, document)
    assert len(said) == 3 * MOST_LISTED
    assert sum("did you mean" in each for each in said.values()) == MOST_LISTED
