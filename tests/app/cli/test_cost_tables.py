"""What ensembles cost, as text: of a real result, whose times a plain bench gave."""

from __future__ import annotations

import pytest
from rich.console import Console

from collegium.app.cli.tables.costs import heading
from collegium.app.cli.tables.search import search_table
from collegium.search.engine import run
from collegium.search.parse import parse_spec
from collegium.search.spec import SearchSpec

SMALL = {"family": "resnext", "layout": "cifar", "depth": 11, "base_width": 32}


@pytest.fixture
def result_of(plain_bench):
    """A function of fields to the result of a search."""

    def search(**fields):
        spec = parse_spec(SearchSpec, {"baseline": SMALL, "estimator": {"method": "exact"}, **fields})
        return run(spec, bench=plain_bench).model_dump(mode="json")

    return search


def text_of(result) -> str:
    console = Console(width=220, no_color=True)
    with console.capture() as captured:
        console.print(search_table(result))
    return captured.get()


@pytest.mark.parametrize("efficiency", ["latency", "memory", "parameters"])
def test_every_ensemble_of_a_front_is_a_row(efficiency, result_of):
    result = result_of(efficiency=efficiency, workload={"batch_size": 4})
    text = text_of(result)
    front = [row for row in result["costs"]["rows"] if row["fronts"]]
    for row in sorted(front, key=lambda row: row["relative_variance"])[:24]:
        assert row["label"] in text
    assert "(baseline)" in text
    assert f"{len(result['costs']['rows'])} ensembles, inference of 4 samples, fp32, on a machine, 1 thread" in text
    assert "sum of its parts" in text
    assert result["near_optimal"]["recommended"]["reason"] in text


@pytest.mark.parametrize("efficiency", ["latency", "memory"])
def test_stages_of_their_own_are_named_in_every_table(efficiency, result_of):
    result = result_of(efficiency=efficiency, space={"stages": "own", "max_multiplicity": 8, "max_width": 16})
    text = text_of(result)
    assert not result["dual"]["uniform"]
    lines = [line for line in text.splitlines() if result["dual"]["label"] in line]
    # the outcome, the answer, its row on the front, and its check where time was measured
    assert len(lines) == (4 if efficiency == "latency" else 3)
    (tied,) = (line for line in text.splitlines() if line.startswith("one m × n"))
    assert tied.endswith(f"dual {result['tied_dual']['multiplicity']} × {result['tied_dual']['width']}")
    pick = result["near_optimal"]["recommended"]
    assert pick["reason"] in text
    assert pick["primal"]["label"] in text
    assert "another choice" not in text
    assert "another choice is at most 1.2 % better" in text_of(result | {"dual": result["dual"] | {"gap": 0.012}})


def test_counted_memory_alone_says_that_no_time_was_measured(result_of):
    result = result_of(efficiency="memory")
    assert "no time was measured" in heading(result["costs"])
    assert "no time was measured" in text_of(result)
    assert "sum of its parts" not in text_of(result)


def test_a_result_without_costs_has_no_table_of_them(result_of):
    assert "best for" not in text_of(result_of())


def test_correlations_at_which_nothing_is_allowed_are_rows_that_say_so(result_of):
    limit = result_of()["dual"]["parameters"]
    result = result_of(max_parameters=limit // 2)
    assert result["dual"] is None
    heading, *rows = text_of(result).partition("input correlation")[2].splitlines()
    assert heading.split() == ["primal", "dual", "ρ"]
    assert len(result["correlations"]) >= 6
    for row, text in zip(result["correlations"], rows, strict=False):
        primal = "none" if row["widths"] is None else f"{row['primal_multiplicity']} × {row['width']}"
        assert primal in text
        assert ("none" in text) == (row["widths"] is None or row["dual_widths"] is None)
    earlier = [{k: v for k, v in row.items() if not k.startswith("dual_width")} for row in result_of()["correlations"]]
    shown = text_of(result | {"correlations": earlier})
    assert f"{earlier[0]['dual_multiplicity']} × {earlier[0]['width']}" in shown
