import pytest
from pydantic import ValidationError

from collegium.search.errors import InvalidSpec
from collegium.train.models.grouping import architecture_from_search, group_network
from collegium.train.spec.architecture import BaselineArchitecture, Grouping, SearchedArchitecture

MLP = {"family": "mlp", "inputs": 64, "hidden": [100, 50], "outputs": 10}
SEARCH = {"baseline": MLP}
RESULT = {
    "primal": {"widths": [10, 5], "width": None, "multiplicity": 12},
    "dual": None,
    "recommended": {"widths": [8, 4], "width": None, "multiplicity": 16},
    "tied_dual": {"widths": [12, 6], "width": None, "multiplicity": 9},
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
    for choice, widths, multiplicity in (
        ("primal", (10, 5), 12),
        ("recommended", (8, 4), 16),
        ("tied_dual", (12, 6), 9),
        ("baseline", (100, 50), 1),
    ):
        found = group_network(architecture_from_search(SearchedArchitecture(search="j", choice=choice), SEARCH, RESULT))
        assert (found.widths, found.multiplicity) == (widths, multiplicity)
    member = SearchedArchitecture.model_validate({"search": "j", "choice": {"width": 40, "multiplicity": 2}})
    found = group_network(architecture_from_search(member, SEARCH, RESULT))
    assert (found.widths, found.multiplicity) == ((40, 20), 2)


def test_results_that_were_stored_earlier_name_their_recommended_ensemble_in_the_band():
    member = {"primal": {"widths": [8, 4], "multiplicity": 16}, "dual": {"widths": [8, 4], "multiplicity": 9}}
    stored = {**RESULT, "near_optimal": {"recommended": member}}
    del stored["recommended"]
    asked = SearchedArchitecture(search="j", choice="recommended")
    assert architecture_from_search(asked, SEARCH, stored).multiplicity == 16
    member["primal"] = None
    assert architecture_from_search(asked, SEARCH, stored).multiplicity == 9
    stored["near_optimal"] = None
    with pytest.raises(InvalidSpec, match="no recommended answer"):
        architecture_from_search(asked, SEARCH, stored)


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


RESNEXT = {"family": "resnext", "layout": "cifar", "blocks": [1, 1, 1], "base_width": 32}
STAGES = [{"width": 4, "multiplicity": 6}, {"widths": [8, 6], "multiplicity": 5}, {"width": 14, "multiplicity": 3}]
WIDTHS = [((4, 4), 6), ((8, 6), 5), ((14, 14), 3)]


def resnext(**fields):
    return BaselineArchitecture.model_validate({"baseline": RESNEXT, **fields})


def groupings(network):
    return [(stage.widths, stage.multiplicity) for stage in network.stages]


def test_every_stage_has_the_members_that_are_given_for_it():
    found = group_network(resnext(stages=STAGES))
    assert groupings(found) == WIDTHS
    assert (found.widths, found.multiplicity) == (None, None)
    assert found.own_stages == found.stages
    assert found.title == "6×4, 5×8·6, 3×14 of ResNeXt-11 1×32d (cifar)"
    described = found.describe()
    assert (described["widths"], described["multiplicity"]) == (None, None)
    assert described["stages"][1] == {"widths": [8, 6], "multiplicity": 5}
    assert described["parameters"] == found.parameters < group_network(resnext()).parameters
    assert groupings(found.with_outputs(3)) == WIDTHS


def test_stages_of_one_m_and_n_are_the_network_of_that_m_and_n():
    stages = [{"width": width, "multiplicity": 3} for width in (8, 16, 32)]
    assert group_network(resnext(stages=stages)) == group_network(resnext(width=8, multiplicity=3))
    found = group_network(resnext(stages=stages))
    assert (found.widths, found.multiplicity, found.own_stages) == ((8, 8), 3, None)
    assert found.describe()["stages"] is None


def test_a_network_of_one_stage_takes_one_grouping():
    stages = [{"widths": [10, 5], "multiplicity": 12}]
    assert group_network(baseline(stages=stages)) == group_network(baseline(widths=[10, 5], multiplicity=12))


@pytest.mark.parametrize(
    ("stages", "path", "message"),
    [
        (STAGES[:2], ("architecture", "stages"), "this network has 3 stages"),
        ([*STAGES, STAGES[0]], ("architecture", "stages"), "this network has 3 stages"),
        (
            [*STAGES[:2], {"widths": [3], "multiplicity": 2}],
            ("architecture", "stages", 2, "widths"),
            "this baseline has 2 free widths",
        ),
    ],
)
def test_stages_that_are_not_the_networks_are_refused_with_their_path(stages, path, message):
    with pytest.raises(InvalidSpec, match=message) as raised:
        group_network(resnext(stages=stages))
    assert raised.value.path == path
    choice = SearchedArchitecture.model_validate({"search": "j", "choice": {"stages": stages}})
    with pytest.raises(InvalidSpec, match=message) as raised:
        architecture_from_search(choice, {"baseline": RESNEXT}, {})
    assert raised.value.path == ("architecture", "choice", *path[1:])


@pytest.mark.parametrize("further", [{"width": 4}, {"widths": [4, 4]}, {"multiplicity": 2}])
def test_stages_stand_in_place_of_one_m_and_n(further):
    for model, given in ((BaselineArchitecture, {"baseline": RESNEXT}), (Grouping, {})):
        with pytest.raises(ValidationError, match="'stages' has the widths and the multiplicity of every stage"):
            model.model_validate({**given, "stages": STAGES, **further})


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"width": 4}, "give 'multiplicity'"),
        ({"multiplicity": 4}, "give either 'width' or 'widths'"),
        ({"stages": []}, "at least 1 item"),
        ({"stages": [{"multiplicity": 4}]}, "give either 'width' or 'widths'"),
        ({"stages": [{"width": 4}]}, "multiplicity"),
    ],
)
def test_a_grouping_is_given_whole(choice, message):
    with pytest.raises(ValidationError, match=message):
        Grouping.model_validate(choice)


def described(stages):
    return [
        {"widths": list(widths), "multiplicity": m, "variance": 0.1, "relative_variance": 1} for widths, m in stages
    ]


def test_an_answer_whose_stages_are_grouped_each_in_its_own_way_is_described_by_its_stages():
    tied = [((scale * 8, scale * 8), 3) for scale in (1, 2, 4)]
    result = {
        "primal": {"widths": [8, 8], "multiplicity": 3, "stages": described(tied)},
        "dual": {"widths": [4, 4], "multiplicity": 6, "stages": described(WIDTHS)},
    }
    primal, dual = (
        architecture_from_search(SearchedArchitecture(search="j", choice=choice), {"baseline": RESNEXT}, result)
        for choice in ("primal", "dual")
    )
    assert (primal.widths, primal.multiplicity, primal.stages) == ((8, 8), 3, None)
    assert (dual.widths, dual.multiplicity) == (None, None)
    assert groupings(group_network(dual)) == WIDTHS
    chosen = SearchedArchitecture.model_validate({"search": "j", "choice": {"stages": STAGES}})
    assert groupings(group_network(architecture_from_search(chosen, {"baseline": RESNEXT}, result))) == WIDTHS


def test_a_described_network_is_its_users_own_to_train():
    layers = [part for _ in range(2) for part in ({"kind": "linear"}, {"kind": "activation", "function": "relu"})]
    branch = {"name": "mlp", "layers": [*layers, {"kind": "linear"}], "widths": [64, 100, 100, 10], "splittable": True}
    branch |= {"parameters": 17400, "flops": 17400}
    described = {"family": "network", "name": "MLP", "input": [64], "outputs": 10, "branches": [branch]}
    described |= {"parameters": 17400, "flops": 17400}
    with pytest.raises(InvalidSpec, match="regroup it with") as raised:
        group_network(BaselineArchitecture.model_validate({"baseline": described}))
    assert raised.value.path == ("architecture", "baseline", "family")
    result = {
        "primal": {"widths": [17, 17], "multiplicity": 20, "stages": [{"widths": [17, 17], "multiplicity": 20}] * 2}
    }
    for choice in ("primal", {"width": 17, "multiplicity": 20}):
        asked = SearchedArchitecture.model_validate({"search": "j", "choice": choice})
        with pytest.raises(InvalidSpec, match="regroup it with") as raised:
            architecture_from_search(asked, {"baseline": described}, result)
        assert raised.value.path == ("architecture", "search")
