"""Counts of whole modules, what is refused, and that a module is left as it was."""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collegium.search.describe import describe as module_of_describe
from collegium.search.describe import parts
from collegium.search.describe.describe import describe
from collegium.search.errors import NotTraceable, SampleMismatch
from collegium.search.networks.build import build_network
from collegium.search.networks.families.network import SINGLE_HIDDEN, NetworkBaseline
from collegium.search.networks.family import FAMILIES
from collegium.search.spec import PresetBaseline

Described = Callable[..., NetworkBaseline]


def splits(baseline: NetworkBaseline) -> list[tuple[tuple[int, ...], int]]:
    return [(branch.widths, branch.count) for branch in baseline.branches if branch.splittable]


def reasons(baseline: NetworkBaseline) -> str:
    return "\n".join(str(branch.why) for branch in baseline.branches if not branch.splittable)


class Calls(nn.Module):
    """Layers by name, and a function that calls them."""

    def __init__(self, call: Callable[[Any, Tensor], Any], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.call = call

    def forward(self, x: Tensor) -> Any:
        return self.call(self, x)


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_the_examples_run():
    assert doctest.testmod(module_of_describe, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).failed == 0


PRESETS = ["resnet18", "mlp-digits-6x100"]
LARGE = ["resnet50", "resnext50-32x4d", "resnext29-1x64d", "mlp-cifar-400-200-100"]


@pytest.mark.parametrize("preset", [*PRESETS, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_the_module_of_a_preset_has_its_branches_counts_and_fixed_cost(preset):
    network = build_network(PresetBaseline(preset=preset))
    path, name = FAMILIES[network.family].module.split(":")
    with torch.device("meta"):
        module = getattr(importlib.import_module(path), name)(
            **network.arguments(network.baseline, network.multiplicity)
        )
    baseline = describe(module, torch.empty(1, *network.sample_shape()))
    for measure in ("parameters", "flops"):
        assert getattr(baseline, measure) == network.count(measure, network.baseline, network.multiplicity)
    free = [branch for branch in baseline.branches if branch.splittable]
    if preset == "resnet18":
        assert not free
        assert SINGLE_HIDDEN in reasons(baseline)
        return
    for measure in ("parameters", "flops"):
        assert baseline.fixed_cost(measure) == network.fixed_cost(measure)
    for scale in network.stage_scales:
        inner = tuple(network.multiplicity * scale * width for width in network.baseline)
        assert any(branch.widths[1:-1] == inner for branch in free)
    assert {branch.multiplicity for branch in free} == {network.multiplicity}
    assert len({branch.group for branch in free}) == 1


def test_the_blocks_of_resnet_50_are_one_group_of_eight_branches():
    network = build_network(PresetBaseline(preset="resnet50"))
    path, name = FAMILIES[network.family].module.split(":")
    with torch.device("meta"):
        module = getattr(importlib.import_module(path), name)(
            **network.arguments(network.baseline, network.multiplicity)
        )
    free = [branch for branch in describe(module, torch.empty(1, 3, 224, 224)).branches if branch.splittable]
    assert [branch.count for branch in free] == [1, 2, 1, 3, 1, 5, 1, 2]
    assert [branch.name for branch in free] == [f"layer{s}.{b}" for s in (1, 2, 3, 4) for b in (0, 1)]
    assert free[2].widths == (256, 128, 128, 512)
    assert free[2].input == (56, 56)
    assert free[3].paths[0] == ("layer2.1.conv1", "layer2.1.bn1", "layer2.1.conv2", "layer2.1.bn2", "layer2.1.conv3")


def test_an_mlp_with_norms_dropout_and_gelu(described: Described):
    def hidden(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.GELU(), nn.Dropout(0.1)]

    model = nn.Sequential(nn.Flatten(), *hidden(48, 20), *hidden(20, 24), nn.Linear(24, 10))
    baseline = described(model, torch.randn(4, 3, 4, 4))
    (branch,) = baseline.branches
    assert [layer.kind for layer in branch.layers[:4]] == ["linear", "norm", "activation", "dropout"]
    assert (branch.widths, branch.splittable, baseline.outputs, baseline.input) == (
        (48, 20, 24, 10),
        True,
        10,
        (3, 4, 4),
    )
    assert branch.paths == (("1", "2", "5", "6", "9"),)


def test_a_batch_of_one_in_training_mode_is_taken_twice(described: Described):
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    baseline = describe(model, torch.randn(1, 6))
    assert (baseline.flops, splits(baseline)) == (62, [((6, 5, 4, 3), 1)])
    assert describe(model.eval(), torch.randn(1, 6)) == baseline


def test_weights_that_are_computed_are_named(described: Described):
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.ReLU(), nn.Linear(5, 4))
    baseline = described(model, torch.randn(2, 6))
    assert "its weight is computed in each pass" in reasons(baseline)


def test_plain_matrices_are_layers_of_their_own_path():
    model = Calls(
        lambda m, x: torch.relu(torch.relu(x @ m.a) @ m.b) @ m.c.t(),
        a=nn.Parameter(torch.randn(4, 5)), b=nn.Parameter(torch.randn(5, 6)), c=nn.Parameter(torch.randn(3, 6)),
    )  # fmt: skip
    (branch,) = describe(model, torch.randn(2, 4)).branches
    assert (branch.widths, branch.paths) == ((4, 5, 6, 3), (("a", "b", "c"),))


def test_recurrent_and_transposed_layers_and_unused_parameters():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.unused = nn.Embedding(9, 4), nn.Linear(3, 3)
            self.lstm, self.up = nn.LSTM(4, 5, batch_first=True), nn.ConvTranspose1d(5, 2, 3, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.up(self.lstm(self.embed(ids))[0].transpose(1, 2))

    baseline = describe(Model(), torch.zeros(2, 6, dtype=torch.long))
    found = {branch.name: (branch.parameters, branch.flops, branch.why) for branch in baseline.branches}
    assert found["lstm"][:2] == (4 * (4 * 5 + 5 * 5 + 2 * 5), 6 * 4 * (4 * 5 + 5 * 5))
    assert found["up"][:2] == (5 * 2 * 3 + 2, 6 * 5 * 2 * 3)
    assert "recurrent" in found["lstm"][2]
    assert "nothing that was computed" in found["unused.weight"][2]
    assert sum(each[0] for each in found.values()) == baseline.parameters


def test_a_module_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Conv2d(4, 2, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    describe(model, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_a_billion_parameters_cost_no_memory():
    with torch.device("meta"):
        model = mlp(32768, 32768, 32768, 10)
    baseline = describe(model, torch.empty(1, 32768))
    assert baseline.parameters == 2 * 32768**2 + 32768 * 10 + 2 * 32768 + 10
    assert splits(baseline) == [((32768, 32768, 32768, 10), 1)]


def test_what_a_specification_cannot_hold_is_said():
    with torch.device("meta"):
        wide, deep = mlp(2_000_000, 8, 8, 2), mlp(*[3] * 70)
    (branch,) = describe(wide, torch.empty(1, 2_000_000)).branches
    assert (branch.splittable, branch.parameters) == (False, 2_000_000 * 8 + 8 + 72 + 18)
    assert "widths.0" in str(branch.why)
    (branch,) = describe(deep, torch.empty(1, 3)).branches
    assert "more than 64 layers" in str(branch.why)


def test_maps_of_one_sample_are_not_taken_for_samples():
    model = Calls(
        lambda m, x: m.body(x.flatten(0, 1)).mean((2, 3)).view(x.shape[0], 5, 2).mean(1),
        body=nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)),
    )
    baseline = describe(model, torch.randn(2, 5, 3, 8, 8))
    assert baseline.flops == 5 * (36 * 3 * 9 * 4 + 16 * 4 * 9 * 4 + 16 * 8)
    assert splits(baseline) == []
    assert "several maps of one sample" in reasons(baseline)


def test_examples_that_are_no_batch_are_refused():
    with pytest.raises(SampleMismatch, match="no tensor"):
        describe(mlp(3, 2), ())
    with pytest.raises(SampleMismatch, match="no numbers"):
        describe(mlp(3, 2), torch.zeros(0, 3))
    uneven = Calls(lambda m, x: m.a(x) + m.b(x[:1]), a=nn.Linear(3, 2), b=nn.Linear(3, 2))
    with pytest.raises(SampleMismatch, match="a layer reads 1 positions of them all"):
        describe(uneven, torch.zeros(3, 3))
    assert describe(uneven, torch.zeros(1, 3)).flops == 12


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (torch.relu, "not builtin_function_or_method"),
        (nn.Linear, "not the class Linear: call it first"),
        (None, "not NoneType"),
    ],
)
def test_what_is_no_module_with_code_is_refused_by_name(model, words):
    with pytest.raises(NotTraceable, match=words):
        describe(model, torch.zeros(1, 3))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_modules_of_torchscript_are_refused_by_name():
    scripted = torch.jit.script(nn.Linear(3, 2))
    with pytest.raises(NotTraceable, match="the module is one of TorchScript"):
        describe(scripted, torch.zeros(1, 3))
    with pytest.raises(NotTraceable, match="its module '1' is one of TorchScript"):
        describe(nn.Sequential(nn.ReLU(), scripted), torch.zeros(1, 3))


def test_lazy_layers_are_refused_with_a_remedy():
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(NotTraceable, match="run it once with the example input"):
        describe(model, torch.zeros(1, 3))
    model(torch.zeros(1, 3))
    assert describe(model, torch.zeros(1, 3)).parameters == 16 + 10


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, lambda: torch.device("meta")])
def test_it_does_not_depend_on_the_context_that_it_is_called_in(context):
    model, example = mlp(3, 4, 5, 2), torch.zeros(1, 3)
    expected = describe(model, example)
    with context():
        assert describe(model, example) == expected


def test_tied_layers_are_counted_once():
    model = mlp(4, 4, 4)
    model[2].weight = model[0].weight
    baseline = describe(model, torch.zeros(1, 4))
    assert (baseline.parameters, baseline.flops) == (16 + 8, 32)
    assert {branch.why for branch in baseline.branches} == {"its weights are used in several places"}


def test_names_that_a_specification_does_not_hold_are_cut():
    deep: nn.Module = mlp(3, 4, 4, 2)
    for _ in range(5):
        deep = nn.ModuleDict({"x" * 200: deep})
    model = Calls(lambda m, x: m.deep[("x" * 200)]["x" * 200]["x" * 200]["x" * 200]["x" * 200](x), deep=deep)
    (branch,) = describe(model, torch.zeros(1, 3), name="two\nlines").branches
    assert (branch.widths, branch.paths, len(branch.name)) == ((3, 4, 4, 2), (), 512)
    assert describe(model, torch.zeros(1, 3), name="two\nlines").name == "two lines"


def test_more_kinds_of_branches_than_a_specification_holds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parts, "_BRANCHES", 8)
    several = nn.ModuleList(mlp(3, width, 4, 2) for width in range(1, 7))
    single = nn.ModuleList(mlp(3, width, 2) for width in range(1, 7))
    model = Calls(lambda m, x: sum(each(x) for each in (*m.several, *m.single)), several=several, single=single)
    baseline = describe(model, torch.zeros(1, 3))
    assert [widths[1] for widths, _ in splits(baseline)] == [1, 2, 3, 4]
    assert "more different branches" in reasons(baseline)
    assert len(baseline.branches) == 6
    assert sum(branch.count * branch.parameters for branch in baseline.branches) == baseline.parameters


def test_axes_without_numbers_are_refused():
    with pytest.raises(SampleMismatch, match="no numbers"):
        describe(mlp(3, 2), torch.zeros(1, 0, 3))


@pytest.mark.parametrize(
    ("equation", "shapes", "flops"),
    [
        ("...gi,goi->...go", ((5, 3, 1), (3, 4, 1)), 5 * 3 * 4),
        ("...gi,goi->...go", ((5, 3, 2), (3, 4, 2)), 5 * 3 * 4 * 2),
        ("bij, bkj -> bik", ((2, 3, 1), (2, 4, 1)), 2 * 3 * 4),
        ("ij,jk->ik", ((2, 1), (1, 4)), 2 * 4),
        ("bi,bj->bij", ((2, 3), (2, 4)), 0),
        ("ij,ij->ij", ((2, 3), (2, 3)), 0),
    ],
)
def test_products_over_an_axis_of_size_one_are_counted_as_others(equation, shapes, flops):
    """``torch.utils.flop_counter`` counts none where ``einsum`` multiplies elementwise."""
    model = Calls(lambda m, x: torch.einsum(equation, x, m.w), w=nn.Parameter(torch.ones(shapes[1])))
    baseline = describe(model, torch.ones(shapes[0]))
    assert baseline.flops * shapes[0][0] == flops
