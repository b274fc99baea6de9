"""Eigenvectors of symmetric matrices, those included that LAPACK's divide and conquer gives up on."""

from __future__ import annotations

import logging

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (..., n), ascending, and eigenvectors (..., n, n), columns, of symmetric matrices (..., n, n).

    By divide and conquer, as torch does it; large matrices of low rank can defeat it, and go to MRRR then (Dhillon &
    Parlett, 2004), on the CPU. Raises ArithmeticError for matrices that are not finite.
    """
    try:
        return torch.linalg.eigh(matrices)
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        if not torch.isfinite(matrices).all():
            raise ArithmeticError("a matrix whose eigenvectors are asked for is not finite") from None
        logger.info("divide and conquer did not converge on %s: by MRRR", tuple(matrices.shape))
    pairs = [
        scipy.linalg.eigh(m, driver="evr") for m in matrices.detach().cpu().reshape(-1, *matrices.shape[-2:]).numpy()
    ]
    values, vectors = (torch.from_numpy(np.stack(part)).to(matrices) for part in zip(*pairs, strict=True))
    return values.view(matrices.shape[:-1]), vectors.view(matrices.shape)
