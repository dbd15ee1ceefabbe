"""`AdaptedLinear`: a frozen linear layer and low-rank matrices beside it, W x + b + s B A x.

The names of the layer's own tensors stay, so weights are loaded as before; the products run through
the rank, so that no gradient of the size of W is computed. A fused layer, such as qkv, has a pair
of matrices for each of its parts.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AdaptedLinear(nn.Linear, ABC):
    """A linear layer whose weight is frozen and whose adapter, A and B, and bias train.

    `down` is A of each part, (P, r, in), `up` is B, (P, out / P, r). Both are 0, so that the layer
    is what it was, until `start` or until weights are loaded.
    """

    def __init__(self, linear: nn.Linear, parts: int, rank: int, scale: float) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.parts, self.rank, self.scale = parts, rank, scale
        self.weight, self.bias = linear.weight.requires_grad_(False), linear.bias
        if self.bias is not None:
            self.bias.requires_grad_(True)
        empty = self.weight.new_zeros
        self.down = nn.Parameter(empty(parts, rank, self.in_features))
        self.up = nn.Parameter(empty(parts, self.out_features // parts, rank))

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        low = F.linear(tokens, self.down.flatten(0, 1)).unflatten(-1, (self.parts, self.rank))
        change = torch.einsum("...pr,por->...po", low * self.scale, self.up).flatten(-2)
        return F.linear(tokens, self.weight, self.bias) + change

    @property
    def started(self) -> bool:
        """True once A has values; of a layer without memory always."""
        return self.down.is_meta or bool(self.down.any())

    @abstractmethod
    def start(self) -> None:
        """Give A and B their values for these weights; the layer's output stays."""

    def frozen_weight(self, weight: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        """The frozen weight (out, in) that belongs to a weight of the base and the layer's other
        tensors, by name; the base's own, unless the adapter took a part out of it."""
        return weight

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain layer that computes the same."""
        change = (self.up.double() @ self.down.double()).flatten(0, 1) * self.scale
        weight = (self.weight.double() + change).to(self.weight.dtype)
        plain = nn.Linear(self.in_features, self.out_features, False, device="meta")
        plain.weight, plain.bias = nn.Parameter(weight), self.bias
        return plain


class LoRA(AdaptedLinear):
    """Hu et al., LoRA, ICLR 2022: A is random, B is 0."""

    @torch.no_grad()
    def start(self) -> None:
        """A by the uniform law of PyTorch's linear layers."""
        bound = self.in_features**-0.5
        self.down.uniform_(-bound, bound)
        self.up.zero_()


class SoMA(AdaptedLinear):
    """Yun et al., SoMA, CVPR 2025: A and B are the smallest singular triples of W, split evenly,
    and W loses them.

    `basis` (P, n, r), the singular vectors on the shorter side of W's parts, is what W lost: with
    it the frozen weight is known from the base's.
    """

    basis: Tensor

    def __init__(self, linear: nn.Linear, parts: int, rank: int, scale: float) -> None:
        super().__init__(linear, parts, rank, scale)
        side = min(self.in_features, self.out_features // parts)
        self.register_buffer("basis", self.weight.new_zeros(parts, side, rank))

    @torch.no_grad()
    def start(self) -> None:
        """Singular vectors are the eigenvectors of the smaller Gram matrix, in float64."""
        weights = self._in_parts(self.weight)
        gram = weights.mT @ weights if self._of_inputs else weights @ weights.mT
        self.basis.copy_(torch.linalg.eigh(gram).eigenvectors[..., : self.rank])
        basis, taken = self.basis.double(), self._projected(weights, self.basis)
        roots = taken.norm(dim=-2 if self._of_inputs else -1).sqrt()
        roots = roots.clamp_min(torch.finfo(torch.float32).tiny)
        if self._of_inputs:
            down, up = basis.mT * roots[..., None], taken / roots[:, None]
        else:
            down, up = taken / roots[..., None], basis * roots[:, None]
        self.down.copy_(down)
        self.up.copy_(up)
        self.weight.copy_(self.frozen_weight(self.weight, {"basis": self.basis}))

    def frozen_weight(self, weight: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        """The base's weight without the part that A and B began as."""
        weights, basis = self._in_parts(weight), given["basis"].to(weight.device)
        taken = self._projected(weights, basis)
        lost = taken @ basis.double().mT if self._of_inputs else basis.double() @ taken
        return (weights - lost * self.scale).flatten(0, 1).to(weight.dtype)

    @property
    def _of_inputs(self) -> bool:
        return self.in_features <= self.out_features // self.parts

    def _in_parts(self, weight: Tensor) -> Tensor:
        return weight.detach().double().unflatten(0, (self.parts, -1))

    def _projected(self, weights: Tensor, basis: Tensor) -> Tensor:
        """Parts (P, o, i) on the basis: (P, o, r) of inputs, (P, r, i) of outputs."""
        return weights @ basis.double() if self._of_inputs else basis.double().mT @ weights
