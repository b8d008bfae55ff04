"""The examples: short, linked from the README, and each runs as a user would run it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(name: str, folder: Path, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_linked(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 40
    assert f"examples/{path.name}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_an_mlp_is_split(tmp_path: Path) -> None:
    printed = run("search_mlp", tmp_path)
    assert re.search(r"primal +8 × 42 +[0-9,]+ parameters, variance × 0\.69", printed)
    assert "vector" in printed
    assert re.search(r"GELU +\d+ × \d+, n\* from \d+ to \d+", printed)


def test_a_resnet_is_split_by_flops(tmp_path: Path) -> None:
    printed = run("search_resnet", tmp_path)
    assert "11×10 has at most 67 %" in printed
    assert printed.rstrip().endswith("agree: True")


def test_a_module_of_ones_own_is_described_searched_and_regrouped(tmp_path: Path) -> None:
    printed = run("own_module", tmp_path)
    assert re.search(r"split +1 +6 +1×1 3×3 1×1 +128→64→64→128", printed)
    parameters = int(re.search(r"([\d,]+) parameters before, ([\d,]+) now", printed)[2].replace(",", ""))
    before = (3 * 9 + 1) * 128 + 6 * (2 * 128 * 64 + 9 * 64**2 + 4 * 64 + 128) + 1290
    assert 0.95 * before < parameters < 1.025 * before
    assert printed.rstrip().endswith("torch.Size([2, 10])")


def test_majority_kernels_train_in_a_loop_of_ones_own(tmp_path: Path) -> None:
    printed = run("majority_kernels", tmp_path)
    parameters, accuracy = re.search(r"([\d,]+) parameters, test accuracy (0\.\d+)", printed).groups()
    assert parameters == "7,510"
    assert float(accuracy) > 0.9


@pytest.mark.slow
def test_a_service_searches_trains_and_hands_over_the_checkpoint(tmp_path: Path, service_url: str) -> None:
    printed = run("http_client", tmp_path, service_url)
    assert float(re.search(r"test accuracy (0\.\d+)", printed)[1]) > 0.5
    assert {"load.py", "model.safetensors"} <= {path.name for path in (tmp_path / "checkpoint").iterdir()}


@pytest.mark.slow
def test_a_study_compares_the_ensemble_with_its_baseline(tmp_path: Path) -> None:
    rows = [line.split() for line in run("study", tmp_path).splitlines()]
    assert [tuple(row[:2]) for row in rows] == [
        ("baseline", "vanilla"), ("baseline", "majority"), ("primal", "vanilla"), ("primal", "majority"),
    ]  # fmt: skip
    assert all(float(row[2]) > 0.3 for row in rows)
    assert (tmp_path / "study").is_dir()


@pytest.mark.slow
def test_the_notebook_on_networks_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((ROOT / "examples" / "own_networks.ipynb").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {"__name__": "notebook"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), found)
    assert found["vit_answer"].outcome.kind == "nothing_to_gain"
    assert found["resnet_answer"].primal.label == "12×10"
    library = "transformers" if found["resnet50"] is None else "torchvision"
    assert type(found["split_resnet"]).__module__.startswith(library)
    for name in ("unet", "resnet", "audio"):
        answer = found[f"{name}_answer"]
        wanted = answer.dual if name == "audio" else answer.primal
        counted = sum(parameter.numel() for parameter in found[f"split_{name}"].parameters())
        assert counted == wanted.parameters
    assert found["split_unet"](found["images"]).shape == found["unet"](found["images"]).shape
