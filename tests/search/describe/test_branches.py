"""What is a branch and what is none, and what lies inside; each is checked on the module itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from collegium.search.describe.as_written import as_written
from collegium.search.describe.describe import describe
from collegium.search.networks.families.network import SINGLE_HIDDEN, NetworkBaseline

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
        nn.ELU(0.5), nn.Conv1d(8, 6, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.AdaptiveAvgPool1d(1),
        nn.Flatten(), nn.Linear(6, 3),
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
    plain = Calls(
        lambda m, x: functional.linear((x @ m.a).view(-1, 6), m.b).view(-1, 7, 6) @ m.c,
        a=nn.Parameter(torch.ones(5, 6)), b=nn.Parameter(torch.ones(6, 6)), c=nn.Parameter(torch.ones(6, 2)),
    )  # fmt: skip
    assert splits(describe(plain, torch.randn(2, 7, 5))) == []
    named = described(tokens(-1, 8, 3, 4), torch.randn(2, 12, 5))
    assert splits(named) == []
    assert "a size that the code names" in reasons(named)


def test_a_map_that_is_pooled_or_padded_as_a_row(described: Described):
    for between in (nn.MaxPool1d(2), nn.ConstantPad1d((1, 2), 0.0)):
        model = nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(2), between, nn.Conv1d(3, 4, 3), nn.ReLU(), nn.Conv1d(4, 2, 1)
        )
        baseline = described(model, torch.randn(2, 2, 6, 5))
        assert splits(baseline) == [((2, 3, 4, 2), 1)]
        assert baseline.branches[0].layers[2].model_dump()["extents"] == (12,)


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


def test_projections_of_attention_are_no_layers_of_a_chain(described: Described):
    model = Calls(
        lambda m, x: m.attention(*3 * [m.b(torch.relu(m.a(x)))])[0],
        a=nn.Linear(8, 9), b=nn.Linear(9, 12), attention=nn.MultiheadAttention(12, 3, batch_first=True),
    )  # fmt: skip
    baseline = described(model, torch.randn(2, 5, 8))
    assert splits(baseline) == []
    assert baseline.graph is not None


def test_a_chain_before_queries_alone_ends_there(described: Described):
    model = Calls(
        lambda m, x: m.attention(m.b(torch.relu(m.a(x))), x, x)[0],
        a=nn.Linear(8, 9), b=nn.Linear(9, 12), attention=nn.MultiheadAttention(12, 3, kdim=8, vdim=8, batch_first=True),
    )  # fmt: skip
    baseline = described(model, torch.randn(2, 5, 8))
    assert splits(baseline) == []
    assert baseline.graph is not None


def test_layers_along_another_axis_are_no_chain(described: Described):
    def mixed(m: Any, x: Tensor) -> Tensor:
        h = x + m.a2(functional.gelu(m.a1(x.transpose(1, 2)))).transpose(1, 2)
        return m.b2(functional.gelu(m.b1(m.n(h))))

    mixer = Calls(
        mixed,
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
        "logsigmoid": nn.LogSigmoid(),
        "mish": nn.Mish(inplace=True),
        "selu": nn.SELU(inplace=True),
        "celu": nn.CELU(0.3),
        "softplus": lambda x: torch.log1p(x.exp()),
        "elu": lambda x: torch.where(x > 0, x, x.clamp(max=0).expm1()),
        "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    }
    for name, form in forms.items():
        model = Calls(
            lambda m, x, f=form: m.c(f(m.b(f(m.a(x))))), a=nn.Linear(3, 4), b=nn.Linear(4, 5), c=nn.Linear(5, 2)
        )
        (branch,) = described(model, torch.randn(2, 3)).branches
        assert [layer.function for layer in branch.layers if layer.kind == "activation"] == [name, name]
    hard = nn.Sequential(nn.Linear(3, 4), nn.Hardswish(True), nn.Linear(4, 4), nn.Hardsigmoid(), nn.Linear(4, 1))
    (branch,) = described(hard, torch.randn(2, 3)).branches
    assert [layer.function for layer in branch.layers if layer.kind == "activation"] == ["hardswish", "hardsigmoid"]
    unbounded = nn.Sequential(nn.Linear(3, 4), nn.Hardtanh(0, math.inf), nn.Linear(4, 4), nn.Linear(4, 1))
    (branch,) = described(unbounded, torch.randn(2, 3)).branches
    assert [layer.function for layer in branch.layers if layer.kind == "activation"] == ["other"]
    leaky = nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.2), nn.Linear(4, 4), nn.Softplus(2.0), nn.Linear(4, 1))
    (branch,) = described(leaky, torch.randn(2, 3)).branches
    assert [layer.parameters for layer in branch.layers if layer.kind == "activation"] == [(0.2,), (2.0, 20.0)]


@pytest.mark.parametrize(
    "form",
    [
        nn.Threshold(0.1, 0),
        nn.Threshold(0, 0.01),
        nn.Threshold(-0.003, 0),
        lambda x: x.clamp(min=0.05),
        lambda x: x.clamp(0, 20),
        lambda x: x.clamp(0, 6.2),
        lambda x: x * (x > 0.03),
        lambda x: x * torch.sigmoid(1.702 * x),
    ],
)
def test_a_function_that_is_nearly_one_with_a_name_has_none(described: Described, form):
    """A threshold between two of the numbers that are compared once passed for a rectifier."""
    model = Calls(lambda m, x: m.c(form(m.b(form(m.a(x))))), a=nn.Linear(3, 4), b=nn.Linear(4, 5), c=nn.Linear(5, 2))
    (branch,) = described(model, torch.randn(2, 3)).branches
    functions = [layer.function for layer in branch.layers if layer.kind == "activation"]
    assert functions in (["other"] * 2, ["hardtanh"] * 2)


def test_norms_that_are_no_modules_of_their_own_end_a_chain(described: Described):
    layers = {name: nn.Linear(6, 6) for name in "abcd"}
    named = Calls(lambda m, x: m.c(m.b(functional.layer_norm(m.a(x), (6,)))), **layers)
    baseline = described(named, torch.randn(3, 6))
    assert splits(baseline) == []
    assert "a norm that is no module of its own" in reasons(baseline)
    twice = Calls(
        lambda m, x: m.d(m.n(m.c(m.b(m.n(m.a(x)))))), **layers, n=nn.BatchNorm1d(6, affine=False)
    )  # its running moments have one width
    assert splits(described(twice, torch.randn(3, 6))) == []

    class NormAndActivation(nn.BatchNorm1d):
        def __init__(self, width: int, affine: bool = True) -> None:
            super().__init__(width, affine=affine)
            self.activation = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.activation(super().forward(x))

    joined = Calls(lambda m, x: m.c(m.b(m.n(m.a(x)))), **layers, n=NormAndActivation(6))
    assert splits(describe(joined, torch.randn(3, 6))) == [((6, 6, 6, 6), 1)]
    once = Calls(lambda m, x: m.c(m.b(m.n(m.a(x)))), **layers, n=nn.BatchNorm1d(6, affine=False))
    assert splits(described(once, torch.randn(3, 6))) == [((6, 6, 6, 6), 1)]


@pytest.mark.parametrize(
    "region", [torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)], ids=["no_grad", "autocast"]
)
def test_code_in_a_region_of_its_own_is_counted_and_ends_a_chain(described: Described, region):
    def call(m: Any, x: Tensor) -> Tensor:
        with region():
            h = m.b(m.a(x))
        return m.d(m.c(m.c2(h.float())))

    layers = {name: nn.Linear(6, 6) for name in ("a", "b", "c", "c2", "d")}
    baseline = described(Calls(call, **layers), torch.randn(3, 6))
    assert splits(baseline) == [((6, 6, 6, 6), 1)]
    assert "a region of its own" in reasons(baseline)


def test_layers_that_read_numbers_of_another_type_are_counted(described: Described):
    """Under autocast the second convolution reads bfloat16, and its weight is kept in float32."""

    def call(m: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            h = m.b(torch.relu(m.a(x)))
        return m.c(h.float())

    layers = {name: nn.Conv1d(6, 6, 3, padding=1) for name in "abc"}
    assert described(Calls(call, **layers), torch.randn(3, 6, 8)).flops == 3 * 8 * 6 * 6 * 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
def test_checkpointed_and_compiled_layers_are_what_they_are(described: Described):
    layers = {name: nn.Linear(6, 6) for name in "abc"}
    again = Calls(lambda m, x: m.c(checkpoint(lambda h: m.b(m.a(h)), x, use_reentrant=False)), **layers)
    assert splits(described(again, torch.randn(3, 6))) == [((6, 6, 6, 6), 1)]
    for backend in ("inductor", "eager", "aot_eager"):
        compiled = torch.compile(mlp(3, 4, 5, 2), backend=backend)
        (branch,) = describe(compiled, torch.randn(3, 3)).branches  # pyright: ignore[reportArgumentType]
        assert branch.paths == (("_orig_mod.0", "_orig_mod.2", "_orig_mod.4"),)


def test_what_is_compiled_runs_compiled_again_once_the_last_description_has_ended():
    import torch._dynamo

    def stance() -> str:
        return torch._dynamo.eval_frame._stance.stance

    first, second = as_written(), as_written()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert stance() == "force_eager"
    second.__exit__(None, None, None)
    assert stance() == "default"


def test_attention_of_pytorch_is_counted_where_it_would_run_as_one_operation():
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    baseline = describe(model.eval(), torch.randn(2, 5, 8))
    projections, hidden, attention = 5 * (8 * 24 + 8 * 8), 2 * 5 * 8 * 16, 2 * 5 * 5 * 8
    assert baseline.flops == projections + hidden + attention
    assert splits(baseline) == []
    assert SINGLE_HIDDEN in reasons(baseline)
