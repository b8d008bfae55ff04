"""Training methods by name."""

from importlib import import_module
from typing import Any

from train.method import Method

_METHODS = {
    "vanilla": ("train.methods.vanilla", "Vanilla"),
    "majority": ("train.methods.majority", "Majority"),
    "adversarial": ("train.methods.adversarial", "Adversarial"),
    "adversarial_majority": ("train.methods.adversarial", "AdversarialMajority"),
    "learned": ("train.methods.learned", "Learned"),
    "subset": ("train.methods.subset", "Subset"),
    "ensemble": ("train.methods.ensemble", "Ensemble"),
    "distilled": ("train.methods.distilled", "Distilled"),
    "soup": ("train.methods.soup", "Soup"),
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
