"""The science of training what a search found. Nothing here loads torch until it is used::

from collegium.train import collapse, expand

model = expand(model, expansion=3)
train_as_usual(model)
collapse(model)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collegium.train.diagnostics import kernel_spread, stochastic_sharpness
    from collegium.train.fused import clip_gradient_norm, fuse
    from collegium.train.majority import collapse, expand, set_step
    from collegium.train.reestimate import reestimate_norms

_EXPORTS = {
    "collapse": "collegium.train.majority",
    "expand": "collegium.train.majority",
    "set_step": "collegium.train.majority",
    "fuse": "collegium.train.fused",
    "clip_gradient_norm": "collegium.train.fused",
    "kernel_spread": "collegium.train.diagnostics",
    "stochastic_sharpness": "collegium.train.diagnostics",
    "reestimate_norms": "collegium.train.reestimate",
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
