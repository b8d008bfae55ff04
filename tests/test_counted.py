"""Nouns agree with their numbers in what users read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from collegium.app.cli.tables.costs import heading
from collegium.app.cli.tables.jobs import job_name
from collegium.counted import counted
from collegium.search.describe.describe import describe
from collegium.search.errors import SampleMismatch
from collegium.search.networks.build import build_network
from collegium.search.networks.families.mlp import MlpBaseline
from collegium.train.data.formats.image_folder import list_images
from collegium.train.errors import DataError

ROOT = Path(__file__).parents[1]
#: A number written into a text directly before a plural, which may be one of a thing.
WRITTEN = re.compile(
    r"\{len\([^{}]*\)\} (?:API keys|architectures|classes|entries|ensembles|free widths|images|jobs|modules|parameters|"
    r"samples|stages|trainings|widths)\b"
)


def test_one_is_singular() -> None:
    assert [counted(count, "thread") for count in (0, 1, 2)] == ["0 threads", "1 thread", "2 threads"]


def test_tables_of_the_command_line_count_in_words_that_agree() -> None:
    costs = {"rows": [1], "workload": "1 sample", "machine": "cpu", "threads": 1, "measured": 1, "reused": 0}
    assert heading(costs) == "1 ensemble, 1 sample, on cpu, 1 thread; 1 part timed, 0 reused"
    assert job_name({"kind": "study", "spec": {"architectures": [{}]}}) == "1 architecture"
    assert job_name({"kind": "study", "spec": {"title": 200 * "t"}}) == 80 * "t"


@pytest.mark.parametrize(
    ("baseline", "name"),
    [
        ({"preset": "resnet50"}, "resnet50"),
        ({"family": "network", "name": "my net"}, "my net"),
        ({"family": "network", "name": "n" * 200}, "n" * 80),
        ({"family": "mlp"}, "mlp"),
        ({}, ""),
    ],
)
def test_a_job_is_named_as_its_network(baseline: dict[str, str], name: str) -> None:
    assert job_name({"kind": "search", "spec": {"baseline": baseline}}) == name
    assert job_name({"kind": "training", "spec": {"architecture": {"baseline": baseline}}}) == f" {name} "


def test_descriptions_and_refusals_count_in_words_that_agree(tmp_path: Path) -> None:
    printed = str(describe(nn.Sequential(nn.Linear(1, 1, bias=False)), torch.zeros(1, 1), name="one"))
    assert printed.splitlines()[0] == "one: 1 parameter, 1 FLOP for one sample of 1, 1 output"
    network = build_network(MlpBaseline(family="mlp", inputs=2, hidden=(4, 4), outputs=1))
    with pytest.raises(SampleMismatch, match="has 1 input and the network takes 2"):
        network.repeated_channels((1,))
    for folder in ("train/cats", "val/cats"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DataError, match="has 1 class"):
        list_images(tmp_path)


def test_no_text_writes_a_length_before_a_plural() -> None:
    files = [path for folder in ("app", "search", "train", "worker", "jobs") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 200
    found = [(path.name, text) for path in files for text in WRITTEN.findall(path.read_text(encoding="utf-8"))]
    assert found == []
