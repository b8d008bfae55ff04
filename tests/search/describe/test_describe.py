"""What is a branch and what is none, on small modules; counts and free widths are checked on the modules themselves."""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from collegium.search.describe import describe as module_of_describe
from collegium.search.describe.describe import describe
from collegium.search.errors import SampleMismatch
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
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_the_examples_run():
    assert doctest.testmod(module_of_describe, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).failed == 0


PRESETS = ["resnet50", "resnet18", "resnext50-32x4d", "resnext29-1x64d", "mlp-digits-6x100", "mlp-cifar-400-200-100"]


@pytest.mark.parametrize("preset", PRESETS)
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


def test_vgg_ends_its_chains_where_the_map_is_flattened(described: Described):
    features = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    features += [nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(3, 2, 1, ceil_mode=True)]
    head = [
        nn.Flatten(),
        nn.Linear(12 * 16, 20),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(20, 20),
        nn.ReLU(),
        nn.Linear(20, 5),
    ]
    baseline = described(nn.Sequential(*features, *head), torch.randn(2, 3, 15, 15))
    assert splits(baseline) == [((3, 8, 8, 12), 1), ((192, 20, 20, 5), 1)]
    assert baseline.branches[0].input == (15, 15)


def test_a_global_pool_leaves_channels_channels(described: Described):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 2),
    )
    baseline = described(model, torch.randn(1, 3, 9, 8))
    assert splits(baseline) == [((3, 4, 6, 2), 1)]
    assert [layer.kind for layer in baseline.branches[0].layers] == [
        "conv", "activation", "conv", "activation", "pool", "linear",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "pool",
    [
        lambda h: h.mean((2, 3)),
        lambda h: h.mean((-1, -2), keepdim=True).flatten(1),
        lambda h: h.amax((2, 3)),
        lambda h: h.flatten(2).max(2)[0],
        lambda h: functional.adaptive_max_pool2d(h, 1).flatten(1),
        lambda h: functional.avg_pool2d(h, (5, 4)).squeeze(-1).squeeze(-1),
    ],
)
def test_pools_in_every_form(described: Described, pool):
    model = Calls(
        lambda m, x: m.c(pool(torch.relu(m.b(torch.relu(m.a(x)))))),
        a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 6, 3), c=nn.Linear(6, 2),
    )  # fmt: skip
    assert splits(described(model, torch.randn(2, 3, 9, 8))) == [((3, 4, 6, 2), 1)]


def test_one_dimension_three_dimensions_and_a_point_set(described: Described):
    audio = nn.Sequential(
        nn.Conv1d(1, 8, 9, stride=4), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 5, dilation=2, padding="same"),
        nn.ELU(0.5), nn.Conv1d(8, 6, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(6, 3),
    )  # fmt: skip
    assert splits(described(audio, torch.randn(2, 1, 130))) == [((1, 8, 8, 6, 3), 1)]
    volume = nn.Sequential(nn.Conv3d(1, 4, 3), nn.SiLU(), nn.Conv3d(4, 4, (1, 2, 3), 2), nn.Tanh(), nn.Conv3d(4, 2, 1))
    assert splits(described(volume, torch.randn(1, 1, 7, 8, 9))) == [((1, 4, 4, 2), 1)]
    points = nn.Sequential(nn.Conv1d(3, 8, 1), nn.ReLU(), nn.Conv1d(8, 16, 1), nn.ReLU(), nn.Conv1d(16, 32, 1))
    model = Calls(lambda m, x: m.head(m.points(x).max(2).values), points=points, head=mlp(32, 16, 4))
    assert splits(described(model, torch.randn(2, 3, 20))) == [((3, 8, 16, 32, 16, 4), 1)]


def test_linear_layers_at_every_position_of_tokens_and_maps(described: Described):
    baseline = described(mlp(6, 5, 4, 3), torch.randn(2, 7, 8, 6))
    assert (splits(baseline), baseline.branches[0].input) == ([((6, 5, 4, 3), 1)], (7, 8))
    moved = Calls(
        lambda m, x: m.c(functional.gelu(m.n(m.b(torch.relu(m.a(x)).permute(0, 2, 3, 1))))).permute(0, 3, 1, 2),
        a=nn.Conv2d(3, 4, 2), b=nn.Linear(4, 8), n=nn.LayerNorm(8), c=nn.Linear(8, 3),
    )  # fmt: skip
    assert splits(described(moved, torch.randn(2, 3, 6, 5))) == [((3, 4, 8, 3), 1)]


def test_tokens_that_become_a_map_and_tokens_again(described: Described):
    def tokens(*size: int) -> Calls:
        return Calls(
            lambda m, x: m.c(functional.gelu(m.b(m.a(x).transpose(1, 2).reshape(size)).flatten(2).transpose(1, 2))),
            a=nn.Linear(5, 8), b=nn.Conv2d(8, 6, 3, padding=1), c=nn.Linear(6, 5),
        )  # fmt: skip

    baseline = described(tokens(2, -1, 3, 4), torch.randn(2, 12, 5))
    assert splits(baseline) == [((5, 8, 6, 5), 1)]
    assert [layer.kind for layer in baseline.branches[0].layers] == [
        "linear",
        "reshape",
        "conv",
        "activation",
        "linear",
    ]
    named = described(tokens(-1, 8, 3, 4), torch.randn(2, 12, 5))
    assert splits(named) == []
    assert "a size that the code names" in reasons(named)


def test_depthwise_layers_tie_their_width_to_a_neighbour(described: Described):
    inverted = nn.Sequential(
        nn.Conv2d(8, 16, 1), nn.ReLU6(), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6(), nn.Conv2d(16, 8, 1)
    )
    baseline = described(inverted, torch.randn(1, 8, 6, 6))
    assert splits(baseline) == []
    assert reasons(baseline) == SINGLE_HIDDEN
    longer = nn.Sequential(*inverted, nn.ReLU(), nn.Conv2d(8, 4, 1))
    (branch,) = described(longer, torch.randn(1, 8, 6, 6)).branches
    assert (branch.widths, branch.free, branch.splittable) == ((8, 16, 16, 8, 4), [(1, 2), (3,)], True)
    edges = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), *longer, nn.ReLU(), nn.Conv2d(4, 4, 2, groups=4))
    first, middle, last = described(edges, torch.randn(1, 8, 6, 6)).branches
    assert middle.widths == branch.widths
    assert "depthwise" in str(first.why)
    assert "depthwise" in str(last.why)


def test_groups_inside_are_members_and_groups_at_an_end_are_left_out(described: Described):
    inside = nn.Sequential(
        nn.Conv2d(8, 12, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, groups=4), nn.ReLU(), nn.Conv2d(12, 8, 1)
    )
    (branch,) = described(inside, torch.randn(1, 8, 5, 5)).branches
    assert (branch.splittable, branch.multiplicity) == (True, 4)
    first, rest = described(nn.Sequential(nn.Conv2d(8, 8, 1, groups=2), *inside), torch.randn(1, 8, 5, 5)).branches
    assert (rest.widths, rest.splittable) == (branch.widths, True)
    assert "grouped convolution at the end" in str(first.why)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, x: m.c(torch.relu(m.b(h := torch.relu(m.a(x))))) + h.sum(), "read in 2 places"),
        (lambda m, x: (m.c(torch.relu(m.b(h := torch.relu(m.a(x))))), h), "read in 2 places"),
        (lambda m, x: {"y": m.c(torch.relu(m.b(h := torch.relu(m.a(x))))), "h": [h]}, "read in 2 places"),
        (lambda m, x: m.c(m.b(m.a(x) + x)), "a sum with another map"),
        (lambda m, x: m.c(m.b(m.a(x) * x)), "multiplied with another map"),
        (lambda m, x: m.c(m.b(torch.softmax(m.a(x), -1))), "a softmax reads"),
        (lambda m, x: m.c(m.b(torch.cat([m.a(x), x[:, :0]], -1))), "concatenated"),
        (lambda m, x: m.c(m.b(m.a(x).view(-1, 2, 3).transpose(1, 2).flatten(1))), "reshaped"),
        (lambda m, x: m.c(m.b(m.a(x).flip(-1))), "'flip' reads"),
        (lambda m, x: m.c(m.b(m.a(x)[:, torch.arange(6)])), "divided"),
        (lambda m, x: m.c(m.b(m.a(x).detach())), "no gradient"),
        (lambda m, x: m.c(m.b(functional.pad(m.a(x), (0, 0)))), "padded"),
        (lambda m, x: m.c(m.b(m.a(x).t().t() @ torch.eye(6, device=x.device))), "a product with another map"),
    ],
)  # fmt: skip
def test_an_inner_width_that_is_read_elsewhere_ends_a_chain(described: Described, call, words):
    model = Calls(call, a=nn.Linear(6, 6), b=nn.Linear(6, 6), c=nn.Linear(6, 6))
    baseline = described(model, torch.randn(3, 6))
    assert splits(baseline) == []
    assert words in reasons(baseline)


def test_shared_layers_weights_and_norms_end_a_chain(described: Described):
    twice = Calls(lambda m, x: m.c(m.a(torch.relu(m.a(x)))), a=nn.Linear(6, 6), c=nn.Linear(6, 6))
    baseline = described(twice, torch.randn(2, 6))
    assert splits(baseline) == []
    assert "its weights are used in several places" in reasons(baseline)
    tied = mlp(6, 6, 6, 6)
    tied[2].weight = tied[0].weight
    assert splits(described(tied, torch.randn(2, 6))) == []
    biases = mlp(6, 6, 6, 6)
    biases[4].bias = biases[0].bias
    assert splits(described(biases, torch.randn(2, 6))) == []
    norm = Calls(
        lambda m, x: m.c(m.n(m.b(m.n(m.a(x))))),
        a=nn.Linear(6, 6), b=nn.Linear(6, 6), c=nn.Linear(6, 6), n=nn.LayerNorm(6),
    )  # fmt: skip
    baseline = described(norm, torch.randn(2, 6))
    assert splits(baseline) == []
    assert "a norm that is used in several places" in reasons(baseline)


def test_layers_along_another_axis_are_no_chain(described: Described):
    mixer = Calls(
        lambda m, x: m.b2(functional.gelu(m.b1(m.n(x + m.a2(functional.gelu(m.a1(x.transpose(1, 2)))).transpose(1, 2))))),
        a1=nn.Linear(4, 8), a2=nn.Linear(8, 4), n=nn.LayerNorm(6), b1=nn.Linear(6, 12), b2=nn.Linear(12, 6),
    )  # fmt: skip
    baseline = described(mixer, torch.randn(2, 4, 6))
    assert splits(baseline) == []
    assert [branch.widths for branch in baseline.branches[:2]] == [(4, 8, 4), (6, 12, 6)]
    crossed = Calls(
        lambda m, x: m.c(m.b(m.a(x).transpose(1, 2)).transpose(1, 2)),
        a=nn.Linear(5, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 5),
    )  # fmt: skip
    baseline = described(crossed, torch.randn(2, 4, 5))
    assert splits(baseline) == []
    assert "reads another axis than the channels" in reasons(baseline)


def test_a_norm_over_positions_ends_a_chain(described: Described):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.LayerNorm([4, 5, 5]), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1)
    )
    baseline = described(model, torch.randn(1, 3, 5, 5))
    assert splits(baseline) == []
    assert "a norm of a width that is fixed" in reasons(baseline)


def test_functions_that_are_written_out_are_recognised(described: Described):
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "silu": lambda x: x * torch.sigmoid(x),
        "gelu_tanh": lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608028654 * (x + 0.044715 * x**3))),
        "relu": lambda x: x.clamp(min=0),
        "hardswish": lambda x: x * (x + 3).clamp(0, 6) / 6,
        "other": torch.sin,
        "softsign": functional.softsign,
        "relu6": nn.ReLU6(),
        "gelu": nn.GELU(),
    }
    for name, form in forms.items():
        model = Calls(
            lambda m, x, f=form: m.c(f(m.b(f(m.a(x))))), a=nn.Linear(3, 4), b=nn.Linear(4, 5), c=nn.Linear(5, 2)
        )
        (branch,) = described(model, torch.randn(2, 3)).branches
        assert [layer.function for layer in branch.layers if layer.kind == "activation"] == [name, name]
    leaky = nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.2), nn.Linear(4, 4), nn.Softplus(2.0), nn.Linear(4, 1))
    (branch,) = described(leaky, torch.randn(2, 3)).branches
    assert [layer.parameters for layer in branch.layers if layer.kind == "activation"] == [(0.2,), (2.0, 20.0)]


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
    with pytest.raises(SampleMismatch, match="no samples"):
        describe(mlp(3, 2), torch.zeros(0, 3))
    uneven = Calls(lambda m, x: m.a(x) + m.b(x[:1]), a=nn.Linear(3, 2), b=nn.Linear(3, 2))
    with pytest.raises(SampleMismatch, match="a layer reads 1 positions of them all"):
        describe(uneven, torch.zeros(3, 3))
    assert describe(uneven, torch.zeros(1, 3)).flops == 12
