"""What a posterior loses when a unit leaves and the others move: optimal brain surgeon's saliency, and that of sets.

Hassibi, Stork, "Second order derivatives for network pruning", NIPS 1992: one weight costs μ²/(2 Σ_qq) nats. A set S
that leaves together costs ½ μ_S' (Σ_SS)⁻¹ μ_S. For a slice of a Kronecker posterior in rows G = Q₁ diag(l) Q₁', that is
½ Σ_k T_kS' ((Λ_k⁻¹)_SS)⁻¹ T_kS over the rows T = Q₁'W, which are independent, with Λ_k = l_k A + δI; rows likewise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...architectures.units.slices import Elementwise, Group, Slice
from ..closed_forms.flat import flat, named
from ..closed_forms.kronecker_product import Kronecker, KroneckerProduct
from ..closed_forms.posteriors import Laplace
from ..pruner import State
from .reads import Through, positions


def surgeon(state: State[Laplace], through: Through = "reads") -> Tensor:
    """½ μ_S' (Σ_SS)⁻¹ μ_S of what each unit is conditioned on, in nats; shape (units.n,).

    Slices of several tensors, and units that cannot be conditioned on, add up what their parts or weights cost alone.
    """
    posterior = state.posterior
    alone = {n: 0.5 * posterior.mean[n].square() * p for n, p in posterior.marginal_precision.items()}
    found = positions(state.network, state.units, through)
    return torch.cat([_costs(state, group, pieces, alone) for group, pieces in found])


def _costs(state: State[Laplace], group: Group, pieces: list[Slice | Elementwise], alone: dict[str, Tensor]) -> Tensor:
    parts = []
    for piece in pieces or group.slices:
        if piece.name not in alone:
            continue
        joint = _slices(state.posterior, piece) if pieces and isinstance(piece, Slice) else None
        parts.append(piece.sum(alone[piece.name]) if joint is None else joint)
    return torch.stack(parts).sum(0)


def _slices(posterior: Laplace, piece: Slice) -> Tensor | None:
    """Costs of the slices of one tensor, (n,); None for a curvature that does not hold what correlates them."""
    whole, mean = posterior.whole, posterior.mean[piece.name]
    if isinstance(whole, Kronecker):
        block = whole.blocks[piece.name]
        if not isinstance(block, KroneckerProduct) or len(block.h) > 1:
            return None
        return _of_product(block, posterior.prior[piece.name], mean, piece)
    if (covariance := posterior.covariance) is None:
        return None
    place = named(torch.arange(len(covariance), device=mean.device), posterior.mean)[piece.name]
    places = place.movedim(piece.axis, 0)[piece.index.to(mean.device)].flatten(1)
    flat_mean = flat(posterior.mean)
    return torch.stack([_joint(flat_mean[at], covariance[at][:, at]) for at in places])


def _of_product(block: KroneckerProduct, prior: Tensor, mean: Tensor, piece: Slice) -> Tensor:
    """Of rows, a bias being a column; or of columns: all places of a kernel at the inputs that a unit is."""
    weight = mean.view(block.h.shape[1:])
    index = piece.index.to(mean.device)
    left, right, h = block.left[0], block.right[0], block.h[0]
    if piece.axis == 0:
        left, right, h, weight = right, left, h.T, weight.T
    else:
        columns = torch.arange(weight.shape[1], device=mean.device).view(mean.shape[1], -1)
        index = columns[index].flatten(1)
    inverse = 1 / (h + prior.mean())  # (rows, in): of Λ_k in the eigenbasis of the other factor
    rotated = left.T @ weight
    return torch.stack([_rows(rotated[:, at], right[at], inverse) for at in index])


def _rows(t: Tensor, q: Tensor, inverse: Tensor) -> Tensor:
    """½ Σ_k t_k' (q diag(inverse_k) q')⁻¹ t_k for t (rows, m), q (m, in)."""
    blocks = (q * inverse.unsqueeze(1)) @ q.T
    return 0.5 * (t * torch.linalg.solve(blocks, t.unsqueeze(2)).squeeze(2)).sum()


def _joint(mean: Tensor, covariance: Tensor) -> Tensor:
    return 0.5 * mean @ torch.linalg.solve(covariance, mean)


def report(state: State[Any]) -> dict[str, Any]:
    """The prior precisions that the posterior was given, and how many weights the data determine."""
    prior = flat(state.posterior.prior)
    gamma = 1 - prior / flat(state.posterior.marginal_precision)
    return {"precision": float(prior.median()), "effective_parameters": float(gamma.sum()), "parameters": len(prior)}
