"""``collegium reproduce`` by training: the experiments of both papers that fit a small machine, with published values.

``python -m collegium.train.reproduce figure4 --data digits`` prints a table, and writes it as Markdown and JSON, with
a plot.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from collegium.arguments import count, positive
from collegium.counted import counted
from collegium.search.reproduce.reproduction import Reproduction
from collegium.streams import reason, writable
from collegium.train.data.catalog import DEBIAN, missing_files, usual_folders
from collegium.train.loop.runtime import DeviceLayout
from collegium.train.result import StudyResult
from collegium.train.spec.study import StudySpec
from collegium.train.study.pool import Pool, PoolOptions
from collegium.train.study.study import run

#: Name → (module, one line about it).
EXPERIMENTS = {
    "figure4": (
        "collegium.train.reproduce.figure4",
        "Littwin et al. 2020, Figure 4: test error follows the kernel's variance",
    ),
    "table5": ("collegium.train.reproduce.table5", "Mazzawi et al. 2024, Table 5: methods on fully connected networks"),
    "noise": (
        "collegium.train.reproduce.noise",
        "majority kernels and vanilla training on clean and noisy labels, tuned alike",
    ),
    "t5": ("collegium.train.reproduce.t5", "Mazzawi et al. 2024, Table 2, in small: fine-tuning T5 on synthetic text"),
}
#: Names with options of their own → the module of their command.
COMMANDS = {"majority": "collegium.train.reproduce.majority.command"}
ALIASES = {"label-noise": "noise"}

#: Inputs of the data sets that fully connected networks are trained on.
INPUTS = {"digits": 64, "synthetic": 16, "mnist": 784, "fashion-mnist": 784, "cifar10": 3072, "cifar100": 3072}


class NoResult(Exception):
    """Nothing of a row of the table could be trained: there is nothing to compare."""


@dataclass(frozen=True)
class Options:
    """Options of an experiment: the data, the number of seeds, and where to train.

    ``effort`` below 1 shortens sweeps and trainings, for a quick run of the whole experiment.
    """

    data: str = "digits"
    seeds: int = 10
    processes: int = 1
    effort: float = 1.0
    device: str = "cpu"
    data_dir: Path | None = None
    folder: Path | None = None

    def epochs(self, count: int) -> int:
        """``count`` epochs, fewer with less effort."""
        return max(1, round(count * self.effort))

    @property
    def inputs(self) -> int:
        """Features of one sample. Raises ``ValueError`` for data that these experiments are not made for."""
        if self.data not in INPUTS:
            raise ValueError(f"this experiment runs on {', '.join(INPUTS)}, not on {self.data!r}")
        return INPUTS[self.data]

    def study(self, spec: StudySpec, *, data_dir: Path | None = None) -> StudyResult:
        """Run a study here, ``processes`` trainings at a time; progress and what was lost go to standard error.

        Raises ``NoResult`` where all trainings of one row failed.
        """
        pool_options = PoolOptions(self.device, data_dir or self.data_dir)
        progress = _Progress(spec.title)
        with Pool(self.processes, pool_options) as pool:
            result = StudyResult.model_validate(run(spec, fan_out=pool, report=progress))
        for note in result.notes:
            print(f"{spec.title}: {note.message}", file=sys.stderr, flush=True)
        for cell in result.cells:
            if not cell.succeeded:
                failures = [each.failure for each in (*cell.runs, *(each for at in cell.sweep for each in at.runs))]
                why = next((each for each in failures if each), "nothing was trained")
                raise NoResult(f"{cell.architecture} / {cell.method} / {cell.recipe} has no training that ended: {why}")
        return result


class _Progress:
    def __init__(self, title: str) -> None:
        self._title, self._started = title, time.monotonic()

    def __call__(self, fraction: float, message: str) -> None:
        passed = time.monotonic() - self._started
        left = f", {passed / fraction * (1 - fraction):.0f} s left" if fraction > 0.02 else ""
        print(f"{self._title}: {message}{left}", file=sys.stderr, flush=True)


def reproduce(name: str, options: Options) -> Reproduction:
    """Run an experiment. Raises ``KeyError`` for an unknown name."""
    module, _ = EXPERIMENTS[ALIASES.get(name, name)]
    experiment: Callable[[Options], Reproduction] = import_module(module).experiment
    return experiment(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one experiment from the command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in COMMANDS:
        return import_module(COMMANDS[words[0]]).main(words[1:])
    parser = argparse.ArgumentParser(prog="collegium reproduce", description=__doc__)
    about = "; ".join(f"{name}: {line}" for name, (_, line) in EXPERIMENTS.items())
    about += f"; with options of their own (NAME --help): {', '.join(COMMANDS)}"
    parser.add_argument("name", choices=[*EXPERIMENTS, *ALIASES], help=about)
    parser.add_argument("--data", default="digits", help="data set to train on")
    parser.add_argument(
        "--data-dir", type=Path, help=f"folder of published data sets; else that of COLLEGIUM_DATA_DIR, else {DEBIAN}"
    )
    parser.add_argument("--seeds", type=count, default=10)
    parser.add_argument("--processes", type=count, default=1, help="trainings at a time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--effort", type=positive, default=1.0, help="below 1: shorter sweeps and trainings")
    parser.add_argument("--output", type=Path, default=Path("reproduced"), help="folder for the table and the plot")
    given = parser.parse_args(words)
    if given.data not in INPUTS:
        parser.error(f"argument --data: these experiments run on {', '.join(INPUTS)}, not on {given.data!r}")
    folders = usual_folders(given.data_dir)
    data_dir = next((folder for folder in folders if not missing_files(given.data, folder)), None)
    if data_dir is None:
        missing = " or ".join(missing_files(given.data, None))
        where = " or ".join(map(str, folders))
        parser.error(f"argument --data-dir: {given.data} is not in {where}: put {missing} there")
    if problem := _device_problem(given.device):
        parser.error(f"argument --device: {problem}")
    options = Options(given.data, given.seeds, given.processes, given.effort, given.device, data_dir, given.output)
    try:
        writable(given.output)
    except OSError as error:
        parser.error(f"argument --output: {reason(error)}")
    try:
        found = reproduce(given.name, options)
    except NoResult as error:
        print(f"error {error}", file=sys.stderr)
        return 1
    print(found.text(), flush=True)
    write(found, given.output / f"{found.name}-{given.data}")
    return 0


def _device_problem(device: str) -> str | None:
    """What is wrong with it, before anything is trained."""
    from torch import cuda

    try:
        layout = DeviceLayout.parse(device)
    except ValueError as error:
        return str(error)
    devices = layout.devices if isinstance(layout.devices, list) else []
    missing = [index for index in devices if index >= cuda.device_count()]
    return f"torch finds {counted(cuda.device_count(), 'GPU')} here, and no cuda:{missing[0]}" if missing else None


def write(found: Reproduction, path: Path) -> None:
    """``path`` with the endings ``.md``, ``.json`` and ``.svg``."""
    path.with_suffix(".md").write_text(found.markdown() + "\n", encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(found.data(), indent=1), encoding="utf-8")
    path.with_suffix(".svg").write_bytes(found.plot("svg"))
