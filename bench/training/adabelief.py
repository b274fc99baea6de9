"""AdaBelief: Adam whose steps are divided by how far gradients are from what was expected of them.

Zhuang, Tang, Ding, Tatikonda, Dvornek, Papademetris, Duncan, "AdaBelief optimizer", NeurIPS 2020, arXiv 2010.07468, in
the form of optax, with the gradient's distance from its mean before the step:

    v ← β₂ v + (1 - β₂) (g - m)² + ε',  m ← β₁ m + (1 - β₁) g,  θ ← θ - lr m̂ / (√v̂ + ε),

hats being divisions by 1 - β₁ᵗ and 1 - β₂ᵗ.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
# Both ε and ε'; divergences over the number of examples have gradients of 1e-5 and less.
EPSILON = 1e-16


class AdaBelief(torch.optim.Optimizer):
    """AdaBelief over all parameters at once; a parameter without a gradient stays as it is."""

    def __init__(self, parameters: Iterable[Tensor], lr: float):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._step(parameters, group["lr"])

    def _step(self, parameters: list[Tensor], lr: float) -> None:
        states = [self._state(p) for p in parameters]
        means, squares = [s["mean"] for s in states], [s["square"] for s in states]
        gradients: list[Any] = [p.grad for p in parameters]
        surprise: Any = torch._foreach_sub(gradients, means)  # pyright: ignore
        torch._foreach_add_(means, surprise, alpha=1 - BETAS[0])  # pyright: ignore
        torch._foreach_mul_(squares, BETAS[1])  # pyright: ignore
        torch._foreach_addcmul_(squares, surprise, surprise, 1 - BETAS[1])  # pyright: ignore
        torch._foreach_add_(squares, EPSILON)  # pyright: ignore
        corrections = [self._corrections(state) for state in states]
        scale: Any = torch._foreach_div(squares, [second for _, second in corrections])  # pyright: ignore
        torch._foreach_sqrt_(scale)  # pyright: ignore
        torch._foreach_add_(scale, EPSILON)  # pyright: ignore
        torch._foreach_addcdiv_(parameters, means, scale, [-lr / first for first, _ in corrections])  # pyright: ignore

    def _state(self, parameter: Tensor) -> dict[str, Any]:
        state = self.state[parameter]
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
        return state

    @staticmethod
    def _corrections(state: dict[str, Any]) -> tuple[float, float]:
        state["step"] += 1
        return 1 - BETAS[0] ** state["step"], 1 - BETAS[1] ** state["step"]
