"""The evidence of removing a unit's weights all at once, where a posterior knows how they are correlated.

Weights that stand in for each other are dispensable one by one, and not together: Savage-Dickey ratios of marginals
then add up to too much. Marković, Friston, Kiebel (arXiv 2309.12095) on the joint density, as `savage_dickey`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

from ...architectures.units.vector import Units
from ...datasets.errors import UsageError
from ..closed_forms.flat import flat
from ..closed_forms.model_reduction import savage_dickey
from ..closed_forms.posteriors import Conjugate


def joint_spike(units: Units, posterior: Conjugate, names: Collection[str]) -> Tensor:
    """ΔF = log q(0) - log p(0) of all that each unit owns in the parameters `names`; nats, float64, (units.n,).

    Raises UsageError for a posterior that does not know its covariance, or whose covariance is not positive definite.
    """
    if (covariance := posterior.covariance) is None:
        raise UsageError("weights are removed together on a posterior with a covariance only: choose curvature: full")
    mean, variance = flat(posterior.mean), flat(posterior.prior).reciprocal()
    changes = torch.zeros(units.n, dtype=mean.dtype, device=mean.device)
    for i, at in enumerate(_owned(units, posterior.mean, names)):
        blocks, zero = (covariance[at][:, at], variance[at].diag()), torch.zeros_like(mean[at])
        changes[i] = savage_dickey(mean[at], blocks[0], zero, blocks[1], torch.ones_like(at, dtype=torch.bool))
    return changes


def _owned(units: Units, like: Mapping[str, Tensor], names: Collection[str]) -> Iterator[Tensor]:
    """Where the entries of each unit in the tensors `names` stand in the flat vector of `like`."""
    everyone = torch.arange(units.n, device=next(iter(like.values())).device)
    for i in range(units.n):
        stays = units.scatter(everyone != i)
        gone = {n: ~stays[n] if n in names and n in stays else torch.zeros_like(t) for n, t in like.items()}
        yield flat(gone).nonzero().squeeze(1)
