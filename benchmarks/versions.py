"""One training step of majority kernels by several checkouts of collegium, on a machine whose speed changes.

    python benchmarks/versions.py [--seconds N] [--threads N] [--hidden N …] CHECKOUT CHECKOUT …

Each checkout has a process of its own. They take turns of eight steps of plain training and eight of majority kernels
(e = 3, fused Adam, batch 256), after one of each that is not counted, so that all see the same machine within a tenth
of a second; the median of a turn counts. Printed are medians over the turns: both times, their ratio, what majority
kernels add, and by how much that differs from what they add in the first checkout in the same turn. Naming a checkout
twice shows the noise. ``git worktree add FOLDER COMMIT`` makes one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

STEPS, LEFT_OUT = 8, 3


def compare(checkouts: list[Path], seconds: float, threads: int, hidden: list[int]) -> None:
    """Print a line for each checkout."""
    command = [sys.executable, __file__, "--worker", "--threads", str(threads), "--hidden", *map(str, hidden), "--"]
    workers = [
        subprocess.Popen(
            [*command, str(checkout)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(checkout)},
        )
        for checkout in checkouts
    ]
    turns: list[list[list[float]]] = [[] for _ in workers]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline or len(turns[-1]) <= LEFT_OUT:
        for own, worker in zip(turns, workers, strict=True):
            assert worker.stdin is not None
            assert worker.stdout is not None
            try:
                print("go", file=worker.stdin, flush=True)
            except BrokenPipeError:  # it says why on its standard error
                sys.exit(1)
            answer = worker.stdout.readline()
            if not answer:
                sys.exit(1)
            own.append(json.loads(answer))
    for worker in workers:
        worker.communicate()
    first = [majority - plain for plain, majority in turns[0][LEFT_OUT:]]
    print(f"{'':32}{'plain':>9}{'majority':>10}{'ratio':>9}{'added':>10}{'to the first':>14}")
    for checkout, own in zip(checkouts, turns, strict=True):
        plain, majority = zip(*own[LEFT_OUT:], strict=True)
        added = [b - a for a, b in zip(plain, majority, strict=True)]
        ratio = median(100 * (b / a - 1) for a, b in zip(plain, majority, strict=True))
        beside = median(a - b for a, b in zip(added, first, strict=True))
        print(
            f"{str(checkout)[-31:]:32}{1e3 * median(plain):7.2f}ms{1e3 * median(majority):8.2f}ms{ratio:+8.1f}%"
            f"{1e3 * median(added):8.2f}ms{1e3 * beside:+12.2f}ms"
        )
    print(f"turns: {len(first)}")


def work(checkout: Path, threads: int, hidden: list[int]) -> None:
    """Take a turn for each line that comes in."""
    import torch
    from torch import nn

    import collegium
    from collegium import expand, fuse

    assert Path(str(collegium.__file__)).is_relative_to(checkout), f"{checkout} is no checkout of collegium"
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x, y = torch.randn(256, 3072), torch.randint(10, (256,))

    def stepper(*, majority: bool) -> Callable[[], None]:
        layers = [layer for a, b in pairwise([3072, *hidden]) for layer in (nn.Linear(a, b), nn.ReLU())]
        model: Any = nn.Sequential(*layers, nn.Linear(hidden[-1], 10))
        if majority:
            model = expand(model, expansion=3, seed=0)
        optimizer: Any = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
        if majority:
            optimizer = fuse(optimizer, model)

        def step() -> None:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

        return step

    contenders = (stepper(majority=False), stepper(majority=True))
    for _ in sys.stdin:
        found = []
        for step in contenders:
            step()
            seconds = []
            for _ in range(STEPS):
                start = time.perf_counter()
                step()
                seconds.append(time.perf_counter() - start)
            found.append(median(seconds))
        print(json.dumps(found), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkouts", nargs="+", type=lambda text: Path(text).resolve(), metavar="CHECKOUT")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--hidden", type=int, nargs="+", default=[100])
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.checkouts[0], given.threads, given.hidden)
    else:
        compare(given.checkouts, given.seconds, given.threads, given.hidden)


if __name__ == "__main__":
    main()
