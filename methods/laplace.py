"""The curvature of a Laplace approximation at a network, in the structure asked for."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from ..datasets.data import Split
from .curvature import CurvatureKind, diagonal
from .flat import flat
from .kronecker import kfac
from .posterior_curvature import Curvature, Diagonal

CurvatureStructure = Literal["diag", "kfac"]


def curvature_of(
    network: nn.Module,
    split: Split,
    structure: CurvatureStructure,
    kind: CurvatureKind,
    generator: torch.Generator,
) -> Curvature:
    """H of the summed negative log likelihood over `split`: its diagonal, or Kronecker factors per tensor.

    Raises ArithmeticError if it is not finite.
    """
    if structure == "kfac":
        return kfac(network, split.x, split.y, split.likelihood, kind, generator)
    return Diagonal(flat(diagonal(network, split.x, split.y, split.likelihood, kind, generator)))
