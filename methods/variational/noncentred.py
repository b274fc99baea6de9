"""Mean-field inference in non-centred form: weights w = γ ŵ, with ŵ ~ N(0, 1) under scales γ that are learned too.

Ghosh, Yao, Doshi-Velez, "Structured variational learning of Bayesian neural networks with horseshoe priors", ICML
2018, arXiv 1806.05975; Marković, Friston, Kiebel, arXiv 2309.12095. The network's parameters are the means μ of ŵ in
training, each tensor in units of a number u, as u μ, and E[γ] μ once the inference is detached. Scales are made of
positive factors (see `scale_factors`), drawn once in each forward pass.

Adam moves a parameter by one learning rate, whatever its units. With u = 1 it moves a weight by γ learning rates, ten
times fewer than in other methods where γ = 0.1, and networks are still untrained when these are done; with u = E[γ] at
the start steps are those of the weights themselves. The model is the same.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ...architectures.units.mask import Mask
from ...architectures.units.prunable import prunable, trainable
from ...architectures.units.vector import Units
from ...datasets.errors import unknown
from ...datasets.examples import Examples
from ..closed_forms.lognormal import Moments, kl_gradients, kl_to_gamma
from ..closed_forms.order_statistics import quantiles
from ..closed_forms.posteriors import Scaled
from .inference import Variational, equal_log_sigma, gradient
from .scale_factors import LOG_SPREAD, Factor, Layer, Prior, Scale, bias_of, by_factor, expanded, layers
from .weight_noise import Weights

Initial = Literal["network", "uniform"]

# Half-width of the authors' initial means of ŵ and of all log factors.
WIDTH = 2.0


@dataclass
class NonCentred(Variational[Scaled]):
    """q(ŵ) = Π N(μ, s²) under N(0, 1), and log-normal factors of the scales; what is no weight has the prior N(0, 1).

    Attributes:
        initial: means before training: those at which the "network" starts as it is initialised, scales being the
            root mean square of its weights, and u their means; or all "uniform" in ±2, drawn from torch's global
            generator, and u = 1, as published.
        start: log s before training.
    """

    revision: ClassVar[int] = 2  # trained in units of the initial scales

    initial: Initial = "network"
    start: float = LOG_SPREAD

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.initial not in ("network", "uniform"):
            raise unknown("initial", self.initial, ("network", "uniform"))

    @abstractmethod
    def layer_prior(self, layer: Layer) -> Prior:
        """Factors of one layer by name, and the scale of each of its parameters."""

    # -------------------------------------------------------------- the network's step

    def attach(self, network: nn.Module, units: Units, train: Examples) -> None:
        """As `Variational`; the parameters of `network` become the means of ŵ, in their units."""
        super().attach(network, units, train)
        self.points = sorted(trainable(network).keys() - set(self.names))
        self.factors: dict[str, Factor] = {}
        self.scales: dict[str, Scale] = {}
        for layer in layers(network, self.shapes):
            factors, scales = self.layer_prior(layer)
            self.factors |= factors
            self.scales |= scales
        self.location = nn.Parameter(expanded(self.factors, lambda factor: factor.start, self.log_sigma))
        self.log_spread = nn.Parameter(torch.full_like(self.location, LOG_SPREAD))
        self.a = expanded(self.factors, lambda factor: factor.a, self.location)
        self.b = expanded(self.factors, lambda factor: factor.b, self.location)
        self.counted = torch.ones_like(self.a)
        self._begin(network)

    @torch.no_grad()
    def _begin(self, network: nn.Module) -> None:
        self.unit = dict.fromkeys((*self.names, *self.points), 1.0)
        if self.initial == "uniform":
            for tensor in (self.location, *(network.get_parameter(name) for name in self.names)):
                nn.init.uniform_(tensor, -WIDTH, WIDTH)
            return
        for name, moment in self.moments().items():
            self.unit[name] = moment.mean.mean().item()  # all of a tensor start at one scale

    def named_weights(self, network: nn.Module) -> dict[str, nn.Parameter]:
        """As `Variational`, but for biases that belong to no one weight."""
        weights = prunable(network)
        paired = {*weights, *map(bias_of, weights)}
        return {name: parameter for name, parameter in super().named_weights(network).items() if name in paired}

    def initial_log_sigma(self, network: nn.Module) -> Tensor:
        """The same for all; shape (P,)."""
        return equal_log_sigma(self.named_weights(network), self.start)

    def parameters(self) -> Iterable[nn.Parameter]:
        """log s of every weight, (P,), and means and log standard deviations of the factors' logs, (F,) each."""
        return (self.log_sigma, self.location, self.log_spread)

    def means(self, network: nn.Module, training: bool) -> Weights:
        """γ μ with one draw of γ in training, E[γ] μ else."""
        self.drawn = self._draw() if training else {name: m.mean for name, m in self.moments().items()}
        return {name: scale / self.unit[name] * network.get_parameter(name) for name, scale in self.drawn.items()}

    def variances(self) -> Weights:
        """γ² s² of every weight, by name, with the γ that the means have; 0 of those that have left."""
        return {name: self.drawn[name].square() * variance for name, variance in super().variances().items()}

    def _draw(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """γ of every parameter, in a shape that broadcasts to it."""
        noise = torch.randn(self.location.shape, generator=generator, dtype=self.location.dtype)
        logs = self._by_factor(torch.addcmul(self.location, self.log_spread.exp(), noise.to(self.location.device)))
        return {name: scale.log(logs).exp() for name, scale in self.scales.items()}

    def _by_factor(self, values: Tensor) -> dict[str, Tensor]:
        return by_factor(self.factors, values)

    @torch.no_grad()
    def moments(self) -> dict[str, Moments]:
        """Of γ of every parameter, by name, in shapes that broadcast to it."""
        means, variances = self._by_factor(self.location), self._by_factor((2 * self.log_spread).exp())
        return {name: scale.moments(means, variances) for name, scale in self.scales.items()}

    # -------------------------------------------------------------- the divergence

    def divergence(self, network: nn.Module) -> Tensor:
        """Σ ½ (μ² + s² - 1) - log s, the divergence of the factors, and ½ |θ|² of the points; a scalar, in nats."""
        squares = [(network.get_parameter(name).double() / unit).square().sum() for name, unit in self.unit.items()]
        log_s = self.log_sigma.double()
        spread = 0.5 * ((2 * log_s).exp() - 1) - log_s
        factors = kl_to_gamma(self.location.double(), self.log_spread.double(), self.a.double(), self.b.double())
        return 0.5 * torch.stack(squares).sum() + self._of_present(spread).sum() + (factors * self.counted).sum()

    def penalizer(self, network: nn.Module, scale: float) -> Callable[[], None]:
        """Adds the gradient of scale · penalty in closed form."""
        weighted = scale * self.beta
        factors = [(network.get_parameter(name), weighted / unit**2) for name, unit in self.unit.items()]

        @torch.no_grad()
        def add() -> None:
            for parameter, factor in factors:
                gradient(parameter).add_(parameter, alpha=factor)
            # The variance is that of the forward pass of this very step.
            of_spread = gradient(self.log_sigma)
            of_spread.add_(self.variance, alpha=weighted)
            of_spread.sub_(weighted if self.present is None else weighted * self.present)
            divergence = kl_gradients(self.location, self.log_spread, self.a, self.b)
            for parameter, found in zip((self.location, self.log_spread), divergence, strict=True):
                gradient(parameter).addcmul_(found, self.counted, value=weighted)

        return add if weighted else lambda: None

    def reduce(self, network: nn.Module, mask: Mask) -> None:
        """Weights that leave have no variance and no divergence, nor have the factors that were theirs alone."""
        super().reduce(network, mask)
        for part, factor in zip(self._by_factor(self.counted).values(), self.factors.values(), strict=True):
            if factor.of in mask.tensors:
                part.copy_(mask.tensors[factor.of])

    # -------------------------------------------------------------- what remains

    def posterior(self, network: nn.Module, train: Examples) -> Scaled:
        """The Gaussians of ŵ, and the moments of the scales; float64."""
        q = self.gaussian(network)
        mean = {name: theta / self.unit[name] for name, theta in q.mean.items()}
        prior = {name: torch.ones_like(m) for name, m in mean.items()}
        parts = {name: _doubled(m, mean[name]) for name, m in self.moments().items()}
        logs, scales, squares = ({n: getattr(m, part) for n, m in parts.items()} for part in ("log", "mean", "square"))
        return Scaled(mean, q.precision, prior, logs, scales, squares)

    @torch.no_grad()
    def detach(self, network: nn.Module) -> None:
        """The network gets the means E[γ] μ."""
        super().detach(network)
        self.expected = {name: moment.mean for name, moment in self.moments().items()}
        for name, mean in self.expected.items():
            network.get_parameter(name).mul_(mean / self.unit[name])

    @torch.no_grad()
    def sample(self, network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
        """One draw of γ ŵ, by name; γ of a layer's weight and bias together."""
        self.drawn = self._draw(generator)
        variances = self.variances()
        return {
            name: self.drawn[name] / self.expected[name] * network.get_parameter(name)
            + variance.sqrt() * torch.randn(variance.shape, generator=generator, dtype=variance.dtype).to(variance)
            for name, variance in variances.items()
        }

    def tensors(self) -> dict[str, Tensor]:
        """What `Variational` has, and the factors' posterior."""
        own = {"location": self.location, "log_spread": self.log_spread, "counted": self.counted}
        own["unit"] = torch.tensor([*self.unit.values()], dtype=torch.float64)
        return super().tensors() | {name: tensor.detach() for name, tensor in own.items()}

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        super().load_tensors(tensors)
        for name in ("location", "log_spread", "counted"):
            getattr(self, name).copy_(tensors[name])
        units = tensors["unit"].tolist() if "unit" in tensors else [1.0] * len(self.unit)  # before there were units
        self.unit = dict(zip(self.unit, units, strict=True))

    @torch.no_grad()
    def learned(self, network: nn.Module) -> dict[str, Any]:
        """What `Variational` tells, and the quartiles of E[γ] in each layer."""
        levels = self.location.new_tensor([0.25, 0.5, 0.75])
        scales = {name: m.mean.flatten() for name, m in self.moments().items() if name in prunable(network)}
        quartiles = {name: quantiles(scale, levels) for name, scale in scales.items()}
        return {**super().learned(network), "scale": quartiles}


def _doubled(moment: Moments, like: Tensor) -> Moments:
    return Moments(*(v.double().expand_as(like) for v in (moment.log, moment.mean, moment.square)))
