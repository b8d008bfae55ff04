"""Elementwise activations φ, and the variance gains of the layers around them that keep a signal's size.

A layer computes z = √(g/f) W a from f numbers a of the layer below, with W standard normal, and passes φ(z) on.

* A positively homogeneous φ, of slope 1 above zero and s below (a rectifier: s = 0; the identity: s = 1), halves or
  keeps the mean square whatever the size of z. The gain 1 / E φ(z)² = 2 / (1 + s²) stands in the layer *before* it, as
  in Littwin et al. 2020, Eq. 3; anywhere else it would give the same function.
* Any other φ depends on the size of z. The layer before it has a gain of 1, so that z has the mean square of the
  network's inputs, which is 1 unless another is given; the layer *after* it has 1 / E φ(z)² at z ~ N(0, 1), so that the
  next z has unit mean square again, exactly so as layers grow wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import Discriminator, Field, Tag

from collegium.search.fields import Strict

ActivationName = Literal[
    "relu", "leaky_relu", "relu6", "gelu", "gelu_tanh", "silu", "mish", "hardswish", "sigmoid", "tanh", "elu", "selu",
    "celu", "softplus", "linear",
]  # fmt: skip
#: As they are posted: ``identity`` is the activation of a linear layer.
PostedName = Literal[
    "relu", "leaky_relu", "relu6", "gelu", "gelu_tanh", "silu", "mish", "hardswish", "sigmoid", "tanh", "elu", "selu",
    "celu", "softplus", "identity",
]  # fmt: skip

#: Activations with a parameter: what it is called.
PARAMETERS: dict[ActivationName, str] = {"leaky_relu": "negative_slope", "elu": "alpha", "celu": "alpha"}
#: α and the scale of SELU, with which E φ(z)² = 1 at z ~ N(0, 1) (Klambauer et al. 2017).
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
#: |z| beyond which a standard Gaussian has no weight, and the points of a Gauss–Legendre rule on each side of zero.
REACH, POINTS = 12.0, 160
#: |z| other than 0 at which an activation's derivatives jump.
_KINKS: dict[ActivationName, tuple[float, ...]] = {"relu6": (6.0,), "hardswish": (3.0,)}


@dataclass(frozen=True)
class Activation:
    """One activation: its name and, where ``PARAMETERS`` lists one, its parameter.

    ``relu6`` is a rectifier that ends at 6, ``gelu`` z Φ(z), ``gelu_tanh`` its approximation by a tanh, ``silu``
    z / (1 + e^−z), ``mish`` z tanh ln(1 + e^z), ``hardswish`` z times (z + 3) / 6 between 0 and 1; ``sigmoid`` is
    1 / (1 + e^−z), ``elu`` α (e^z − 1) below zero, ``celu`` α (e^(z/α) − 1), ``selu`` 1.0507 times the ELU of
    α = 1.6733; ``softplus`` is ln(1 + e^z), ``linear`` z.
    Raises ``ValueError`` for an unknown name, and for a parameter that is missing or that there is not.

    >>> print(Activation("leaky_relu", 0.1), round(Activation("gelu").gain_after, 4))
    leaky_relu(0.1) 2.3517
    """

    name: ActivationName
    parameter: float | None = None

    def __post_init__(self) -> None:
        if self.name not in get_args(ActivationName):
            known = ", ".join(get_args(ActivationName))
            raise ValueError(f"no activation is called {self.name!r}; there are {known}")
        if (self.name in PARAMETERS) != (self.parameter is not None):
            expected = f"a parameter, {PARAMETERS[self.name]}" if self.name in PARAMETERS else "no parameter"
            raise ValueError(f"{self.name} takes {expected}; got {self.parameter}")

    def __str__(self) -> str:
        """Its posted name, with the parameter: ``identity``, ``elu(1)``."""
        name = "identity" if self.name == "linear" else self.name
        return name if self.parameter is None else f"{name}({self.parameter:g})"

    @property
    def title(self) -> str:
        """Its name in a sentence, such as ``GELU`` or ``leaky ReLU (0.1)``."""
        return _TITLES[self.name] if self.parameter is None else f"{_TITLES[self.name]} ({self.parameter:g})"

    @property
    def keeps_output(self) -> bool:
        """Whether the backward pass of torch reads φ(z), from which φ'(z) follows."""
        return self.name in ("relu", "sigmoid", "tanh")

    @property
    def keeps_input(self) -> bool:
        """Whether the backward pass of torch reads z."""
        return not self.keeps_output and self.name != "linear"

    @property
    def slope(self) -> float | None:
        """s where φ(z) is z above zero and s·z below; None for any other φ."""
        return {"relu": 0.0, "linear": 1.0, "leaky_relu": self.parameter}.get(self.name)

    @property
    def homogeneous(self) -> bool:
        """Whether φ(c z) = c φ(z) for every c > 0, so that the size of a signal does not matter."""
        return self.slope is not None

    @property
    def gain_before(self) -> float:
        """The factor that φ brings to the gain of the layer before it."""
        return 1.0 if self.slope is None else 2 / (1 + self.slope**2)

    @property
    def gain_after(self) -> float:
        """The factor that φ brings to the gain of the layer after it."""
        return 1.0 if self.homogeneous else 1 / mean_square(self)

    @property
    def spread(self) -> float:
        """κ = E φ'⁴ / (E φ'²)² = 2 (1 + s⁴) / (1 + s²)² of a homogeneous φ: 2 for a rectifier, 1 for the identity.

        Raises ``ValueError`` for any other φ.
        """
        if self.slope is None:
            raise ValueError(f"{self} is not positively homogeneous")
        return 2 * (1 + self.slope**4) / (1 + self.slope**2) ** 2

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """φ(z), elementwise."""
        return _FUNCTIONS[self.name](np.asarray(z, float), self.parameter or 0.0)


_TITLES: dict[ActivationName, str] = {
    "relu": "ReLU",
    "leaky_relu": "leaky ReLU",
    "relu6": "ReLU6",
    "gelu": "GELU",
    "gelu_tanh": "GELU (tanh)",
    "silu": "SiLU",
    "mish": "Mish",
    "hardswish": "hard swish",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "elu": "ELU",
    "selu": "SELU",
    "celu": "CELU",
    "softplus": "softplus",
    "linear": "identity",
}
#: The complementary error function of an array; scipy's would be loaded by whatever reads a specification.
_erfc = np.vectorize(math.erfc, otypes=[float])
_FUNCTIONS: dict[ActivationName, Callable[[np.ndarray, float], np.ndarray]] = {
    "relu": lambda z, _: np.maximum(z, 0),
    "leaky_relu": lambda z, slope: np.where(z > 0, z, slope * z),
    "relu6": lambda z, _: np.clip(z, 0, 6),
    "gelu": lambda z, _: z * _erfc(-z / math.sqrt(2)) / 2,
    "gelu_tanh": lambda z, _: z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2,
    "silu": lambda z, _: z / (1 + np.exp(-z)),
    "mish": lambda z, _: z * np.tanh(np.logaddexp(0, z)),
    "hardswish": lambda z, _: z * np.clip(z + 3, 0, 6) / 6,
    "sigmoid": lambda z, _: 1 / (1 + np.exp(-z)),
    "tanh": lambda z, _: np.tanh(z),
    "elu": lambda z, alpha: np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0))),
    "selu": lambda z, _: SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * np.expm1(np.minimum(z, 0))),
    "celu": lambda z, alpha: np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0) / alpha)),
    "softplus": lambda z, _: np.logaddexp(0, z),
    "linear": lambda z, _: z,
}


@lru_cache(maxsize=256)
def mean_square(activation: Activation) -> float:
    """E φ(z)² at z ~ N(0, 1), to rounding: by quadrature between zero and what other kinks φ has.

    >>> round(mean_square(Activation("relu")), 12), round(mean_square(Activation("tanh")), 6)
    (0.5, 0.394294)
    """
    nodes, weights = np.polynomial.legendre.leggauss(POINTS)
    total = 0.0
    for low, high in pairwise((0.0, *_KINKS.get(activation.name, ()), REACH)):
        z = (high - low) * (nodes + 1) / 2 + low
        density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        both = activation(z) ** 2 + activation(-z) ** 2
        total += float((weights * density * both).sum() * (high - low) / 2)
    return total


NegativeSlope = Annotated[float, Field(ge=-1, le=1)]
Alpha = Annotated[float, Field(gt=0, le=10)]


class PlainActivation(Strict):
    """An activation by its name; the parameter of one that has any is the usual one."""

    name: PostedName


class LeakyRelu(Strict):
    """z above zero, ``negative_slope`` · z below."""

    name: Literal["leaky_relu"]
    negative_slope: NegativeSlope = 0.01


class Elu(Strict):
    """z above zero, ``alpha`` · (e^z − 1) below."""

    name: Literal["elu"]
    alpha: Alpha = 1.0


class Celu(Strict):
    """z above zero, ``alpha`` · (e^(z / alpha) − 1) below."""

    name: Literal["celu"]
    alpha: Alpha = 1.0


def _form(value: Any) -> str | None:
    if isinstance(value, PlainActivation | LeakyRelu | Elu | Celu):
        value = {"name": value.name}
    if isinstance(value, str):
        return "name" if value in get_args(PostedName) else None
    name = value.get("name") if isinstance(value, dict) else None
    if isinstance(name, str) and name in get_args(PostedName):
        return name if name in PARAMETERS else "plain"
    return None


#: An activation as it is posted: a name, or an object with the name and the parameter.
PostedActivation = Annotated[
    Annotated[PostedName, Tag("name")]
    | Annotated[PlainActivation, Tag("plain")]
    | Annotated[LeakyRelu, Tag("leaky_relu")]
    | Annotated[Elu, Tag("elu")]
    | Annotated[Celu, Tag("celu")],
    Discriminator(
        _form,
        custom_error_type="unknown_activation",
        custom_error_message=f"give one of {', '.join(map(repr, get_args(PostedName)))}, or an object such as "
        "{'name': 'leaky_relu', 'negative_slope': 0.1} or {'name': 'elu', 'alpha': 0.5}",
    ),
]


def lowered(posted: PostedName | PlainActivation | LeakyRelu | Elu | Celu) -> Activation:
    """The activation that is meant; a leaky rectifier that does not leak is a rectifier.

    >>> print(lowered("elu"), lowered(LeakyRelu(name="leaky_relu", negative_slope=0.0)))
    elu(1) relu
    """
    match posted:
        case LeakyRelu(negative_slope=slope):
            return Activation("leaky_relu", slope) if slope else Activation("relu")
        case Elu(alpha=alpha) | Celu(alpha=alpha):
            return Activation(posted.name, alpha)
        case PlainActivation(name=name):
            return lowered(name)
        case "leaky_relu":
            return lowered(LeakyRelu(name=posted))
        case "elu":
            return lowered(Elu(name=posted))
        case "celu":
            return lowered(Celu(name=posted))
        case "identity":
            return Activation("linear")
        case _:
            return Activation(posted)
