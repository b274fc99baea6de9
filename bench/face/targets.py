"""What the targets given to `prune` are to the network: labels, yes or no, probabilities of classes, real numbers.

Types and values decide together with the shape of the outputs, unless a likelihood is given. Zeros and ones are yes
and no where nothing else is plain: for a network of one output, and in as many columns as it has outputs. Rows of
probabilities that sum to one are of the classes. One-hot rows could be either, and are refused.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
import torch
from torch import Tensor

from ...datasets.data import Likelihood, Split
from ...datasets.errors import UsageError, unknown
from ...datasets.targets import check_probabilities, distributions, one_hot, zeros_and_ones


def interpreted(split: Split, shape: tuple[int, ...], likelihood: Likelihood | None, given: bool) -> Split:
    """The split with the targets that the network's outputs of that `shape` per example are for.

    Args:
        split: examples; y as they came, (N,), (N, K) or (N, T).
        shape: (K,), or (T, K) of a network with outputs for every token.
        likelihood: said by the user, or None.
        given: whether y came as bare arrays, whose type says nothing of the likelihood.

    Raises:
        UsageError: an unknown likelihood; one-hot targets, unless it is said what they are; targets that are no
            labels or probabilities where the likelihood needs them.
    """
    if likelihood is not None and likelihood not in get_args(Likelihood):
        raise unknown("likelihood", likelihood, get_args(Likelihood))
    y = split.y.detach().cpu().float().numpy() if split.y.is_floating_point() else split.y.detach().cpu().numpy()
    kind = likelihood or _likelihood(y, split.likelihood, shape, given)
    if kind == "categorical":
        return Split(split.x, _labels_or_probabilities(split.y, y, shape), kind)
    columns = split.y.unsqueeze(1) if split.y.dim() == 1 else split.y
    columns = columns if columns.is_floating_point() else columns.to(_real(split.x))
    if kind == "bernoulli":
        check_probabilities(y, kind)
    return Split(split.x, columns, kind)


def meaning(split: Split) -> str | None:
    """What targets were taken for, in words, where their type does not say it; else None."""
    if split.likelihood == "bernoulli":
        return "targets taken as yes or no of every output by itself (bernoulli likelihood)"
    if split.likelihood == "categorical" and split.y.is_floating_point():
        return "targets taken as probabilities of the classes (categorical likelihood)"
    return None


def _likelihood(y: np.ndarray, typed: Likelihood, shape: tuple[int, ...], given: bool) -> Likelihood:
    if typed == "bernoulli" or (not given and typed == "categorical" and y.dtype.kind == "f"):
        return typed
    single, real = len(shape) == 1 and y.size == len(y), y.dtype.kind == "f"
    if real and not given:
        return _not_one_hot(y, typed)
    if shape == (1,) and single and zeros_and_ones(y) and (y.min() < y.max() or not real):
        return "bernoulli"
    if y.shape[1:] != shape:
        return typed
    _not_one_hot(y, typed)
    if zeros_and_ones(y):
        return "bernoulli" if y.ndim == 2 and y.min() < y.max() else typed
    return "categorical" if distributions(y) else typed


def _not_one_hot(y: np.ndarray, kind: Likelihood) -> Likelihood:
    if one_hot(y):
        raise UsageError(
            f"y of shape {y.shape} is one-hot; give labels 0..{y.shape[1] - 1} of shape (N,), or say likelihood="
            "'categorical' (probabilities of classes) or 'bernoulli' (labels of their own)"
        )
    return kind


def _labels_or_probabilities(given: Tensor, y: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    if y.ndim == 2 and y.shape[1] > 1 and (y.dtype.kind == "f" or one_hot(y)):
        check_probabilities(y, "categorical")
        return given if given.is_floating_point() else given.float()
    if y.dtype.kind == "f":
        if (y != y.round()).any():
            raise UsageError("real y with a categorical likelihood are labels, or probabilities of classes (N, K)")
        return given.flatten().long()
    return given.flatten() if len(shape) == 1 and y.shape[1:] == (1,) else given


def _real(x: Tensor) -> torch.dtype:
    return x.dtype if x.is_floating_point() else torch.float32
