import pytest

from collegium.search.errors import InvalidSpec
from collegium.train.models.grouping import architecture_from_search, group_network
from collegium.train.spec.architecture import BaselineArchitecture, SearchedArchitecture

MLP = {"family": "mlp", "inputs": 64, "hidden": [100, 50], "outputs": 10}
SEARCH = {"baseline": MLP}
RESULT = {
    "primal": {"widths": [10, 5], "width": None, "multiplicity": 12},
    "dual": None,
    "baseline": {"widths": [100, 50], "width": None, "multiplicity": 1},
    "outcome": {"kind": "infeasible_budget", "message": "No member fits."},
}


def baseline(**fields):
    return BaselineArchitecture.model_validate({"baseline": MLP, **fields})


def test_tied_widths_keep_the_baselines_ratios():
    assert group_network(baseline(width=20, multiplicity=3)).widths == (20, 10)


def test_without_widths_it_is_the_baseline_itself():
    found = group_network(BaselineArchitecture.model_validate({"baseline": {"preset": "resnext50-32x4d"}}))
    assert (found.widths, found.multiplicity) == ((4, 4), 32)
    assert found.parameters == 25_028_904


def test_a_search_answers_with_each_of_its_choices():
    for choice, widths, multiplicity in (("primal", (10, 5), 12), ("baseline", (100, 50), 1)):
        found = group_network(architecture_from_search(SearchedArchitecture(search="j", choice=choice), SEARCH, RESULT))
        assert (found.widths, found.multiplicity) == (widths, multiplicity)
    member = SearchedArchitecture.model_validate({"search": "j", "choice": {"width": 40, "multiplicity": 2}})
    found = group_network(architecture_from_search(member, SEARCH, RESULT))
    assert (found.widths, found.multiplicity) == ((40, 20), 2)


def test_an_answer_that_a_search_has_not_is_refused_with_its_reason():
    with pytest.raises(InvalidSpec, match="No member fits") as raised:
        architecture_from_search(SearchedArchitecture(search="j", choice="dual"), SEARCH, RESULT)
    assert raised.value.path == ("architecture", "choice")


def test_wrong_widths_and_baselines_are_refused_with_their_path():
    with pytest.raises(InvalidSpec) as raised:
        group_network(baseline(widths=[3, 3, 3], multiplicity=2))
    assert raised.value.path == ("architecture", "widths")
    with pytest.raises(InvalidSpec) as raised:
        group_network(BaselineArchitecture.model_validate({"baseline": {"preset": "nothing"}}))
    assert raised.value.path == ("architecture", "baseline", "preset")


def test_another_head_changes_the_head_alone():
    found = group_network(baseline(width=20, multiplicity=3))
    assert found.with_outputs(3).parameters == found.parameters - 7 * 3 * 10
