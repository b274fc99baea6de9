"""The curvature of a Laplace approximation at a network, in the structure asked for."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from ...architectures.units.prunable import trainable
from ...datasets.errors import UsageError
from ...datasets.examples import Examples
from ..closed_forms.curvature_matrix import Curvature, Diagonal
from ..closed_forms.flat import flat
from .diagonals import diagonal_of
from .kronecker import kfac_of
from .output_vectors import CurvatureKind
from .rows import low_rank
from .whole import dense

CurvatureStructure = Literal["diag", "kfac", "lowrank", "full"]

# Parameters of which the whole matrix takes 72 MB, and a step of the evidence one or two seconds.
MOST = 3_000


def curvature_of(
    network: nn.Module,
    split: Examples,
    structure: CurvatureStructure,
    kind: CurvatureKind,
    generator: torch.Generator,
) -> Curvature:
    """H of the summed negative log likelihood over `split`: its diagonal, Kronecker factors per tensor, the rows of
    single examples, or all of it.

    Raises:
        UsageError: "full" for more than 3,000 parameters, "lowrank" for more than 5,000 rows.
        ArithmeticError: it is not finite.
    """
    if structure == "lowrank":
        return low_rank(network, split, kind, generator)
    if structure == "full":
        return _whole(network, split, kind, generator)
    if structure == "kfac":
        return kfac_of(network, split, kind, generator)
    return Diagonal(flat(diagonal_of(network, split, kind, generator)))


def _whole(network: nn.Module, split: Examples, kind: CurvatureKind, generator: torch.Generator) -> Curvature:
    count = sum(p.numel() for p in trainable(network).values())
    if count > MOST:
        raise UsageError(
            f"curvature: full holds a matrix for all pairs of parameters, of which this network has {count:,}, more "
            f"than {MOST:,}: choose curvature: diag or curvature: kfac"
        )
    found = dense(network, split, kind, generator)
    if not torch.isfinite(found.h).all():
        raise ArithmeticError("the curvature is not finite: the network has diverged, lower the learning rate")
    return found
