"""Small trainings that take a fraction of a second."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from collegium.train.engine import run
from collegium.train.spec.training import TrainingSpec

# torch.compile starts processes that import torch, to compile beside each other the little that is compiled here.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

MLP = {"baseline": {"family": "mlp", "inputs": 64, "hidden": [24, 24], "outputs": 10}, "width": 8, "multiplicity": 3}


@pytest.fixture(scope="session")
def digits_spec():
    """A function of recipe and other fields to a training of a small ensemble on digits."""

    def make(recipe=None, **fields):
        fields = {"architecture": MLP, "data": {"name": "digits", "validation": 0.2}, **fields}
        return TrainingSpec.model_validate({**fields, "recipe": {"epochs": 2, "batch_size": 128, **(recipe or {})}})

    return make


@pytest.fixture
def train_and_kill():
    """A function of a specification, a folder and a number to what a training reports until it is killed there.

    It reports after each step, in a process of its own with one thread, and keeps a checkpoint of each.
    """
    code = (
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(1)\n"
        "from collegium.train.engine import run; from collegium.train.loop.loop import Pace; "
        "from collegium.train.spec.training import TrainingSpec\n"
        "run(TrainingSpec.model_validate_json(sys.argv[1]), checkpoint_dir=Path(sys.argv[2]), pace=Pace(0, 0),\n"
        "    report=lambda fraction, _: print(fraction, flush=True))"
    )

    def train(spec, folder, reports):
        command = [sys.executable, "-c", code, spec.model_dump_json(), str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            fractions = [float(process.stdout.readline()) for _ in range(reports)]
            process.kill()
        assert 0 < fractions[-1] < 1
        return fractions

    return train


@pytest.fixture
def killed_and_whole(train_and_kill, one_thread, tmp_path):
    """A function of a specification to the weights of a training that was killed and went on, and of a whole one."""

    def train(spec, reports):
        fractions, reported = train_and_kill(spec, tmp_path / "checkpoints", reports), []
        run(
            spec,
            checkpoint_dir=tmp_path / "checkpoints",
            artifact_dir=tmp_path / "resumed",
            report=lambda fraction, _: reported.append(fraction),
        )
        run(spec, artifact_dir=tmp_path / "whole")
        assert reported[0] >= fractions[-2]
        return tuple(load_file(tmp_path / name / "model.safetensors") for name in ("resumed", "whole"))

    return train


@pytest.fixture
def one_thread():
    """torch on one thread, as the process that ``train_and_kill`` starts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def cifar10(tmp_path):
    """A data folder with thirty training and six test images in CIFAR-10's binary format."""
    folder = tmp_path / "data" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in (*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"):
        rows = generator.integers(0, 256, (6, 1 + 3 * 32 * 32), dtype=np.uint8)
        rows[:, 0] %= 10
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return folder.parent


@pytest.fixture(scope="session")
def plain_torch():
    """A process that runs the ``load.py`` of exported folders without this project: see ``load_exported.py``."""
    command = [sys.executable, "-I", str(Path(__file__).parent / "load_exported.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def load_and_evaluate(plain_torch):
    """A function of an exported folder to what its ``load.py`` prints."""

    def evaluate(folder):
        print(folder, file=plain_torch.stdin, flush=True)
        answer = json.loads(plain_torch.stdout.readline())
        assert answer["status"] == 0, answer
        return json.loads(answer["printed"])

    return evaluate
