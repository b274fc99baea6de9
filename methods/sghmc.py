"""SGHMC: weights that move with friction and noise, their draws as a posterior, and optimal brain surgeon on it.

Chen, Fox, Guestrin, "Stochastic gradient Hamiltonian Monte Carlo", ICML 2014, arXiv 1402.4102, in the form of their
equation 15: momentum, friction α, and noise that puts back the heat which friction takes. With ĝ the gradient of the
mean loss and of the prior over N examples, η = lr/N, and a posterior at temperature T,

    v ← (1 - α) v - lr ĝ + √(2 α lr T/N) ε,    θ ← θ + v.

This is momentum as stochastic gradient descent has it, and at α = 1 Langevin dynamics. Where the mean loss is ½ λ θ², θ
is an autoregression of order two, θ_t = (2 - α - lr λ) θ_t-1 - (1 - α) θ_t-2 + noise, and

    Var θ = T/(N λ) / (1 - lr λ / (2 (2 - α))),    corr(θ_t, θ_t-1) = 1 - lr λ / (2 - α):

the posterior's variance T/(N λ) at any friction, but for the length of the step. Minibatches add heat of their own. One
draw is collected after each epoch of the last part of the training; moments, and what is done with them, are those of
`swag`. At T = 1 costs are in nats; a colder chain scatters T times as much, which changes no ranking and no move.

Formula: Σ = ½ (diag(v) + D D'/(K - 1)) of draws from p(θ | data)^(1/T),  s_q = θ_q²/(2 Σ_qq),
    θ_S ← θ_S - Σ_SQ Σ_QQ⁻¹ θ_Q
Paper: chen2014stochastic, hassibi1992second
Deviations: moments are SWAG's, which halves the draws' correlations; the chain is cold by default, as one at T = 1 is
    no mode of a network with more weights than examples; friction does not grow with the gradients' noise (B̂ = 0).
Oracle: test_sghmc.py::test_stationary_moments_on_a_quadratic,
    test_sghmc.py::test_linear_regression_has_its_exact_posterior
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import nn

from ..architectures.units.vector import Units
from ..datasets.errors import UsageError
from ..datasets.examples import Examples
from .pruner import Pruner, register
from .swag import Swag, scatter


class Steps(torch.optim.Optimizer):
    """Steps with friction α ("friction") and noise at T/N ("heat"); both are settings of a group, as the rate is."""

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, friction: float, heat: float):
        super().__init__(parameters, {"lr": lr, "friction": friction, "heat": heat})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step from the gradients of the mean loss and of the prior over N."""
        for group in self.param_groups:
            noise = math.sqrt(2 * group["friction"] * group["lr"] * group["heat"])
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                velocity = self.state[parameter].setdefault("velocity", torch.zeros_like(parameter))
                velocity.mul_(1 - group["friction"]).sub_(parameter.grad, alpha=group["lr"])
                velocity.add_(torch.randn_like(velocity), alpha=noise)
                parameter.add_(velocity)


@dataclass
class SGHMC(Swag):
    """A chain whose draws after each of the last epochs are collected; the network becomes their mean.

    Attributes:
        friction: α in (0, 1], of the velocity in each step.
        temperature: T > 0, of the posterior that is drawn from.
        lr_factor: learning rates over those of the training, which are Adam's.
    """

    share: float = 0.5
    friction: float = 0.1
    temperature: float = 0.01
    lr_factor: float = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.friction <= 1:
            raise UsageError(f"friction must be a share of the velocity in (0, 1], got {self.friction!r}")
        for name, value in (("temperature", self.temperature), ("lr_factor", self.lr_factor)):
            if not value > 0:
                raise UsageError(f"{name} must be positive, got {value!r}")

    def attach(self, network: nn.Module, units: Units, train: Examples) -> None:
        """Nothing has been collected; heat is per example."""
        super().attach(network, units, train)
        self.heat = self.temperature / train.terms

    def optimizer(self, parameters: Sequence[nn.Parameter], lr: float, steps: int) -> torch.optim.Optimizer:
        """Steps with friction and noise; what a weight moves by itself in one of them bounds how sure it can be."""
        rate = lr * self.lr_factor
        self.lr = math.sqrt(2 * self.friction * rate * self.heat)
        return Steps(parameters, rate, self.friction, self.heat)


@register("sghmc-obs")
def sghmc_obs(
    precision: float | Literal["tuned"] = 1.0, rank: PositiveInt = 20, share: float = 0.5,
    friction: PositiveFloat = 0.1, temperature: PositiveFloat = 0.01, lr_factor: PositiveFloat = 30.0,
) -> Pruner[Any]:  # fmt: skip
    """Optimal brain surgeon on the draws of a chain with friction and noise (SGHMC, Chen et al. 2014)."""
    options = {"rank": rank, "share": share, "friction": friction, "temperature": temperature, "lr_factor": lr_factor}
    return Pruner(partial(SGHMC, precision, **options), scatter, adjust="condition")
