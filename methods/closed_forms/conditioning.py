"""A Gaussian given that some of its weights are 0: where the survivors go, and what that costs.

With mean μ, precision Λ, covariance Σ = Λ⁻¹, S what leaves and R what stays,

    w_R = μ_R + d = μ_R - Σ_RS Σ_SS⁻¹ μ_S,    d = Λ_RR⁻¹ b,    b = Λ_RS μ_S.

Leaving S at 0 and R where it was costs z = ½ μ_S' Λ_SS μ_S nats; with R moved, c = z - ½ b'd = ½ μ_S' Σ_SS⁻¹ μ_S ≤ z.
For one weight this is the surgery of Hassibi, Stork (NIPS 1992), for several it is not the sum of theirs, though
removing them one after the other, in any order, ends there too. What left before has μ = 0 and is not in R: it takes no
part, so that rounds need no memory. The solutions are those on R, which need no inverse of Λ and subtract nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Conjugate gradients stop at this share of the right side, or after so many steps: less changes no accuracy.
TOLERANCE = 1e-4
STEPS = 200
# Unknowns up to which a block is factored instead.
DIRECT = 1_000


@dataclass(frozen=True)
class Conditional:
    """The conditional mean, and what it cost on the quadratic form of the posterior.

    Attributes:
        mean: (P,), float64; 0 where nothing is kept.
        zeroing: z, nats.
        cost: c ≤ z, nats.
        steps: of conjugate gradients; 0 where the system was solved directly.
        residual: what they left of the right side, as a share.
        log_det_ratio: log det Λ_RR - Σ_R log δ, where the system was factored with priors of all its weights.
    """

    mean: Tensor
    zeroing: Tensor
    cost: Tensor
    steps: int = 0
    residual: float = 0.0
    log_det_ratio: Tensor | None = None


def joined(parts: list[Conditional]) -> Conditional:
    """Independent blocks, one after the other: costs add up, of the solver the worst counts."""
    return Conditional(
        torch.cat([part.mean for part in parts]),
        torch.stack([part.zeroing for part in parts]).sum(),
        torch.stack([part.cost for part in parts]).sum(),
        max(part.steps for part in parts),
        max(part.residual for part in parts),
    )


def unmoved(mean: Tensor, kept: Tensor, precision: Tensor) -> Conditional:
    """Independent weights of these precisions, (P,): nothing moves, and z = c."""
    zeroing = 0.5 * (mean.square() * precision).masked_fill(kept, 0).sum()
    return Conditional(mean.masked_fill(~kept, 0), zeroing, zeroing)


def dense(mean: Tensor, kept: Tensor, precision: Tensor) -> Conditional:
    """A posterior whose precision Λ, (P, P), is known; raises ArithmeticError where Λ_RR is singular."""
    leaving = mean.masked_fill(kept, 0)
    pull = precision @ leaving
    zeroing = 0.5 * leaving @ pull
    factor = cholesky(precision[kept][:, kept], "the precision of what stays")
    b = pull[kept]
    d = torch.cholesky_solve(b.unsqueeze(1), factor).squeeze(1)
    moved = mean - leaving
    moved[kept] += d
    return Conditional(moved, zeroing, zeroing - 0.5 * b @ d)


def kronecker(mean: Tensor, kept: Tensor, left: Tensor, right: Tensor, prior: Tensor) -> Conditional:
    """Λ = G ⊗ A + diag(δ) of a weight (out, in), for any mask and any δ; all tensors in that shape, and batched in G.

    Solves M∘(G (M∘V) A + δ∘V) = M∘(G (W∘(1-M)) A), on the rows and columns that have anything left.
    """
    leaving = mean.masked_fill(kept, 0)
    if not leaving.any():
        zero = mean.new_zeros(())
        return Conditional(mean.masked_fill(~kept, 0).flatten(), zero, zero)
    pull = left @ leaving @ right
    zeroing = 0.5 * (leaving * (pull + prior * leaving)).sum()
    rows, columns = kept.any(0).any(1), kept.any(0).any(0)
    part = (slice(None), rows, slice(None)), (slice(None), slice(None), columns)

    def cut(t: Tensor) -> Tensor:
        return t[part[0]][part[1]]

    g, a = left[:, rows][:, :, rows], right[:, columns][:, :, columns]
    b, stays = cut(pull.masked_fill(~kept, 0)), cut(kept)
    solved = _factored if len(left) == 1 and int(kept.sum()) <= DIRECT else _iterated
    d, steps, residual = solved(g, a, cut(prior), stays, b)
    moved = mean.masked_fill(~kept, 0)
    moved[:, rows.unsqueeze(1) & columns] += d.flatten(1)
    return Conditional(moved.flatten(), zeroing, zeroing - 0.5 * (b * d).sum(), steps, residual)


def _factored(g: Tensor, a: Tensor, prior: Tensor, stays: Tensor, b: Tensor) -> tuple[Tensor, int, float]:
    _, row, column = stays.nonzero(as_tuple=True)
    matrix = g[0][row][:, row] * a[0][column][:, column]
    matrix.diagonal().add_(prior[stays])
    found = torch.zeros_like(b)
    factor = cholesky(matrix, "the Kronecker precision of what stays")
    found[stays] = torch.cholesky_solve(b[stays].unsqueeze(1), factor).squeeze(1)
    return found, 0, 0.0


def _iterated(g: Tensor, a: Tensor, prior: Tensor, stays: Tensor, b: Tensor) -> tuple[Tensor, int, float]:
    diagonal = g.diagonal(dim1=1, dim2=2).unsqueeze(2) * a.diagonal(dim1=1, dim2=2).unsqueeze(1) + prior
    inverse = stays / diagonal
    return conjugate_gradients(lambda v: (g @ v @ a + prior * v) * stays, b, inverse)


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], b: Tensor, inverse: Tensor, tolerance: float = TOLERANCE, most: int = STEPS
) -> tuple[Tensor, int, float]:
    """x with product(x) = b, preconditioned by the diagonal `inverse`; steps taken and the share of b that is left.

    Whenever it stops, x is the best of the directions searched: b'x = x'product(x), so that no cost is understated.
    """
    x, r = torch.zeros_like(b), b.clone()
    z = inverse * r
    p, energy, scale = z.clone(), (r * z).sum(), float(b.norm())
    steps, left = 0, 1.0
    while scale and left > tolerance and steps < most:
        q = product(p)
        step = energy / (p * q).sum()
        x.add_(step * p)
        r.sub_(step * q)
        torch.mul(inverse, r, out=z)
        before, energy = energy, (r * z).sum()
        p.mul_(energy / before).add_(z)
        steps, left = steps + 1, float(r.norm()) / scale
    return x, steps, left if scale else 0.0


def cholesky(matrix: Tensor, what: str) -> Tensor:
    """The lower factor; raises ArithmeticError, naming the matrix, if it is singular or not finite."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed.any() or not torch.isfinite(factor).all():
        raise ArithmeticError(f"{what} is singular or not finite: give the prior a precision, or choose a larger one")
    return factor
