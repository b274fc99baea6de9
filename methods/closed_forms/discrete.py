"""Likelihoods of what is one of several: classes, and yes or no.

`categorical`: cross-entropy with labels, or with probabilities of the classes (mixed or smoothed labels, a teacher's).
With probabilities p the Hessian is diag(p) - p p', of rank C - 1. Let 1 be the most probable class and s = √p. The
reflection that maps s to -e_1 has columns orthogonal to s; scaled by s, all but its first are exact roots, one for
each class c ≠ 1:

    v_c = s_c (e_c - q),   q = s_1 e_1 + Σ_{i≠1} p_i e_i / (1 + s_1),   Σ_c v_c v_c' = diag(p) - p p'.

No entry is a difference of nearly equal numbers, however sure the network is. They are also good roots for random
signs: Σ_c ±v_c is unbiased, exact for two classes, and the surer the network the more accurate than the same
with √p_c (e_c - p).

`bernoulli`: cross-entropy of every output with its own yes or no, a sum over outputs as they are independent given the
input; its roots are √(p_k (1 - p_k)) e_k.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...datasets.errors import UsageError
from ...datasets.split import IGNORED
from ...datasets.targets import check_probabilities
from .output_model import OutputModel


class Categorical(OutputModel):
    """Classes: labels (N,) or (N, T), or probabilities (N, C)."""

    name, logits, sequences, skipped = "categorical", True, True, 1

    def mean_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy; labels of -100 do not count."""
        if y.is_floating_point():
            return F.cross_entropy(outputs, y.to(outputs))
        return F.cross_entropy(outputs.flatten(0, -2), y.flatten(), ignore_index=IGNORED)

    def gradient(self, outputs: Tensor, y: Tensor) -> Tensor:
        """e_y - p, or y - p of probabilities."""
        return self._from(outputs.softmax(1), y)

    def draws(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """A uniform number for each label."""
        return torch.rand(*shape[:-1], 1, generator=generator, dtype=torch.float64)

    def drawn_gradient(self, outputs: Tensor, drawn: Tensor) -> Tensor:
        """e_y - p, y drawn by inverting the distribution function."""
        p = outputs.softmax(1)
        return self._from(p, (p.double().cumsum(1) < drawn.to(p.device)).sum(1).clamp_max(p.shape[1] - 1))

    def _from(self, p: Tensor, y: Tensor) -> Tensor:
        return (y.to(p) if y.is_floating_point() else F.one_hot(y.clamp_min(0), p.shape[1])) - p

    def roots(self, outputs: Tensor, weights: Tensor) -> Tensor:
        """See above; that of the most probable class counts for nothing."""
        p = outputs.softmax(1)
        s = p.sqrt()
        first = p.argmax(1, keepdim=True)
        largest = s.gather(1, first)
        q = (p / (1 + largest)).scatter_(1, first, largest)
        scaled = weights * s.scatter(1, first, 0).unsqueeze(1)
        return scaled - scaled.sum(2, keepdim=True) * q.unsqueeze(1)

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Labels within the classes, or rows that sum to one."""
        count, steps = outputs.shape[-1], tuple(outputs.shape[1:-1])
        if y.is_floating_point() and y.shape[1:] == outputs.shape[1:] and y.dim() == 2:
            check_probabilities(y.detach().cpu().numpy(), "categorical")
            return
        if y.is_floating_point() or y.is_complex() or y.shape[1:] != steps:
            shape = f"(N, {steps[0]})" if steps else "(N,)"
            raise UsageError(
                f"labels must be whole numbers of shape {shape}, got {y.dtype} of shape {tuple(y.shape)}; "
                "real targets need likelihood='gaussian'"
            )
        low, high = int(y.min()), int(y.max())
        low = int(y[y != IGNORED].min()) if low == IGNORED < high else low
        if (low < 0 and (low, high) != (IGNORED, IGNORED)) or high >= count:
            raise UsageError(f"labels must lie in 0 to {count - 1} for {count} outputs, got {low if low < 0 else high}")


class Bernoulli(OutputModel):
    """Yes or no of every output by itself: y (N, C) of zeros and ones, or of probabilities."""

    name, logits = "bernoulli", True

    def mean_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Binary cross-entropy, summed over the outputs."""
        return F.binary_cross_entropy_with_logits(outputs, y.to(outputs), reduction="none").sum(1).mean()

    def gradient(self, outputs: Tensor, y: Tensor) -> Tensor:
        """y - p."""
        return y.to(outputs) - outputs.sigmoid()

    def draws(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """A uniform number for each target."""
        return torch.rand(*shape[:-1], shape[-1], generator=generator, dtype=torch.float64)

    def drawn_gradient(self, outputs: Tensor, drawn: Tensor) -> Tensor:
        """y - p, every y drawn from its p."""
        p = outputs.sigmoid()
        return (drawn.to(p.device) < p.double()).to(p) - p

    def worth(self, outputs: Tensor) -> Tensor:
        """√(p (1 - p)), without the difference."""
        return (outputs.sigmoid() * (-outputs).sigmoid()).sqrt()

    def roots(self, outputs: Tensor, weights: Tensor) -> Tensor:
        """√(p_k (1 - p_k)) e_k."""
        return weights * self.worth(outputs).unsqueeze(1)

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """One column for each output, of numbers from 0 to 1."""
        super().check(outputs, y)
        check_probabilities(y.detach().cpu().numpy(), "bernoulli")
