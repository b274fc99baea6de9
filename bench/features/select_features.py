"""Feature selection: which inputs of a table a network needs, by probabilities of inclusion, over several seeds.

Saha, Liu, Liang (2024) select features by the inclusion probabilities of their weights; Bai, Song, Cheng (2020) keep a
feature if any weight that reads it is kept. A small perceptron is trained under the estimator, once for every seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ...architectures.build import build as build_network
from ...architectures.discovery.units_of import units
from ...architectures.mlp import Activation
from ...architectures.units.features import feature_units
from ...datasets.errors import UsageError, unknown
from ...datasets.split import Split
from ...methods.build import SCHEDULE
from ...methods.build import build as build_pruner
from ...methods.closed_forms.spike_slab import false_discovery_selection
from ...methods.pruner import Pruner, State
from ..spec.settings import Training
from ..training.loop import steps_per_epoch, train
from ..training.progress import bar
from ..training.seeding import derived, seeded, stream
from .selected import Selected
from .table import Table, table

Select = Literal["median", "fdr"]

# Steps of the optimiser in one training, unless its epochs are given; the share of it while the divergence rises.
STEPS = 4000
WARM_UP = (0.0, 2 / 3)


def select_features(
    x: Any,
    y: Any = None,
    method: str = "pip",
    *,
    select: Select = "median",
    rate: float = 0.05,
    k: int | None = None,
    names: Sequence[str] | None = None,
    seeds: int = 5,
    widths: Sequence[int] = (40,),
    activation: Activation = "tanh",
    training: Training | None = None,
    progress: bool = True,
    **options: Any,
) -> Selected:
    """Select the features of a table that a network needs.

    Args:
        x: examples by features, shape (N, F), tensor, array or DataFrame of real numbers; or a Data or Split: of a
            data set the training examples alone are read.
        y: class labels (N,), zeros and ones (N, K) as whole numbers, or real targets (N,) or (N, K); none where a data
            set brings its own.
        method: "pip", "pip-gates" or "pip-laplace"; or a control without probabilities,
            which needs `k`: "magnitude" (norm of a feature's weights) or "snr" (their signal-to-noise ratio under
            mean-field variational inference).
        select: "median", a mean probability over ½; or "fdr", the largest set of an expected false discovery rate...
        rate: ...of at most this.
        k: select this many of the best instead.
        names: of the features; x1, x2, ... unless they are given, or the DataFrame or data set knows them.
        seeds: trainings, each with its own initial weights and order of the examples.
        widths: of the hidden layers.
        activation: between them. Smooth ones find interactions that ReLU does not, whose weights begin at a saddle.
        training: optimiser, batches and epochs; by default about 4,000 steps of Adam with learning rate 0.005.
        progress: show it, on a terminal.
        options: the method's own.

    Raises:
        UsageError: NaN, constant features (by name), too few rows, an unknown method or option, one of the schedule of
            pruning, an inclusion of 0 or 1, a control without `k`; all before any work begins.
    """
    data = table(x, y, names)
    _check(select, rate, k, seeds, data)
    settings = training or _settings(data.split)
    pruner = _pruner(method, settings, dict(options))
    if pruner.keep_above is None and k is None:
        raise UsageError(f"method {method!r} gives no probabilities: say how many features to select, k=...")
    scores = []
    with bar(method, seeds * settings.epochs, "epoch", progress) as advance:
        scores = [
            _scores(data, pruner, settings, {"widths": list(widths), "activation": activation}, seed, advance)
            for seed in range(seeds)
        ]
    rule = partial(_best, k=k) if k is not None else partial(_RULES[select], rate=rate)
    return Selected(method, data.names, torch.stack(scores), pruner.keep_above is not None, rule)


# ---------------------------------------------------------------------- the estimators


def _pruner(method: str, settings: Training, options: dict[str, Any]) -> Pruner:
    if method not in _ESTIMATORS:
        raise unknown("method of feature selection", method, _ESTIMATORS)
    if schedule := [option for option in options if option in SCHEDULE]:
        raise UsageError(f"{schedule[0]} says how units leave a network; nothing leaves here, the features are ranked")
    pruner = _ESTIMATORS[method](_warm_up(settings), options)
    if (count := len(pruner.inference().candidates())) > 1:
        raise UsageError(f"method {method!r} is to be tuned among {count} settings: give a number instead of 'tuned'")
    return pruner


def _gates(warm_up: tuple[int, int], options: dict[str, Any]) -> Pruner:
    few = {"inclusion": 1e-2, "kl": 1.0, "lr_factor": 1.0, "shrink": 0.5, "shrunk": "first"}
    return build_pruner("pip-gates", **{"warm_up": warm_up, **few, **options})


def _mixture(warm_up: tuple[int, int], options: dict[str, Any]) -> Pruner:
    few = {"inclusion": 1e-5, "kl": 1.0, "shrink": 0.5, "shrunk": "first"}
    return build_pruner("pip", **{"warm_up": warm_up, **few, **options})


def _laplace(warm_up: tuple[int, int], options: dict[str, Any]) -> Pruner:
    return build_pruner("pip-laplace", **{"variance": "kronecker", **options})


def _magnitude(warm_up: tuple[int, int], options: dict[str, Any]) -> Pruner:
    pruner = build_pruner("magnitude", **options)
    return Pruner(pruner.inference, column_norm)


def _snr(warm_up: tuple[int, int], options: dict[str, Any]) -> Pruner:
    return build_pruner("mean-field", **{"prior": "scalar", "warm_up": warm_up, **options})


_ESTIMATORS: Mapping[str, Callable[[tuple[int, int], dict[str, Any]], Pruner]] = {
    "pip": _mixture,
    "pip-gates": _gates,
    "pip-laplace": _laplace,
    "magnitude": _magnitude,
    "snr": _snr,
}


def column_norm(state: State) -> Tensor:
    """log of the sum of squares of each unit's weights; shape (units.n,)."""
    squares = state.units.gather({name: weight.double().square() for name, weight in state.weights().items()})
    return squares.clamp_min(torch.finfo(squares.dtype).tiny).log()


# ---------------------------------------------------------------------- one seed


def _scores(
    data: Table, pruner: Pruner, settings: Training, shape: Mapping[str, Any], seed: int,
    advance: Callable[[], None],
) -> Tensor:  # fmt: skip
    """Scores of the features after one training: log odds, where the method has them; float64, (F,)."""
    split = data.split
    network = build_network("mlp", split.x.shape[1:], data.outputs, seed=derived(seed, "initialisation"), **shape)
    inference = pruner.inference()
    with seeded(seed, "training"):
        inference.attach(network, units(network, "weights"), split)
        order = stream(seed, "data order")
        train(network, split, inference, settings, settings.epochs, order, None, lambda _: advance())
        scores = pruner.score(State(network, feature_units(network), split, inference, stream(seed, "score draws")))
    inference.detach(network)
    return scores.detach().double().cpu()


def _settings(split: Split) -> Training:
    settings = Training(batch_size=min(512, len(split)), lr=5e-3)
    return settings.model_copy(update={"epochs": math.ceil(STEPS / steps_per_epoch(split, settings))})


def _warm_up(settings: Training) -> tuple[int, int]:
    first, second = (math.floor(share * settings.epochs) for share in WARM_UP)
    return first, second


# ---------------------------------------------------------------------- rules


def _check(select: str, rate: float, k: int | None, seeds: int, data: Table) -> None:
    if select not in _RULES:
        raise unknown("rule of selection", select, _RULES)
    if not 0 < rate < 1:
        raise UsageError(f"rate must be an expected share of false discoveries above 0 and below 1, got {rate!r}")
    if k is not None and not 0 < k <= len(data.names):
        raise UsageError(f"k must be a number of features from 1 to {len(data.names)}, got {k!r}")
    if seeds < 1:
        raise UsageError(f"seeds must be a whole number >= 1, got {seeds!r}")


def _best(log_odds: Tensor, k: int) -> Tensor:
    chosen = torch.zeros(len(log_odds), dtype=torch.bool)
    chosen[log_odds.argsort(descending=True, stable=True)[:k]] = True
    return chosen


def _median(log_odds: Tensor, rate: float) -> Tensor:
    return log_odds > 0


def _discoveries(log_odds: Tensor, rate: float) -> Tensor:
    return false_discovery_selection(log_odds.sigmoid(), rate)


_RULES: Mapping[str, Callable[..., Tensor]] = {"median": _median, "fdr": _discoveries}
