"""One point at which the kernel's moments are wanted: exactly what determines them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import cached_property

import numpy as np
from pydantic import BaseModel, ConfigDict

from collegium.search.kernel.inputs import DEFAULT_CORRELATION, Gram, KernelInputs, check_gram, is_diagonal
from collegium.search.kernel.receptive_field import input_window
from collegium.search.networks.chain import Chain
from collegium.search.spec import PairSpec

#: Raised whenever samplers or moments change in a way that makes stored estimates incomparable.
ESTIMATOR_VERSION = 1


class KernelPoint(BaseModel):
    """A kernel entry of a chain at one width vector and one kind of input.

    ``gram`` is a Gram matrix over the input positions that the entry sees, row by row, or one for each group of the
    chain's first layer; where it is left out, ``correlation`` c stands for S_pq = 2·c^distance(p, q). ``pair`` asks for
    the off-diagonal entry K(x, x').
    Points survive JSON: ``KernelPoint.model_validate(point.model_dump(mode="json")) == point``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    chain: Chain
    widths: tuple[int, ...]
    entry: str = "unit"
    correlation: float = DEFAULT_CORRELATION
    gram: Gram | None = None
    pair: PairSpec | None = None

    @classmethod
    def of(cls, chain: Chain, widths: tuple[int, ...], entry: str, inputs: KernelInputs) -> KernelPoint:
        """The point of one member. Raises ``ValueError`` where widths or inputs do not fit the chain and its entry."""
        chain.at(widths)
        window = input_window(chain, entry)
        if inputs.gram is not None:
            check_gram(inputs.gram, window.positions, chain.first_groups)
        correlation = DEFAULT_CORRELATION
        if inputs.gram is None and inputs.correlation is not None and window.positions > 1:
            correlation = inputs.correlation
        return cls(
            chain=chain,
            widths=tuple(widths),
            entry=entry,
            correlation=correlation,
            gram=inputs.gram,
            pair=None if is_diagonal(inputs.pair) else inputs.pair,
        )

    @cached_property
    def resolved(self) -> Chain:
        """The chain with this point's widths in it."""
        return self.chain.at(self.widths)

    @cached_property
    def key(self) -> str:
        """A hash that equal points share in every process and under every naming of their widths (SHA-256, hex)."""
        chain = asdict(self.resolved)
        if not chain["bias"]:
            del chain["bias"]  # the kernel is that of before there were biases, and so are its stored estimates
        if chain["depth"] is None:
            del chain["depth"]
        for layer in chain["layers"]:
            if layer["parameter"] is None:
                del layer["parameter"]  # as before activations had parameters
            if layer["dilation"] == 1:
                del layer["dilation"]
            if layer["more"] == 0:
                del layer["more"]
            if not layer["pools"]:
                del layer["pools"], layer["early"]
            del layer["depthwise"]  # its groups say so
        content = {
            "version": ESTIMATOR_VERSION,
            "chain": chain,
            "entry": self.entry,
            "inputs": self.correlation if self.gram is None else self.gram.rows(),
            "pair": None if self.pair is None else self.pair.cosine,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def gram_matrix(self) -> np.ndarray:
        """The Gram matrix over the input positions that the entry sees, float64: ``(P, P)`` or ``(groups, P, P)``."""
        return KernelInputs(self.correlation, self.gram).gram_over(self.chain, self.entry).matrix
