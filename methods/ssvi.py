"""SSVI: variational inference in a subspace that is sparse from the start, and whose axes are exchanged.

Li, Miao, Qiu, Zhang, "Training Bayesian neural networks with sparse subspace variational inference", ICLR 2024, arXiv
2402.11025. Weights that are absent have no mean, no variance and no divergence. At the ends of epochs those of the
least signal over noise leave, and those grow by which the bound, at a draw, would rise fastest: at 0, with the mean
log σ of those that are present in their layer. The schedule is that of SET and RigL, the engine's.

Formula: leave: the smallest |μ_k|/σ_k;  grow: the largest |∂ELBO/∂μ_k|, that of the likelihood, as KL has none at μ = 0
Paper: li2024training
Deviations: weights are exchanged at the ends of epochs, not every 100 steps; layers have the densities of
    Erdős-Rényi-Kernel, theirs one density and a dense first layer; means start from the network as it is initialised,
    where the prior is wide; their criterion, the signal over noise of |θ|, ranks as |μ|/σ does, but ties in floats; the
    divergence is tempered (`kl`) as in theirs, under a prior as wide as others have; `preset: authors` is theirs.
Oracle: test_ssvi.py::test_the_published_criterion_ranks_as_signal_over_noise,
    test_ssvi.py::test_absent_weights_have_the_gradient_of_the_bound
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import nn

from ..datasets.examples import Examples
from .closed_forms.flat import named
from .mean_field import MeanField
from .opd import opd
from .pruner import Pruner, register
from .set import by_gradient

# Precision of the prior N(0, 0.005²), and log σ before training (published code).
AUTHORS: dict[str, Any] = {"precision": 4e4, "start": -7.4, "kl": 0.01, "warm_up": 0.5}


@dataclass
class SparseSubspace(MeanField):
    """Mean-field inference in which a weight that grows is as sure as those of its tensor that are present."""

    @torch.no_grad()
    def update(self, network: nn.Module, train: Examples, epoch: int) -> None:
        """As `MeanField`; absent weights have the mean log σ of the present ones."""
        super().update(network, train, epoch)
        if self.present is None:
            return
        here = named(self.present, self.shapes)
        for name, log_sigma in named(self.log_sigma, self.shapes).items():
            stays = here[name] > 0
            if stays.any():
                log_sigma[~stays] = log_sigma[stays].mean()


@register("ssvi")
def ssvi_pruner(
    regrow: PositiveFloat = 0.3, examples: PositiveInt = 256, precision: PositiveFloat = 1.0, start: float = -5.0,
    kl: float = 0.1, warm_up: tuple[int, int] | float = 0.5, preset: Literal["authors"] | None = None,
) -> Pruner[Any]:  # fmt: skip
    """Sparse variational inference: least signal over noise leaves, the largest gradient grows (SSVI, Li et al. 2024).

    `preset: authors` has their narrow prior, and their weight of the divergence.
    """
    options = {"precision": precision, "start": start, "kl": kl, "warm_up": warm_up}
    inference = partial(SparseSubspace, **(AUTHORS if preset == "authors" else options))
    grow = partial(by_gradient, examples=examples, drawn=True)
    return Pruner(inference, opd, when="dynamic", allocation="erk", grow=grow, regrow=regrow)
