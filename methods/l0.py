"""L0 regularisation: hard concrete gates on structures, trained with the expected number of weights behind them.

Louizos, Welling, Kingma, "Learning sparse neural networks through L0 regularization", ICLR 2018, arXiv 1712.01312.

Formula: w_g = z_g ŵ_g,  z_g hard concrete,  penalty Σ_g P(z_g ≠ 0) (λ |g| + ½ δ |ŵ_g|²);  stays if log α_g > -log 11
Paper: louizos2018learning
Deviations: a draw for each example and structure, and gates where structures are read; theirs is one for each
    minibatch, on what convolutions write. log α is not clamped, so that no gates tie. Gates begin open, λ is chosen for
    a thousand examples (`kl`, `closed`), and lowered where these are too few for the network (`at_most`; in their code
    it is 1 for LeNet and 0.001 for a wide residual network). Weights are those of the last step, not an average.
Oracle: test_l0.py::test_the_probability_of_an_open_gate_is_that_of_its_draws,
    test_l0.py::test_the_penalty_counts_what_reads_each_structure,
    test_l0.py::test_the_penalty_is_lowered_to_what_examples_can_pay_for
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from ..architectures.units.prunable import trainable
from ..architectures.units.vector import Units
from ..datasets.errors import UsageError
from ..datasets.examples import Examples
from .closed_forms.hard_concrete import CLOSED, draw, gate, open_probability
from .noise.structure_noise import DrawnFor, StructureNoise
from .noise.worth import of_units
from .pruner import Pruner, State, register

SPREAD = 0.01  # of log α before training


@dataclass(frozen=True)
class HardConcrete:
    """Independent hard concrete gates on the structures `units`: log α, (units.n,), float64."""

    units: Units
    log_alpha: Tensor


@dataclass
class HardConcreteGates(StructureNoise[HardConcrete]):
    """Training with gates; `kl` is λ, nats for each weight that reads an open one.

    Where labels are worth less than the weights behind the gates cost, the gates of whole layers fall in step: each
    costs the same, and none is missed. Once all of them are closed in evaluation nothing passes, though in training a
    third is still open in each draw. So the cost of all is limited.

    Attributes:
        precision: δ, of the weights' prior.
        closed: share of the gates that are meant to be closed at the start.
        at_most: nats for each training example that open gates cost in all; a larger λ is lowered. None is no limit.
    """

    precision: float = 1.0
    closed: float = 0.1
    at_most: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.closed < 1:
            raise UsageError(f"closed must be a share between 0 and 1, got {self.closed!r}")
        if self.at_most is not None and not self.at_most > 0:
            raise UsageError(f"at_most must be positive, or None for no limit, got {self.at_most!r}")

    def origin_of(self) -> Tensor:
        """log α."""
        return torch.full((1, 1), math.log(1 / self.closed - 1), dtype=torch.float64)

    def attach(self, network: nn.Module, units: Units, train: Examples) -> None:
        """As `StructureNoise`, and counts the weights that read each structure."""
        super().attach(network, units, train)
        nn.init.normal_(self.steps, std=SPREAD / self.lr_factor)
        self.sizes = self._sums(network, torch.ones_like).detach()
        self.lowered = self._affordable((self.weights @ self.sizes).item(), train.terms)

    def _affordable(self, nats: float, examples: int) -> float:
        """The share of λ that leaves open gates, which would cost so many nats, within the limit."""
        limit = math.inf if self.at_most is None else self.at_most * examples
        return 1.0 if nats <= limit else limit / nats

    def _sums(self, network: nn.Module, of: Any) -> Tensor:
        return torch.stack([carrier.sums(network, of) for carrier in self.noise.carriers]).sum(0)

    def draw(self, values: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
        """Gates, from torch's global generator."""
        return draw(values[0], torch.rand(shape, dtype=self.drawn_in, device=values.device))

    @torch.no_grad()
    def mean(self) -> Tensor:
        """The gates of evaluation."""
        return gate(self.values()[0])

    def divergences(self, network: nn.Module) -> Tensor:
        """P(z_g ≠ 0) |g|, times the share of λ that counts."""
        return open_probability(self.values()[0]) * (self.lowered * self.sizes)

    def penalty(self, network: nn.Module) -> Tensor:
        """Σ P(z_g ≠ 0) (λ |g| + ½ δ |w_g|²), and ½ δ |w|² of what no gate is on; a scalar, in nats."""
        squares, closed = self._sums(network, Tensor.square), 1 - open_probability(self.values()[0])
        whole = torch.stack([p.square().sum() for p in trainable(network).values()]).sum()
        return super().penalty(network) + 0.5 * self.precision * (whole - closed @ squares)

    def posterior(self, network: nn.Module, train: Examples) -> HardConcrete:
        """The gates as they are now."""
        return HardConcrete(self.units, self.values()[0].detach())

    def unfinished(self) -> str | None:
        """Gates of which none has closed."""
        lowest = self.values()[0].min().item()
        if lowest <= CLOSED:
            return None
        return f"no gate had closed: the lowest log α was {lowest:.1f}, and they close at {CLOSED:.1f}"

    def learned(self, network: nn.Module) -> dict[str, Any]:
        """The median log α of each layer, the expected share of open gates, that of gates open in evaluation, and λ."""
        log_alpha = self.values()[0].detach()
        shares = {"open": open_probability(log_alpha), "kept": (log_alpha > CLOSED).double()}
        found = self.medians(log_alpha=log_alpha) | {name: share.mean().item() for name, share in shares.items()}
        return found | {"lambda": self.weights.max().item() * self.lowered}


@register("l0", revision=2)
def l0_pruner(
    kl: NonNegativeFloat = 0.2, precision: NonNegativeFloat = 1.0, draws: DrawnFor = "example",
    lr_factor: PositiveFloat = 10.0, closed: float = 0.1, at_most: PositiveFloat | None = 4.0,
    preset: Literal["authors"] | None = None,
) -> Pruner[HardConcrete]:  # fmt: skip
    """Hard concrete gates on structures under an L0 penalty (Louizos, Welling, Kingma 2018).

    `preset: authors` has λ = 1, whatever it costs, and half-open gates that learn as fast as weights, drawn for each
    minibatch.
    """
    if preset == "authors":
        kl, draws, lr_factor, closed, at_most = 1.0, "minibatch", 1.0, 0.5, None
    inference = partial(
        HardConcreteGates, kl=kl, draws=draws, lr_factor=lr_factor, precision=precision, closed=closed, at_most=at_most
    )
    return Pruner(inference, l0, keep_above=0.0)


def l0(state: State[HardConcrete]) -> Tensor:
    """log α + log 11, positive where the gate is open in evaluation; (units.n,)."""
    return of_units(state.posterior.log_alpha - CLOSED, state.posterior.units, state)
