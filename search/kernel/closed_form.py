"""Exact first and second moments of the diagonal NTK entry at initialization, at any finite widths.

K is the sum over all parameters of the squared derivatives of an output, so E[K²] sums over pairs of parameters;
``pairs`` carries them through layers of independent rows. Only the first layer may share weights over positions: its
channels are independent, and what one of them contributes is a sum over pairs of positions of the expectations in
``relu``. Where it has groups, each channel sees the Gram matrix of its own group's inputs. A depthwise layer behind it
keeps its channels apart: each goes through a dense layer of one unit, whose inputs are the channel's positions, before
the channels meet. Activations are positively
homogeneous: rectifiers, leaky or not, and the identity. Of others the gates depend on the size of what comes in, and
the recursion does not close.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from collegium.counted import counted
from collegium.search.kernel import relu
from collegium.search.kernel.inputs import Gram, check_gram, is_diagonal, patch_gram
from collegium.search.kernel.pairs import Pair, Part, State
from collegium.search.kernel.receptive_field import input_window, windows
from collegium.search.networks.activation import Activation
from collegium.search.networks.chain import Chain, Free, WeightLayer
from collegium.search.spec import PairSpec


def has_closed_form(chain: Chain, entry: str, pair: PairSpec | None = None) -> bool:
    """Whether the moments of this entry are known exactly.

    They are where the chain is dense above its first layer (``is_dense_above``) and every activation is positively
    homogeneous: a rectifier, a leaky one or the identity. With biases, leaky rectifiers do not go with others.
    """
    mixed = {"relu", "leaky_relu"} <= {layer.activation for layer in chain.layers}
    return is_dense_above(chain, entry, pair) and chain.homogeneous and not (chain.bias and mixed)


def is_dense_above(chain: Chain, entry: str, pair: PairSpec | None = None) -> bool:
    """Whether a diagonal entry is that of a dense chain on independent channels of its first layer.

    So it is without pools, and without groups above the first layer, where no layer above the first is needed at more
    than one position: MLPs, and the output unit of bottleneck (1×1 → k×k → 1×1) and basic (k×k → k×k) blocks. The
    second layer may be depthwise, where it has as many outputs as inputs. With biases, no layer may share its weights
    and the first has no groups.
    """
    needed = [window.positions for window in windows(chain, entry)[1:]]
    apart = has_depthwise_second(chain)
    return (
        is_diagonal(pair)
        and not chain.pooled
        and all(layer.groups == 1 and not layer.depthwise for layer in chain.layers[2 if apart else 1 :])
        and all(positions == 1 for positions in needed[1:])
        and (len(chain.layers) > 1 or entry == "unit")
        and not (chain.bias and (needed[0] > 1 or chain.first_groups > 1 or apart))
    )


def has_depthwise_second(chain: Chain) -> bool:
    """Whether the second layer is depthwise, with one output for each channel, and not the last."""
    return len(chain.layers) > 2 and chain.layers[1].depthwise and chain.layers[0].out == chain.layers[1].out


def is_gated(chain: Chain, entry: str, pair: PairSpec | None = None) -> bool:
    """Whether an entry is that of a dense chain of rectifiers and linear layers alone, all with biases or none.

    A unit is then open or closed and nothing else, and a layer's draws are but counts and sums of squares.
    """
    gated = all(layer.activation in ("relu", "linear") and not layer.depthwise for layer in chain.layers)
    return gated and not isinstance(chain.bias, tuple) and is_dense_above(chain, entry, pair)


def log_moment_ratio(chain: Chain, widths: Sequence[int], gram: ArrayLike | Gram | None = None) -> float:
    """ln r = ln E[K²] − 2 ln E[K] of the unit entry, exact.

    ``gram`` is the Gram matrix of the input positions that the unit sees, shape ``(P, P)``, or one for each group of
    the first layer, ``(groups, P, P)``. It may be left out where the first layer is needed at one position only, and
    then stands for inputs of unit mean square, [[2]]. Its scale matters where there are biases, and there alone.
    Raises ``ValueError`` where there is no closed form.

    >>> from collegium.search.networks.families.mlp import mlp_chain
    >>> for bias in (False, True):
    ...     print(round(log_moment_ratio(mlp_chain(64, 3, 1, bias), (20, 20, 20)), 4))
    0.4745
    0.3085
    """
    return float(log_moment_ratios(chain, [widths], gram)[0])


def log_moment_ratios(chain: Chain, widths: ArrayLike, gram: ArrayLike | Gram | None = None) -> np.ndarray:
    """``log_moment_ratio`` at many width vectors at once: ``widths`` has shape ``(vectors, free widths)``."""
    table = np.atleast_2d(np.asarray(widths, dtype=float))
    if table.shape[1] != len(chain.names):
        raise ValueError(f"expected {counted(len(chain.names), 'width')} {chain.names}, got {table.shape[1]}")
    if len(chain.layers) == 1:
        return np.zeros(len(table))
    state = _output(chain, table, _first_grams(chain, gram))
    return np.log1p((state.second - state.mean**2) / state.mean**2)


def mean(chain: Chain, widths: Sequence[int], gram: ArrayLike | Gram | None = None) -> float:
    """E[K] of the unit entry: every weight layer contributes the same, E|a^L|² / fan_in of the last layer.

    A layer of biases contributes 1 / (g/f E|a|²) times as much, as far as its gates are open at all.

    ``gram`` is scaled as (2 / channels) XᵀX, hence 2 on its diagonal for inputs of unit mean square, and that is what
    is taken where it is left out; it may be one for each group of the first layer. Raises ``ValueError`` where there is
    no closed form.
    """
    grams = _first_grams(chain, gram)
    if len(chain.layers) == 1:  # the unit belongs to the first group
        return float(np.trace(grams[0])) / 2 + chain.biases[0]
    table = np.array([widths], dtype=float)
    return float(_output(chain, table, grams).mean[0]) * _mean_squares(chain, grams)[-1]


def _output(chain: Chain, table: np.ndarray, grams: np.ndarray) -> State:
    """The pairs at the output unit, at each width vector of ``table``."""
    *hidden, _ = chain.layers
    biases = _bias_weights(chain, grams)
    if chain.bias:
        state, start = State.of_input(len(table)), 0
    else:
        start = 2 if has_depthwise_second(chain) else 1
        channels = [_behind_depthwise(_channel(gram, hidden[0].phi), hidden[1:start]) for gram in grams]
        state = _first_layer(channels, start, _widths(hidden[0], table))
    for layer, bias in list(zip(hidden, biases, strict=False))[start:]:
        state = state.through(_widths(layer, table), layer.phi, bias)
    return state.through(np.ones(len(table)), Activation("linear"), biases[-1])


def _widths(layer: WeightLayer, table: np.ndarray) -> np.ndarray:
    if isinstance(layer.out, Free):
        return layer.out.times * table[:, layer.out.index]
    return np.full(len(table), float(layer.out))


def _bias_weights(chain: Chain, grams: np.ndarray) -> list[float]:
    """ζ of each layer: what its biases add to its part of K, relative to its weights."""
    if not chain.bias:
        return [0.0] * len(chain.layers)
    squares = _mean_squares(chain, grams)
    each = zip(chain.biases, chain.gains, squares, strict=True)
    return [1 / (gain * square) if bias else 0.0 for bias, gain, square in each]


def _mean_squares(chain: Chain, grams: np.ndarray) -> list[float]:
    """E|a|² / fan_in of what each layer reads; the first layer's, summed over its positions.

    A rectifier after a gain of 2 keeps it, and so does a linear layer; reading padding lowers it.
    """
    sizes = chain.shapes([1] * len(chain.names))
    found = [float(np.trace(grams, axis1=1, axis2=2).mean()) / 2]
    for layer, (_, *extents) in list(zip(chain.layers, sizes, strict=False))[1:]:
        found.append(found[-1] / layer.taps(*extents))
    return found


def _first_grams(chain: Chain, gram: ArrayLike | Gram | None) -> np.ndarray:
    """Covariance of the first layer's pre-activations over its positions, up to its gain; ``(1 or groups, P, P)``."""
    if not has_closed_form(chain, "unit"):
        raise ValueError(
            "no closed form: a layer above the first shares its weights or has groups (and is not a depthwise second "
            "one), or there are biases and the "
            "first does, or an activation is neither a rectifier, leaky or not, nor the identity"
        )
    if gram is not None:
        given = check_gram(gram, input_window(chain, "unit").positions, chain.first_groups)
        grams = patch_gram(chain, "unit", given.matrix)
        grams = grams if grams.ndim == 3 else grams[None]
        if not np.trace(grams, axis1=1, axis2=2).sum() > 0:
            raise ValueError("the Gram matrix is zero: the unit sees no input")
        return grams
    needed = windows(chain, "unit")[1].positions
    if needed != 1:
        raise ValueError(f"the first layer is needed at {needed} positions: a Gram matrix is needed")
    return np.full((1, 1, 1), 2.0)


def _first_layer(each: Sequence[Channel], layers: int, width: np.ndarray) -> State:
    """The state after ``width`` independent channels, in as many equal groups as there are ``each``, of so many layers.

    Two channels add the product of their means to ``norms``, and nothing to ``inner``; one channel adds its own
    expectation. The tangents of every layer have the mean of the activations.
    """
    members = width / len(each)
    sizes = np.array([size for size, *_ in each])
    total = members * sizes.sum()

    def pair(norms: int, inner: int, tangents: int) -> Pair:
        own, within = (members * sum(channel[index] for channel in each) / total**2 for index in (norms, inner))
        return Pair(own + layers**tangents * (1 - members * (sizes**2).sum() / total**2), within)

    activations = pair(1, 1, 0)
    # u = v = a: |u|²|v|² and ⟨u, v⟩² are the same
    same = Pair(activations.norms, activations.norms)
    return State.of_first_layer(same, pair(2, 3, 1), pair(4, 5, 2), layers)


#: E|a|², E|a|⁴, then ``norms`` and ``inner`` of mixed pairs and of tangents, of one channel.
Channel = tuple[float, float, float, float, float, float]


def _behind_depthwise(channel: Channel, layers: Sequence[WeightLayer]) -> Channel:
    """What a channel contributes behind a depthwise layer: a dense one of a single unit, which reads its positions.

    Relative to E|a|², as ``Part.through`` keeps it; without such a layer what it is.
    """
    size, *moments = channel
    for layer in layers:
        square, mixed, mixed_inner, tangents, inner = (np.array([moment]) for moment in moments)
        one = np.ones(1)
        part = Part(one, one, Pair(square, square), Pair(mixed, mixed_inner), Pair(tangents, inner), one)
        part = part.through(one, layer.phi, 0.0)
        pairs = (part.activations.norms, part.mixed.norms, part.mixed.inner, part.tangents.norms, part.tangents.inner)
        moments = [float(each[0]) for each in pairs]
    return size, *moments  # pyright: ignore[reportReturnType]


def _channel(gram: np.ndarray, activation: Activation) -> Channel:
    """What one channel contributes, with z ~ N(0, ``gram``) over its positions."""
    variance = np.diag(gram)
    product = np.outer(variance, variance)
    if activation.name == "linear":
        size, square = variance.sum(), (gram**2).sum()
        return size, (product + 2 * gram**2).sum(), size**2, square, size**2, square
    slope = activation.slope
    assert slope is not None  # the chain has a closed form
    deviation = np.sqrt(np.where(variance > 0, variance, 1.0))
    rho = gram / np.outer(deviation, deviation)
    # the angle of ρ = 1 must be zero, not the square root of a rounding error
    rho = np.where(1 - np.abs(rho) < 1e-14, np.sign(rho), rho)
    gates = relu.leaky(relu.gate_gate, rho, slope)
    return (
        variance.sum() * (1 + slope**2) / 2,
        (product * relu.leaky(relu.square_square, rho, slope)).sum(),
        (product * relu.leaky(relu.gate_square, rho, slope)).sum(),
        (gram * np.sqrt(product) * relu.leaky(relu.relu_relu, rho, slope, odd=True)).sum(),
        (product * gates).sum(),
        (gram**2 * gates).sum(),
    )
