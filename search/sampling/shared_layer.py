"""One random layer of a chain: its forward pass, and its share of the kernel entry with the pass back.

All layers use the NTK parameterization (Littwin et al. 2020, Eq. 3). With patches u_p and pre-activations
z_p = √(g/f) W u_p at the positions p, a layer's share of the entry is

    ⟨∂F/∂W(x), ∂F/∂W(x')⟩ = g/f Σ_pq ⟨δ_p, δ'_q⟩ ⟨u_p, u'_q⟩,     δ = ∂F/∂z,

a sum that two position Grams give without the gradient itself; the cheaper of the two is taken. Biases are zero and of
unit rate, one for each channel, and add ⟨Σ_p δ_p, Σ_q δ'_q⟩.

Sizes: ``rows`` = inputs · positions, all that share the weights; ``fan_in`` f; ``group_out`` c; ``batch`` = samples ·
groups. Buffers are kept from call to call, because the first touch of fresh memory costs more than the arithmetic.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from collegium.search.networks.activation import Activation
from collegium.search.sampling.between.elementwise import activated, pulled_back
from collegium.search.sampling.normals import NormalStream, cholesky_factor
from collegium.search.sampling.schedule import law_cost, weights_cost
from collegium.search.sampling.unfold import ConvShape, Patches

#: Columns up to which a matrix of that many numbers is worth one product for all samples.
FEW_COLUMNS, LARGE_MATRIX = 48, 1 << 15


def gate(gradient: Tensor, z: Tensor, activations: Tensor, phi: Activation, out: Tensor) -> Tensor:
    """∂F/∂z = φ'(z) ∂F/∂a from the gradient ∂F/∂a of the activations a = φ(z); of a ReLU, where it is active."""
    if phi.name == "relu":
        return torch.ops.aten.threshold_backward.grad_input(gradient, activations, 0, grad_input=out)
    return out.copy_(pulled_back(phi, gradient, z, activations))


def paired(left: Tensor, right: Tensor) -> Tensor:
    """Inner products ⟨left, right⟩ over all but the first dimension."""
    if left is right:
        return torch.linalg.vector_norm(left.flatten(1), dim=1).square()
    return torch.linalg.vecdot(left.flatten(1), right.flatten(1))


def bias_share(left: Tensor, right: Tensor) -> Tensor:
    """⟨Σ_p δ_p, Σ_q δ'_q⟩ from both inputs' δ, ``(batch, positions, channels)`` → ``(batch,)``."""
    return torch.linalg.vecdot(left.sum(1), right.sum(1))


class InputLayer:
    """The first layer, by the law of its pre-activations: rows z ~ N(0, C), C the Gram matrix of its inputs' patches.

    Needs ``rank C`` normals a channel instead of ``fan_in``, and the inputs' Gram alone, never the inputs. Groups that
    all see the same C make no difference here; those that do not are ``GroupedInputLayer``.
    """

    def __init__(self, shape: ConvShape, samples: int, inputs: int, root: Tensor):
        """``root`` is R with R Rᵀ = C, ``(inputs · positions, rank)``; it brings the device and the type."""
        self._shape, self._inputs = shape, inputs
        self._root = root.expand(samples, *root.shape)
        self._normal = root.new_empty(samples, root.shape[1], shape.out_channels)
        self._z = root.new_empty(samples, root.shape[0], shape.out_channels)
        self._out, self._delta = self._z, torch.empty_like(self._z)

    def forward(self, normals: NormalStream) -> Tensor:
        """Activations ``(samples, inputs, …, channels)`` over the axes of the map."""
        _of_each(self._root, normals.fill(self._normal), self._z)
        return self._activations()

    def _activations(self) -> Tensor:
        """φ(z) as a map; a rectifier's takes the place of z."""
        self._out = self._z.relu_() if self._shape.relu else activated(self._shape.phi, self._z)
        return self._out.unflatten(1, (self._inputs, *self._shape.out_size))

    def share(self, gradient: Tensor) -> Tensor:
        """Σ_pq C_pq ⟨δ_p, δ'_q⟩ ``(samples,)``, from the gradient of the activations; the biases' share with it."""
        delta = gate(gradient.reshape(self._z.shape), self._z, self._out, self._shape.phi, self._delta)
        left, right = delta[:, : self._shape.positions], delta[:, -self._shape.positions :]
        share = self._by_covariance(left, right)
        return share + bias_share(left, right) if self._shape.bias else share

    def _by_covariance(self, left: Tensor, right: Tensor) -> Tensor:
        positions = self._shape.positions
        # The normals are done with: their memory takes Rᵀδ.
        onto = _of_each(self._root[:, :positions].mT, left, self._normal)
        if self._inputs == 1:
            return paired(onto, onto)
        return paired(onto, torch.bmm(self._root[:, positions:].mT, right))


def _of_each(same: Tensor, numbers: Tensor, out: Tensor) -> Tensor:
    """The product of one matrix, given once for each sample, with every sample's ``numbers``, in ``out``.

    A large matrix with few columns each would be read anew for every sample: there, all columns are those of one
    product.
    """
    if numbers.shape[2] > FEW_COLUMNS or same[0].numel() < LARGE_MATRIX:
        return torch.bmm(same, numbers, out=out)
    columns = torch.mm(same[0], numbers.transpose(0, 1).flatten(1))
    return out.copy_(columns.unflatten(1, (len(numbers), -1)).transpose(0, 1))


class GroupedInputLayer(InputLayer):
    """A first layer whose groups see different inputs: each draws its channels by the law of its own C."""

    def __init__(self, shape: ConvShape, samples: int, inputs: int, root: Tensor):
        """``root`` holds R for each group of the whole layer, ``(groups, inputs · positions, rank)``."""
        super().__init__(shape, samples, inputs, root[0])
        self._roots = root[: shape.groups]
        self._normal = root.new_empty(samples, shape.groups, root.shape[2], shape.group_out)

    def forward(self, normals: NormalStream) -> Tensor:
        """Activations ``(samples, inputs, …, channels)`` over the axes of the map."""
        apart = torch.matmul(self._roots, normals.fill(self._normal))  # (samples, groups, rows, group_out)
        self._z.copy_(apart.transpose(1, 2).flatten(2))
        return self._activations()

    def _by_covariance(self, left: Tensor, right: Tensor) -> Tensor:
        positions = self._shape.positions
        onto = self._onto(self._roots[:, :positions], left)
        return paired(onto, onto if self._inputs == 1 else self._onto(self._roots[:, positions:], right))

    def _onto(self, roots: Tensor, delta: Tensor) -> Tensor:
        """Rᵀδ of each group, ``(samples, groups, rank, group_out)``."""
        apart = delta.unflatten(2, (self._shape.groups, self._shape.group_out)).transpose(1, 2)
        return torch.matmul(roots.mT, apart)


class HiddenLayer:
    """What all ways of sampling a hidden layer have in common: its pre-activations, activations and groups."""

    def __init__(self, shape: ConvShape, samples: int, inputs: int, device: torch.device, dtype: torch.dtype):
        self.shape, self.samples, self.inputs = shape, samples, inputs
        self.rows, self.scale = inputs * shape.positions, sqrt(shape.gain / shape.fan_in)
        self._z = torch.empty(samples * shape.groups, self.rows, shape.group_out, device=device, dtype=dtype)
        self._active = torch.empty_like(self._z)

    def _activations(self) -> Tensor:
        """φ(z) as a map, its groups side by side."""
        shape = self.shape
        if shape.relu:
            torch.clamp_min(self._z, 0, out=self._active)
        else:
            self._active.copy_(activated(shape.phi, self._z))
        apart = self._active.view(self.samples, shape.groups, self.inputs, *shape.out_size, shape.group_out)
        return apart.movedim(1, -2).flatten(-2)

    def _grouped(self, gradient: Tensor) -> Tensor:
        """The gradient of the map of activations as ``(batch, rows, group_out)``."""
        apart = gradient.unflatten(-1, (self.shape.groups, self.shape.group_out))
        return apart.movedim(-2, 1).reshape(self._z.shape)

    def _halves(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of x and of x', which are the same for a diagonal entry."""
        positions = self.shape.positions
        return rows[:, :positions], rows[:, -positions:]

    def _sum_groups(self, weights: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """The share ``(samples,)`` of the weights, not yet scaled, and of the biases of δ of x and of x'."""
        per_group = self.scale**2 * weights
        if self.shape.bias:
            per_group += bias_share(left, right)
        return per_group.view(self.samples, -1).sum(1)


class DrawnLayer(HiddenLayer):
    """A hidden layer whose weights are drawn."""

    def __init__(self, shape: ConvShape, samples: int, inputs: int, device: torch.device, dtype: torch.dtype):
        super().__init__(shape, samples, inputs, device, dtype)
        batch = samples * shape.groups
        self._patches = Patches(shape, samples, inputs, device, dtype)
        self._delta = torch.empty_like(self._z)
        self._back = torch.empty(batch, self.rows, shape.fan_in, device=device, dtype=dtype)
        self._weights = torch.empty(batch, shape.fan_in, shape.group_out, device=device, dtype=dtype)
        grams = shape.positions**2 * (shape.fan_in + shape.group_out)
        self._by_grams = grams < inputs * shape.positions * shape.fan_in * shape.group_out
        self._read = self._back

    def forward(self, features: Tensor, normals: NormalStream) -> Tensor:
        """The activations that follow from the map ``features``, under fresh weights."""
        self._read = self._patches.read(features)
        normals.fill(self._weights)
        self._z.baddbmm_(self._read, self._weights, beta=0, alpha=self.scale)
        return self._activations()

    def backward(self, gradient: Tensor, normals: NormalStream) -> tuple[Tensor, Tensor]:
        """The layer's share ``(samples,)``, and the gradient of its features from that of its activations."""
        delta = gate(self._grouped(gradient), self._z, self._active, self.shape.phi, self._delta)
        self._back.baddbmm_(delta, self._weights.mT, beta=0, alpha=self.scale)
        (left, right), (u, v) = self._halves(delta), self._halves(self._read)
        if self._by_grams:
            share = paired(torch.bmm(left, right.mT), torch.bmm(u, v.mT))
        else:
            # The weights are done with: their memory takes the gradient.
            first = torch.bmm(u.mT, left, out=self._weights)
            share = paired(first, first if self.inputs == 1 else torch.bmm(v.mT, right))
        return self._sum_groups(share, left, right), self._patches.add(self._back)


class GaussianLayer(HiddenLayer):
    """A hidden layer by the law of what its weights do, in O(rows · (f + c)) normals instead of f · c.

    With patches U (rows × f) and A = U Uᵀ, the pre-activations have independent columns N(0, g/f A). Given them, the
    weights are known on the span of the patches and as random as before orthogonally to it, so the gradient of the
    patches is δ Zᵀ A⁻¹ U + √(g/f) N (1 − Uᵀ A⁻¹ U), where N (rows × f) has independent columns N(0, δ δᵀ).
    """

    def __init__(self, shape: ConvShape, samples: int, inputs: int, device: torch.device, dtype: torch.dtype):
        super().__init__(shape, samples, inputs, device, dtype)
        batch = samples * shape.groups
        self._patches = Patches(shape, samples, inputs, device, dtype)
        self._delta = torch.empty_like(self._z)
        self._back = torch.empty(batch, self.rows, shape.fan_in, device=device, dtype=dtype)
        self._normal_out = torch.empty(batch, self.rows, shape.group_out, device=device, dtype=dtype)
        self._normal_in = torch.empty(batch, self.rows, shape.fan_in, device=device, dtype=dtype)
        self._read, self._gram, self._root = self._back, self._back, self._back

    def forward(self, features: Tensor, normals: NormalStream) -> Tensor:
        """The activations that follow from the map ``features``."""
        self._read = self._patches.read(features)
        self._gram = torch.bmm(self._read, self._read.mT)
        self._root = cholesky_factor(self._gram)
        normals.fill(self._normal_out)
        self._z.baddbmm_(self._root, self._normal_out, beta=0, alpha=self.scale)
        if self.shape.biased:
            # A patch of zeros has no weight in the kernel, but would have biases, were its gates not closed.
            self._z.mul_(self._gram.diagonal(dim1=1, dim2=2).sign().unsqueeze(2))
        return self._activations()

    def backward(self, gradient: Tensor, normals: NormalStream) -> tuple[Tensor, Tensor]:
        """The layer's share ``(samples,)``, and the gradient of its features from that of its activations."""
        delta = gate(self._grouped(gradient), self._z, self._active, self.shape.phi, self._delta)
        delta_gram = torch.bmm(delta, delta.mT)
        p = self.shape.positions
        share = paired(self._gram[:, :p, -p:], delta_gram[:, :p, -p:])
        normals.fill(self._normal_in)
        self._back.baddbmm_(cholesky_factor(delta_gram), self._normal_in, beta=0, alpha=self.scale)
        onto = torch.bmm(delta, self._z.mT).baddbmm_(self._back, self._read.mT, alpha=-1)
        self._back.baddbmm_(torch.cholesky_solve(onto.mT, self._root).mT, self._read)
        return self._sum_groups(share, *self._halves(delta)), self._patches.add(self._back)


class ReadoutLayer:
    """The last layer: one linear output channel, at one position or averaged over the map."""

    def __init__(self, shape: ConvShape, samples: int, inputs: int, device: torch.device, dtype: torch.dtype):
        self._shape, self._inputs = shape, inputs
        self._patches = Patches(shape, samples, inputs, device, dtype)
        self._weights = torch.empty(samples, 1, 1, shape.fan_in, device=device, dtype=dtype)

    def share(self, features: Tensor, normals: NormalStream) -> tuple[Tensor, Tensor]:
        """The layer's share ``(samples,)``, and the gradient of the map ``features``."""
        read = self._patches.read(features).unflatten(1, (self._inputs, -1))
        mean = read.mean(2) if self._shape.positions > 1 else read[:, :, 0]
        share = self._shape.gain * paired(mean[:, 0], mean[:, -1]) / self._shape.fan_in + float(self._shape.bias)
        normals.fill(self._weights)
        weights = self._weights * (sqrt(self._shape.gain) / (sqrt(self._shape.fan_in) * self._shape.positions))
        return share, self._patches.add(weights.expand(read.shape))


def law_is_cheaper(shape: ConvShape, inputs: int) -> bool:
    """Whether drawing the law of what a layer's weights do costs less than drawing the weights."""
    rows, fan_in, out = inputs * shape.positions, shape.fan_in, shape.group_out
    return law_cost(rows, fan_in, out) < weights_cost(rows, fan_in, out)
