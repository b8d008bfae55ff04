"""An answer as text: what was found, and a row for each ensemble."""

import re

import pytest

from collegium.search.find import find_ensemble

MLP = {"family": "mlp", "inputs": 64, "hidden": [100] * 3, "outputs": 10}
SMALL = {"family": "resnext", "layout": "cifar", "blocks": [1, 1, 1], "base_width": 32}


def rows_of(answer) -> dict[str, list[str]]:
    """The table's rows by their first word."""
    lines = str(answer).split("\n\n")[1].splitlines()
    return {line.split()[0]: re.split(r"  +", line) for line in lines[1:]}


def test_a_printed_answer_has_its_outcome_and_a_row_for_each_ensemble():
    answer = find_ensemble(SMALL)
    assert str(answer).splitlines()[:2] == [answer.title, answer.outcome.message]
    rows = rows_of(answer)
    assert list(rows) == ["baseline", "primal", "dual", *(["recommended"] if answer.recommended else [])]
    assert rows["primal"][1] == f"{answer.primal.multiplicity} × {answer.primal.width}"
    assert rows["dual"][4] == f"{answer.dual.parameters:,}".replace(",", "\u202f")


def test_columns_are_aligned():
    lines = str(find_ensemble(MLP)).split("\n\n")[1].splitlines()
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize("space", [{"stages": "own"}, {"mode": "vector"}])
def test_groupings_that_no_single_width_names_are_written_out(space):
    answer = find_ensemble(SMALL if "stages" in space else MLP, space=space)
    dual = answer.dual
    widths = "(" + ", ".join(map(str, dual.widths)) + ")"
    assert rows_of(answer)["dual"][1] == (f"{dual.multiplicity} × {widths}" if dual.uniform else dual.label)


def test_an_answer_without_an_ensemble_prints_its_remedy():
    answer = find_ensemble(SMALL, budget=10)
    assert answer.primal is None
    assert answer.outcome.message in str(answer)
    assert "primal" not in rows_of(answer)
