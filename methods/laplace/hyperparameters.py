"""Prior precisions and observation noise, raised to the evidence: empirical Bayes, MacKay's type-II maximum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from .evidence import Evidence
from .prior_structure import LogPrecisions, PriorStructure

UpdateRule = Literal["adam", "mackay"]

LOG_PRECISION_RANGE = (-20.0, 30.0)
ADAM_EPSILON = 1e-8


class Hyperparameters:
    """Log precisions of a prior structure, and the log noise, with the optimiser state that persists over calls.

    Adam ascends log q / N: dividing by N decides, through its epsilon, which precisions stand still. As nothing
    else of Adam depends on the scale, 2 log q is ascended with an epsilon 2 N times as large. Precisions are
    clamped: a vanishing curvature drives them to 0, a vanishing weight to infinity. Without `learn_noise` the
    noise stays 1. With `sums` γ are asked for in sums over tensors alone, which is all that one precision for each, or
    for all, needs.
    """

    def __init__(
        self, structure: PriorStructure, like: Mapping[str, Tensor], initial: float = 1.0, lr: float = 0.1,
        rule: UpdateRule = "adam", learn_noise: bool = True, sums: bool = False,
    ):  # fmt: skip
        self.precisions = LogPrecisions(structure, like, initial)
        self.log_noise = torch.zeros((), dtype=torch.float64, device=self.precisions.free.device)
        self.learn_noise = learn_noise
        self.sums = sums
        self._step = self._adam if rule == "adam" else self._mackay
        self._optimizer = torch.optim.Adam([self.precisions.free, self.log_noise], lr, maximize=True, fused=True)

    def precision(self) -> Tensor:
        """δ of every parameter, float64, (P,)."""
        return self.precisions.expanded().exp()

    @torch.no_grad()
    def ascend(self, evidence: Evidence, steps: int) -> None:
        """`steps` steps up the evidence, the network and its curvature held fixed."""
        noisy = self.learn_noise and evidence.count is not None
        self._optimizer.param_groups[0]["eps"] = 2 * evidence.size * ADAM_EPSILON
        curvature = evidence.tempered(self.log_noise)
        delta, gamma = torch.empty_like(evidence.squares), torch.empty_like(evidence.squares)
        for _ in range(steps):
            torch.exp(self.precisions.expanded(), out=delta)
            determined = curvature.determined_in_sum if self.sums else curvature.determined
            self._step(evidence, delta, determined(delta, gamma), noisy)
            self.precisions.free.clamp_(*LOG_PRECISION_RANGE)
            if noisy:
                curvature = evidence.tempered(self.log_noise)

    def momenta(self) -> dict[str, Tensor]:
        """Adam's state by name; empty before the first step."""
        states = self._optimizer.state_dict()["state"]
        return {f"{i}.{name}": tensor for i, state in states.items() for name, tensor in state.items()}

    def load_momenta(self, momenta: Mapping[str, Tensor]) -> None:
        """Put back what `momenta` returned."""
        states: dict[int, dict[str, Tensor]] = {}
        for name, tensor in momenta.items():
            index, _, key = name.partition(".")
            states.setdefault(int(index), {})[key] = tensor
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": states})

    def _adam(self, evidence: Evidence, delta: Tensor, gamma: Tensor, noisy: bool) -> None:
        """One step up 2 log q."""
        if noisy:
            self.log_noise.grad = 2 * evidence.noise_gradient(gamma.sum(), self.log_noise)
        self.precisions.free.grad = self.precisions.collected(evidence.twice_gradient(delta, gamma))
        self._optimizer.step()

    def _mackay(self, evidence: Evidence, delta: Tensor, gamma: Tensor, noisy: bool) -> None:
        """δ = Σ γ / Σ θ² over the parameters that share it, and s² = Σ error² / (N K - Σ γ)."""
        ratio = self.precisions.collected(gamma).log() - self.precisions.collected(evidence.squares).log()
        known = ~ratio.isnan()  # a group of which nothing is left keeps its precision
        self.precisions.free.copy_(torch.where(known, ratio, self.precisions.free))
        if noisy:
            self.log_noise.copy_(evidence.fixed_point_noise(gamma.sum()).log())
