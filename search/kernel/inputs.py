"""The inputs of a kernel entry as a Gram matrix over the input positions of its receptive field.

The weights are Gaussian, so the kernel depends on an input x through G = (2 / channels) XᵀX alone, where the columns of
X are the feature vectors at the positions of ``receptive_field.input_window``, row by row. Its scale does not matter to
r = E[K²] / E[K]², unless the chain has biases: they weigh against inputs of mean square G_pp / 2.

A first layer in groups reads other channels in each, and so depends on one such matrix for each, G = (2 / channels of
the group) XᵀX. Where one matrix is given, or a correlation, all groups are taken to see the same.

A correlation c stands for G_pq = 2·c^distance(p, q), with the *Euclidean* distance between positions: of that,
Manhattan and chessboard distances, it alone gives a bottleneck's ln r over n = 8 … 256 the slopes 2.89, 3.49, 4.30 and
4.69 on 1/(9n) + 1/n for c = 0, 0.5, 0.8 and 0.9. It is a valid covariance for any c and window.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any, assert_never

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike
from pydantic_core import core_schema

from collegium.search.kernel.receptive_field import Window, input_window, layer_windows
from collegium.search.kernel.stem import batch_size, gram_sum
from collegium.search.networks.chain import Chain, WeightLayer
from collegium.search.networks.network import CONV_STRIDE, Stem
from collegium.search.spec import InputsSpec, PairSpec

#: Correlation of neighbouring positions where a specification gives none: that of natural images.
DEFAULT_CORRELATION = 0.95
#: Images of a data set that its mean patch Gram is taken over.
MOST_IMAGES = 4096
#: Entries of all Gram matrices that are averaged.
MOST_ENTRIES = 2_000_000_000
#: Relative size of a negative eigenvalue that is attributed to rounding.
ROUNDING = 1e-6


def is_diagonal(pair: PairSpec | None) -> bool:
    """Whether the entry is K(x, x): no pair was given, or its two inputs are the same."""
    return pair is None or pair.cosine == 1.0


class Gram:
    """A Gram matrix over the input positions of a kernel entry, float64, read-only: equal and hashed by its values.

    ``matrix`` has the shape ``(P, P)``; ``(groups, P, P)`` where each group of the first layer has one of its own.
    One array, from where it enters a search to where samples are drawn; its rows, where it is sent as JSON. What a user
    gives is checked once, by ``check_gram``.
    """

    __slots__ = ("matrix",)

    def __init__(self, matrix: ArrayLike) -> None:
        self.matrix = np.array(matrix, dtype=float)
        if self.matrix.ndim not in (2, 3) or self.matrix.shape[-2] != self.matrix.shape[-1]:
            raise ValueError(f"a Gram matrix is square, got shape {self.matrix.shape}")
        self.matrix.flags.writeable = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Gram) and np.array_equal(self.matrix, other.matrix)

    def __hash__(self) -> int:
        return hash(self.matrix.tobytes())

    def __repr__(self) -> str:
        return f"Gram({' × '.join(map(str, self.matrix.shape))})"

    @property
    def grouped(self) -> bool:
        """Whether each group of the first layer has a matrix of its own."""
        return self.matrix.ndim == 3

    def rows(self) -> list[Any]:
        """The matrix row by row, as JSON has it; of groups, a list of such lists."""
        return self.matrix.tolist()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """A field of this type takes a ``Gram`` or its rows, and is dumped as its rows."""
        rows = core_schema.no_info_plain_validator_function(cls)
        known = core_schema.is_instance_schema(cls)
        return core_schema.union_schema(
            [known, rows],
            mode="left_to_right",
            serialization=core_schema.plain_serializer_function_ser_schema(cls.rows, when_used="json"),
        )


@dataclass(frozen=True)
class KernelInputs:
    """The inputs of one kernel entry: a Gram matrix, or a correlation, and a second input's cosine for a pair."""

    correlation: float | None = None
    gram: Gram | None = None
    pair: PairSpec | None = None

    @classmethod
    def of(cls, spec: InputsSpec, chain: Chain, entry: str) -> KernelInputs:
        """The inputs of a specification.

        Raises ``ValueError`` where a given matrix has another size, is not symmetric positive semi-definite or is
        zero, and where ``spec.data`` has not been turned into a Gram matrix (``mean_patch_gram``).
        """
        if spec.data is not None:
            raise ValueError("the data set's mean patch Gram must be computed first")
        positions = input_window(chain, entry).positions
        given = None if spec.gram is None else check_gram(spec.gram, positions, chain.first_groups)
        return cls(spec.correlation, given, spec.pair)

    def gram_over(self, chain: Chain, entry: str) -> Gram:
        """The Gram matrix over the input positions of ``entry``: ``(P, P)``, or as given, ``(groups, P, P)``."""
        if self.gram is not None:
            return self.gram
        window = input_window(chain, entry)
        correlation = DEFAULT_CORRELATION if self.correlation is None else self.correlation
        return Gram(correlation_gram(correlation, *window.sizes))

    def assumes_equal_groups(self, chain: Chain) -> bool:
        """Whether the chain's first layer has groups, which are taken to see equal Gram matrices."""
        return chain.first_groups > 1 and (self.gram is None or not self.gram.grouped)


def correlation_gram(correlation: float, *sizes: int) -> np.ndarray:
    """G_pq = 2·c^|p − q| over a window of these ``sizes``, |p − q| the Euclidean distance; c = 0 is white noise.

    Sizes are its height and width, behind its depth where it has one.
    """
    places = np.indices(sizes).reshape(len(sizes), -1)
    distance = reduce(np.hypot, places[:, :, None] - places[:, None, :])
    return 2.0 * np.power(float(correlation), distance)


def check_gram(gram: Any, positions: int, groups: int = 1) -> Gram:
    """``gram``, made exactly symmetric. Raises ``ValueError`` unless it is a Gram matrix of so many positions.

    It may also be one for each of the first layer's ``groups``, of which some may be zero.
    """
    if isinstance(gram, Gram):
        if gram.matrix.shape in ((positions, positions), (groups, positions, positions)):
            return gram
        gram = gram.matrix
    if not _nested(gram):
        return Gram(_checked(gram, positions, zero=False))
    if len(gram) != groups:
        raise ValueError(
            f"{len(gram)} Gram matri{'x is' if len(gram) == 1 else 'ces are'} given, one for each group, but the first "
            f"layer has {groups} group{'s' * (groups > 1)}: "
            "give one matrix, or one for each group"
        )
    matrices = []
    for index, each in enumerate(gram):
        try:
            matrices.append(_checked(each, positions, zero=True))
        except ValueError as error:
            raise ValueError(f"group {index}: {error}") from error
    if not np.any(matrices):
        raise ValueError("all Gram matrices are zero")
    return Gram(matrices[0] if groups == 1 else np.stack(matrices))


def _nested(gram: Any) -> bool:
    """Whether it is a sequence of matrices rather than one; rows may be of unequal length."""
    return bool(len(gram) and len(gram[0]) and np.ndim(gram[0][0]))


def _checked(gram: ArrayLike, positions: int, *, zero: bool) -> np.ndarray:
    if {len(row) for row in gram} != {len(gram)}:  # type: ignore[arg-type]
        raise ValueError("the Gram matrix is not square")
    matrix = np.asarray(gram, dtype=float)
    if matrix.shape != (positions, positions):
        raise ValueError(
            f"the Gram matrix is {len(matrix)} × {len(matrix)}, but the entry sees {positions} input positions"
        )
    scale = np.abs(matrix).max()
    if not scale > 0:
        if zero:
            return matrix
        raise ValueError("the Gram matrix is zero")
    if np.abs(matrix - matrix.T).max() > ROUNDING * scale:
        raise ValueError("the Gram matrix is not symmetric")
    matrix = (matrix + matrix.T) / 2
    try:
        # Its Cholesky factor exists if and only if no eigenvalue is below the rounding that is allowed.
        np.linalg.cholesky(matrix / scale + ROUNDING * positions * np.eye(positions))
    except np.linalg.LinAlgError:
        raise ValueError("the Gram matrix is not positive semi-definite") from None
    return matrix


def patch_gram(chain: Chain, entry: str, gram: np.ndarray) -> np.ndarray:
    """Gram matrix of the patches that the first layer reads for ``entry``, over its output positions.

    A patch is a sum over taps: S_pq = mean_t G[p + t, q + t], zero where a tap reads padding. With a gain g, the
    layer's pre-activations have the covariance g/2 · S. For a 1×1 layer S is G itself; for a basic block the Gram of 9
    positions' 3×3 patches; for a dense layer the mean of the diagonal. ``gram`` may be the joint Gram of several inputs
    (``joint_gram``), and S is joint as well; or one for each group of the layer, ``(groups, …)``, and so is S. Raises
    ``ValueError`` where it does not cover the entry's positions.
    """
    first = layer_windows(chain, entry)[0]
    before, after = first.read, first.computed
    size = gram.shape[-1]
    inputs, rest = divmod(size, before.positions)
    if gram.ndim not in (2, 3) or gram.shape[-2] != size or not inputs or rest:
        raise ValueError(
            f"the Gram matrix must cover {' × '.join(map(str, before.sizes))} positions, got shape {gram.shape}"
        )
    taps = _taps(chain.layers[0], before, after)
    apart = np.arange(inputs)[:, None, None] * before.positions
    taps = np.where(taps < before.positions, taps + apart, size).reshape(-1, taps.shape[1])
    padded = np.zeros((*gram.shape[:-2], size + 1, size + 1))
    padded[..., :size, :size] = gram
    return np.mean([padded[..., tap[:, None], tap] for tap in taps.T], axis=0)


def mean_patch_gram(
    images: np.ndarray, window: Window, *, stem: Stem | None, groups: int = 1, placements: int = 20_000
) -> Gram:
    """The mean Gram matrix of a data set's patches, shape ``(P, P)``, scaled to a mean of 2 on its diagonal.

    ``images`` has shape ``(images, channels, height, width)`` or ``(images, height, width)``, any numeric type; each
    channel is centred over the data set and divided by one common deviation. Patches are taken behind ``stem``, or of
    the images as they are. At most ``placements`` windows (a pooled stem: a quarter of them) of ``MOST_IMAGES`` images,
    spread evenly and without chance, are averaged; images are padded as the stem pads them.

    ``groups`` that split the images' channels evenly get one matrix each, ``(groups, P, P)``, all at one scale; behind
    a stem of random filters all of them see the same. Raises ``ValueError`` where images are smaller than the window,
    which has no depth, or all constant.
    """
    if window.depth is not None:
        raise ValueError("the branch reads maps with a depth, and images have none: give 'gram' or 'correlation'")
    batch = _standardised(images)
    reach = 0 if stem is None else stem.kernel // 2 + stem.pooled * CONV_STRIDE
    batch = np.pad(batch, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    span = (window.height, window.width) if stem is None else (stem.span(window.height), stem.span(window.width))
    if batch.shape[2] < span[0] or batch.shape[3] < span[1]:
        raise ValueError(
            f"images of {images.shape[-2]}×{images.shape[-1]} with a border of {reach} are smaller than the "
            f"{span[0]}×{span[1]} pixels that the module's {window.height}×{window.width} inputs see"
        )
    views = sliding_window_view(batch, span, axis=(2, 3)).transpose(0, 2, 3, 1, 4, 5)
    placements = placements // 4 if stem is not None and stem.pooled else placements
    chosen = _spread(views.shape[:3], max(1, min(placements, MOST_ENTRIES // window.positions**2)))
    size = batch_size(window.positions, batch.shape[1], stem)
    parts = np.array_split(chosen, -(-len(chosen[0]) // size), axis=1)
    split = groups if stem is None and batch.shape[1] % groups == 0 else 1
    channels = np.split(np.arange(batch.shape[1]), split)
    gram = np.stack([gram_sum((views[tuple(part)][:, own] for part in parts), stem) for own in channels])
    total = np.trace(gram, axis1=1, axis2=2).sum()
    if not total > 0:
        raise ValueError("the data set's images are constant")
    gram = gram * 2 * window.positions * split / total
    return Gram(gram if split > 1 else gram[0])


def _taps(layer: WeightLayer, before: Window, after: Window) -> np.ndarray:
    """Input positions that each output position of a layer reads, ``(outputs, taps)``; padding reads the last."""
    match layer.kind:
        case "dense":
            return np.arange(before.positions)[None]
        case "conv":
            return _conv_taps(layer, before, after)
    assert_never(layer.kind)


def _conv_taps(layer: WeightLayer, before: Window, after: Window) -> np.ndarray:
    places = np.indices(after.sizes).reshape(len(after.sizes), -1)
    axes = [layer.along(axis) for axis in range(-len(after.sizes), 0)]
    kernel = np.indices([axis.kernel for axis in axes]).reshape(len(axes), -1)
    index, inside = 0, True
    for axis, own, tap, start, first, size in zip(
        axes, places, kernel, after.starts, before.starts, before.sizes, strict=True
    ):
        place = (own + start)[:, None] * axis.stride - axis.padding + axis.dilation * tap - first
        index = index * size + place
        inside = inside & (place >= 0) & (place < size)
    return np.where(inside, index, before.positions)


def _spread(shape: tuple[int, ...], count: int) -> np.ndarray:
    """About ``count`` indices into an array of ``shape``, by golden-ratio steps: no row or column is preferred."""
    total = int(np.prod(shape))
    steps = np.arange(total) if total <= count else (np.arange(count) * 0.6180339887498949 % 1 * total).astype(int)
    return np.stack(np.unravel_index(steps, shape))


def _standardised(images: np.ndarray) -> np.ndarray:
    batch = np.asarray(images)
    batch = batch[np.linspace(0, len(batch) - 1, min(len(batch), MOST_IMAGES)).astype(int)].astype(np.float32)
    if batch.ndim == 3:
        batch = batch[:, None]
    if batch.ndim != 4 or 0 in batch.shape:
        raise ValueError(f"images must have shape (images, channels, height, width), got {np.shape(images)}")
    batch = batch - batch.mean(axis=(0, 2, 3), keepdims=True)
    return batch / max(float(batch.std()), 1e-30)
