"""The science of training what a search found. Nothing here loads torch until it is used::

from train import collapse, expand

model = expand(model, expansion=3)
train_as_usual(model)
collapse(model)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.diagnostics import kernel_spread, stochastic_sharpness
    from train.fused import clip_gradient_norm, fuse
    from train.majority import collapse, expand, set_step
    from train.reestimate import reestimate_norms

_EXPORTS = {
    "collapse": "train.majority",
    "expand": "train.majority",
    "set_step": "train.majority",
    "fuse": "train.fused",
    "clip_gradient_norm": "train.fused",
    "kernel_spread": "train.diagnostics",
    "stochastic_sharpness": "train.diagnostics",
    "reestimate_norms": "train.reestimate",
}

__all__ = [
    "clip_gradient_norm",
    "collapse",
    "expand",
    "fuse",
    "kernel_spread",
    "reestimate_norms",
    "set_step",
    "stochastic_sharpness",
]


def __getattr__(name: str) -> Any:
    """Load an export when it is first asked for (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'train' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
