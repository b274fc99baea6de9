"""Likelihoods of real targets: with a noise of variance 1, or one that the network tells.

`gaussian`: ½ squared error; its Hessian is the identity. `heteroscedastic`: K means μ, then K log variances s; the loss
is ½ Σ s + (y - μ)² / e^s + log 2π. Its Hessian is indefinite, so the Fisher information takes its place, diag(e^-s, ½)
(Nix & Weigend, ICNN 1994; Immer et al., "Effective Bayesian heteroscedastic regression with deep neural networks",
NeurIPS 2023).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...datasets.errors import UsageError
from .output_model import OutputModel


class Gaussian(OutputModel):
    """Real targets (N, C) with noise of variance 1."""

    name, fits_noise = "gaussian", True

    def mean_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """½ squared error."""
        _check_shapes(outputs, y)
        return 0.5 * (outputs - y).square().sum(1).mean()

    def gradient(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The residual."""
        return outputs - y

    def draws(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """A normal number for each target."""
        return torch.randn(shape, generator=generator)

    def drawn_gradient(self, outputs: Tensor, drawn: Tensor) -> Tensor:
        """The noise itself."""
        return drawn.to(outputs)

    def roots(self, outputs: Tensor, weights: Tensor) -> Tensor:
        """Those of the identity."""
        return weights


class Heteroscedastic(OutputModel):
    """Real targets (N, K) whose noise the network tells too: outputs are K means, then K log variances."""

    name = "heteroscedastic"

    def mean_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Negative log density of a Gaussian, its normaliser included."""
        mean, log_variance = self.moments(outputs)
        _check_shapes(mean, y)
        squares = (y - mean).square() * (-log_variance).exp()
        return 0.5 * (log_variance + squares + math.log(2 * math.pi)).sum(1).mean()

    def moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log variances, each (N, K)."""
        mean, log_variance = outputs.chunk(2, dim=-1)
        return mean, log_variance

    def target_columns(self, outputs: int) -> int:
        """Half as many as outputs."""
        return outputs // 2

    def gradient(self, outputs: Tensor, y: Tensor) -> Tensor:
        """((μ - y) / e^s, ½ - ½ (y - μ)² / e^s)."""
        mean, log_variance = self.moments(outputs)
        return self._from((y - mean) * (-0.5 * log_variance).exp(), log_variance)

    def draws(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """A normal number for each target."""
        return torch.randn((*shape[:-1], shape[-1] // 2), generator=generator)

    def drawn_gradient(self, outputs: Tensor, drawn: Tensor) -> Tensor:
        """The same for residuals that are drawn."""
        return self._from(drawn.to(outputs), self.moments(outputs)[1])

    def _from(self, standardised: Tensor, log_variance: Tensor) -> Tensor:
        """Of residuals in units of their deviation."""
        return torch.cat([-standardised * (-0.5 * log_variance).exp(), 0.5 - 0.5 * standardised.square()], 1)

    def worth(self, outputs: Tensor) -> Tensor:
        """(e^(-s / 2), √½)."""
        log_variance = self.moments(outputs)[1]
        return torch.cat([(-0.5 * log_variance).exp(), torch.full_like(log_variance, math.sqrt(0.5))], 1)

    def roots(self, outputs: Tensor, weights: Tensor) -> Tensor:
        """Those of the Fisher information, which is diagonal."""
        return weights * self.worth(outputs).unsqueeze(1)

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """An even number of outputs, and half as many columns."""
        if outputs.shape[-1] % 2:
            raise UsageError(
                f"a heteroscedastic likelihood takes a mean and a log variance for every target: an even number of "
                f"outputs, got {outputs.shape[-1]}"
            )
        super().check(outputs, y)


def _check_shapes(outputs: Tensor, y: Tensor) -> None:
    if outputs.shape != y.shape:  # which torch would stretch over each other
        raise UsageError(f"outputs of shape {tuple(outputs.shape)} are not those of targets {tuple(y.shape)}")
