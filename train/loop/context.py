"""Everything a training needs before its first step: data, a way to make models, a task, a device."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from collegium.counted import counted
from collegium.search.errors import InvalidSpec
from collegium.search.networks.families.network_module import GraphNetwork
from collegium.search.networks.graph.tokens import GIVEN, PADDING
from collegium.train.data.catalog import format_of, load
from collegium.train.data.dataset import Dataset
from collegium.train.data.format import Folders, Sample
from collegium.train.errors import DoesNotFit
from collegium.train.limits import check_data_options, check_samples, check_split, check_training_cost, require_packages
from collegium.train.loop.checkpoint import Checkpoints
from collegium.train.loop.loop import Pace
from collegium.train.loop.runtime import Runtime, free_memory
from collegium.train.loop.task import Task, task_for
from collegium.train.models.build import Blueprint, blueprint, fitted
from collegium.train.models.grouping import GroupedNetwork, group_network
from collegium.train.result import Note
from collegium.train.spec.architecture import BaselineArchitecture, SearchedArchitecture, TransformerArchitecture
from collegium.train.spec.data import DataSpec
from collegium.train.spec.training import TrainingSpec

#: Fields that recipes have only had since there were checkpoints.
LATER_RECIPE_FIELDS = (
    "dropout", "mixup", "cutmix", "augment_operations", "augment_magnitude", "sharpness_every",
)  # fmt: skip

#: Options of data, likewise, each with its fields that are later than itself.
LATER_DATA_OPTIONS: dict[str, tuple[str, ...]] = {"snippets": (), "synthetic": ("labels",)}


@dataclass(frozen=True)
class TrainingRequest:
    """A training and the folders it may touch; it can be pickled and sent to another process."""

    spec: TrainingSpec
    checkpoint_dir: Path | None = None
    artifact_dir: Path | None = None
    data_dir: Path | None = None
    datasets_dir: Path | None = None
    pace: Pace = field(default_factory=Pace)


@dataclass
class TrainingContext:
    """What the phases of one training share."""

    request: TrainingRequest
    data: Dataset
    runtime: Runtime
    ensemble: GroupedNetwork | None
    blueprint: Blueprint | None
    checkpoints: Checkpoints
    notes: list[Note] = field(default_factory=list)

    @property
    def spec(self) -> TrainingSpec:
        """The specification of the training."""
        return self.request.spec

    @property
    def operations(self) -> float:
        """Floating-point operations of a step, forward and backward; infinite where they are not counted."""
        if self.ensemble is None:
            return math.inf
        recipe = self.runtime.recipe
        # Multiply–accumulates are two operations each, and the backward pass takes twice the forward pass.
        return 6 * self.ensemble.flops * -(-recipe.batch_size // recipe.accumulate)

    def model(self, seed: int) -> nn.Module:
        """A fresh plain model on the device, its weights following from ``seed``."""
        model = self._fresh(seed).to(self.runtime.device)
        return model.to(memory_format=torch.channels_last) if self.data.preprocessing.channels_last else model  # type: ignore[call-overload]

    def _fresh(self, seed: int) -> nn.Module:
        if self.blueprint is not None:
            return self.blueprint.build(seed=seed)
        from collegium.train.models.transformers import build_transformer

        architecture = self.spec.architecture
        assert isinstance(architecture, TransformerArchitecture)
        return build_transformer(architecture, self.data, seed=seed, data_dir=self.request.data_dir)

    def task(self, model: nn.Module) -> Task:
        """How ``model`` is run on a batch, with the recipe's label smoothing in the loss."""
        return task_for(self.data, model, smoothing=self.runtime.recipe.label_smoothing)


def assemble(request: TrainingRequest, fabric: Fabric) -> TrainingContext:
    """Load the data, fit the architecture to it, and make sure that the training fits the device's memory.

    Raises ``InvalidSpec`` or ``TrainingError`` before anything large is allocated.
    """
    spec = request.spec
    if isinstance(spec.architecture, SearchedArchitecture):
        raise InvalidSpec(
            ("architecture", "search"), "the search's result is not given; name the architecture as a 'baseline'"
        )
    runtime = Runtime(fabric, spec.merged_recipe())
    _check_memory(spec, runtime)
    require_packages(spec)
    check_data_options(spec.data, format_of(spec.data.name, Folders(request.data_dir, request.datasets_dir)))
    data = load(spec.data, request.data_dir, request.datasets_dir)
    check_samples(spec, Sample(data.kind, data.shape))
    check_split(spec, len(data.train), Sample(data.kind, data.shape), runtime.world)
    notes: list[Note] = []
    ensemble, plan = None, None
    if isinstance(spec.architecture, BaselineArchitecture):
        requested = group_network(spec.architecture)
        ensemble, channels = fitted(requested, data)
        plan = blueprint(ensemble, dropout=runtime.recipe.dropout)
        if ensemble.outputs != requested.outputs:
            outputs = counted(ensemble.outputs, "output")
            message = f"The head has {outputs}, for the data's classes, in place of {requested.outputs}."
            notes.append(Note(kind="head_replaced", message=message))
        notes += _of_samples(ensemble, requested, data)
        last = runtime.recipe.channels_last and data.kind == "image" and ensemble.network.convolves
        data = replace(data, preprocessing=replace(data.preprocessing, channels=channels, channels_last=last))
    checkpoints = Checkpoints(request.checkpoint_dir, fingerprint(spec))
    return TrainingContext(request, data.to(runtime.device), runtime, ensemble, plan, checkpoints, notes)


def _of_samples(ensemble: GroupedNetwork, requested: GroupedNetwork, data: Dataset) -> list[Note]:
    """What the network takes in place of what was described."""
    if data.kind == "tokens":
        return [Note(kind="tokens", message=_of_tokens(requested, data))]
    if ensemble.samples == requested.samples:
        return []
    taken, described = ("×".join(map(str, each.samples)) for each in (ensemble, requested))
    message = f"The network takes samples of {taken}, those of the data, in place of {described}."
    return [Note(kind="other_extent", message=message)]


def _of_tokens(requested: GroupedNetwork, data: Dataset) -> str:
    """What becomes of the inputs of a network of tokens, in words."""
    network = requested.network
    assert isinstance(network, GraphNetwork)
    roles = dict(zip(network.reads, network.token_roles or (), strict=True))
    ((own, _),) = (each for each in roles.items() if each[1] == "tokens")
    padding = f", followed by padding up to {own.shape[0]}" if own.shape[0] > data.shape[0] else ""
    said = [f"{own.name} has the {data.shape[0]} tokens of a sample{padding}"]
    own_padding = network.own_padding
    if own_padding:
        said.append(f"{PADDING} and {own_padding}, its own padding, are read in each other's place")
    said += [f"{each.name} is {GIVEN[role]}" for each, role in roles.items() if role != "tokens"]
    masked = {"kept", "padded"} & set(roles.values())
    if not masked:
        read = "as any token is" if own_padding is None else "as a row of the table that is not trained"
        said.append(f"padding is read {read}, since there is no mask")
    return f"{'; '.join(said)}."


def _check_memory(spec: TrainingSpec, runtime: Runtime) -> None:
    available = free_memory(runtime.device)
    cost = check_training_cost(spec, processes=runtime.world)
    if cost is not None and cost.bytes > available:
        raise DoesNotFit(
            f"training needs about {cost.bytes / 2**30:.1f} GiB of memory and the device has {available / 2**30:.1f}",
            "lower batch_size, raise accumulate, or choose a smaller network or expansion",
        )


def fingerprint(spec: TrainingSpec) -> str:
    """Identifies the training that a checkpoint belongs to; its exports and diagnostics do not enter."""
    omitted: dict[str, Any] = {"formats": True, "diagnostics": True}
    if getattr(spec.architecture, "stages", None) is None:  # as in the checkpoints from before stages could be given
        omitted["architecture"] = {"stages": True, "origin": {"choice": {"stages": True}}}
    if getattr(spec.architecture, "branches", None) is None:  # likewise
        omitted.setdefault("architecture", {})["branches"] = True
    absent = {name: True for name in LATER_RECIPE_FIELDS if getattr(spec.recipe, name) is None}
    if absent:  # as in those from before the recipe had these fields
        omitted["recipe"] = absent
    omitted["data"] = _later_options(spec.data)
    text = spec.model_dump_json(exclude=omitted)
    return hashlib.sha256(f"1:{torch.__version__}:{text}".encode()).hexdigest()


def _later_options(data: DataSpec) -> dict[str, Any]:
    """Options that data have only had since there were checkpoints, where they are the defaults."""
    found: dict[str, Any] = {}
    for name, fields in LATER_DATA_OPTIONS.items():
        given = getattr(data, name)
        default = type(given)()
        if not fields and given == default:
            found[name] = True
        own = {field: True for field in fields if getattr(given, field) == getattr(default, field)}
        if own:
            found[name] = own
    return found
