"""Training methods by name: those of this package, and those of other packages' entry points ``collegium.methods``.

A method is a class of :mod:`collegium.train.methods.method` in a file of its own, and a line below. Nothing here loads
torch.

>>> from collegium.train.methods import METHODS, create
>>> METHODS["majority"].summary
'majority kernels: copies of each kernel, mixed at random in every step, collapse to their mean'
>>> create("majority", copies=5).expansion
5
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from collegium.registry import Registry

if TYPE_CHECKING:
    from collegium.train.methods.method import Method, MethodOptions

_HERE = "collegium.train.methods"

METHODS: Registry[type[Method]] = Registry(
    "method",
    "collegium.methods",
    {
        "vanilla": f"{_HERE}.method:Vanilla",
        "majority": f"{_HERE}.majority:Majority",
        "adversarial": f"{_HERE}.adversarial:Adversarial",
        "adversarial_majority": f"{_HERE}.adversarial:AdversarialMajority",
        "learned": f"{_HERE}.learned:Learned",
        "subset": f"{_HERE}.subset:Subset",
        "ensemble": f"{_HERE}.ensemble:Ensemble",
        "distilled": f"{_HERE}.distilled:Distilled",
        "soup": f"{_HERE}.soup:Soup",
        "ema": f"{_HERE}.ema:Ema",
        "swa": f"{_HERE}.swa:Swa",
        "sam": f"{_HERE}.sam:Sam",
    },
)


def create(name: str, **options: Any) -> Method:
    """The method ``name`` with these of its options.

    Raises ``UnknownExtension`` for an unknown name, and ``ValidationError`` for an option that is wrong or that the
    method does not have.
    """
    method = METHODS[name]
    return method(method.Options(**options))


def describe_methods() -> list[dict[str, Any]]:
    """Every usable method as JSON-able values: ``name``, ``summary`` and ``options``, as specifications take them.

    An option has its ``name``, a ``description``, its JSON ``schema`` and, where it may be left out, its ``default``.
    """
    return [
        {"name": name, "summary": method.summary, "options": describe_options(method.Options)}
        for name, method in METHODS.usable()
    ]


def describe_options(options: type[MethodOptions]) -> list[dict[str, Any]]:
    """The fields of ``options`` in their order."""
    described = []
    for name, schema in options.model_json_schema().get("properties", {}).items():
        rest = {key: value for key, value in schema.items() if key not in ("title", "description", "default")}
        default = {"default": schema["default"]} if "default" in schema else {}
        described.append({"name": name, "description": schema.get("description", ""), "schema": rest, **default})
    return described
