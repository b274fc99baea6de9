"""A nonlinear function of few features among many: which ones matter is known.

Paper: bai2020efficient
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import NonNegativeFloat, NonNegativeInt

from . import register
from .errors import UsageError
from .seeds import numpy_stream
from .source import Source

# Positions of the features that the function reads.
RELEVANT = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Design:
    """Inputs x (n, p), targets y (n,), and which features y depends on, boolean (p,)."""

    x: np.ndarray
    y: np.ndarray
    relevant: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """x1, x2, ..."""
        return tuple(f"x{i + 1}" for i in range(self.x.shape[1]))


def design(n: int = 3000, p: int = 200, *, correlated: bool = False, noise: float = 1.0, seed: int = 0) -> Design:
    """y = a x₂ / (1 + x₁²) + 5 sin(x₃ x₄) + 2 x₅ + noise · ε, of p features.

    Independent features are uniform on [-1, 1], a = 7 (Bai, Song, Cheng, "Efficient variational inference for sparse
    deep learning with theoretical guarantee", NeurIPS 2020). Correlated ones are (e + zⱼ) / √2 with standard normal e
    and zⱼ, so that each pair has a correlation of ½, a = 5 (Sun, Song, Liang, "Consistent sparse deep learning:
    theory and computation", JASA 2021). Raises UsageError for fewer than five features.
    """
    if p < len(RELEVANT):
        raise UsageError(f"the sparse function reads {len(RELEVANT)} features: give at least that many, got {p}")
    rng = numpy_stream(seed, "sparse-function")
    x = rng.uniform(-1, 1, (n, p))
    if correlated:
        x = (rng.standard_normal((n, 1)) + rng.standard_normal((n, p))) / np.sqrt(2)
    signal = (5 if correlated else 7) * x[:, 1] / (1 + x[:, 0] ** 2) + 5 * np.sin(x[:, 2] * x[:, 3]) + 2 * x[:, 4]
    return Design(x, signal + noise * rng.standard_normal(n), np.isin(np.arange(p), RELEVANT))


@register("sparse-function")
def sparse_function(
    *,
    n: NonNegativeInt = 3000,
    features: NonNegativeInt = 200,
    correlated: bool = False,
    noise: NonNegativeFloat = 1.0,
    draw: NonNegativeInt = 0,
) -> Source:
    """A nonlinear function of 5 of 200 features, regression (synthetic; Bai et al. 2020, Sun et al. 2021).

    `correlated`: every two features have a correlation of ½. `draw` counts the draws of the data.
    """
    found = design(n, features, correlated=correlated, noise=noise, seed=draw)
    return Source(x=found.x, y=found.y[:, None], likelihood="gaussian", features=found.names)
