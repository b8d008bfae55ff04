"""This model in plain PyTorch: ``load()`` gives it; ``python load.py [data.safetensors]`` prints its test accuracy."""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent


def load(folder=HERE):
    """Return the model, in evaluation mode, and a function that prepares raw inputs for it."""
    config = json.loads(Path(folder, "config.json").read_text())["collegium"]
    network = source(folder, "network", config["network"])
    members = [network(**config["arguments"]) for _ in range(config["copies"])]
    model = members[0] if len(members) == 1 else source(folder, "averaged", "AveragedModel")(members)
    model.load_state_dict(load_file(Path(folder, "model.safetensors")))
    return model.eval(), lambda x: prepare(x, **config["preprocessing"])


def source(folder, file, name):
    """What a file of this folder defines; its module has a name that no other module has."""
    path = Path(folder, file + ".py").resolve()
    spec: Any = spec_from_file_location(f"_{file}_{bytes(path).hex()}", path)
    sys.modules[spec.name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def prepare(x, mean=None, std=None, channels=None):
    """Normalize raw inputs as in training."""
    if mean is not None:
        x = (x.float() - torch.tensor(mean)) / torch.tensor(std)
    return x if channels is None else x.expand(-1, channels, *x.shape[2:])


if __name__ == "__main__":
    test = Path(*sys.argv[1:2] or [HERE, "test.safetensors"])
    wanted = f"{test} is not there: name a .safetensors file with raw samples x_test and their labels y_test"
    (model, ready), data = load(), load_file(test) if test.is_file() else sys.exit(wanted)
    right, total = 0, len(data["y_test"])
    with torch.no_grad():
        for x, y in zip(data["x_test"].split(256), data["y_test"].split(256), strict=True):
            logits = model(ready(x), y) if y.ndim > 1 else model(ready(x))  # a decoder reads the label so far
            right += ((logits.argmax(-1) == y) | (y == -100)).reshape(len(y), -1).all(1).sum().item()
    print(json.dumps({"accuracy": right / total, "samples": total}))
