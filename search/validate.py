"""What a search may cost, by arithmetic on the specification alone."""

from __future__ import annotations

import math

from collegium.counted import counted
from collegium.search.attention.search import check_block
from collegium.search.errors import InvalidSpec
from collegium.search.kernel.closed_form import has_closed_form
from collegium.search.kernel.inputs import check_gram
from collegium.search.kernel.receptive_field import input_window
from collegium.search.latency.memory import memory_bytes
from collegium.search.latency.parts import check_workload, divided
from collegium.search.latency.workload import Workload
from collegium.search.networks.families.attention import AttentionNetwork
from collegium.search.networks.families.network_grouping import DescribedNetwork
from collegium.search.networks.network import Network
from collegium.search.spec import SearchSpec
from collegium.search.whole_network.inputs.images import sample_shape

#: Largest baseline, in parameters. GPT-3 has 1.75·10¹¹.
MAX_PARAMETERS = 10**11
#: Most positions of a map or receptive field over which a kernel is evaluated; its Gram matrix has their square.
MAX_POSITIONS = 1024
#: Most numbers that one kernel sample of the baseline may hold at a time (its widest feature map).
MAX_FEATURES = 2**24
#: Most bytes that measuring a whole network may take: parameters, gradients and features in single precision.
MAX_NETWORK_BYTES = 64 * 2**30


def check_network(network: Network) -> None:
    """Refuse a baseline too large to be meant. Raises ``InvalidSpec``."""
    parameters = network.count("parameters", network.baseline, network.multiplicity)
    if parameters > MAX_PARAMETERS:
        raise InvalidSpec(
            ("baseline",),
            f"the baseline has {parameters:.3g} parameters; the most that is searched is {MAX_PARAMETERS:.0e}",
        )


def check_search(spec: SearchSpec, network: Network) -> None:
    """Refuse a search that is inconsistent with its baseline, or too large. Raises ``InvalidSpec``."""
    if spec.estimator.method == "plain":
        raise InvalidSpec(
            ("estimator", "method"),
            "'plain' measures a module, which is not at hand here: call collegium.find_ensemble(baseline, model=model) "
            "where it is, or use 'auto'",
        )
    if isinstance(network, AttentionNetwork):
        check_block(spec)
        return
    if spec.space.stages == "own" and not network.separable:
        raise InvalidSpec(
            ("space", "stages"), f"the family {network.family!r} cannot group its stages apart: leave it 'tied'"
        )
    if spec.space.stages == "own" and spec.estimator.alpha is not None:
        raise InvalidSpec(
            ("space", "stages"), "a given α is that of the first stage alone: leave it 'tied', or use method 'auto'"
        )
    if spec.space.mode == "vector" and not network.chain.homogeneous and spec.estimator.method != "given":
        raise InvalidSpec(
            ("space", "mode"),
            f"width vectors are searched where r is a polynomial of the inverse widths, which it is not with "
            f"{network.activations}: use 'scaled', or list width vectors in 'widths'",
        )
    if spec.space.min_width > max(network.baseline) and spec.space.max_width is None and spec.space.widths is None:
        raise InvalidSpec(
            ("space", "min_width"),
            f"the baseline's width is {max(network.baseline)}: give a 'max_width' above it",
        )
    for index, widths in enumerate(spec.space.widths or ()):
        if isinstance(widths, tuple) and len(widths) != len(network.baseline):
            raise InvalidSpec(
                ("space", "widths", index),
                f"a width vector here has {counted(len(network.baseline), 'entry', 'entries')} "
                f"{list(network.chain.names)}",
            )
    if network.is_described:
        _check_described(spec, network)
    if spec.verify == "network":
        _check_networks(spec, network)
    _check_costs(spec, network)
    positions = _positions(spec, network)
    if spec.estimator.method != "given":
        _check_size(spec, network, positions)
    if spec.inputs.gram is not None:
        try:
            check_gram(spec.inputs.gram, positions, network.chain.first_groups)
        except ValueError as error:
            raise InvalidSpec(("inputs", "gram"), str(error)) from error


def _check_described(spec: SearchSpec, network: Network) -> None:
    """Refuse what needs the module of a described network where it cannot be built, and, of several branches, what is
    of one.
    """
    runs: dict[tuple[str, ...], bool] = {
        ("verify",): spec.verify == "network",
        ("efficiency",): spec.efficiency in ("latency", "memory"),
        ("workload",): spec.workload is not None,
        ("max_latency_ms",): spec.max_latency_ms is not None,
        ("max_memory_bytes",): spec.max_memory_bytes is not None,
    }
    asked = [path for path, wanted in runs.items() if wanted]
    if asked and network.not_built is not None:
        raise InvalidSpec(
            asked[0],
            f"this described network cannot be built here ({network.not_built}), so nothing of it can be run: leave it "
            "out",
        )
    if asked:
        try:
            network.sample_shape()
        except ValueError as error:
            raise InvalidSpec(asked[0], f"this network cannot be run: {error}; leave it out") from None
        _check_named(asked[0], network)
    if len(network.parts) == 1:
        return
    single: dict[tuple[str, ...], bool] = {
        ("space", "widths"): spec.space.widths is not None,
        ("inputs", "gram"): spec.inputs.gram is not None,
        ("inputs", "data"): spec.inputs.data is not None,
        ("estimator", "alpha"): spec.estimator.alpha is not None,
    }
    for path, wanted in single.items():
        if wanted:
            raise InvalidSpec(path, f"this is of one branch, and {len(network.parts)} are searched: leave it out")


def _check_named(asked: tuple[str, ...], network: Network) -> None:
    """Refuse branches without the modules that are others in the network that is to be run."""
    for branch in network.branches if isinstance(network, DescribedNetwork) else ():
        if not branch.paths:
            raise InvalidSpec(
                asked, f"the branch {branch.name!r} does not name its modules: give its 'paths', or leave this out"
            )


def _check_networks(spec: SearchSpec, network: Network) -> None:
    """Refuse whole networks of another extent, or that need more memory than a measurement may."""
    if spec.network.output is not None:
        raise InvalidSpec(
            ("network", "output"),
            "a network that is built here has one output: this is of a module at hand; leave it out",
        )
    sample = math.prod(sample_shape(network, spec.network, None)) / math.prod(network.sample_shape())
    parameters = network.count("parameters", network.baseline, network.multiplicity)
    features = spec.network.images * sample * network.features_per_sample(network.baseline, network.multiplicity)
    needed = 4 * (parameters * (2 + spec.network.inputs) + 3 * features)
    if needed > MAX_NETWORK_BYTES:
        raise InvalidSpec(
            ("network",),
            f"measuring the baseline whole would take {needed / 2**30:.0f} GiB, and {MAX_NETWORK_BYTES >> 30} GiB is "
            "the most: lower 'images', 'inputs' or 'pixels', or verify the module alone",
        )


def _check_costs(spec: SearchSpec, network: Network) -> None:
    """Refuse a workload that the network does not take, or that no machine holds, and costs of stages without parts."""
    apart = spec.space.stages == "own" and len(network.stage_scales) > 1
    if spec.costs_decide and apart and not divided(network):
        raise InvalidSpec(
            ("space", "stages"),
            f"the family {network.family!r} names no parts of each stage, of which time and memory would be sums: "
            "leave it 'tied', or save parameters or FLOPs",
        )
    workload = spec.workload or Workload()
    if not (spec.costs_decide or spec.workload is not None):
        return
    check_workload(workload, network)
    needed = memory_bytes(network, network.stage_groupings(network.baseline, network.multiplicity), workload)
    if spec.times_networks and needed > MAX_NETWORK_BYTES:
        raise InvalidSpec(
            ("workload", "batch_size"),
            f"the baseline would take {needed / 2**30:.0f} GiB, and {MAX_NETWORK_BYTES >> 30} GiB is the most that is "
            "measured: lower it, or 'image_size'",
        )


def _positions(spec: SearchSpec, network: Network) -> int:
    """Input positions that the kernel entry depends on."""
    try:
        return input_window(network.chain, spec.estimator.entry).positions
    except ValueError as error:
        entry = spec.estimator.entry
        raise InvalidSpec(("baseline", "layers"), f"the {entry} entry cannot be evaluated: {error}") from error


def _check_size(spec: SearchSpec, network: Network, positions: int) -> None:
    """Refuse a kernel that is too large to be evaluated, or has no closed form where one is required."""
    entry = spec.estimator.entry
    if positions > MAX_POSITIONS:
        field = ("baseline", "input", "height") if entry == "pooled" else ("baseline", "layers")
        raise InvalidSpec(
            field,
            f"the {entry} entry sees {positions} positions; the most is {MAX_POSITIONS}: "
            "give a smaller map, as the kernel's relative variance hardly depends on it",
        )
    features = max(shape[0] for shape in network.chain.shapes(network.baseline)) * positions
    if features > MAX_FEATURES:
        raise InvalidSpec(
            ("baseline",), f"one kernel sample would hold {features:.3g} features; the most is {MAX_FEATURES}"
        )
    if spec.estimator.method == "exact" and not has_closed_form(network.chain, entry, spec.inputs.pair):
        raise InvalidSpec(
            ("estimator", "method"),
            f"this kernel entry has no closed form ({_why_sampled(network)}): use 'auto' or 'monte_carlo'",
        )


def _why_sampled(network: Network) -> str:
    """Why there is no closed form."""
    if not network.chain.homogeneous:
        return f"none is known with {network.activations}"
    return "a layer above the first shares its weights or is grouped, or the entry is off-diagonal or pooled"
