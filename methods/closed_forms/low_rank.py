"""Curvature of rank n: H = A'A of the gradients of n examples, never formed.

With a = A D^-½ and K = a a', the identities of Woodbury and Sylvester leave n by n matrices:

    (H + D)⁻¹ = D^-½ (I - a'(I + K)⁻¹ a) D^-½,    log det(H + D) - log det D = log det(I + K).

γ are column sums of squares of L⁻¹a, L L' = I + K: nothing is subtracted. Conditioning takes rows and columns out of a,
so that it is exact in every round. Rows of linear layers are outer products, and are formed a block at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from .conditioning import Conditional, cholesky
from .curvature_matrix import Curvature

# Numbers of the rows that are formed at a time.
BLOCK = 1 << 23


@dataclass(frozen=True)
class Outer:
    """Rows g_i a_i' of a weight: g (n, out) and a (n, in)."""

    g: Tensor
    a: Tensor

    def blocks(self, most: int) -> Iterator[Tensor]:
        """Consecutive columns of the rows, (n, at most `most`, but whole outputs)."""
        for g in self.g.split(max(1, most // self.a.shape[1]), 1):
            yield (g.unsqueeze(2) * self.a.unsqueeze(1)).flatten(1)


@dataclass(frozen=True)
class Formed:
    """Rows as they are, (n, numel)."""

    rows: Tensor

    def blocks(self, most: int) -> Iterator[Tensor]:
        """Consecutive columns of the rows."""
        yield from self.rows.split(max(1, most), 1)


Rows = Outer | Formed


@dataclass(frozen=True)
class LowRank(Curvature):
    """Rows by parameter name, in the flat order of `sizes` numbers each; H = scale · A'A of what is `kept`."""

    rows: Mapping[str, Rows]
    sizes: tuple[int, ...]
    n: int
    scale: float | Tensor = 1.0
    kept: Tensor | None = None

    def scaled(self, c: float | Tensor) -> Self:
        """The rows times √c."""
        return replace(self, scale=self.scale * c)

    def masked(self, kept: Tensor) -> Self:
        """Columns of what has left are 0."""
        return replace(self, kept=kept if self.kept is None else kept & self.kept)

    def log_det_ratio(self, prior_precision: Tensor) -> Tensor:
        """log det(I + K)."""
        return 2 * self._factor(prior_precision).diagonal().log().sum()

    def determined(self, prior_precision: Tensor, out: Tensor | None = None) -> Tensor:
        """Column sums of (L⁻¹a)²."""
        factor = self._factor(prior_precision)
        gamma = torch.empty_like(prior_precision) if out is None else out
        for at, a in self._scaled(prior_precision):
            gamma[at] = torch.linalg.solve_triangular(factor.to(a), a, upper=False).square_().sum(0, dtype=gamma.dtype)
        return gamma

    def determined_in_sum(self, prior_precision: Tensor, out: Tensor | None = None) -> Tensor:
        """tr((I + K)⁻¹ K_t) of each tensor t, the same number for each of its weights."""
        inverse = torch.cholesky_inverse(self._factor(prior_precision))
        parts = zip(self._grams, prior_precision.split(self.sizes), strict=True)
        sums = [(inverse * gram).sum() / prior[0] for gram, prior in parts]
        return torch.cat([(s / n).expand(n) for s, n in zip(sums, self.sizes, strict=True)], out=out)

    def precision(self, prior_precision: Tensor) -> Tensor:
        """Sums of squares of the columns, and δ."""
        total = prior_precision.clone()
        for at, a in self._scaled(torch.ones_like(prior_precision)):
            total[at] += a.square_().sum(0, dtype=total.dtype)
        return total

    def condition(self, prior_precision: Tensor, mean: Tensor, kept: Tensor) -> Conditional:
        """The ridge regression min |A w - A μ|² + Σ δ (w - μ)² on what stays, by one n by n system.

        With m = √δ μ and r = a_S m_S: d = a_R' (I + a_R a_R')⁻¹ r / √δ, c = ½ |m_S|² + ½ r'(I + a_R a_R')⁻¹ r.
        """
        leaving, root = mean.masked_fill(kept, 0), prior_precision.sqrt()
        own = 0.5 * (prior_precision * leaving.square()).sum()
        if not leaving.any():
            return Conditional(mean.masked_fill(~kept, 0), own, own)
        gram, r = self._gram(prior_precision, kept), mean.new_zeros(self.n)
        for at, a in self._scaled(prior_precision):
            r += a.double() @ (root[at] * leaving[at])
        y = torch.cholesky_solve(r.unsqueeze(1), _factored(gram)).squeeze(1)
        moved = mean.masked_fill(~kept, 0)
        for at, a in self._scaled(prior_precision):
            moved[at] += ((y @ a.double()) / root[at]) * kept[at]
        return Conditional(moved, own + 0.5 * r @ r, own + 0.5 * r @ y)

    def solve(self, prior_precision: Tensor, vector: Tensor) -> Tensor:
        """D⁻¹v - D^-½ a'(I + K)⁻¹ a D^-½ v."""
        root, inside = prior_precision.sqrt(), vector.new_zeros(self.n)
        for at, a in self._scaled(prior_precision):
            inside += a.double() @ (vector[at] / root[at])
        y = torch.cholesky_solve(inside.unsqueeze(1), self._factor(prior_precision)).squeeze(1)
        found = vector / prior_precision
        for at, a in self._scaled(prior_precision):
            found[at] -= (y @ a.double()) / root[at]
        return found

    # -------------------------------------------------------------- n by n

    def _factor(self, prior: Tensor) -> Tensor:
        """L of I + K."""
        parts = prior.split(self.sizes)
        if not all(bool((part == part[0]).all()) for part in parts if len(part)):
            return _factored(self._gram(prior))
        shares = zip(self._grams, parts, strict=True)
        return _factored(torch.stack([gram / part[0] for gram, part in shares if len(part)]).sum(0))

    @cached_property
    def _grams(self) -> list[Tensor]:
        """A A' of each tensor."""
        one = torch.ones(sum(self.sizes), dtype=torch.float64, device=self._device)
        grams = [self._zero() for _ in self.sizes]
        for i, a in self._columns(one):
            grams[i[0]] += a @ a.T
        return grams

    def _gram(self, prior: Tensor, kept: Tensor | None = None) -> Tensor:
        """K of what is `kept`."""
        total = self._zero()
        for at, a in self._scaled(prior):
            a = a if kept is None else a[:, kept[at]]
            total += a @ a.T
        return total

    def _zero(self) -> Tensor:
        return torch.zeros(self.n, self.n, dtype=torch.float64, device=self._device)

    def _scaled(self, prior: Tensor) -> Iterator[tuple[slice, Tensor]]:
        for (_, at), a in self._columns(prior):
            yield at, a

    def _columns(self, prior: Tensor) -> Iterator[tuple[tuple[int, slice], Tensor]]:
        """Number of the tensor, place in the flat order, and columns of a, in the rows' own type."""
        start, factor = 0, torch.as_tensor(self.scale, dtype=torch.float64).sqrt()
        for i, rows in enumerate(self.rows.values()):
            for block in rows.blocks(max(1, BLOCK // max(self.n, 1))):
                at = slice(start, start := start + block.shape[1])
                weight = factor / prior[at].sqrt()
                if self.kept is not None:
                    weight = weight * self.kept[at]
                yield (i, at), block * weight.to(block)

    @property
    def _device(self) -> torch.device:
        first = next(iter(self.rows.values()))
        return first.g.device if isinstance(first, Outer) else first.rows.device


def _factored(gram: Tensor) -> Tensor:
    gram = gram.clone()
    gram.diagonal().add_(1)
    return cholesky(gram, "the matrix of the rows")
