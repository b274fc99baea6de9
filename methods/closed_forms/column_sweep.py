"""Optimal brain surgery in one pass over the columns of a weight: what leaves moves the columns to come, for all rows.

Frantar, Alistarh, "SparseGPT", ICML 2023, arXiv 2301.00774, Algorithm 1. Rows share the precision H of their inputs,
and once a column is behind it is fixed. With H⁻¹ = U'U, U upper triangular, the inverse of H on columns j, j+1, ... is
U_j:' U_j:, so that one factor serves every step: e = w_j / U_jj of what leaves, w_k ← w_k - e U_jk for k ≥ j, at a cost
of ½ e² on the quadratic ½ (w - w⁰)' H (w - w⁰). What leaves in the end has cost ½ Σ e² in all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def upper_root(values: Tensor, vectors: Tensor) -> Tensor:
    """U with U'U = Q diag(l)⁻¹ Q', upper triangular (in, in), from eigenvalues l > 0 and eigenvectors Q."""
    return torch.linalg.qr(values.rsqrt().unsqueeze(1) * vectors.T).R


def swept(
    weights: Tensor, root: Tensor, kept: Tensor, block: int, decide: Callable[[int, Tensor], None] | None = None
) -> Tensor:
    """The rows (n, in) once what is not `kept` has left, column after column.

    Columns beyond the present `block` are brought up to date when it ends, all at once. Before each column
    `decide` is told its number and the weights as they are then, and may still change `kept` within the block.
    """
    w, width = weights.clone(), weights.shape[1]
    for start in range(0, width, block):
        stop = min(start + block, width)
        errors = torch.zeros_like(w[:, start:stop])
        for j in range(start, stop):
            if decide is not None:
                decide(j, w)
            error = (w[:, j] / root[j, j]).masked_fill(kept[:, j], 0)
            w[:, j:stop].addr_(error, root[j, j:stop], alpha=-1)
            w[:, j].masked_fill_(~kept[:, j], 0)
            errors[:, j - start] = error
        w[:, stop:].addmm_(errors, root[start:stop, stop:], alpha=-1)
    return w
