"""Mean field under one heavy-tailed prior per layer: the setting in which Bayesian model reduction was published.

Marković, Friston, Kiebel, arXiv 2309.12095 and their published code: in layer l w = s_l c_l ŵ, ŵ ~ N(0, 1),
c_l⁻² ~ Gamma(2, 2), with s_l = 0.1, and 1 in the last layer. Marginally the weights of a layer are Student-t with four
degrees of freedom and one common scale, which, as w = 0 if and only if ŵ = 0, takes no part in the reduction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .noncentred import NonCentred
from .scale_factors import Factor, Layer, Prior, Scale

TAIL = (2.0, 2.0)  # of c⁻²
HIDDEN, LAST = 0.1, 1.0


@dataclass
class StudentT(NonCentred):
    """Non-centred weights with one log-normal scale for each layer."""

    def layer_prior(self, layer: Layer) -> Prior:
        """c⁻² of the layer; log γ² = 2 log s - log c⁻²."""
        offset, name = 2 * math.log(LAST if layer.last else HIDDEN), f"{layer.weight} c"
        start = offset - 2 * math.log(layer.rms) if layer.rms else 0.0
        scales = {n: Scale(len(shape), offset, (), (name,)) for n, shape in layer.members.items()}
        return {name: Factor(torch.Size(), *TAIL, start)}, scales
