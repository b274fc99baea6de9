"""PIP from trained gates: the probability φ that a weight, a node or a feature is in; see `variational.gates`.

Formula: PIP_k = φ_k,  w_k = z_k ŵ_k,  q(z_k = 1) = φ_k;  stays if φ_k > ½
Paper: saha2024efficient
Deviations: a reconstruction: gates are those of stochastic variational inference with a spike and a slab. The
    divergence is tempered (`kl`).
Oracle: test_indicators.py::test_the_trained_probabilities_of_an_orthogonal_design_are_exact,
    test_indicators.py::test_the_divergence_counts_every_gate_once
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import Tensor

from ..architectures.units.vector import Units
from .pruner import Pruner, State, register
from .scores.inclusion import Select, pip_pruner, unit_log_odds
from .variational.gates import Gated, Indicators, Level, Relaxation
from .variational.spike_slab_training import Shrunk, TargetNoise

# Log odds of what has no gate.
CERTAIN = 40.0
# What signal over noise adds to log odds, at most: too little to decide.
TIE = 1e-3


@register("pip-gates", revision=2)
def pip_gates(
    inclusion: float = 0.1, slab_variance: float = 1.0, level: Level = "weights", relaxation: Relaxation | None = None,
    select: Select = "median", rate: float = 0.05, kl: float = 0.1, warm_up: tuple[int, int] | float = 0.5,
    anneal: tuple[int, int] = (0, 0), noise: TargetNoise = "fitted", lr_factor: float = 5.0, shrink: float = 1.0,
    shrunk: Shrunk = "first", start: tuple[float, float] = (3.0, -5.0),
) -> Pruner[Gated]:  # fmt: skip
    """Inclusion probability of trained gates on weights, nodes or features (reconstruction of Saha, Liu, Liang 2024).

    `relaxation`: gates by their moments, except those of nodes, which are drawn. `select`: PIP > ½, or a Bayesian
    false discovery rate.
    """
    seen = relaxation or ("concrete" if level == "nodes" else "moments")
    inference = partial(
        Indicators, kl, warm_up, inclusion=inclusion, anneal=anneal,
        slab_variance=slab_variance, target_noise=noise, level=level, relaxation=seen, lr_factor=lr_factor,
        shrink=shrink, shrunk=shrunk, log_odds_start=start[0], log_sigma_start=start[1],
    )  # fmt: skip
    unknown = {"features": None} if level == "nodes" else {}  # gates of nodes say nothing of what these read
    return pip_pruner(inference, gate_log_odds, select, rate, **unknown)


def gate_log_odds(state: State[Gated]) -> Tensor:
    """Log odds of each unit: of its own gate, or of any of its weights' gates; shape (units.n,).

    Gates meet at their bounds, and wherever Adam moved them by the same steps: signal over noise then ranks them.
    """
    posterior = state.posterior
    means = posterior.mean.items()
    tie = {name: TIE * mean.square() / (mean.square() + posterior.variance[name]) for name, mean in means}
    if not posterior.shared:
        return unit_log_odds(state.units, {name: odds + tie[name] for name, odds in posterior.log_odds.items()})
    written = Units(tuple(replace(group, slices=group.slices[:1], buffers=()) for group in state.units.groups))
    odds = {name: posterior.log_odds.get(name, mean.new_full(mean.shape, CERTAIN)) + tie[name] for name, mean in means}
    ones = {name: mean.new_ones(mean.shape) for name, mean in means}
    return written.gather(odds) / written.gather(ones)
