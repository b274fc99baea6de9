"""When iterated model reduction ends: once the evidence of what was pruned and trained on no longer rises.

Beckers, van Erp, Zhao, Kondrashov, de Vries, "Principled pruning of Bayesian neural networks through variational free
energy minimization", IEEE Open Journal of Signal Processing 5 (2024). ΔF is exact for the Gaussian surrogate alone; so
each round is followed by training, the log evidence of the smaller model is computed anew, and the next round is not
begun if it is not larger than before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..closed_forms.posteriors import Laplace
from ..pruner import State
from .evidence import evidence_of

FREE_ENERGY = "log_evidence"


def free_energy(state: State[Laplace]) -> dict[str, Any]:
    """The Laplace evidence of the network as it is, in nats, for the record; of what is there."""
    return {FREE_ENERGY: float(evidence_of(state.network, state.train, state.posterior))}


def no_longer_rises(reports: Sequence[dict[str, Any]]) -> bool:
    """Whether the last round's evidence is no larger than that of the one before."""
    found = [report[FREE_ENERGY] for report in reports if FREE_ENERGY in report]
    return len(found) > 1 and found[-1] <= found[-2]
