"""Modules by name, and the command that describes them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from collegium.search.describe import sources
from collegium.search.describe.command import main
from collegium.search.describe.sources import Sample, SourceError, load
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.parse import parse_spec

FACTORY = """
import torch
from torch import nn

def make():
    steps = [float(step) for step in torch.linspace(0, 1, 2)]  # computes with numbers while it is built
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))

network = make()
nothing = 3

def boom():
    raise RuntimeError("oops\\nand more")

def silent():
    raise LookupError

def needy(width):
    return network

def chatty():
    print("made")

    class Chatty(nn.Sequential):
        def forward(self, x):
            print("run")
            return super().forward(x)

    return Chatty(nn.Linear(3, 4))

print("imported")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, with a module of her own in it."""
    (tmp_path / "my_networks.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    return tmp_path


def test_a_factory_of_the_users_own_becomes_a_specification(folder: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["my_networks:make", "--input", "3x16x16", "--to", "spec.json"]
    assert main([*arguments, "--name", "mine"]) == 0
    assert "1 place can be split" in capsys.readouterr().out
    document = json.loads((folder / "spec.json").read_text())
    baseline = parse_spec(NetworkBaseline, document["baseline"])
    assert (baseline.name, baseline.input, baseline.parameters) == ("mine", (3, 16, 16), 224 + 584 + 292)
    assert main([*arguments, "--name", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == document


def test_a_module_itself_is_taken_too(folder: Path):
    sys.path.append(str(folder))
    model, example = load("my_networks:network", Sample((3, 16, 16)))
    assert isinstance(model, nn.Sequential)
    assert example.shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["my_networks"], 2, "give one of torchvision:NAME"),
        (["my_networks:none", "--input", "3"], 2, "my_networks has no 'none'"),
        (["my_networks:nothing", "--input", "3"], 2, "neither an nn.Module nor a function"),
        (["my_networks:make"], 2, "--input 3x224x224"),
        (["my_networks:boom", "--input", "3"], 2, "error my_networks:boom raised RuntimeError: oops\n"),
        (["my_networks:silent", "--input", "3"], 2, "error my_networks:silent raised LookupError\n"),
        (["my_networks:needy", "--input", "3"], 2, "my_networks:needy raised TypeError: needy() missing 1 required"),
        (["no_such_package:make", "--input", "3"], 2, "there is no module 'no_such_package'"),
        (["my_networks:make", "--input", "3x16x16", "--to", "no/such/folder.json"], 2, "--to no/such/folder.json"),
        (["my_networks:make", "--input", "3x1x1"], 1, "module '0'"),
        (["transformers:./no-such-folder"], 2, "there is no folder ./no-such-folder"),
    ],
)
def test_what_is_wrong_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, words: str
):
    assert main(arguments) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err


def test_an_error_of_the_users_code_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["my_networks:boom", "--input", "3"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_what_the_users_code_prints_is_not_part_of_the_document(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["my_networks:chatty", "--input", "3", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["baseline"]["input"] == [3]
    assert all(word in captured.err.split() for word in ("imported", "made", "run"))


def test_a_wrong_size_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main(["my_networks:make", "--input", "3x-1"])
    assert stopped.value.code == 2
    assert "give whole numbers" in capsys.readouterr().err


class Zoo(ModuleType):
    """The names that torchvision and timm share with this test."""

    def list_models(self) -> list[str]:
        return ["tiny"]

    def is_model(self, name: str) -> bool:
        return name == "tiny"

    def get_model(self, name: str, weights: Any) -> nn.Module:
        assert weights is None
        return nn.Sequential(nn.Conv2d(3, 2, 7, 2), nn.Flatten(), nn.Linear(2 * 109**2, 4))

    def create_model(self, name: str, pretrained: bool) -> nn.Module:
        assert not pretrained
        model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1))
        model.default_cfg = {"input_size": (3, 160, 160)}  # pyright: ignore
        return model


def test_models_of_libraries_have_their_usual_input_and_no_memory_where_they_are_large(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(sources, "MOST_NUMBERS", 100)
    zoo = Zoo("zoo")
    for name in ("torchvision", "torchvision.models", "timm"):
        monkeypatch.setitem(sys.modules, name, zoo)
    model, example = load("torchvision:tiny", Sample())
    assert next(model.parameters()).is_meta
    assert example.shape == (1, 3, 224, 224)
    small, example = load("timm:tiny", Sample())
    assert not next(small.parameters()).is_meta
    assert example.shape == (1, 3, 160, 160)
    assert load("timm:tiny", Sample((3, 64, 64)))[1].shape == (1, 3, 64, 64)
    for kind in ("torchvision", "timm"):
        with pytest.raises(SourceError, match=rf"{kind} has no model 'none'.*list_models"):
            load(f"{kind}:none", Sample())


def narrow() -> nn.Module:
    """A network whose weights start in a way of their own, with a buffer that its code reads."""

    class Shifted(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Flatten(), nn.Linear(12, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 9))
            self.register_buffer("shift", torch.arange(12.0), persistent=False)
            for layer in (self[1], self[3], self[5]):
                nn.init.normal_(layer.weight, std=0.02)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x + self.shift)

    return Shifted()


def test_laws_and_buffers_are_those_of_the_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Built without memory, weights had the law of PyTorch's layers, and a module with buffers had no graph."""
    own = ModuleType("own_networks")
    own.narrow = narrow  # pyright: ignore
    monkeypatch.setitem(sys.modules, "own_networks", own)
    before = torch.get_rng_state()
    assert main(["own_networks:narrow", "--input", "12", "--json"]) == 0
    assert torch.equal(torch.get_rng_state(), before)
    graph = json.loads(capsys.readouterr().out)["baseline"]["graph"]
    laws = [layer["weight"] for layer in graph["layers"] if layer["kind"] == "linear"]
    assert [law["kind"] for law in laws] == ["normal"] * 3
    assert [law["value"] for law in laws] == pytest.approx([0.02] * 3, rel=0.2)
    assert [layer for layer in graph["layers"] if layer["kind"] == "constant"]


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SourceError, match="pip install timm"):
        load("timm:resnet50", Sample())


@pytest.mark.slow
def test_configurations_of_transformers(tmp_path: Path):
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    vision = transformers.ViTConfig(**sizes, image_size=32, architectures=["ViTForImageClassification"])
    text = transformers.T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=50)
    vision.save_pretrained(tmp_path / "vision")
    text.save_pretrained(tmp_path / "text")
    model, example = load(f"transformers:{tmp_path / 'vision'}", Sample())
    assert type(model).__name__ == "ViTForImageClassification"
    assert example["pixel_values"].shape == (1, 3, 32, 32)
    model, example = load(f"transformers:{tmp_path / 'text'}", Sample(tokens=7))
    assert {name: tuple(ids.shape) for name, ids in example.items()} == {
        "input_ids": (1, 7),
        "decoder_input_ids": (1, 7),
    }
    assert main([f"transformers:{tmp_path / 'text'}", "--tokens", "7"]) == 0
    assert torch.get_default_device() == torch.device("cpu")
