"""Which term of the modified loss of majority kernels is large: Mazzawi et al. 2024, Theorem 3.1, on Fashion-MNIST.

    python benchmarks/modified_loss.py --data /usr/share/datasets

The folder holds ``fashion-mnist``, as Debian's package dataset-fashion-mnist leaves it. A network 784→100→10 is trained
by SGD, for which the theorem is, on 1,000 images of which a fifth have wrong labels. At the end, with ε the deviation
of the sampled weights from their mean θ̄ and ℓ the rate, over draws of p and the training images as one batch:

    L           the loss of the mean weights
    Δ           E L(θ̄ + ε) − L(θ̄): what ∇L·ε, whose mean is 0, leaves at second order, ½ E εᵀ∇²L ε and more (Lemma B.1)
    gradient    ℓ/4 ‖∇L(θ̄)‖², which plain training has as well
    Hessian     ℓ/4 E‖∇L(θ̄ + ε) − ∇L(θ̄)‖², to first order ℓ/4 E‖∇²L ε‖²
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from collegium import build_model, collapse, expand, kernel_spread
from collegium.train.data.catalog import load
from collegium.train.majority.kernel import mixing
from collegium.train.spec.data import DataSpec

IMAGES, VALIDATION, NOISE = 1_000, 5_000, 0.2
BATCH, RATE, STEPS, DRAWS = 256, 0.1, 1_600, 64
BASELINE = {"baseline": {"family": "mlp", "inputs": 784, "hidden": [100], "outputs": 10, "bias": True}}
Start = Literal["replicated", "perturbed", "independent"]
STARTS: tuple[Start | None, ...] = (None, "replicated", "perturbed", "independent")


def train(start: Start | None, seed: int, x: Tensor, y: Tensor) -> nn.Module:
    """The network after ``STEPS`` steps, its copies not yet collapsed."""
    torch.manual_seed(seed)
    model = build_model(BASELINE, seed=seed)
    if start is not None:
        expand(model, 3, init=start, seed=seed)
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    for _ in range(STEPS):
        batch = torch.randint(len(x), (BATCH,))
        optimizer.zero_grad()
        functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    return model.eval()


def terms(model: nn.Module, x: Tensor, y: Tensor, *, sampled: bool) -> dict[str, float]:
    """The terms of the modified loss, averaged over draws of p where there is one."""
    at_mean, mean_gradient = _loss_and_gradient(model, x, y, None)
    found = {"L": at_mean, "Δ": 0.0, "gradient": RATE / 4 * float(mean_gradient.square().sum()), "Hessian": 0.0}
    if sampled:
        drawn = [_loss_and_gradient(model, x, y, draw) for draw in range(DRAWS)]
        found["Δ"] = fmean(loss for loss, _ in drawn) - at_mean
        found["Hessian"] = RATE / 4 * fmean(float((one - mean_gradient).square().sum()) for _, one in drawn)
    return found


def _loss_and_gradient(model: nn.Module, x: Tensor, y: Tensor, draw: int | None) -> tuple[float, Tensor]:
    """By the weights that the layers read: a copy's gradient is its p times that."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    has_copies = any(hasattr(layer, "parametrizations") for layer in layers)
    with mixing(model, "sample", step=-1 - draw) if draw is not None else nullcontext():
        weights = {f"{name}.weight": layer.weight.detach().clone().requires_grad_()
                   for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}  # fmt: skip
    plain = build_model(BASELINE) if has_copies else model
    state = {name: value.detach() for name, value in model.named_parameters() if "parametrizations" not in name}
    loss = functional.cross_entropy(torch.func.functional_call(plain, {**state, **weights}, (x,)), y)
    gradients = torch.autograd.grad(loss, list(weights.values()))
    return loss.item(), torch.cat([gradient.flatten() for gradient in gradients])


def errors(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of images that are classified wrongly, in percent."""
    with torch.no_grad():
        return 100 * (model(x).argmax(1) != y).float().mean().item()


def main() -> None:
    """Train with each start, and print the means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds fashion-mnist")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    limit = IMAGES + VALIDATION
    print("| start | L | Δ | gradient | Hessian | spread | errors, % |\n|---|---|---|---|---|---|---|")
    for start in STARTS:
        rows = []
        for seed in range(given.seeds):
            share = VALIDATION / limit
            spec = DataSpec(name="fashion-mnist", limit=limit, validation=share, label_noise=NOISE, seed=seed)
            data = load(spec, given.data)
            x, y = data.preprocessing(data.train.x), data.train.y  # type: ignore[attr-defined]
            model = train(start, seed, x, y)
            row = terms(model, x, y, sampled=start is not None)
            row["spread"] = fmean(kernel_spread(model).values()) if start is not None else 0.0
            collapse(model)
            row["errors"] = errors(model, data.preprocessing(data.test.x), data.test.y)  # type: ignore[attr-defined]
            rows.append(row)
        means = {name: fmean(row[name] for row in rows) for name in rows[0]}
        values = " | ".join(f"{means[name]:.4f}" for name in ("L", "Δ", "gradient", "Hessian"))
        print(f"| {start or 'plain training'} | {values} | {means['spread']:.2f} | {means['errors']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
