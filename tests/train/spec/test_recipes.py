import pytest

from collegium.train.spec.recipes import (
    PAPER_RATES,
    RECIPES,
    RecipeSpec,
    default_recipe,
    describe_recipes,
    merge_recipe,
)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_posted_by_name_and_whole(name):
    assert merge_recipe(RecipeSpec(name=name), "digits") == RECIPES[name]
    assert merge_recipe(RecipeSpec(**RECIPES[name].model_dump()), "digits") == RECIPES[name]


def test_fields_of_the_papers_recipes():
    cifar = RECIPES["ce-cifar"]
    assert (cifar.epochs, cifar.batch_size, cifar.learning_rate, cifar.momentum) == (300, 128, 0.1, 0.9)
    assert (cifar.milestones, cifar.factor, cifar.weight_decay) == ((150, 225), 0.1, 5e-4)
    small = RECIPES["ce-imagenet32"]
    assert (small.epochs, small.batch_size, small.learning_rate, small.factor) == (80, 1024, 0.08, 0.2)
    assert small.milestones == (20, 40, 60)
    long = RECIPES["mk-resnet50-long"]
    assert (long.epochs, long.milestones) == (330, (90, 180, 240))


def test_a_field_given_wins_over_the_named_recipe_and_the_data_choose_the_default():
    assert merge_recipe(RecipeSpec(epochs=3), default_recipe("cifar10")).epochs == 3
    assert merge_recipe(RecipeSpec(epochs=3), default_recipe("cifar10")).batch_size == 128
    assert default_recipe("cifar100") == "ce-cifar"
    assert default_recipe("0" * 64) == "generic"
    assert default_recipe("digits", transformer=True) == "mk-t5"


def test_the_papers_sweeps_have_ten_rates():
    assert len(PAPER_RATES["adam"]) == len(PAPER_RATES["sgd"]) == 10
    assert PAPER_RATES["adam"][4] == pytest.approx(0.001)
    assert PAPER_RATES["sgd"][-1] == pytest.approx(0.025 * 1.5**5)


def test_descriptions_are_plain_values():
    rows = describe_recipes()
    assert [row["name"] for row in rows] == list(RECIPES)
    assert all(isinstance(row["epochs"], int) for row in rows)
