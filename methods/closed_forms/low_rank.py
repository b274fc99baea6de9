"""Curvature of rank n: H = A'A of the gradients of n examples, never formed.

With a = A D^-½ and K = a a', the identities of Woodbury and Sylvester leave n by n matrices:

    (H + D)⁻¹ = D^-½ (I - a'(I + K)⁻¹ a) D^-½,    log det(H + D) - log det D = log det(I + K).

γ are column sums of squares of L⁻¹a, L L' = I + K: nothing is subtracted. Where all weights share one prior precision,
which is sought for, one eigendecomposition of A A' serves every value of it. Conditioning takes rows and columns out of
a, so that it is exact in every round. Rows of linear layers are outer products, and are formed a block at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from ...datasets.errors import UsageError
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
    """Rows by parameter name, in the flat order of `sizes` numbers each; H = scale · A'A of what is `kept`.

    `shared` holds what is computed once for all curvatures that differ in scale alone.
    """

    rows: Mapping[str, Rows]
    sizes: tuple[int, ...]
    n: int
    scale: float | Tensor = 1.0
    kept: Tensor | None = None
    shared: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def scaled(self, c: float | Tensor) -> Self:
        """The rows times √c."""
        return replace(self, scale=self.scale * c)

    def masked(self, kept: Tensor) -> Self:
        """Columns of what has left are no more."""
        there = kept if self.kept is None else kept & self.kept
        unchanged = bool(there.all()) if self.kept is None else torch.equal(there, self.kept)
        return self if unchanged else replace(self, kept=there, shared={})

    def log_det_ratio(self, prior_precision: Tensor) -> Tensor:
        """log det(I + K)."""
        return _log_det(self._factor(prior_precision))

    def determined(self, prior_precision: Tensor, out: Tensor | None = None) -> Tensor:
        """Column sums of (L⁻¹a)²."""
        factor = self._factor(prior_precision)
        gamma = (torch.empty_like(prior_precision) if out is None else out).zero_()
        for at, a in self._scaled(prior_precision):
            gamma[at] = torch.linalg.solve_triangular(factor.to(a), a, upper=False).square_().sum(0, dtype=gamma.dtype)
        return gamma

    def determined_in_sum(self, prior_precision: Tensor, out: Tensor | None = None) -> Tensor:
        """tr((I + K)⁻¹ K_t) of each tensor t, the same number for each of its weights."""
        if bool((prior_precision == prior_precision[0]).all()):
            values, parts = self._spectrum
            sums = (parts / (prior_precision[0] / self.scale + values)).sum(1).unbind()
        else:
            inverse = torch.cholesky_inverse(self._factor(prior_precision))
            grams = zip(self._grams, prior_precision.split(self.sizes), strict=True)
            sums = [self.scale * (inverse * gram).sum() / prior[0] for gram, prior in grams]
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
        own, moved = 0.5 * (prior_precision * leaving.square()).sum(), mean.masked_fill(~kept, 0)
        r = mean.new_zeros(self.n)
        for at, a in self._scaled(prior_precision, ~kept):
            r += a.double() @ (root[at] * leaving[at])
        factor = _plus_one(self._gram(prior_precision, kept))
        y = torch.cholesky_solve(r.unsqueeze(1), factor).squeeze(1)
        for at, a in self._scaled(prior_precision, kept) if leaving.any() else ():
            moved[at] += (y @ a.double()) / root[at]
        return Conditional(moved, own + 0.5 * r @ r, own + 0.5 * r @ y, log_det_ratio=_log_det(factor))

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

    def product(self, prior_precision: Tensor, vector: Tensor) -> Tensor:
        """(H + D) v, shape (P,), float64; A'(Av) in the rows' own type."""
        one, found = torch.ones_like(prior_precision), prior_precision * vector
        inside = vector.new_zeros(self.n)
        for at, a in self._scaled(one):
            inside += a @ vector[at].to(a)
        for at, a in self._scaled(one):
            found[at] += inside.to(a) @ a
        return found

    def columns(self, among: Tensor) -> Tensor:
        """Columns of A, times the root of the scale: (n, number of those `among`, boolean (P,)), float64."""
        return torch.cat([a for _, a in self._scaled(torch.ones_like(among, dtype=torch.float64), among)], 1).double()

    # -------------------------------------------------------------- n by n

    def _factor(self, prior: Tensor) -> Tensor:
        """L of I + K."""
        parts = prior.split(self.sizes)
        if not all(bool((part == part[0]).all()) for part in parts if len(part)):
            return _plus_one(self._gram(prior))
        shares = zip(self._grams, parts, strict=True)
        return _plus_one(torch.stack([gram * (self.scale / part[0]) for gram, part in shares if len(part)]).sum(0))

    @property
    def _grams(self) -> list[Tensor]:
        """A A' of each tensor, at scale 1."""
        if "grams" not in self.shared:
            self.shared["grams"] = replace(self, scale=1.0)._formed_grams()
        return self.shared["grams"]

    @property
    def _spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of A A', (n,), and the diagonals of its tensors' parts in its eigenbasis, (tensors, n)."""
        if "spectrum" not in self.shared:
            values, basis = torch.linalg.eigh(torch.stack(self._grams).sum(0))
            parts = torch.stack([((gram @ basis) * basis).sum(0) for gram in self._grams])
            self.shared["spectrum"] = values.clamp_min(0), parts
        return self.shared["spectrum"]

    def _formed_grams(self) -> list[Tensor]:
        one = torch.ones(sum(self.sizes), dtype=torch.float64, device=self._device)
        grams = [self._zero() for _ in self.sizes]
        for i, _, a in self._columns(one):
            grams[i] += a @ a.T
        return grams

    def _gram(self, prior: Tensor, among: Tensor | None = None) -> Tensor:
        """K, of what is `among` these only."""
        total = self._zero()
        for _, a in self._scaled(prior, among):
            total += a @ a.T
        return total

    def _zero(self) -> Tensor:
        return torch.zeros(self.n, self.n, dtype=torch.float64, device=self._device)

    def _scaled(self, prior: Tensor, among: Tensor | None = None) -> Iterator[tuple[Tensor | slice, Tensor]]:
        """Places in the flat order, and columns of a."""
        for _, at, a in self._columns(prior, among):
            yield at, a

    def _columns(self, prior: Tensor, among: Tensor | None = None) -> Iterator[tuple[int, Tensor | slice, Tensor]]:
        """With the number of their tensor; of what is there alone, in the rows' own type."""
        there = among if self.kept is None else self.kept if among is None else self.kept & among
        start, factor = 0, torch.as_tensor(self.scale, dtype=torch.float64).sqrt()
        for i, rows in enumerate(self.rows.values()):
            for block in rows.blocks(max(1, BLOCK // max(self.n, 1))):
                at = slice(start, start := start + block.shape[1])
                if there is not None:
                    live = there[at].nonzero().squeeze(1)
                    at, block = at.start + live, block[:, live]
                yield i, at, block * (factor / prior[at].sqrt()).to(block)

    @property
    def _device(self) -> torch.device:
        first = next(iter(self.rows.values()))
        return first.g.device if isinstance(first, Outer) else first.rows.device


def rows_behind(curvature: Curvature) -> LowRank:
    """The curvature, if it is one of rows; raises UsageError for any other."""
    if not isinstance(curvature, LowRank):
        raise UsageError("sets of weights are chosen on the rows of single examples: choose curvature: lowrank")
    return curvature


def _plus_one(gram: Tensor) -> Tensor:
    """The factor of I + K."""
    gram.diagonal().add_(1)
    return cholesky(gram, "the matrix of the rows")


def _log_det(factor: Tensor) -> Tensor:
    return 2 * factor.diagonal().log().sum()
