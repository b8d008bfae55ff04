"""A training's result as text."""

from collegium.train.run import run_training


def test_a_printed_training_has_the_accuracy_and_loss_of_each_split():
    mlp = {"baseline": {"family": "mlp", "inputs": 16, "hidden": [8], "outputs": 10}}
    result = run_training(
        {"architecture": mlp, "data": {"name": "synthetic", "validation": 0.2}, "recipe": {"epochs": 1}}
    )
    facts, _, *rows = str(result).splitlines()
    assert facts.startswith(f"vanilla, 1 epoch, {result.parameters:,} parameters")
    assert [row.split()[0] for row in rows[:3]] == ["train", "validation", "test"]
    assert f"{100 * result.accuracy.test:.2f} %" in rows[2]
    held_out = run_training({"architecture": mlp, "data": "synthetic", "recipe": {"epochs": 1}})
    assert "validation" not in str(held_out)
