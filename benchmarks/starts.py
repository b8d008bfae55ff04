"""At what pace majority kernels train, by how their copies start: the digits, fifteen epochs, all else by default.

    python benchmarks/starts.py [--seeds 10]

Every start is compared with plain training of the same seeds. The table is that of docs/majority.md.
"""

from __future__ import annotations

import argparse
import math
import statistics

import torch

from collegium import run_training

NETWORKS = {
    "20 × 17, five layers": {"baseline": {"preset": "mlp-digits-6x100"}, "width": 17, "multiplicity": 20},
    "40, 20": {"baseline": {"family": "mlp", "inputs": 64, "hidden": [40, 20], "outputs": 10}},
    "five of 100": {"baseline": {"family": "mlp", "inputs": 64, "hidden": [100] * 5, "outputs": 10}},
}
STARTS = {
    "s = 0": {"spread": 0.0},
    "0.1": {"spread": 0.1},
    "0.25": {"spread": 0.25},
    "independent": {"initialization": "independent"},
}


def accuracy(architecture: dict, seed: int, **method: object) -> float:
    """Test accuracy in percent."""
    recipe = {"epochs": 15}
    asked = {"architecture": architecture, "data": "digits", "recipe": recipe, "seed": seed, **method}
    found = run_training(asked).accuracy
    assert found is not None
    return 100 * found.test


def main() -> None:
    """Print one row for each network."""
    parser = argparse.ArgumentParser(description="The pace of each start of majority kernels, on the digits.")
    parser.add_argument("--seeds", type=int, default=10)
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    print("network | vanilla, % |", " | ".join(STARTS))
    for name, architecture in NETWORKS.items():
        plain = [accuracy(architecture, seed) for seed in seeds]
        cells = []
        for options in STARTS.values():
            found = [accuracy(architecture, seed, method="majority", expansion=options) for seed in seeds]
            gains = [one - other for one, other in zip(found, plain, strict=True)]
            error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
            cells.append(f"{statistics.mean(gains):+.2f} ± {error:.2f}")
        print(name, "|", f"{statistics.mean(plain):.2f}", "|", " | ".join(cells), flush=True)


if __name__ == "__main__":
    main()
