import pytest

from collegium.train.loop.optimization import rate_at
from collegium.train.spec.recipes import Recipe

STEPS = 10


def rates(**fields):
    recipe = Recipe(learning_rate=1.0, **fields)
    rate = rate_at(recipe, STEPS)
    return [rate(step) for step in range(recipe.epochs * STEPS)]


def test_milestones_fall_on_epoch_boundaries():
    found = rates(epochs=6, schedule="multistep", milestones=(2, 4), factor=0.5)
    assert found == [1.0] * 20 + [0.5] * 20 + [0.25] * 20


def test_steps_repeat():
    found = rates(epochs=5, schedule="step", step_epochs=2, factor=0.1)
    assert found == pytest.approx([1.0] * 20 + [0.1] * 20 + [0.01] * 10)


def test_a_cosine_falls_from_the_full_rate_to_the_final_one():
    found = rates(epochs=4, schedule="cosine", final_rate=0.1)
    assert found[0] == 1.0
    assert found[20] == pytest.approx(0.55)
    assert found[-1] == pytest.approx(0.1, abs=0.01)
    assert found == sorted(found, reverse=True)


def test_a_warm_up_rises_linearly_to_the_full_rate():
    found = rates(epochs=3, warmup_epochs=0.5)
    assert found[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
