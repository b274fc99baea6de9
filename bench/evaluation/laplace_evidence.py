"""The Laplace evidence of a network as it is, dense or pruned: what its training raised, or could have."""

from __future__ import annotations

from torch import nn

from ...architectures.units.mask import Mask
from ...architectures.units.prunable import trainable
from ...datasets.examples import Examples
from ...methods.closed_forms.posteriors import Gaussian, Laplace
from ...methods.laplace.evidence import evidence_of, kept_entries
from ..spec.metrics import register


@register("laplace_evidence")
def laplace_evidence(network: nn.Module, posterior: Gaussian, mask: Mask, train: Examples) -> dict[str, float]:
    """log q(D) of the weights that are there, in nats for the training split; nothing of other posteriors.

    Column: `laplace_evidence`. The curvature is that of the posterior, so that numbers compare between networks under
    one method, not between a diagonal and Kronecker factors.
    """
    if not isinstance(posterior, Laplace) or posterior.noise is None:
        return {}
    kept = kept_entries(trainable(network), mask.tensors)
    return {"laplace_evidence": float(evidence_of(network, train, posterior, kept))}
