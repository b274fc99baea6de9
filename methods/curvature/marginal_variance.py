"""Marginal variances of a Laplace posterior: what a weight may be when all others are free.

The diagonal of a Laplace posterior has the variances given all other weights, which are too small wherever weights
can stand in for each other. The marginal ones are the diagonal of (cH + D)⁻¹, with the whole matrix H, or with its
Kronecker factors, which see the correlations within one tensor; D = diag(δ).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ...datasets.examples import Examples
from ..closed_forms.curvature_matrix import Curvature
from ..closed_forms.flat import flat, named
from ..closed_forms.posteriors import Laplace
from .kronecker import kfac_of
from .output_vectors import CurvatureKind
from .whole import dense

Marginal = Literal["kronecker", "full"]


def marginal_variance(
    network: nn.Module, split: Examples, posterior: Laplace, structure: Marginal, kind: CurvatureKind = "ggn"
) -> dict[str, Tensor]:
    """diag((cH + D)⁻¹) by parameter name, float64, for the prior and the noise of `posterior`.

    c is what its diagonal curvature is of that of H. Raises UsageError for networks too large for the whole matrix.
    """
    generator = torch.Generator().manual_seed(0)
    if structure == "full":
        curvature: Curvature = dense(network, split, kind, generator)
    else:
        curvature = kfac_of(network, split, kind, generator)
    delta, tempered = flat(posterior.prior), flat(posterior.curvature)
    c = tempered.sum() / curvature.precision(torch.zeros_like(delta)).sum().clamp_min(torch.finfo(delta.dtype).tiny)
    gamma = curvature.scaled(c).determined(delta)
    return named(((1 - gamma) / delta).clamp_min(torch.finfo(delta.dtype).tiny), posterior.mean)
