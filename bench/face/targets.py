"""What the targets given to `prune` are to the network: labels, yes or no, probabilities of classes, real numbers.

Types and values decide together with the shape of the outputs, unless a likelihood is given. Zeros and ones are yes
and no where nothing else is plain: for a network of one output, and in as many columns as it has outputs. Rows of
probabilities that sum to one are of the classes. One-hot rows could be either, and are refused.
"""

from __future__ import annotations

import math
from functools import partial
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from ...datasets.errors import UsageError, unknown
from ...datasets.examples import Batch, Examples
from ...datasets.split import AnyLikelihood, Likelihood
from ...datasets.targets import Traits, check_probabilities
from ...datasets.trees import Inputs


def interpreted(
    data: Examples, traits: Traits, shape: tuple[int, ...], likelihood: AnyLikelihood | None, given: bool
) -> Examples:
    """The examples with the targets that the network's outputs of that `shape` per example are for.

    Args:
        data: examples; y as they came, (N,), (N, K) or (N, T).
        traits: of all their targets.
        shape: (K,), or (T, K) of a network with outputs for every token.
        likelihood: said by the user, or None.
        given: whether y came as bare arrays, whose type says nothing of the likelihood.

    Raises:
        UsageError: an unknown likelihood; one-hot targets, unless it is said what they are; targets that are no
            labels or probabilities where the likelihood needs them. A loss of one's own takes whatever it takes.
    """
    if likelihood is not None and not callable(likelihood) and likelihood not in get_args(Likelihood):
        raise unknown("likelihood", likelihood, get_args(Likelihood))
    said = likelihood or data.likelihood
    if callable(said):
        return data.reading(lambda x, y: (x, y), said)
    kind: Likelihood = said if likelihood else _likelihood(traits, said, shape, given)
    return data.reading(partial(_as_targets, kind=kind, traits=traits, shape=shape), kind)


def _as_targets(x: Inputs, y: Tensor, kind: Likelihood, traits: Traits, shape: tuple[int, ...]) -> Batch:
    """A batch whose targets have the form that their likelihood takes."""
    if kind == "categorical":
        return x, _labels_or_probabilities(y, traits, shape)
    columns = y.unsqueeze(1) if y.dim() == 1 else y
    columns = columns if columns.is_floating_point() else columns.to(_real(x))
    if kind == "bernoulli":
        check_probabilities(numbers_of(y), kind)
    return x, columns


def numbers_of(y: Tensor) -> np.ndarray:
    """Targets as numpy sees them."""
    return (y.detach().float() if y.is_floating_point() else y.detach()).cpu().numpy()


def meaning(likelihood: AnyLikelihood, y: Tensor) -> str | None:
    """What targets were taken for, in words, where their type does not say it; else None."""
    if likelihood == "bernoulli":
        return "targets taken as yes or no of every output by itself (bernoulli likelihood)"
    if likelihood == "categorical" and y.is_floating_point():
        return "targets taken as probabilities of the classes (categorical likelihood)"
    return None


def _likelihood(traits: Traits, typed: Likelihood, shape: tuple[int, ...], given: bool) -> Likelihood:
    real, varied = traits.kind == "f", traits.low < traits.high
    if typed == "bernoulli" or (not given and typed == "categorical" and real):
        return typed
    single = len(shape) == 1 and math.prod(traits.shape) == 1
    if real and not given:
        return _not_one_hot(traits, typed)
    if shape == (1,) and single and traits.zeros_and_ones and (varied or not real):
        return "bernoulli"
    if traits.shape != shape:
        return typed
    _not_one_hot(traits, typed)
    if traits.zeros_and_ones:
        return "bernoulli" if len(traits.shape) == 1 and varied else typed
    return "categorical" if traits.distributions else typed


def _not_one_hot(traits: Traits, kind: Likelihood) -> Likelihood:
    if traits.one_hot:
        (classes,) = traits.shape
        raise UsageError(
            f"y of shape (N, {classes}) is one-hot; give labels 0..{classes - 1} of shape (N,), or say likelihood="
            "'categorical' (probabilities of classes) or 'bernoulli' (labels of their own)"
        )
    return kind


def _labels_or_probabilities(y: Tensor, traits: Traits, shape: tuple[int, ...]) -> Tensor:
    if len(traits.shape) == 1 and traits.shape[0] > 1 and (traits.kind == "f" or traits.one_hot):
        check_probabilities(numbers_of(y), "categorical")
        return y if y.is_floating_point() else y.float()
    if y.is_floating_point():
        if (y != y.round()).any():
            raise UsageError("real y with a categorical likelihood are labels, or probabilities of classes (N, K)")
        return y.flatten().long()
    return y.flatten() if len(shape) == 1 and traits.shape == (1,) else y


def _real(x: Inputs) -> torch.dtype:
    return x.dtype if isinstance(x, Tensor) and x.is_floating_point() else torch.float32
