"""The conditions of training, pruning and judging: what a matrix says once, and each of its cells has."""

from __future__ import annotations

from typing import Literal

from .budget import Budget
from .settings import Finetune, Settings, Threads, Training

# The means of the prior of a PAC-Bayes certificate: the initial network, or one trained on half of the examples.
RiskBound = Literal["none", "initial", "half"]
# The examples on which masks are chosen: all, or the half on which that prior is trained, so that it knows the mask.
MaskFrom = Literal["all", "prior"]


class Conditions(Settings):
    """The same for all methods."""

    budget: Budget = Budget()
    training: Training = Training()
    finetune: Finetune = Finetune()
    shift: bool = True
    risk_bound: RiskBound = "none"
    mask_from: MaskFrom = "all"
    bits: bool = False
    evidence: bool = False
    threads: Threads = 1

    @property
    def judges_posterior(self) -> bool:
        """Whether anything is asked for of the posterior beside its weights."""
        return self.bits or self.evidence or self.risk_bound != "none"
