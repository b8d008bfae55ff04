"""Described networks are searched as what their branches are: counts, ties, several parts, and what is left alone."""

from __future__ import annotations

import copy
import math
import time
from itertools import pairwise

import pytest
from pydantic import TypeAdapter

from collegium.search.errors import InvalidSpec
from collegium.search.find import find_ensemble as find_and_check
from collegium.search.kernel.receptive_field import input_window
from collegium.search.networks.build import build_network
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.networks.families.network_layers import Layers, placed
from collegium.search.parse import parse_spec
from collegium.search.result import SearchResult

RELU = {"kind": "activation", "function": "relu"}
NORM = {"kind": "norm", "norm": "batch"}
LINEAR = {"kind": "linear"}


def conv(kernel, groups=1):
    return {
        "kind": "conv",
        "kernel": [kernel, kernel],
        "stride": [1, 1],
        "padding": [kernel // 2, kernel // 2],
        "dilation": [1, 1],
        "groups": groups,
    }


def dense(name, *widths, **fields):
    layers = [part for _ in widths[1:-1] for part in (LINEAR, RELU)]
    cost = sum(a * b for a, b in pairwise(widths))
    branch = {"name": name, "layers": [*layers, LINEAR], "widths": list(widths), "splittable": True}
    return branch | {"parameters": cost, "flops": cost} | fields


def bottleneck(name, inputs, width, outputs, extent, groups=1, **fields):
    layers = [conv(1), NORM, RELU, conv(3, groups), NORM, RELU, conv(1)]
    cost = inputs * width + 9 * width * width // groups + width * outputs
    branch = {"name": name, "layers": layers, "input": [extent, extent], "widths": [inputs, width, width, outputs]}
    branch |= {"parameters": cost + 4 * width, "flops": cost * extent**2, "splittable": True}
    return branch | fields


def described(*branches, fixed=1000):
    parameters = fixed + sum(each.get("count", 1) * each["parameters"] for each in branches)
    flops = fixed + sum(each.get("count", 1) * each["flops"] for each in branches)
    whole = {"family": "network", "name": "net", "input": [3, 8, 8], "outputs": 10, "branches": list(branches)}
    return whole | {"parameters": parameters, "flops": flops}


def network(*branches, fixed=1000):
    return build_network(parse_spec(NetworkBaseline, described(*branches, fixed=fixed)))


def find_ensemble(baseline, **asked):
    """By the closed form alone: the check by samples is not what is tested here."""
    return find_and_check(baseline, **{"estimator": {"method": "exact"}} | asked)


WHY = {"name": "ffn", "parameters": 5000, "flops": 60, "splittable": False, "why": "a single hidden layer"}


def test_one_branch_is_the_mlp_that_it_is():
    mlp = {"family": "mlp", "inputs": 64, "hidden": [100] * 5, "outputs": 10}
    own, given = find_ensemble(described(dense("mlp", 64, *[100] * 5, 10), fixed=0)), find_ensemble(mlp)
    for mine, other in ((own.primal, given.primal), (own.dual, given.dual)):
        assert (mine.multiplicity, mine.widths, mine.parameters) == (other.multiplicity, other.widths, other.parameters)
        assert mine.variance == other.variance
    assert own.outcome == given.outcome


def test_a_branch_that_is_the_whole_network_is_not_set_against_it():
    whole = "the kernel at initialization of the one branch (mlp), which has all of the network's parameters"
    part = "the kernel of one branch at initialization (mlp), not of the network"
    assert network(dense("mlp", 64, 100, 100, 10), fixed=0).subject == whole
    assert network(dense("mlp", 64, 100, 100, 10), fixed=1).subject == part
    assert network(dense("mlp", 10, 100, 100, 10, count=2), fixed=0).subject == part


def test_counts_are_the_branches_by_hand():
    found = network(bottleneck("a", 32, 8, 32, 4, count=3, group="g"), bottleneck("b", 64, 16, 64, 2, group="g"))
    # a: three occurrences of 32→n→n→32, b: one of 64→2n→2n→64; norms have a scale and a shift for each channel
    per_member = 3 * (32 * 5 + 9 * 5 * 5 + 5 * 32 + 4 * 5) + (64 * 10 + 9 * 10 * 10 + 10 * 64 + 4 * 10)
    assert found.affine("parameters", (5, 5)) == (1000, per_member)
    flops = 3 * 16 * (32 * 5 + 9 * 25 + 5 * 32) + 4 * (64 * 10 + 9 * 100 + 10 * 64)
    assert found.affine("flops", (5, 5)) == (1000, flops)


def test_a_bias_of_the_last_layer_is_shared_by_the_members():
    branch = dense("mlp", 6, 4, 4, 3)
    branch["layers"] = [part | {"bias": True} if part["kind"] == "linear" else part for part in branch["layers"]]
    branch["parameters"] += 4 + 4 + 3
    found = network(branch, fixed=7)
    assert found.affine("parameters", (2, 2)) == (7 + 3, 6 * 2 + 2 + 2 * 2 + 2 + 2 * 3)
    assert found.chain.bias


def test_biases_that_a_norm_takes_away_are_counted_and_not_in_the_kernel():
    plain, biased = bottleneck("a", 32, 16, 32, 4), copy.deepcopy(bottleneck("a", 32, 16, 32, 4))
    for layer in biased["layers"]:
        if layer["kind"] == "conv":
            layer["bias"] = True
    biased["parameters"] += 16 + 16 + 32
    one, other = find_ensemble(described(plain)), find_ensemble(described(biased))
    assert one.baseline.variance == other.baseline.variance
    assert other.baseline.parameters == one.baseline.parameters + 64
    mixed = copy.deepcopy(plain)
    mixed["layers"] = [layer for layer in mixed["layers"] if layer["kind"] != "norm"]
    mixed["layers"][0]["bias"], mixed["parameters"] = True, plain["parameters"] - 64 + 16
    found = network(mixed)
    assert (found.chain.biases, found.unsearched) == ((True, False, False), ())


def test_biases_of_some_layers_are_those_of_the_chain():
    branch = copy.deepcopy(dense("mlp", 6, 4, 4, 3))
    branch["layers"][2] = LINEAR | {"bias": True}
    branch["parameters"] += 4
    found = network(branch, fixed=0)
    assert found.chain.biases == (False, True, False)
    assert found.affine("parameters", (2, 5)) == (0, 6 * 2 + 2 * 5 + 5 + 5 * 3)
    variances = []
    for biased in (dense("mlp", 6, 4, 4, 3), branch):
        variances.append(find_ensemble(described(biased, fixed=0)).baseline.variance)
    assert variances[1] < variances[0]
    last = copy.deepcopy(dense("mlp", 6, 4, 4, 3))
    last["layers"][-1] = LINEAR | {"bias": True}
    assert network(last | {"parameters": last["parameters"] + 3}).chain.bias is False


def test_members_that_are_there_already_are_counted_as_members():
    found = network(bottleneck("a", 256, 128, 256, 4, groups=32))
    assert (found.multiplicity, found.baseline) == (32, (4, 4))
    assert found.count("parameters", found.baseline, 32) == found.described.parameters


def test_branches_of_one_group_are_tied_where_their_widths_are_multiples():
    tied = network(bottleneck("a", 32, 8, 32, 4, group="g"), bottleneck("b", 64, 24, 64, 2, group="g"))
    assert tied.stage_scales == (1, 3)
    assert [len(part.branches) for part in tied.parts] == [2]
    apart = network(bottleneck("a", 32, 8, 32, 4, group="g"), bottleneck("b", 64, 12, 64, 2, group="g"))
    assert sorted(part.names for part in apart.parts) == [("a",), ("b",)]
    assert all(part.parts is apart.parts for part in apart.parts)  # else their number squared is looked for


def test_several_parts_are_one_network_within_one_budget():
    given = described(bottleneck("conv", 256, 64, 256, 4, count=3), dense("mlp", 64, *[100] * 5, 10), WHY)
    found = find_ensemble(given)
    alone = [find_ensemble(described(bottleneck("conv", 256, 64, 256, 4, count=3), fixed=53_400)),
             find_ensemble(described(dense("mlp", 64, *[100] * 5, 10), fixed=215_628))]  # fmt: skip
    assert [branch.names for branch in found.branches] == [("conv",), ("mlp",)]
    for branch, one in zip(found.branches, alone, strict=True):
        assert branch.result.dual.multiplicity == one.dual.multiplicity
        assert branch.result.dual.widths == one.dual.widths
    own = [branch.result.primal for branch in found.branches]
    saved = sum(given["parameters"] - one.parameters for one in own)
    assert found.primal.parameters == given["parameters"] - saved
    assert found.primal.parameters <= 1.025 * given["parameters"]
    assert found.primal.relative_variance == max(one.relative_variance for one in own)
    assert [stage.multiplicity for stage in found.primal.stages] == [one.multiplicity for one in own]
    assert any("a single hidden layer" in note.message for note in found.notes)


@pytest.mark.parametrize("share", [0.97, 0.8, 0.5])
@pytest.mark.parametrize("field", ["budget", "max_parameters", "max_flops"])
def test_a_limit_on_the_whole_is_hard_for_all_parts_together(field, share):
    given = described(bottleneck("conv", 256, 64, 256, 4, count=3), dense("mlp", 64, *[100] * 5, 10), fixed=20_000)
    measure = "flops" if field == "max_flops" else "parameters"
    most = round(share * given[measure])
    found = find_ensemble(given, **{field: most})
    assert found.primal is not None
    for answer in (found.primal, found.dual):
        bound = answer is found.primal or field != "budget"  # a budget is what the primal may spend
        assert answer is None or not bound or getattr(answer, measure) <= most


def test_nothing_to_gain_says_why():
    found = find_ensemble(described(WHY))
    assert found.outcome.kind == "nothing_to_gain"
    assert "ffn: a single hidden layer" in found.outcome.message
    assert found.primal is None


def test_a_network_without_a_branch_to_search_has_no_numbers_of_one():
    """Not those of the chain of width 1 that stood in the place of a branch: variance 3, α = ln 2, a check."""
    found = find_ensemble(described(WHY), verify=True)
    assert (found.baseline.parameters, found.baseline.variance, found.alpha.value) == (found.budget, None, None)
    assert (found.curve, found.check, found.verification, found.samples, found.gains) == ((), None, None, 0, ())
    assert found.subject == "no branch, as none can be searched"
    assert SearchResult.model_validate_json(found.model_dump_json()) == found


def test_a_function_that_is_not_known_is_not_called_nothing_to_gain():
    odd = copy.deepcopy(bottleneck("odd", 32, 16, 32, 4))
    odd["layers"][2] = {"kind": "activation", "function": "other"}
    outcome = find_ensemble(described(odd)).outcome
    assert outcome.kind == "nothing_to_gain"
    assert outcome.message.startswith("Nothing of this network is searched. odd: an elementwise function")
    assert "find_ensemble(baseline, model=model)" in outcome.remedy


def test_what_is_not_searched_is_said():
    odd = copy.deepcopy(bottleneck("odd", 32, 16, 32, 4))
    odd["layers"][2] = {"kind": "activation", "function": "softsign"}
    found = find_ensemble(described(odd, dense("mlp", 64, *[100] * 5, 10)))
    (note,) = [note for note in found.notes if note.kind == "parts_unsearched"]
    assert "odd: the activation 'softsign' is not searched yet" in note.message
    assert found.primal.multiplicity == 20


@pytest.mark.parametrize(
    ("functions", "meant"),
    [
        (["hardswish"], "hardswish"),
        (["selu"], "selu"),
        (["relu6", "relu6"], "relu6"),
        ([{"function": "celu", "parameters": [0.5]}], "celu(0.5)"),
        ([{"function": "celu"}], "celu(1)"),
        ([{"function": "elu", "parameters": [0.0]}], "relu"),
        ([{"function": "celu", "parameters": [0.0]}], "is searched with a constant from 0.001 to 10"),
        ([{"function": "elu", "parameters": [1e11]}], "is searched with a constant from 0 to 10"),
        (["relu", "tanh"], "two activations in a row"),
        (["tanh", "tanh"], "two activations in a row"),
        (["sigmoid"], "sigmoid"),
        (["softsign"], "the activation 'softsign' is not searched yet"),
        (["other"], "an elementwise function that is none of the known activations is not searched"),
    ],
    ids=str,
)
def test_activations_are_those_of_the_chain_or_the_reason(functions, meant):
    given = [each if isinstance(each, dict) else {"function": each} for each in functions]
    branch = copy.deepcopy(dense("mlp", 6, 5, 4, 3))
    branch["layers"][1:2] = [{"kind": "activation", **each} for each in given]
    found = network(branch)
    if found.branches:
        assert str(found.chain.layers[0].phi) == meant
        assert found.unsearched == ()
    else:
        (why,) = found.unsearched
        assert meant in why


@pytest.mark.parametrize(
    ("function", "parameters", "words"),
    [("tanh", [1.0], "tanh has no constants"), ("celu", [1.0, 2.0], "celu has 1 constant"),
     ("softplus", [1.0], "softplus has 2 constants")],
)  # fmt: skip
def test_constants_that_an_activation_does_not_have_are_refused(function, parameters, words):
    branch = copy.deepcopy(dense("mlp", 6, 5, 4, 3))
    branch["layers"][1] = {"kind": "activation", "function": function, "parameters": parameters}
    with pytest.raises(InvalidSpec, match=words) as refused:
        network(branch)
    assert refused.value.path == ("branches", 0, "layers", 1, "parameters")


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("verify", {"verify": "network"}),
        ("efficiency", {"efficiency": "latency"}),
        ("workload", {"workload": {"mode": "inference"}}),
        ("max_memory_bytes", {"max_memory_bytes": 10**9}),
    ],
)
def test_what_needs_the_module_is_refused_by_its_field(path, asked):
    with pytest.raises(InvalidSpec) as refused:
        find_ensemble(described(dense("mlp", 64, *[100] * 5, 10)), **asked)
    assert refused.value.path == (path,)


def test_what_speaks_of_one_branch_is_refused_where_there_are_several():
    given = described(bottleneck("conv", 256, 64, 256, 4), dense("mlp", 64, *[100] * 5, 10))
    with pytest.raises(InvalidSpec, match="2 are searched") as refused:
        find_ensemble(given, space={"widths": [8, 16]})
    assert refused.value.path == ("space", "widths")


def convolution(kernel, **sizes):
    given = {"stride": [1] * len(kernel), "padding": [0] * len(kernel), "dilation": [1] * len(kernel)} | sizes
    return {"kind": "conv", "kernel": kernel} | given


def branch_of(*layers, extents):
    """A branch 32 → 24 → 24 → 32 of three convolutions with rectifiers between them; its map keeps its extents."""
    widths = [32, 24, 24, 32]
    cost = sum(a * b * math.prod(layer["kernel"]) for (a, b), layer in zip(pairwise(widths), layers, strict=True))
    parts = [part for layer in layers for part in (layer, RELU)][:-1]
    branch = {"name": "b", "layers": parts, "input": extents, "widths": widths, "splittable": True}
    return branch | {"parameters": cost, "flops": cost * math.prod(extents)}


def test_a_sequences_convolution_is_that_of_one_column():
    middle = convolution([5], padding=[8], dilation=[4])
    audio = branch_of(convolution([1]), middle, convolution([1]), extents=[99])
    found = network(audio)
    assert [layer.kernel for layer in found.chain.layers] == [1, (5, 1), 1]
    assert found.chain.layers[1].dilation == (4, 1)
    assert input_window(found.chain, "unit").positions == 17
    assert found.chain.fan_ins((24, 24)) == [32, 120, 24]
    assert find_ensemble(described(audio)).primal.relative_variance < 1


def test_a_kernel_of_one_row_is_the_sequence_that_it_is():
    wide = [convolution([1, 1]), convolution([1, 3], padding=[0, 1]), convolution([1, 1])]
    long = [convolution([1]), convolution([3], padding=[1]), convolution([1])]
    one, other = (find_ensemble(described(branch_of(*wide, extents=[1, 9]))),
                  find_ensemble(described(branch_of(*long, extents=[9]))))  # fmt: skip
    assert one.baseline.variance == pytest.approx(other.baseline.variance, rel=1e-12)
    assert (one.primal.label, one.dual.label) == (other.primal.label, other.dual.label)


def test_what_reads_too_much_is_left_alone_with_the_reason():
    wide = branch_of(convolution([1]), convolution([2001], padding=[1000]), convolution([1]), extents=[5000])
    assert "a unit reads 2001 positions" in find_ensemble(described(wide)).outcome.message
    padded = branch_of(
        convolution([1]), convolution([1], padding=[9000]), convolution([8001], padding=[0]), extents=[9]
    )
    padded |= {"flops": 32 * 24 * 9 + 24 * 24 * 18009 + 24 * 32 * 8001 * 10009}
    assert "depends on 8001 positions of a map inside" in find_ensemble(described(padded)).outcome.message


def test_a_convolution_of_three_dimensions_is_searched():
    cube, middle = convolution([1] * 3), convolution([3] * 3, padding=[1] * 3)
    solid = branch_of(cube, middle, cube, extents=[5] * 3)
    chain = network(solid).chain
    assert (chain.extents, chain.fan_ins((24, 24))) == ((5, 5, 5), [32, 27 * 24, 24])
    assert input_window(chain, "unit").sizes == (3, 3, 3)
    found = find_ensemble(described(solid))
    assert found.method == "exact"
    assert found.primal.relative_variance < 1


KERNEL = {"kind": "conv", "kernel": [3, 3], "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1]}


def windows(function, kernel, stride, padding=0, **fields):
    sizes = {"kernel": kernel, "stride": stride, "padding": padding}
    given = {name: [size, size] for name, size in sizes.items()} | {"dilation": [1, 1]}
    return {"kind": "pool", "function": function} | given | fields


def with_pools(*layers, extents=(8, 8), widths=(3, 6, 6, 6, 10)):
    """A branch whose counts follow from its layers."""
    given = [layer.copy() for layer in layers]
    branch = {"name": "b", "layers": given, "input": list(extents), "widths": list(widths), "splittable": True}
    parsed = TypeAdapter(Layers).validate_python(given)
    parts = list(placed(parsed, widths, extents))
    return branch | {measure: sum(getattr(part, measure) for part in parts) for measure in ("parameters", "flops")}


def test_a_branch_with_pools_is_searched_as_a_whole():
    halved = windows("max", 2, 2)
    vgg = with_pools(
        *(KERNEL, RELU, halved, KERNEL, RELU, KERNEL, NORM, windows("average", 3, 2, 1, count_padding=False), RELU),
        {"kind": "pool", "function": "average", "output": [1, 1]}, LINEAR,
    )  # fmt: skip
    vgg |= {"paths": [["0", "3", "5", "6", "12"]]}
    network_ = network(vgg)
    chain = network_.chain
    assert [[pool.function for pool in layer.pools] for layer in chain.layers] == [
        ["max"], [], ["average", "average"], [],
    ]  # fmt: skip
    assert [layer.early for layer in chain.layers] == [0, 0, 1, 0]
    assert not chain.layers[2].pools[0].count_padding
    assert [shape[1:] for shape in chain.shapes((6, 6, 6))] == [(8, 8), (4, 4), (4, 4), (1, 1), (1, 1)]
    assert input_window(chain, "unit").positions == 64
    assert network_.unsearched == ()
    found = find_ensemble(described(vgg, fixed=0), estimator={"method": "monte_carlo", "samples": 1000})
    n, m = found.primal.width, found.primal.multiplicity
    assert found.primal.branches[0].paths == (("0", "3", "5", "6", "12"),)
    assert found.primal.parameters == m * (27 * n + 18 * n * n + 2 * n + 10 * n)


def test_a_map_that_becomes_a_row_of_numbers_is_searched_as_a_whole():
    flat = {"kind": "reshape", "extents": []}
    tokens = {"kind": "reshape", "extents": [64]}
    mean = {"kind": "pool", "function": "average", "output": []}
    everywhere = LINEAR | {"positions": 64}
    both = with_pools(
        KERNEL, RELU, KERNEL, RELU, {"kind": "pool", "function": "max", "output": [1, 1]}, flat, LINEAR, RELU, LINEAR
    )
    assert network(both).unsearched == ()
    behind = with_pools(KERNEL, RELU, KERNEL, RELU, tokens, everywhere, RELU, everywhere)
    assert network(behind).chain.extents == (8, 8)
    points = with_pools(everywhere, RELU, everywhere, RELU, mean, LINEAR, RELU, LINEAR, extents=(64,))
    assert network(points).chain.shapes((6, 6, 6))[:3] == [(3, 64, 1), (6, 64, 1), (6, 1, 1)]


@pytest.mark.parametrize(
    ("pool", "why"),
    [
        ({"kind": "pool", "function": "average", "output": [8]}, "over some of the axes of a map"),
        ({"kind": "reshape", "extents": [4, 16]}, "rearranged between layers which mix its positions"),
    ],
)
def test_what_is_not_known_of_positions_is_said(pool, why):
    kernel = KERNEL
    if pool.get("output"):
        kernel = {"kind": "conv", "kernel": [3], "stride": [1], "padding": [1], "dilation": [1]}
    branch = with_pools(KERNEL, RELU, KERNEL, RELU, pool, kernel, RELU, kernel)
    found = network(branch)
    assert found.branches == ()
    assert why in found.unsearched[0]


def test_pools_that_are_none_are_refused_by_their_field():
    for pool, message in ((windows("max", 2, 2, 2), "at most half of the kernel"),
                          (windows("average", 2, 2) | {"dilation": [2, 2]}, "dilation must be 1")):  # fmt: skip
        branch = with_pools(KERNEL, RELU, KERNEL, RELU, KERNEL, RELU, KERNEL)
        branch["layers"].insert(2, pool)
        with pytest.raises(InvalidSpec, match=message) as refused:
            network(branch)
        assert refused.value.path == ("branches", 0, "layers", 2)


def test_a_branch_is_searched_in_pieces_around_what_is_not_known():
    sigmoid = {"kind": "activation", "function": "softsign"}
    whole = with_pools(
        *(KERNEL, RELU, windows("max", 2, 2), KERNEL, RELU, KERNEL, sigmoid),
        *(KERNEL, RELU, KERNEL, RELU, KERNEL),
        widths=(3, 6, 6, 6, 6, 6, 10),
    )
    whole |= {"paths": [["0", "3", "5", "7", "9", "11"]]}
    found = network(whole)
    assert [names for part in found.parts for names in part.names] == ["7 … 11", "0 … 5"]
    (why,) = found.unsearched
    assert "the activation 'softsign' is not searched yet; 0 … 5, 7 … 11 are searched alone" in why


def test_the_most_branches_that_a_body_holds_are_grouped_in_a_moment():
    """Widths of one group that are no multiples of each other, in the longest chains."""
    primes = [each for each in range(2, 1000) if all(each % other for other in range(2, each))]
    whole = parse_spec(
        NetworkBaseline, described(*(dense(f"b{each}", 1, *[each] * 63, 1, group="g") for each in primes))
    )
    started = time.process_time()
    assert len(build_network(whole).parts) == len(primes)
    assert time.process_time() - started < 4
