"""Kronecker-factored curvature, and its Laplace evidence with any independent prior.

Dhahri, Immer, Charpentier, Günnemann, Fortuin, "Shaving weights with Occam's razor", NeurIPS 2024, arXiv
2402.15978. With B = Q₁ diag(l₁) Q₁', A = Q₂ diag(l₂) Q₂' and the prior precisions Δ (out, in) of a weight, D is
replaced by the diagonal nearest to it in the eigenbasis of B ⊗ A: S = Q∘Q, Δ̃ = S₁' Δ S₂, L = l₁ l₂' + Δ̃.
For one precision per tensor this is exact; otherwise, by Hadamard's inequality, Σ log L ≥ log det(H + D), and the
evidence is a lower bound. Where eigenvalues coincide, as the zeros of a factor of low rank do, the bound depends on
which of their eigenvectors were found. A step costs 2 out in (out + in) multiplications each way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor

from . import conditioning
from .conditioning import Conditional
from .curvature_matrix import Curvature
from .eigen import eigh


@dataclass(frozen=True)
class KroneckerProduct(Curvature):
    """G blocks B ⊗ A, side by side, in their eigenbases; P = G · out · in.

    Attributes:
        h: eigenvalues l₁ l₂', float64 (G, out, in).
        left: Q₁, B's eigenvectors, (G, out, out): rows are parameters, columns eigenvectors.
        right: Q₂, A's, (G, in, in).
        counted: of the entries that are still there in each eigenvector, S₁' M S₂, (G, out, in); None while all are.
    """

    exact_masks: ClassVar[bool] = False

    h: Tensor
    left: Tensor
    right: Tensor
    counted: Tensor | None = None

    @classmethod
    def of(cls, left: Tensor, right: Tensor) -> Self:
        """From the symmetric positive semi-definite factors B (G, out, out) and A (G, in, in)."""
        (l1, q1), (l2, q2) = (eigh(factor.double()) for factor in (left, right))
        h = l1.clamp_min_(0).unsqueeze(2) * l2.clamp_min_(0).unsqueeze(1)
        return cls(h, q1, q2)

    def scaled(self, c: float | Tensor) -> Self:
        """The eigenvalues times c."""
        return replace(self, h=c * self.h)

    def masked(self, kept: Tensor) -> Self:
        """The same product, as single entries cannot leave it, that counts those which are there."""
        there = kept.view_as(self.h).to(self.h)
        return replace(self, counted=self.left.square().mT @ there @ self.right.square())

    def log_det_ratio(self, prior_precision: Tensor) -> Tensor:
        """Σ log L - Σ log Δ; the smoothing's own part, Σ log Δ̃ - Σ log Δ, is not negative (Jensen)."""
        prior = self._smoothed(prior_precision)
        smoothing = (prior / prior_precision.view_as(prior)).log().sum()
        return (self.h / prior).log1p().sum() + smoothing.clamp_min(0)

    def determined(self, prior_precision: Tensor, out: Tensor | None = None) -> Tensor:
        """1 - Δ ∘ (S₁ (1/L) S₂'); single entries may be negative where precisions differ within the tensor."""
        prior, top = self._smoothed(prior_precision), prior_precision.max()
        share = prior_precision / top  # 1 where precisions are equal, and then nothing below cancels
        spread = self._spread((self.h + (prior - top)) / (self.h + prior))
        return torch.add(1 - share, share * spread, out=out)

    def determined_in_sum(self, prior_precision: Tensor, out: Tensor | None = None) -> Tensor:
        """h / (h + δ) of the eigenvectors, each for as much of it as is there."""
        prior = prior_precision.view_as(self.h)
        shares = self.h / (self.h + prior)
        return (shares if self.counted is None else shares.mul_(self.counted)).flatten()

    def condition(self, prior_precision: Tensor, mean: Tensor, kept: Tensor) -> Conditional:
        """Exact for any mask and any precisions, which are not smoothed here."""
        mean, kept, prior = (t.view(self.h.shape) for t in (mean, kept, prior_precision))
        return conditioning.kronecker(mean, kept, *self.factors, prior)

    def solve(self, prior_precision: Tensor, vector: Tensor) -> Tensor:
        """Q₁ ((Q₁' V Q₂) / L) Q₂': exact for one precision."""
        rotated = self.left.mT @ vector.view_as(self.h) @ self.right
        return (self.left @ (rotated / (self.h + self._smoothed(prior_precision))) @ self.right.mT).flatten()

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        """B and A, up to a number that one lends the other: (G, out, out) and (G, in, in)."""
        l1, total = self.h.sum(2), self.h.sum((1, 2)).clamp_min(torch.finfo(self.h.dtype).tiny)
        l2 = self.h.sum(1) / total.unsqueeze(1)
        return _composed(self.left, l1), _composed(self.right, l2)

    def precision(self, prior_precision: Tensor) -> Tensor:
        """S₁ L S₂': exact for one precision, which is otherwise smoothed a second time; its sum is the trace."""
        return self._spread(self.h + self._smoothed(prior_precision))

    def _smoothed(self, prior_precision: Tensor) -> Tensor:
        """Δ̃ = S₁' Δ S₂, shape (G, out, in); rows and columns of S add up to 1, so that equal entries stay exact."""
        delta, least = prior_precision.view_as(self.h), prior_precision.min()
        excess = delta - least
        return least + self.left.square().mT @ excess @ self.right.square() if excess.any() else delta

    def _spread(self, values: Tensor) -> Tensor:
        """From eigenvectors back to parameters, shape (P,)."""
        return (self.left.square() @ values @ self.right.square().mT).flatten()


def _composed(vectors: Tensor, values: Tensor) -> Tensor:
    return (vectors * values.unsqueeze(1)) @ vectors.mT


@dataclass(frozen=True)
class Kronecker(Curvature):
    """Independent blocks by parameter name, in the flat order of `sizes` numbers each.

    Of what has left (not `kept`) nothing is determined, but it stays in the determinants of the products.
    """

    exact_masks: ClassVar[bool] = False

    blocks: Mapping[str, Curvature]
    sizes: tuple[int, ...]
    kept: Tensor | None = None

    def scaled(self, c: float | Tensor) -> Self:
        """Every block scaled."""
        return replace(self, blocks={name: block.scaled(c) for name, block in self.blocks.items()})

    def masked(self, kept: Tensor) -> Self:
        """Entries leave the diagonal blocks; Kronecker products stay what they are."""
        parts = zip(self.blocks.items(), kept.split(self.sizes), strict=True)
        return replace(self, blocks={name: block.masked(part) for (name, block), part in parts}, kept=kept)

    def log_det_ratio(self, prior_precision: Tensor) -> Tensor:
        """Sum over the blocks."""
        return torch.stack([block.log_det_ratio(part) for block, part in self._parts(prior_precision)]).sum()

    def determined(self, prior_precision: Tensor, out: Tensor | None = None) -> Tensor:
        """γ of the blocks, one after the other; 0 of what has left."""
        gamma = torch.cat([block.determined(part) for block, part in self._parts(prior_precision)], out=out)
        return gamma if self.kept is None else gamma.mul_(self.kept)

    def determined_in_sum(self, prior_precision: Tensor, out: Tensor | None = None) -> Tensor:
        """Those of the blocks; what has left counts for nothing in any."""
        return torch.cat([block.determined_in_sum(part) for block, part in self._parts(prior_precision)], out=out)

    def condition(self, prior_precision: Tensor, mean: Tensor, kept: Tensor) -> Conditional:
        """Block by block: between blocks nothing moves."""
        parts = (flat.split(self.sizes) for flat in (prior_precision, mean, kept))
        blocks = zip(self.blocks.values(), *parts, strict=True)
        return conditioning.joined([block.condition(*part) for block, *part in blocks])

    def solve(self, prior_precision: Tensor, vector: Tensor) -> Tensor:
        """Block by block."""
        parts = zip(self._parts(prior_precision), vector.split(self.sizes), strict=True)
        return torch.cat([block.solve(prior, part) for (block, prior), part in parts])

    def precision(self, prior_precision: Tensor) -> Tensor:
        """The diagonals of the blocks, one after the other."""
        return torch.cat([block.precision(part) for block, part in self._parts(prior_precision)])

    def _parts(self, flat: Tensor) -> Iterator[tuple[Curvature, Tensor]]:
        return zip(self.blocks.values(), flat.split(self.sizes), strict=True)
