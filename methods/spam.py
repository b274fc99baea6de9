"""SpaM: networks trained to be sparsifiable by the marginal likelihood (Dhahri et al., NeurIPS 2024).

Dhahri, Immer, Charpentier, Günnemann, Fortuin, "Shaving weights with Occam's razor", arXiv 2402.15978. The
prior precisions are learned during training: every K epochs after a burn-in, the Laplace evidence at the
present network is raised by S steps of Adam on the log precisions, curvature and network held fixed; in
between, the network descends on mean loss + T ½ Σ δ θ² / N. The posterior precision then scores weights.

Deliberate deviations from the published code: the penalty is not divided by the initial precision; log
precisions are clamped, because a vanishing curvature or weight drives them without bound; the precisions in
use are those after the last step, not one step behind; the training mode is restored after each fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..architectures.mask import Mask
from ..architectures.units import Units
from ..datasets.data import Split
from ..datasets.registry import UsageError
from . import registry
from .curvature import CurvatureKind, diagonal, evaluating, trainable
from .evidence import effective_parameters, log_evidence, log_evidence_gradient, log_likelihood
from .posteriors import Laplace
from .priors import LogPrecisions, PriorStructure
from .pruner import Inference, Pruner, register
from .scoring import summed_loss

LOG_PRECISION_RANGE = (-20.0, 30.0)


@dataclass
class SpaM(Inference[Laplace]):
    """MAP training whose prior precisions follow the Laplace evidence.

    Attributes:
        prior: which parameters share a precision.
        kind: of the curvature diagonal; "ef" is the published code's default, "ggn" sparsifies better.
        frequency: K, epochs between evidence steps.
        burn_in: the first epoch that may end with evidence steps.
        steps: S, steps of Adam in each, or rounds of MacKay's fixed point.
        lr: of Adam on the log precisions (and the log noise), whose state persists.
        temperature: T; the likelihood counts 1/T-fold, for augmented data.
        update_rule: "adam", or "mackay": δ = Σγ / Σθ² over the parameters that share δ.
    """

    prior: PriorStructure = "parameterwise"
    kind: CurvatureKind = "ggn"
    frequency: int = 5
    burn_in: int = 0
    steps: int = 100
    lr: float = 0.1
    temperature: float = 1.0
    update_rule: Literal["adam", "mackay"] = "adam"

    def __post_init__(self) -> None:
        for name in ("frequency", "steps", "lr", "temperature"):
            if not getattr(self, name) > 0:
                raise UsageError(f"SpaM: {name} must be positive, got {getattr(self, name)!r}")

    def attach(self, network: nn.Module, units: Units, train: Split) -> None:
        """Start from precision 1 and noise 1, with fresh optimiser state and an empty trace."""
        parameters = trainable(network)
        device = next(iter(parameters.values())).device
        self.precisions = LogPrecisions(self.prior, {n: p.shape for n, p in parameters.items()}, device=device)
        self.log_noise = torch.zeros((), dtype=torch.float64, device=device)
        self.trace: list[tuple[float, float, float]] = []  # epoch, log evidence, effective parameters
        self.masks: dict[str, Tensor] = {}
        self._optimizer = torch.optim.Adam([*self.precisions.free.values(), self.log_noise], self.lr)

    # -------------------------------------------------------------- the network's step

    def penalty(self, network: nn.Module) -> Tensor:
        """s² T ½ Σ δ θ², in nats for the whole training set at unit noise."""
        terms = [(d * p.double().square()).sum() for d, p in self._weighted(network)]
        return 0.5 * self._scale * torch.stack(terms).sum()

    def penalizer(self, network: nn.Module, scale: float) -> Callable[[], None]:
        """Adds scale · s² T δ ∘ θ to the gradients, in one fused step."""
        pairs = [(p, d.to(p.dtype)) for d, p in self._weighted(network)]

        @torch.no_grad()
        def add() -> None:
            active = [(p.grad, d, p) for p, d in pairs if p.grad is not None]
            gradients, deltas, parameters = (list(column) for column in zip(*active, strict=True))
            torch._foreach_addcmul_(gradients, deltas, parameters, value=scale * self._scale)  # pyright: ignore

        return add

    def _weighted(self, network: nn.Module) -> list[tuple[Tensor, Tensor]]:
        deltas = self.prior_precision()
        return [(deltas[name], parameter) for name, parameter in trainable(network).items()]

    @property
    def _scale(self) -> float:
        return (2 * self.log_noise).exp().item() * self.temperature

    # -------------------------------------------------------------- the evidence's steps

    def prior_precision(self) -> dict[str, Tensor]:
        """δ of every parameter, by name, float64."""
        return {name: value.exp() for name, value in self.precisions.expanded().items()}

    def update(self, network: nn.Module, train: Split, epoch: int) -> None:
        """Evidence steps, if it is their epoch; the trace keeps the evidence after them."""
        if epoch % self.frequency or epoch < self.burn_in:
            return
        evidence = self.evidence(network, train)
        step = self._adam_step if self.update_rule == "adam" else self._mackay_step
        for _ in range(self.steps):
            step(evidence)
        self.trace.append((float(epoch), evidence.value().item(), evidence.effective().item()))

    def evidence(self, network: nn.Module, train: Split) -> Evidence:
        """The evidence at the present network, as a function of the hyperparameters."""
        generator = torch.Generator().manual_seed(len(self.trace))
        curvature = diagonal(network, train.x, train.y, train.likelihood, self.kind, generator)
        for name, mask in self.masks.items():
            curvature[name] *= mask.to(curvature[name].device)  # what has left is no part of the model
        mean = {name: p.detach().double() for name, p in trainable(network).items()}
        with evaluating(network):
            loss = summed_loss(network, train)
        return Evidence(self, curvature, mean, loss, train)

    def _adam_step(self, evidence: Evidence) -> None:
        """One ascent step on log q / N; dividing by N decides, through Adam's epsilon, what stands still."""
        for name, gradient in self.precisions.collected(evidence.gradient()).items():
            self.precisions.free[name].grad = -gradient / evidence.size
        if evidence.gaussian:
            self.log_noise.grad = -evidence.noise_gradient() / evidence.size
        self._optimizer.step()
        self._clamp()

    def _mackay_step(self, evidence: Evidence) -> None:
        if self.prior == "unitwise":
            raise UsageError("MacKay's fixed point needs one precision per group; unit-wise ones overlap: use adam")
        delta = self.prior_precision()
        gamma = self.precisions.collected({n: h / (h + delta[n]) for n, h in evidence.tempered().items()})
        squares = self.precisions.collected({n: m.square() for n, m in evidence.mean.items()})
        for name, free in self.precisions.free.items():
            free.copy_(gamma[name].log() - squares[name].log())
        self._clamp()

    def _clamp(self) -> None:
        for free in self.precisions.free.values():
            free.nan_to_num_(LOG_PRECISION_RANGE[1]).clamp_(*LOG_PRECISION_RANGE)

    # -------------------------------------------------------------- what remains

    def posterior(self, network: nn.Module, train: Split) -> Laplace:
        """Laplace posterior at the final network: precision cH + δ."""
        evidence = self.evidence(network, train)
        return Laplace.at(evidence.mean, evidence.tempered(), self.prior_precision())

    def reduce(self, network: nn.Module, mask: Mask) -> None:
        """What has left takes no part in the evidence any more."""
        self.masks = dict(mask.tensors)

    def tensors(self) -> dict[str, Tensor]:
        """Log precisions, log noise and the evidence trace (epoch, log evidence, effective parameters)."""
        trace = torch.tensor(self.trace, dtype=torch.float64).view(-1, 3)
        return {f"log_precision/{n}": v for n, v in self.precisions.free.items()} | {
            "log_noise": self.log_noise,
            "trace": trace,
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned; Adam's state starts anew."""
        for name, free in self.precisions.free.items():
            free.copy_(tensors[f"log_precision/{name}"])
        self.log_noise.copy_(tensors["log_noise"])
        self.trace = [(row[0], row[1], row[2]) for row in tensors["trace"].tolist()]


class Evidence:
    """log q at one network, as a function of a SpaM's hyperparameters."""

    def __init__(self, spam: SpaM, curvature: dict[str, Tensor], mean: dict[str, Tensor], loss: Tensor, train: Split):
        self.spam, self.curvature, self.mean, self.loss = spam, curvature, mean, loss
        self.size, self.gaussian = len(train), train.likelihood == "gaussian"
        self.count = train.y.numel()

    def _c(self) -> Tensor:
        return (-2 * self.spam.log_noise).exp() / self.spam.temperature

    def tempered(self) -> dict[str, Tensor]:
        """cH by parameter name."""
        return {name: self._c() * h for name, h in self.curvature.items()}

    def value(self) -> Tensor:
        """log q in nats."""
        h, delta = self.tempered(), self.spam.prior_precision()
        flat = [torch.cat([t[n].flatten() for n in h]) for t in (h, self.mean, delta)]
        noise = self.spam.log_noise.exp() if self.gaussian else None
        return log_evidence(log_likelihood(self.loss, self.count, noise, self.spam.temperature), *flat)

    def gradient(self) -> dict[str, Tensor]:
        """∂ log q / ∂ log δ of every parameter, as if none were shared."""
        delta = self.spam.prior_precision()
        return {n: log_evidence_gradient(h, self.mean[n], delta[n]) for n, h in self.tempered().items()}

    def noise_gradient(self) -> Tensor:
        """∂ log q / ∂ log s = 2 c ½ Σ error² - N K + Σ h / (h + δ)."""
        return 2 * self._c() * self.loss - self.count + self.effective()

    def effective(self) -> Tensor:
        """The effective number of parameters γ."""
        delta = self.spam.prior_precision()
        return torch.stack([effective_parameters(h, delta[n]) for n, h in self.tempered().items()]).sum()


# ---------------------------------------------------------------------- SpaM with any criterion


def _spam(
    criterion: str, prior: PriorStructure, kind: CurvatureKind, frequency: int, burn_in: int, steps: int
) -> Pruner[Any]:
    """The score of another method on a network trained by SpaM, after training."""
    score = registry.build(criterion).score
    return Pruner(partial(SpaM, prior, kind, frequency, burn_in, steps), score)


@register("spam-opd")
def spam_opd(
    prior: PriorStructure = "parameterwise",
    kind: CurvatureKind = "ggn",
    frequency: int = 5,
    burn_in: int = 0,
    steps: int = 100,
) -> Pruner[Laplace]:
    """Optimal posterior damage after SpaM training, priors learned by the evidence (Dhahri et al. 2024)."""
    return _spam("opd", prior, kind, frequency, burn_in, steps)


@register("spam-magnitude")
def spam_magnitude(
    prior: PriorStructure = "parameterwise",
    kind: CurvatureKind = "ggn",
    frequency: int = 5,
    burn_in: int = 0,
    steps: int = 100,
) -> Pruner[Laplace]:
    """Weight magnitude after SpaM training (Dhahri et al. 2024)."""
    return _spam("magnitude", prior, kind, frequency, burn_in, steps)
