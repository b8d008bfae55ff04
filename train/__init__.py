"""The science of training what a search found. Nothing here loads torch until it is used::

from collegium.train import collapse, expand

model = expand(model, expansion=3)
train_as_usual(model)
collapse(model)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collegium.train.loop.norms import reestimate_norms
    from collegium.train.majority.diagnostics import kernel_spread, stochastic_sharpness
    from collegium.train.majority.expand import collapse, expand, set_step
    from collegium.train.majority.fused import clip_gradient_norm, fuse

_EXPORTS = {
    "collapse": "collegium.train.majority.expand",
    "expand": "collegium.train.majority.expand",
    "set_step": "collegium.train.majority.expand",
    "fuse": "collegium.train.majority.fused",
    "clip_gradient_norm": "collegium.train.majority.fused",
    "kernel_spread": "collegium.train.majority.diagnostics",
    "stochastic_sharpness": "collegium.train.majority.diagnostics",
    "reestimate_norms": "collegium.train.loop.norms",
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
