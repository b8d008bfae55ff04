"""A search in one call, for programs: a preset's name or a baseline goes in, the grouping comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from collegium.search.errors import InvalidSpec
from collegium.search.networks.build import expand_preset, list_presets
from collegium.search.networks.family import FamilyBaseline
from collegium.search.parse import parse_spec
from collegium.search.progress import Report, discard
from collegium.search.result import SearchResult
from collegium.search.spec import PresetBaseline, SearchSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


def find_ensemble(
    baseline: str | Mapping[str, Any] | BaseModel,
    *,
    report: Report = discard,
    device: str = "cpu",
    images: np.ndarray | None = None,
    model: nn.Module | None = None,
    example_input: Any = None,
    **fields: Any,
) -> SearchResult:
    """The m × n grouping of a baseline whose kernel varies least at the same cost, and the one that costs least.

    ``baseline`` is the name of a preset, a baseline (``{"family": "mlp", …}``), or a whole ``SearchSpec``; ``fields``
    are the other fields of a specification: ``efficiency``, ``estimator``, ``inputs``, ``space``, ``tolerance``,
    ``budget``, ``max_parameters``, ``max_flops``, ``max_latency_ms``, ``max_memory_bytes``, ``workload``, ``verify``.
    ``report(fraction, message)`` is called as the search advances, and ends it by raising. Samples, where there are
    any, are drawn on ``device``, and times measured there. ``images`` of shape ``(images, channels, height, width)``
    are the data that ``inputs.data`` names.

    With ``model``, the module that ``baseline`` describes, nothing need be known of its layers: the kernel of the whole
    network, as it is and regrouped, is measured by autograd over draws of its initialization (``estimator.method``
    ``plain``), as ``network`` of the specification says and for ``network.max_seconds`` at most. Its inputs are the
    samples of ``example_input``, which may be what ``describe`` takes, or random ones.

    The result's ``primal`` and ``dual`` are ensembles (Littwin et al. 2020, Eq. 10–14) or None, and its ``outcome``
    says in a sentence how the search ended. Raises ``InvalidSpec`` with the path of a field that is wrong.

    >>> from collegium import find_ensemble
    >>> answer = find_ensemble({"family": "mlp", "inputs": 64, "hidden": [100] * 5, "outputs": 10})
    >>> answer.primal.multiplicity, answer.primal.width
    (20, 17)
    >>> print(answer.outcome.message)
    20×17 has 44 % of the baseline's variance at 101.9 % of its parameters; 9×17 has 98 % of it with 2.18 times fewer
    parameters
    >>> find_ensemble("resnet50", efficiency="flops").dual.efficiency > 1
    True
    """
    _check_forms(baseline, model)
    if model is not None:
        return _measure(baseline, fields, model, example_input, report, device)
    if example_input is not None:
        raise InvalidSpec(("example_input",), "it goes with 'model', the module that is measured")
    from collegium.search.engine import run

    spec = parse_spec(SearchSpec, search_document(baseline, **fields))
    return run(spec, report=report, device=device, images=images)


def _check_forms(baseline: Any, model: Any) -> None:
    """Raise ``InvalidSpec`` for what is easily taken for a baseline, or for a module."""
    remedy = None
    if hasattr(baseline, "named_parameters"):
        remedy = "a module is described first: find_ensemble(collegium.describe(model, example_input))"
    elif isinstance(baseline, SearchResult):
        remedy = "this is the result of a search: give its baseline, or a specification"
    elif not isinstance(baseline, str | Mapping | BaseModel):
        remedy = f"give a preset's name, a baseline or a specification, not {type(baseline).__name__}"
    if remedy is not None:
        raise InvalidSpec(("baseline",), remedy)
    if model is not None and not hasattr(model, "named_parameters"):
        raise InvalidSpec(("model",), f"give the torch.nn.Module that was described, not {type(model).__name__}")


def _measure(
    baseline: str | Mapping[str, Any] | BaseModel,
    fields: dict[str, Any],
    model: nn.Module,
    example_input: Any,
    report: Report,
    device: str,
) -> SearchResult:
    """The search by method ``plain``, which a model is given for."""
    from collegium.search.whole_network.plain.search import search_module

    document = search_document(baseline, **fields)
    estimator = document.setdefault("estimator", {})
    if isinstance(estimator, dict):
        document["estimator"] = {"method": "plain", **estimator}
    spec = parse_spec(SearchSpec, document)
    if spec.estimator.method != "plain":
        raise InvalidSpec(("estimator", "method"), "a model that is given is measured by 'plain': leave it out")
    return search_module(spec, model, example_input, report=report, device=device)


def search_document(baseline: str | Mapping[str, Any] | BaseModel, **fields: Any) -> dict[str, Any]:
    """The specification as a document, from what ``find_ensemble`` takes; nothing is validated."""
    given = _plain(baseline)
    if isinstance(baseline, str):
        document = {"baseline": {"preset": baseline}}
    else:
        document = dict(given) if "baseline" in given else {"baseline": given}
    return document | {name: _plain(value) for name, value in fields.items()}


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json", exclude_unset=True) if isinstance(value, BaseModel) else value


def presets() -> dict[str, dict[str, Any]]:
    """The named baselines: each with one line about it, its source, family, parameters and FLOPs.

    >>> from collegium import presets
    >>> presets()["resnet50"]["parameters"]
    25557032
    """
    return {row["name"]: {key: value for key, value in row.items() if key != "name"} for row in list_presets()}


def preset(name: str, input: tuple[int, ...] | None = None) -> FamilyBaseline:
    """The baseline that a preset's name stands for; one that was described prints as its table.

    ``input`` is the shape of a sample in place of its own. Raises ``InvalidSpec`` where no preset has this name, or
    where it does not take such samples.

    >>> from collegium import preset
    >>> preset("torchvision:vgg16").input
    (3, 224, 224)
    >>> preset("torchvision:vgg16", input=(3, 32, 32)).flops
    436830208
    """
    return expand_preset(PresetBaseline(preset=name, input=input))
