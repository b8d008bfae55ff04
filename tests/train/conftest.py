"""Small trainings that take a fraction of a second."""

import pytest

from train.spec import TrainingSpec

MLP = {"baseline": {"family": "mlp", "inputs": 64, "hidden": [24, 24], "outputs": 10}, "width": 8, "multiplicity": 3}


@pytest.fixture
def digits_spec():
    """A function of recipe and other fields to a training of a small ensemble on digits."""

    def make(recipe=None, **fields):
        fields = {"architecture": MLP, "data": {"name": "digits", "validation": 0.2}, **fields}
        return TrainingSpec.model_validate({**fields, "recipe": {"epochs": 2, "batch_size": 128, **(recipe or {})}})

    return make
