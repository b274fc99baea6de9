"""PIP: mean-field training under a mixture of two Gaussians, from which inclusion probabilities are recovered.

Saha, Liu, Liang, "Efficient model compression for Bayesian neural networks", arXiv 2411.00273 (a reconstruction: their
equations were not at hand); the training is that of Blundell et al., "Weight uncertainty in neural networks", ICML
2015 (Bayes by backprop). The prior of a weight is π N(0, s₁²) + (1-π) N(0, s₀²), its indicator summed out. With
q = N(θ, σ²), the divergence E log q - E log p has a closed first term, and the gradient of the second is drawn:

    d log p / dw = -w (r / s₁² + (1-r) / s₀²),

r the responsibility of the slab, which is what training discards, and what `inclusion` reads from q afterwards.

Formula: PIP_k = E_q[r(w_k)],  r(w) = π N(w; 0, s₁²) / (π N(w; 0, s₁²) + (1-π) N(w; 0, s₀²));  stays if PIP > ½
Paper: saha2024efficient, blundell2015weight
Deviations: a reconstruction, as the equations were not at hand; the divergence is integrated, not drawn, when it is
    reported, and tempered (`kl`).
Oracle: test_mixture_prior.py::test_the_divergence_is_an_integral,
    test_spike_slab.py::test_responsibility_is_bayes_rule_and_its_threshold_the_published_one
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ..datasets.examples import Examples
from .closed_forms.posteriors import Gaussian
from .closed_forms.quadrature import hermite
from .closed_forms.spike_slab import (
    POINTS,
    check_widths,
    expected_log_odds,
    mixture_log_density,
    responsibility,
)
from .pruner import Pruner, State, register
from .scores.inclusion import Select, pip_pruner, unit_log_odds
from .variational.inference import gradient
from .variational.spike_slab_training import Shrunk, SpikeAndSlab, TargetNoise

Estimate = Literal["expected", "em"]


@dataclass
class MixturePrior(SpikeAndSlab[Gaussian]):
    """Gaussians over the weights under a spike-and-slab prior of two widths; biases are points without a prior.

    Attributes:
        spike_variance: s₀², below s₁². Weights that start far outside of the spike hardly ever enter it: `shrink` them.

    Raises UsageError for widths out of order.
    """

    biases: bool = False
    spike_variance: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths(self.spike_variance, self.slab_variance)

    def divergence(self, network: nn.Module) -> Tensor:
        """Σ E log q - E log p, the second by the Gauss-Hermite rule; differentiable; a scalar, in nats."""
        mean, log_sigma = self.flat_mean(network).double(), self.log_sigma.double()
        expected = torch.zeros_like(mean)
        prior = (self.spike_variance, self.slab_variance, 1 / (1 + math.exp(-self.prior_log_odds)))
        for node, weight in hermite(POINTS):
            w = mean + log_sigma.exp() * node
            expected = expected + weight * mixture_log_density(w, *prior)
        entropy = log_sigma + 0.5 * math.log(2 * math.pi * math.e)
        return -self._of_present(entropy + expected).sum()

    def penalizer(self, network: nn.Module, scale: float) -> Callable[[], None]:
        """Adds the gradient for one draw of the weights, whose expectation is that of the divergence."""
        weighted = scale * self.beta
        parameters = [network.get_parameter(name) for name in self.names]
        sizes = [parameter.numel() for parameter in parameters]

        @torch.no_grad()
        def add() -> None:
            spread = (self.log_sigma.exp() * torch.randn_like(self.log_sigma)).detach()
            pull = self._of_present(self._pull(self.flat_mean(network) + spread))
            for parameter, part in zip(parameters, pull.split(sizes), strict=True):
                gradient(parameter).view(-1).add_(part, alpha=weighted)
            gradient(self.log_sigma).add_(self._of_present(pull * spread - 1), alpha=weighted)

        return add if weighted else lambda: None

    def _pull(self, w: Tensor) -> Tensor:
        """-d log p / dw = w (r / s₁² + (1-r) / s₀²), in the type of `w`."""
        slab, spike = 1 / self.slab_variance, 1 / self.spike_variance
        prior = self.prior_log_odds + 0.5 * math.log(self.spike_variance / self.slab_variance)
        r = torch.sigmoid(prior + 0.5 * (spike - slab) * w.square())
        return w * (spike + (slab - spike) * r)

    def posterior(self, network: nn.Module, train: Examples) -> Gaussian:
        """The Gaussians at hand; float64."""
        mean = {name: network.get_parameter(name).detach().double() for name in self.names}
        return Gaussian(mean, {name: sigma.pow(-2) for name, sigma in self.sigma().items()})


# ---------------------------------------------------------------------- the method


@register("pip", revision=2)
def pip(
    inclusion: float = 0.1, spike_variance: float = 1e-3, slab_variance: float = 1.0, estimate: Estimate = "expected",
    select: Select = "median", rate: float = 0.05, kl: float = 0.1, warm_up: tuple[int, int] | float = 0.5,
    anneal: tuple[int, int] = (0, 0), noise: TargetNoise = "fitted", shrink: float = 1.0, shrunk: Shrunk = "all",
    start: float = -5.0,
) -> Pruner[Gaussian]:  # fmt: skip
    """Inclusion probability after training under a mixture prior (reconstruction of Saha, Liu, Liang 2024).

    `estimate`: E_q[r] (Rao-Blackwell), or r at E_q[w²], as in a step of expectation maximisation. `select`: PIP > ½,
    or a Bayesian false discovery rate.
    """
    inference = partial(
        MixturePrior, kl, warm_up, inclusion=inclusion, anneal=anneal,
        slab_variance=slab_variance, spike_variance=spike_variance, target_noise=noise, shrink=shrink, shrunk=shrunk,
        log_sigma_start=start,
    )  # fmt: skip
    prior = {"spike_variance": spike_variance, "slab_variance": slab_variance, "inclusion": inclusion}
    score = partial(mixture_log_odds, estimate=estimate, **prior)
    return pip_pruner(inference, score, select, rate)


def mixture_log_odds(
    state: State[Gaussian], inclusion: float, spike_variance: float, slab_variance: float,
    estimate: Estimate = "expected",
) -> Tensor:  # fmt: skip
    """Log odds that a unit holds at least one weight from the slab; shape (units.n,)."""
    posterior, prior = state.posterior, (spike_variance, slab_variance, inclusion)
    odds = {
        name: expected_log_odds(mean, posterior.variance[name], *prior)
        if estimate == "expected"
        else responsibility(mean.square() + posterior.variance[name], *prior)
        for name, mean in posterior.mean.items()
    }
    return unit_log_odds(state.units, odds)
