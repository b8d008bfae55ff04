"""``collegium reproduce`` by training: the experiments of both papers that fit a small machine, with published values.

``python -m collegium.train.reproduce figure4 --data digits`` prints a table, and writes it as Markdown and JSON, with
a plot.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from collegium.search.reproduce.reproduction import Reproduction
from collegium.streams import reason, writable
from collegium.train.data.catalog import missing_files
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
ALIASES = {"label-noise": "noise", "table2": "t5"}

#: Inputs of the data sets that fully connected networks are trained on.
INPUTS = {"digits": 64, "synthetic": 16, "mnist": 784, "fashion-mnist": 784, "cifar10": 3072, "cifar100": 3072}


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
        """Run a study here, ``processes`` trainings at a time; progress goes to standard error."""
        pool_options = PoolOptions(self.device, data_dir or self.data_dir)
        progress = _Progress(spec.title)
        with Pool(self.processes, pool_options) as pool:
            return StudyResult.model_validate(run(spec, fan_out=pool, report=progress))


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
        "--data-dir", type=Path, default=os.environ.get("COLLEGIUM_DATA_DIR"), help="folder of published data sets"
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1, help="trainings at a time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--effort", type=float, default=1.0, help="below 1: shorter sweeps and trainings")
    parser.add_argument("--output", type=Path, default=Path("reproduced"), help="folder for the table and the plot")
    given = parser.parse_args(words)
    if given.data not in INPUTS:
        parser.error(f"argument --data: these experiments run on {', '.join(INPUTS)}, not on {given.data!r}")
    missing = " or ".join(missing_files(given.data, given.data_dir))
    if missing:
        folder = given.data_dir or "no folder"
        parser.error(f"argument --data-dir: {given.data} is not in {folder}: put {missing} there")
    options = Options(
        given.data, given.seeds, given.processes, given.effort, given.device, given.data_dir, given.output
    )
    try:
        writable(given.output)
    except OSError as error:
        parser.error(f"argument --output: {reason(error)}")
    found = reproduce(given.name, options)
    print(found.text(), flush=True)
    write(found, given.output / f"{found.name}-{given.data}")
    return 0


def write(found: Reproduction, path: Path) -> None:
    """``path`` with the endings ``.md``, ``.json`` and ``.svg``."""
    path.with_suffix(".md").write_text(found.markdown() + "\n", encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(found.data(), indent=1), encoding="utf-8")
    path.with_suffix(".svg").write_bytes(found.plot("svg"))
