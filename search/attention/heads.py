"""The variance of attention's kernel over the width of its heads, at the same parameters.

h heads of width d are an ensemble: their outputs are summed, F = h^{-1/2} Σ_j F_j, each with query, key, value and
output weights of its own, and so the kernel's variance is that of one head divided by h (Littwin et al. 2020, Eq. 11).
With h·d fixed the parameters do not change either, so there is neither a primal nor a dual to solve: what is left is a
curve, which falls as heads get narrower and flattens out. How narrow a head may be is for others to say.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from collegium.search.errors import InvalidSpec
from collegium.search.kernel.moments import Estimate, Moments
from collegium.search.part import Part
from collegium.search.progress import Report, discard

#: Samples after which an estimate is judged first, the factor from one such number to the next, and the most.
FIRST, STEP, MOST = 8_192, 2.0, 1 << 20
#: Weight layers that a head's kernel is a product of, as far as its tail goes: queries, keys, values, outputs.
LAYERS = 4
#: Largest heads · width and number of tokens.
LARGEST_WIDTH, LARGEST_TOKENS = 65_536, 512
#: Relative difference from the least variance that is of no account beside the errors.
TOLERANCE = 0.025

NOTE = (
    "This is the variance of the kernel at initialization alone: it knows nothing of what a narrow head can express. "
    "Heads narrower than min_width were not considered."
)


class HeadRow(Part):
    """``heads`` heads of ``width``: Var(K) / E[K]² of the block, with its standard error (null where none is known)."""

    width: int
    heads: int
    variance: float
    standard_error: float | None
    relative_variance: float
    samples: int
    converged: bool


class HeadCurve(Part):
    """The curve over the widths of heads, widest first.

    ``relative_variance`` of a row is its variance over that of the heads that were given. ``flat_from`` is the widest
    head whose variance cannot be told from the least, or is within 2.5 % of it: narrower ones bring nothing by this
    criterion. ``min_width`` is the floor that was set; ``note`` says what the criterion leaves out.
    """

    rows: tuple[HeadRow, ...]
    flat_from: int
    min_width: int
    tokens: int
    correlation: float
    seed: int
    note: str = NOTE

    def __str__(self) -> str:
        lines = [f"{'heads × width':>14}  {'variance':>18}  of the given"]
        for row in self.rows:
            error = "" if row.standard_error is None else f" ± {row.standard_error:.2g}"
            named = f"{row.heads} × {row.width}"
            lines.append(f"{named:>14}  {f'{row.variance:.4g}{error}':>18}  {100 * row.relative_variance:.3g} %")
        return "\n".join([*lines, f"flat from width {self.flat_from} down. {self.note}"])


@dataclass(frozen=True)
class _Sampling:
    """What is asked of every width."""

    gram: np.ndarray
    relative_error: float
    seed: int
    device: str

    def run(self, width: int, report: Callable[[int], None]) -> tuple[Estimate, bool]:
        """The moments of one head, judged at numbers of samples that do not depend on the error asked for.

        ``report`` is called with the number of samples so far before each part of them is drawn, and may raise.
        """
        import torch

        from collegium.search.attention.sampler import HeadSampler

        sampler, moments, index = HeadSampler(width, self.gram, device=self.device), Moments(), 0
        while True:
            wanted = round(FIRST * STEP**index)
            generator = torch.Generator(device=self.device).manual_seed(self._seed(width, index))
            report(moments.count)
            drawn: list[np.ndarray] = []
            for part in sampler.batches(wanted - moments.count, generator):
                drawn.append(part.cpu().numpy())
                report(moments.count + sum(map(len, drawn)))
            moments = moments.merge(Moments.of(np.concatenate(drawn)))
            estimate = moments.estimate(LAYERS, homogeneous=False)
            converged = estimate.converged(self.relative_error)
            if converged or wanted >= MOST:
                return estimate, converged
            index += 1

    def _seed(self, width: int, index: int) -> int:
        text = f"attention:{self.gram.tobytes().hex()}:{self.seed}:{width}:{index}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def head_curve(
    heads: int,
    width: int,
    *,
    min_width: int,
    tokens: int = 16,
    correlation: float = 0.0,
    relative_error: float = 0.03,
    seed: int = 0,
    device: str = "cpu",
    report: Report = discard,
) -> HeadCurve:
    """Var(K) / E[K]² of an attention block of ``heads`` heads of ``width``, and of every other division of their width.

    ``min_width`` is the narrowest head that is considered: the criterion alone would always ask for narrower ones. The
    inputs are ``tokens`` tokens of unit mean square, each two with the uncentred ``correlation`` (0 to 1); K is the
    diagonal entry of one output unit at one token, without mask, under the NTK parameterization. Each width is sampled
    until ln r has the ``relative_error`` or for 2²⁰ samples; ``converged`` says which. Samples follow from ``seed``
    and the kind of ``device``.

    Raises ``InvalidSpec`` with the argument that is wrong.

    >>> from collegium import head_curve
    >>> curve = head_curve(1, 16, min_width=4, tokens=8, relative_error=0.1)
    >>> [(row.heads, row.width) for row in curve.rows]
    [(1, 16), (2, 8), (4, 4)]
    >>> curve.rows[0].variance > curve.rows[-1].variance
    True
    """
    _check(heads, width, min_width, tokens, correlation, relative_error)
    total = heads * width
    widths = [d for d in range(total, 0, -1) if total % d == 0 and (d >= min_width or d == width)]
    gram = np.full((tokens, tokens), float(correlation)) + (1 - correlation) * np.eye(tokens)
    sampling = _Sampling(gram, relative_error, seed, device)
    found: dict[int, tuple[Estimate, bool]] = {}
    for index, d in enumerate(widths):
        found[d] = sampling.run(d, partial(_beat, report, index, len(widths), d))
    report(1.0, "done")
    given = math.expm1(found[width][0].log_ratio) / heads
    rows = tuple(_row(d, total // d, *found[d], given) for d in widths)
    return HeadCurve(
        rows=rows,
        flat_from=_flat_from([row for row in rows if row.width >= min_width]),
        min_width=min_width,
        tokens=tokens,
        correlation=correlation,
        seed=seed,
    )


def _beat(report: Report, index: int, count: int, width: int, samples: int) -> None:
    """Report the samples of the width number ``index`` of ``count``, by the doublings of their number."""
    share = math.log2(1 + samples / FIRST) / math.log2(1 + MOST / FIRST)
    report((index + min(0.99, share)) / count, f"sampling heads of width {width}: {samples:,} samples so far")


def _row(width: int, heads: int, estimate: Estimate, converged: bool, given: float) -> HeadRow:
    variance, error = math.expm1(estimate.log_ratio) / heads, estimate.ratio * estimate.standard_error / heads
    return HeadRow(
        width=width,
        heads=heads,
        variance=variance,
        standard_error=error if math.isfinite(error) else None,
        relative_variance=variance / given,
        samples=estimate.samples,
        converged=converged,
    )


def _flat_from(rows: list[HeadRow]) -> int:
    """The widest head within the tolerance or two standard errors of the least variance."""
    least = min(rows, key=lambda row: row.variance)

    def alike(row: HeadRow) -> bool:
        error = math.hypot(row.standard_error or 0.0, least.standard_error or 0.0)
        return row.variance - least.variance <= max(TOLERANCE * least.variance, 2 * error)

    return max(row.width for row in rows if alike(row))


def _check(heads: int, width: int, min_width: int, tokens: int, correlation: float, relative_error: float) -> None:
    for name, value, most in (
        ("heads", heads, LARGEST_WIDTH),
        ("width", width, LARGEST_WIDTH),
        ("min_width", min_width, LARGEST_WIDTH),
        ("tokens", tokens, LARGEST_TOKENS),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise InvalidSpec((name,), f"give a whole number from 1 to {most}, got {value!r}")
    if heads * width > LARGEST_WIDTH:
        raise InvalidSpec(("heads",), f"heads · width is {heads * width}; the most is {LARGEST_WIDTH}")
    if min_width > heads * width:
        raise InvalidSpec(("min_width",), f"no head is wider than heads · width, {heads * width}")
    if not 0 <= correlation <= 1:
        raise InvalidSpec(("correlation",), f"give a number from 0 to 1, got {correlation!r}")
    if not 1e-3 <= relative_error <= 0.5:
        raise InvalidSpec(("relative_error",), f"give a number from 0.001 to 0.5, got {relative_error!r}")
