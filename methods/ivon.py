"""IVON: a mean-field posterior that the optimiser learns, and the criteria on it.

Shen et al., "Variational learning is effective for large deep networks", ICML 2024, arXiv 2402.17641. q is N(m, σ²),
1/σ² = N (h + wd) for N examples, wd = δ/N; each step draws θ = m + ε, takes the gradient ĝ of the mean loss there, and

    g ← β₁ g + (1 - β₁) ĝ,   ĥ = N (h + wd) ε ĝ,   h ← β₂ h + (1 - β₂) ĥ + ½ (1 - β₂)² (h - ĥ)² / (h + wd),
    m ← m - lr (g / (1 - β₁ᵗ) + wd m) / (h + wd).

β₂ᵗ is how much of h is still its start: the authors' 0.99999 leaves the variances of a short training what they were,
and the signal-to-noise ratio a magnitude; one of a fifth of the training forgets the start, and lets weights that the
data leave free drift to their prior. Here β₂ = 1 - 1/steps unless given, and the record says what became of h.

Paper: shen2024variational
Deviations: β₂ forgets over the whole training instead of being 0.99999 (`preset: authors`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from ..architectures.units.mask import Mask
from ..architectures.units.prunable import trainable
from ..architectures.units.vector import Units
from ..datasets.errors import UsageError
from ..datasets.examples import Examples
from .bmr import reducing
from .closed_forms.order_statistics import quantiles
from .closed_forms.posteriors import Conjugate
from .opd import opd
from .pruner import Inference, Pruner, register
from .scores.moments import Moment, ranking

BETA1 = 0.9
AUTHORS_BETA2 = 0.99999
TRAININGS = 1.0  # for how many of them the memory of h reaches back


class Steps(torch.optim.Optimizer):
    """IVON's step, with the state of every parameter in `inference`, which also perturbs them."""

    def __init__(self, inference: IVON, parameters: Sequence[nn.Parameter], lr: float, beta2: float):
        super().__init__(parameters, {"lr": lr, "taken": 0})
        self.inference, self.beta2 = inference, beta2

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step from the gradients at the perturbed weights."""
        own, names = self.inference, self.inference.names
        for group in self.param_groups:
            taken = group["taken"] = group.get("taken", 0) + 1  # a checkpoint from before it was there has none
            for parameter in group["params"]:
                if parameter.grad is None or (name := names.get(id(parameter))) is None:
                    continue
                memory = self.state[parameter].setdefault("g", torch.zeros_like(parameter))
                h, noise = own.h[name], own.noise.get(name, torch.zeros_like(parameter))
                precise = h + own.decay
                memory.mul_(BETA1).add_(parameter.grad, alpha=1 - BETA1)
                seen = own.size * precise * noise * parameter.grad
                rate = 1 - self.beta2
                change = rate * (seen - h) + 0.5 * rate**2 * (h - seen).square() / precise
                h.add_(change if own.kept is None else change * own.kept[name])
                direction = memory / (1 - BETA1**taken) + own.decay * parameter
                parameter.sub_(group["lr"] * (own.start + own.decay) * direction / (h + own.decay))


@dataclass
class IVON(Inference[Conjugate]):
    """The posterior N(m, 1/(N h + δ)), learned by the optimiser; the prior N(0, 1/δ) is in its step.

    Attributes:
        precision: δ > 0.
        start: h before training; learning rates are for it: the first steps are lr times gradients.
        beta2: memory of h; 1 - 1/steps by default.
        lr_factor: learning rates over those of the training, which are Adam's: those of IVON are near plain gradient
            descent's; where the training's is the usual 0.001, this is the authors' 0.1.
    """

    precision: float = 1.0
    start: float = 1.0
    beta2: float | None = None
    lr_factor: float = 100.0

    def __post_init__(self) -> None:
        if not self.precision > 0 or not self.start > 0:
            raise UsageError(f"IVON: precision and start must be positive, got {self.precision!r} and {self.start!r}")
        self.h: dict[str, Tensor] = {}
        self.noise: dict[str, Tensor] = {}
        self.names: dict[int, str] = {}
        self.kept: dict[str, Tensor] | None = None
        self.size = 1

    @property
    def decay(self) -> float:
        """δ/N."""
        return self.precision / self.size

    def attach(self, network: nn.Module, units: Units, train: Examples) -> None:
        """Variances for all that is trained."""
        self.size = train.terms
        self.names = {id(p): name for name, p in trainable(network).items()}
        self.h = {name: torch.full_like(p, self.start, requires_grad=False) for name, p in trainable(network).items()}

    def penalty(self, network: nn.Module) -> Tensor:
        """½ δ |m|² nats: the step knows of it, so that `penalizer` adds nothing."""
        return 0.5 * self.precision * torch.stack([p.square().sum() for p in trainable(network).values()]).sum()

    def penalizer(self, network: nn.Module, scale: float) -> Callable[[], None]:
        """Nothing."""
        return lambda: None

    def optimizer(self, parameters: Sequence[nn.Parameter], lr: float, steps: int) -> torch.optim.Optimizer:
        """IVON, whose memory is the whole training."""
        beta2 = max(0.0, 1 - 1 / max(TRAININGS * steps, 1)) if self.beta2 is None else self.beta2
        return Steps(self, parameters, lr * self.lr_factor, beta2)

    @contextmanager
    def perturbed(self, network: nn.Module) -> Iterator[None]:
        """Weights are m + ε inside, and m again afterwards, whatever happens; what has left has no noise."""
        parameters = trainable(network)
        means = {name: p.detach().clone() for name, p in parameters.items()}
        with torch.no_grad():
            for name, p in parameters.items():
                noise = torch.randn_like(p) / (self.size * (self.h[name] + self.decay)).sqrt()
                self.noise[name] = noise if self.kept is None else noise * self.kept[name]
                p.add_(self.noise[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, p in parameters.items():
                    p.copy_(means[name])

    def posterior(self, network: nn.Module, train: Examples) -> Conjugate:
        """Precision N h + δ, in nats of the whole training set."""
        mean = {name: p.detach().double() for name, p in trainable(network).items()}
        precision = {name: self.size * self.h[name].double() + self.precision for name in mean}
        return Conjugate(mean, precision, {n: torch.full_like(m, self.precision) for n, m in mean.items()})

    def reduce(self, network: nn.Module, mask: Mask) -> None:
        """What has left is not drawn, and its h is not learned."""
        whole = {name: torch.ones_like(h) for name, h in self.h.items()}
        self.kept = {n: mask.tensors[n].to(w) if n in mask.tensors else w for n, w in whole.items()}

    def sample(self, network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
        """A draw from q."""
        drawn = {}
        for name, p in trainable(network).items():
            noise = torch.randn(p.shape, generator=generator).to(p) / (self.size * (self.h[name] + self.decay)).sqrt()
            drawn[name] = p.detach() + (noise if self.kept is None else noise * self.kept[name])
        return drawn

    def learned(self, network: nn.Module) -> dict[str, Any]:
        """How far h has come from its start, in each tensor: least, middle and most of h/h₀."""
        levels = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
        return {"h": {n: quantiles((h / self.start).double().flatten().cpu(), levels) for n, h in self.h.items()}}

    def tensors(self) -> dict[str, Tensor]:
        """h by name."""
        return dict(self.h)

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        for name, tensor in tensors.items():
            self.h[name].copy_(tensor)


@register("ivon-opd", revision=2)
def ivon_opd(
    precision: PositiveFloat = 1.0, start: PositiveFloat = 1.0, beta2: float | None = None,
    lr_factor: PositiveFloat = 100.0, preset: Literal["authors"] | None = None, by: Moment = "both",
) -> Pruner[Any]:  # fmt: skip
    """Posterior damage ½Λm², half the squared signal-to-noise ratio, after training by IVON (Shen et al. 2024).

    `preset: authors` has their memory of h, too; `by` a moment alone ranks by |m| or by Λ.

    Formula: s_k = ½ N (h_k + δ/N) m_k²
    Oracle: test_hooks.py::test_ivon_finds_the_curvature_of_a_quadratic
    """
    return Pruner(partial(IVON, precision, start, AUTHORS_BETA2 if preset else beta2, lr_factor), ranking(by, opd))


@register("ivon-bmr", revision=2)
def ivon_bmr(
    precision: PositiveFloat = 1.0, start: PositiveFloat = 1.0, beta2: float | None = None,
    lr_factor: PositiveFloat = 100.0, preset: Literal["authors"] | None = None,
) -> Pruner[Any]:  # fmt: skip
    """Bayesian model reduction on the posterior of IVON (Shen et al. 2024; Marković et al. 2024).

    `preset: authors` has their memory of h, too.

    Formula: ΔF_k = ½ log(Λ_k / δ) - ½ Λ_k m_k²,  Λ_k = N h_k + δ;  what has ΔF > threshold leaves
    Paper: shen2024variational, markovic2023bayesian
    Oracle: test_hooks.py::test_ivon_finds_the_curvature_of_a_quadratic,
        test_bmr.py::test_a_spike_is_the_savage_dickey_ratio_at_any_precision
    """
    return reducing(partial(IVON, precision, start, AUTHORS_BETA2 if preset else beta2, lr_factor), "vb4", "live")
