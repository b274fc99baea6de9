"""The Gaussians that a detached network's weights have, or are nearest to having."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...datasets.data import Data
from ...datasets.seal import sealed
from ...methods.closed_forms.posteriors import Conjugate, Gaussian, Laplace
from ...methods.closed_forms.scattered import Scattered
from ...methods.pruner import Inference

MOMENTS = 100  # draws by which the variances of a posterior are known that is no plain Gaussian
PLAIN = (Gaussian, Conjugate, Laplace, Scattered)


def gaussians(network: nn.Module, inference: Inference, data: Data) -> Gaussian | None:
    """The Gaussian posterior of a detached network, or its draws' second moments; None where there is neither."""
    with sealed(), torch.enable_grad():
        posterior: Any = inference.posterior(network, data.train)
    found = posterior if type(posterior) in PLAIN else _of_draws(network, inference)
    return posterior if found is None and isinstance(posterior, Gaussian) else found


@torch.no_grad()
def _of_draws(network: nn.Module, inference: Inference) -> Gaussian | None:
    """Around the network's weights; of infinite precision where all draws are the same."""
    generator, total = torch.Generator().manual_seed(0), dict[str, Tensor]()
    with sealed():
        for _ in range(MOMENTS):
            for name, w in inference.sample(network, generator).items():
                square = (w - network.get_parameter(name)).double().square()
                total[name] = total.get(name, 0) + square / MOMENTS
    mean = {name: network.get_parameter(name).detach().double() for name in total}
    return Gaussian(mean, {name: square.reciprocal() for name, square in total.items()}) if total else None
