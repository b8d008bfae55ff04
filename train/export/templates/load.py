"""This model in plain PyTorch: ``load()`` gives it; ``python load.py [data.safetensors]`` prints its test accuracy."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent


def load(folder=HERE):
    """Return the model, in evaluation mode, and a function that prepares raw inputs for it."""
    sys.path.insert(0, str(folder))
    import network  # type: ignore[import-not-found]  # the file in this folder

    config = json.loads((folder / "config.json").read_text())["collegium"]
    members = [getattr(network, config["network"])(**config["arguments"]) for _ in range(config["copies"])]
    model = members[0] if len(members) == 1 else __import__("averaged").AveragedModel(members)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval(), lambda x: prepare(x, **config["preprocessing"])


def prepare(x, mean=None, std=None, channels=None):
    """Normalize raw inputs as in training."""
    if mean is not None:
        x = (x.float() - torch.tensor(mean)) / torch.tensor(std)
    return x if channels is None else x.expand(-1, channels, *x.shape[2:])


if __name__ == "__main__":
    (model, ready), data = load(), load_file(sys.argv[1] if sys.argv[1:] else HERE / "test.safetensors")
    right, total = 0, len(data["y_test"])
    with torch.no_grad():
        for x, y in zip(data["x_test"].split(256), data["y_test"].split(256), strict=True):
            logits = model(ready(x), y) if y.ndim > 1 else model(ready(x))  # a decoder reads the label so far
            right += ((logits.argmax(-1) == y) | (y == -100)).reshape(len(y), -1).all(1).sum().item()
    print(json.dumps({"accuracy": right / total, "samples": total}))
