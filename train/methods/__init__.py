"""Training methods by name."""

from importlib import import_module
from typing import Any

from collegium.train.methods.method import Method

_METHODS = {
    "vanilla": ("collegium.train.methods.vanilla", "Vanilla"),
    "majority": ("collegium.train.methods.majority", "Majority"),
    "adversarial": ("collegium.train.methods.adversarial", "Adversarial"),
    "adversarial_majority": ("collegium.train.methods.adversarial", "AdversarialMajority"),
    "learned": ("collegium.train.methods.learned", "Learned"),
    "subset": ("collegium.train.methods.subset", "Subset"),
    "ensemble": ("collegium.train.methods.ensemble", "Ensemble"),
    "distilled": ("collegium.train.methods.distilled", "Distilled"),
    "soup": ("collegium.train.methods.soup", "Soup"),
}

NAMES = tuple(_METHODS)


def create(name: str, *, expansion: int = 3, **options: Any) -> Method:
    """Return the method ``name`` with e = ``expansion`` and its own keyword ``options``.

    Raises ``ValueError`` for an unknown name and ``TypeError`` for an option that the method does not have.
    """
    try:
        module, attribute = _METHODS[name]
    except KeyError:
        raise ValueError(f"unknown method {name!r}; one of {', '.join(NAMES)}") from None
    if name == "vanilla":
        expansion = 1
    return getattr(import_module(module), attribute)(expansion=expansion, **options)
