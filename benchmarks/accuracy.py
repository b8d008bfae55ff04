"""Does a smoother kernel show in accuracy? Groupings of one baseline trained alike on Fashion-MNIST, paired by seed.

    python benchmarks/accuracy.py resnext --data FOLDER --output benchmarks/records/accuracy-resnext.json
    python benchmarks/accuracy.py mlp --data FOLDER --output benchmarks/records/accuracy-mlp.json

FOLDER holds the four IDX files of Fashion-MNIST (Debian's package dataset-fashion-mnist). Every network has the same
epochs and schedule; its learning rate is chosen from one grid on validation images, with seeds of their own. A seed
draws the training images, their order and the initialization, alike for all networks, so that differences to the
baseline are paired. Each training is written to the output as it ends, and one that is there is not repeated.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from collegium.search.networks.build import build_network
from collegium.search.networks.families.mlp import MlpBaseline
from collegium.search.networks.network import Network, StageGrouping
from collegium.search.reproduce.network_families import small_resnext
from collegium.search.whole_network.candidate import Candidate

#: First of the seeds by which rates are chosen.
TUNING_SEED = 1000


@dataclass(frozen=True)
class Setting:
    """A baseline, its groupings, and how all of them are trained."""

    candidates: tuple[Candidate, ...]
    rates: tuple[float, ...]
    epochs: int
    batch: int
    images: int
    halved: bool
    adam: bool
    tuning_seeds: int


def resnext() -> Setting:
    """The small ResNeXt with batch norm: primal, both duals, and a thinner network."""
    network = small_resnext().with_outputs(10)
    own = ((4, 11), (7, 11), (8, 19))
    return Setting(
        candidates=(
            Candidate("baseline 1×32d", network, (32, 32), 1),
            Candidate("primal 9×8d", network, (8, 8), 9),
            Candidate("dual 5×8d", network, (8, 8), 5),
            _staged("own stages' dual 11×4, 11×7, 19×8", network, own),
            Candidate("thinner 1×20d", network, (20, 20), 1),
        ),
        rates=(0.1, 0.2, 0.4, 0.8, 1.6),
        epochs=12,
        batch=64,
        images=4000,
        halved=True,
        adam=False,
        tuning_seeds=1,
    )


def mlp() -> Setting:
    """784→[100]*5→10 without norms: primal, dual, and a thinner network of the dual's size."""
    network = build_network(MlpBaseline(family="mlp", inputs=784, hidden=(100,) * 5, outputs=10))
    return Setting(
        candidates=(
            Candidate("baseline 1×100", network, (100,) * 5, 1),
            Candidate("primal 3×42", network, (42,) * 5, 3),
            Candidate("dual 2×53", network, (53,) * 5, 2),
            Candidate("thinner 1×85", network, (85,) * 5, 1),
        ),
        rates=(5e-4, 1e-3, 2e-3, 4e-3),
        epochs=30,
        batch=64,
        images=5000,
        halved=False,
        adam=True,
        tuning_seeds=2,
    )


def _staged(name: str, network: Network, stages: tuple[tuple[int, int], ...]) -> Candidate:
    groupings = tuple(StageGrouping((width, width), m) for width, m in stages)
    return Candidate(name, network, groupings[0].widths, groupings[0].multiplicity, groupings)


SETTINGS = {"resnext": resnext, "mlp": mlp}


def images_of(folder: Path, part: str, halved: bool) -> tuple[Tensor, Tensor]:
    """Images scaled to mean 0 and variance 1, ``(n, 1, height, width)``, halved to 14 × 14 by averaging, and labels."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        raw = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    images = (torch.from_numpy(raw.copy()).float() / 255 - 0.286) / 0.353
    return (functional.avg_pool2d(images, 2) if halved else images), torch.from_numpy(labels.copy()).long()


def train(candidate: Candidate, setting: Setting, rate: float, seed: int, data: Data, *, tuning: bool) -> float:
    """Errors in percent after a training: on the test images, or, ``tuning``, on as many held-out training images."""
    order = np.random.default_rng(seed).permutation(len(data.train))
    chosen, held_out = torch.from_numpy(order[: setting.images]), torch.from_numpy(order[setting.images :][:5000])
    torch.manual_seed(seed)
    model = candidate.build()
    steps = setting.epochs * math.ceil(setting.images / setting.batch)
    if setting.adam:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), rate)
    else:
        optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    shuffle = torch.Generator().manual_seed(seed)
    for _ in range(setting.epochs):
        for batch in chosen[torch.randperm(len(chosen), generator=shuffle)].split(setting.batch):
            loss = functional.cross_entropy(model(data.train[batch]), data.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    if tuning:
        return errors(model, data.train[held_out], data.labels[held_out])
    return errors(model, data.test, data.test_labels)


def errors(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images that are classified wrongly, in percent."""
    model.eval()
    with torch.no_grad():
        wrong = sum(
            (model(part).argmax(1) != truth).sum().item()
            for part, truth in zip(images.split(1000), labels.split(1000), strict=True)
        )
    return 100 * wrong / len(labels)


class Data:
    """Training and test images; grey ones repeated to the channels that the network takes."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        channels = setting.candidates[0].network.repeated_channels((1, 14, 14) if setting.halved else (1, 28, 28))
        self.train, self.labels = images_of(folder, "train", setting.halved)
        self.test, self.test_labels = images_of(folder, "t10k", setting.halved)
        if channels is not None:
            self.train = self.train.expand(-1, channels, -1, -1)
            self.test = self.test.expand(-1, channels, -1, -1)


@dataclass(frozen=True)
class Training:
    """One training: a setting's network by its place, a rate, a seed, and whether it serves the choice of the rate."""

    setting: str
    place: int
    rate: float
    seed: int
    tuning: bool

    @property
    def key(self) -> str:
        """Under which its errors are recorded."""
        name = SETTINGS[self.setting]().candidates[self.place].name
        return f"{name}{' tuning' if self.tuning else ''} rate {self.rate:g} seed {self.seed}"


def run(training: Training, folder: Path) -> float:
    """Errors in percent, in a process of its own and on one thread."""
    torch.set_num_threads(1)
    setting = SETTINGS[training.setting]()
    return train(
        setting.candidates[training.place],
        setting,
        training.rate,
        training.seed,
        Data(folder, setting),
        tuning=training.tuning,
    )


class Records:
    """Trainings that have ended, by what determines them, in a JSON file."""

    def __init__(self, path: Path, folder: Path, workers: int) -> None:
        self.path, self.folder, self.workers = path, folder, workers
        self.found: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    def complete(self, trainings: list[Training]) -> None:
        """Run those that are not recorded, as many at a time as there are workers; each is written as it ends."""
        missing = [one for one in trainings if one.key not in self.found]
        with ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn")) as pool:
            running = {pool.submit(run, one, self.folder): one for one in missing}
            for ended in as_completed(running):
                key = running[ended].key
                self.found[key] = ended.result()
                self.path.write_text(json.dumps(dict(sorted(self.found.items())), indent=1, ensure_ascii=False))
                print(f"{key}: {self.found[key]:.2f} %", flush=True)


def main() -> None:
    """Tune, train and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=sorted(SETTINGS))
    parser.add_argument("--data", type=Path, required=True, help="folder of the IDX files")
    parser.add_argument("--seeds", type=int, default=8, help="trainings of each network that are compared")
    parser.add_argument("--workers", type=int, default=1, help="trainings at a time, each on one thread")
    parser.add_argument("--output", type=Path, required=True, help="JSON file of all trainings")
    given = parser.parse_args()
    setting = SETTINGS[given.setting]()
    places = range(len(setting.candidates))
    records = Records(given.output, given.data, given.workers)
    seeds = range(TUNING_SEED, TUNING_SEED + setting.tuning_seeds)
    tuning = {
        (place, rate): [Training(given.setting, place, rate, seed, tuning=True) for seed in seeds]
        for place in places
        for rate in setting.rates
    }
    records.complete([one for trainings in tuning.values() for one in trainings])
    tuned = {at: statistics.mean(records.found[one.key] for one in group) for at, group in tuning.items()}
    rates = [min(setting.rates, key=lambda rate, place=place: tuned[place, rate]) for place in places]
    compared = [[Training(given.setting, place, rates[place], seed, tuning=False) for seed in range(given.seeds)]
                for place in places]  # fmt: skip
    records.complete([one for group in zip(*compared, strict=True) for one in group])
    print(table(setting, rates, [[records.found[one.key] for one in group] for group in compared]))


def table(setting: Setting, rates: list[float], compared: list[list[float]]) -> str:
    """Errors with standard errors, and paired differences to the first network, as Markdown."""
    base = compared[0]
    lines = ["| network | parameters | rate | errors, % | paired difference |", "|---|---|---|---|---|"]
    for one, rate, values in zip(setting.candidates, rates, compared, strict=True):
        gaps = [value - other for value, other in zip(values, base, strict=True)]
        difference = "" if values is base else f"{statistics.mean(gaps):+.2f} ± {_error(gaps):.2f}"
        lines.append(
            f"| {one.name} | {one.parameters:,} | {rate:g} "
            f"| {statistics.mean(values):.2f} ± {_error(values):.2f} | {difference} |"
        )
    return "\n".join(lines)


def _error(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


if __name__ == "__main__":
    main()
