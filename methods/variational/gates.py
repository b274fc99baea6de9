"""Gates of a network in training: indicators z ~ Bernoulli(φ) that weights, nodes or features are in the model.

q = φ N(θ, σ²) + (1-φ) δ₀ of each weight, under π N(0, s₁²) + (1-π) δ₀. Bai, Song, Cheng, "Efficient variational
inference for sparse deep learning with theoretical guarantee", NeurIPS 2020 (weights); Jantre, Bhattacharya, Maiti,
"Layer adaptive node selection in Bayesian neural networks", 2021 (nodes: one z for all that a unit reads, and its
bias). A feature's z is shared by its column of the first layer. The divergence is closed, see `indicator_kl`.

Training sees z in two ways. By its moments: a sum of many w z x is nearly Gaussian, with mean Σ φ θ x and variance
Σ (φ σ² + φ (1-φ) θ²) x², from which one draws as in local reparameterisation (Hubin, Storvik, "Combining model and
parameter uncertainty in Bayesian neural networks", 2019; Skaaret-Lund et al., "Sparsifying Bayesian neural networks
with latent binary variables and normalizing flows", 2023). Or by draws of a binary concrete variable, rounded, whose
gradient is passed straight through (Bai et al., temperature ½); it pulls probabilities towards ½.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from ...architectures.discovery.units_of import units as units_of
from ...architectures.units.features import feature_units
from ...architectures.units.mask import Mask
from ...architectures.units.slices import Elementwise, Slice
from ...architectures.units.vector import Granularity, Units
from ...datasets.errors import UsageError
from ...datasets.examples import Examples
from ..closed_forms.flat import named
from ..closed_forms.posteriors import Gaussian
from ..closed_forms.spike_slab import indicator_kl, slab_kl
from .inference import gradient
from .spike_slab_training import SpikeAndSlab
from .weight_noise import Weights

logger = logging.getLogger("bayesprune")

Level = Literal["weights", "nodes", "features"]
Relaxation = Literal["moments", "concrete"]

# Of the binary concrete variable.
TEMPERATURE = 0.5
# Of gates: nearly certain ones have no gradient. While the divergence warms up, all would become so. The lower bound
# leaves the noisy or of hundreds of closed gates below one half.
LOG_ODDS_BOUNDS = (-7.0, 4.0)
SHORTFALL = (
    "no gate can have closed: log odds moved by %.2g at most, from %.2g at the start; each step moves them by one "
    "learning rate * lr_factor: train for longer, or choose a larger lr_factor"
)


@dataclass(frozen=True)
class Gated(Gaussian):
    """N(θ, σ²) over the weights while they are in, and `log_odds`, log φ / (1-φ), of those that have a gate.

    `shared` tells whether the weights of a unit share their gate, or each has its own.
    """

    log_odds: Mapping[str, Tensor]
    shared: bool


@dataclass
class Indicators(SpikeAndSlab[Gated]):
    """Gaussians over weights and biases, behind gates whose probabilities are trained.

    What has no gate has the slab for a prior. After `reduce`, all that stays is in for certain.

    Attributes:
        level: what has a gate: single weights, nodes with the weights they read and their bias, or input features.
        relaxation: how training sees gates, see above; "moments" is not for nodes, whose outputs would share z.
        log_odds_start: of φ, before training.
        lr_factor: learning rate of the log odds over that of the weights.
        structures: the nodes: all "groups", or those that are to be pruned (`for_units`).

    Raises UsageError for nodes by their moments.
    """

    level: Level = "weights"
    relaxation: Relaxation = "moments"
    log_odds_start: float = 3.0
    lr_factor: float = 10.0
    structures: Granularity = "groups"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.level == "nodes" and self.relaxation == "moments":
            raise UsageError("the gate of a node multiplies all that it reads at once: choose relaxation: concrete")
        if not self.lr_factor > 0:
            raise UsageError(f"lr_factor must be positive, got {self.lr_factor!r}")

    def for_units(self, granularity: Granularity) -> Self:
        """Gates of nodes are those of the structures that are to be pruned."""
        if self.level != "nodes" or granularity == "weights":
            return self
        return replace(self, structures=granularity)

    # -------------------------------------------------------------- the network's step

    def attach(self, network: nn.Module, units: Units, train: Examples) -> None:
        """As `Variational`; raises UsageError for a network without such gates."""
        gates = self._gates(network, train)  # which may call the network: before there is noise on it
        super().attach(network, units, train)
        self.owner = _owners(gates, self.shapes, 1 if self.level == "features" else 0).to(self.log_sigma.device)
        self.groups, self.count = gates.groups, gates.n
        self.steps = nn.Parameter(self.log_sigma.detach().new_zeros(gates.n))
        self.certain = False

    def _gates(self, network: nn.Module, train: Examples) -> Units:
        if self.level == "features":
            return feature_units(network)
        return units_of(network, "weights" if self.level == "weights" else self.structures, train[:2].x)

    def parameters(self) -> Iterable[nn.Parameter]:
        """log σ of every weight, and how far log odds are from their start, in units of `lr_factor`."""
        return (*super().parameters(), self.steps)

    @property
    def gate_log_odds(self) -> Tensor:
        """log φ / (1-φ) of every gate, shape (gates,)."""
        return self.log_odds_start + self.lr_factor * self.steps

    def _of_weights(self, gates: Tensor) -> Tensor:
        """Values of the gates for every weight, (P,); 1 where there is none, and everywhere once all is certain."""
        return torch.ones_like(self.log_sigma) if self.certain else self._spread(gates)

    def _spread(self, gates: Tensor) -> Tensor:
        """Values of the gates for every weight, (P,); 1 where there is none."""
        return torch.cat([gates, gates.new_ones(1)]).index_select(0, self.owner)

    def means(self, network: nn.Module, training: bool) -> Weights:
        """E[z w] = φ θ; or, drawing gates in training, a draw of z w."""
        if training and self.relaxation == "concrete" and not self.certain:
            weights = self.flat_mean(network) + self._of_present(
                self.log_sigma.exp() * torch.randn_like(self.log_sigma)
            )
            return self._named(self._of_weights(concrete(self.gate_log_odds)) * weights)
        theta, phi = self.flat_mean(network), self._of_weights(self.gate_log_odds.sigmoid())
        self._of_pass = phi, phi * (1 - phi) * theta.square()
        return self._named(phi * theta)

    def variances(self) -> Weights:
        """Var[z w] = φ σ² + φ (1-φ) θ², of the means before; 0 where these are draws."""
        if self.certain:
            return super().variances()
        if self.relaxation == "concrete":
            return self._named(torch.zeros_like(self.log_sigma))
        phi, of_gates = self._of_pass
        return self._named(phi * self._of_present((2 * self.log_sigma).exp()) + of_gates)

    def _named(self, vector: Tensor) -> Weights:
        return named(vector, self.shapes)

    def divergence(self, network: nn.Module) -> Tensor:
        """Σ over gates of `indicator_kl`, and the divergence from the slab of what has none; a scalar, in nats."""
        slab = self._of_present(slab_kl(self.flat_mean(network), (2 * self.log_sigma).exp(), self.slab_variance))
        if self.certain:
            return slab.sum()
        behind = slab.new_zeros(self.count + 1).index_add(0, self.owner, slab)
        inclusion = 1 / (1 + math.exp(-self.prior_log_odds))
        return indicator_kl(self.gate_log_odds, behind[:-1], inclusion).sum() + behind[-1]

    def _behind(self, values: Tensor) -> Tensor:
        """Sums over what each gate governs, (gates,)."""
        return values.new_zeros(self.count + 1).index_add_(0, self.owner, self._of_present(values))[:-1]

    def penalizer(self, network: nn.Module, scale: float) -> Callable[[], None]:
        """In closed form: φ times that of the slab, and φ (1-φ) (log odds φ - log odds π + KL from the slab)."""
        weighted = scale * self.beta
        parameters = [network.get_parameter(name) for name in self.names]
        sizes = [parameter.numel() for parameter in parameters]
        prior, slab = self.prior_log_odds, self.slab_variance

        @torch.no_grad()
        def add() -> None:
            mean, odds = self.flat_mean(network), self.gate_log_odds
            share, phi = (2 * self.log_sigma).exp().div_(slab), self._of_weights(odds.sigmoid())
            pull = self._of_present(phi) * weighted
            for parameter, part in zip(parameters, (pull * mean / slab).split(sizes), strict=True):
                gradient(parameter).view(-1).add_(part)
            gradient(self.log_sigma).addcmul_(pull, share - 1)
            if not self.certain:
                behind = self._behind(0.5 * (mean.square().div_(slab).add_(share) - share.log() - 1))
                of_odds = odds.sigmoid() * (-odds).sigmoid() * (odds - prior + behind)
                gradient(self.steps).add_(of_odds, alpha=weighted * self.lr_factor)

        return add if weighted else lambda: None

    def update(self, network: nn.Module, train: Examples, epoch: int) -> None:
        """As `SpikeAndSlab`; log odds stay where a gate can still learn."""
        super().update(network, train, epoch)
        low, high = ((bound - self.log_odds_start) / self.lr_factor for bound in LOG_ODDS_BOUNDS)
        self.steps.detach().clamp_(low, high)

    # -------------------------------------------------------------- what remains

    def reduce(self, network: nn.Module, mask: Mask) -> None:
        """What stays is in for certain."""
        moved = (self.gate_log_odds.detach() - self.log_odds_start).abs().max().item()
        if not self.certain and moved < abs(self.log_odds_start):
            logger.warning(SHORTFALL, moved, self.log_odds_start)
        super().reduce(network, mask)
        self.certain = True

    @torch.no_grad()
    def detach(self, network: nn.Module) -> None:
        """The network keeps the means φ θ, which are θ once all is certain."""
        super().detach(network)
        for name, mean in self.means(network, False).items():
            network.get_parameter(name).copy_(mean)

    @torch.no_grad()
    def sample(self, network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
        """One draw of gates and weights for the detached `network`, by name."""
        phi = self._of_weights(self.gate_log_odds.sigmoid())
        uniform, normal = torch.rand(self.count, generator=generator), torch.randn(len(phi), generator=generator)
        gates = self._of_weights((uniform.to(phi.device) < self.gate_log_odds.sigmoid()).to(phi))
        spread = self._of_present(self.log_sigma.exp()) * normal.to(phi)
        return dict(
            self._named(gates * (self.flat_mean(network) / phi.clamp_min(torch.finfo(phi.dtype).tiny) + spread))
        )

    def posterior(self, network: nn.Module, train: Examples) -> Gated:
        """Weights and gates as they are now; float64."""
        q = self.gaussian(network)
        odds = torch.cat(
            [self.gate_log_odds.detach().double(), torch.zeros(1, dtype=torch.float64).to(self.owner.device)]
        )
        gated = named(self.owner < self.count, self.shapes)
        each = {name: v for name, v in named(odds[self.owner], self.shapes).items() if bool(gated[name].all())}
        return Gated(q.mean, q.precision, each, self.level != "weights")

    def unfinished(self) -> str | None:
        """As `Variational`, and gates of which none has closed."""
        lowest = self.gate_log_odds.detach().min().sigmoid().item()
        open_ = f"the gates had no time to close: the least probable is open with probability {lowest:.2f}"
        return super().unfinished() or (open_ if lowest >= 0.5 else None)

    def tensors(self) -> dict[str, Tensor]:
        """As `Variational`, and the gates."""
        return {**super().tensors(), "steps": self.steps.detach(), "certain": torch.tensor(self.certain)}

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        super().load_tensors(tensors)
        self.steps.copy_(tensors["steps"])
        self.certain = bool(tensors["certain"])

    @torch.no_grad()
    def learned(self, network: nn.Module) -> dict[str, Any]:
        """As `Variational`, and the expected share of gates that are open."""
        return {**super().learned(network), "open": self.gate_log_odds.sigmoid().mean().item()}


def concrete(log_odds: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Draws of Bernoulli gates, 0 or 1, with the gradient of the binary concrete variable that they round.

    Maddison, Mnih, Teh, "The concrete distribution", ICLR 2017, arXiv 1611.00712; from torch's global generator.

    In the shape of the log odds.
    """
    uniform = torch.rand_like(log_odds).clamp(1e-6, 1 - 1e-6)
    soft = torch.sigmoid((log_odds + uniform.logit()) / temperature)
    return (soft > 0.5).to(soft) + soft - soft.detach()


def _owners(gates: Units, shapes: Weights, axis: int) -> Tensor:
    """The gate of every weight, (P,); `gates.n` where there is none. A slice counts if it runs along `axis`."""
    owners = {name: torch.full(tensor.shape, gates.n) for name, tensor in shapes.items()}
    offset = 0
    for group in gates.groups:
        for piece in group.slices:
            if piece.name in owners and (isinstance(piece, Elementwise) or piece.axis == axis):
                _write(owners[piece.name], piece, torch.arange(offset, offset + group.size))
        offset += group.size
    return torch.cat([owner.flatten() for owner in owners.values()])


def _write(owner: Tensor, piece: Slice | Elementwise, gates: Tensor) -> None:
    if isinstance(piece, Elementwise):
        owner.copy_(gates.view(owner.shape))
    else:
        along = owner.movedim(piece.axis, 0)
        along[piece.index.cpu()] = gates.view(-1, *[1] * owner.dim())
