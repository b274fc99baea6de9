"""A posterior that laplace-torch has fitted, in place of the one that a method would compute."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from ...datasets.errors import UsageError
from ...methods.laplace.given_posterior import GivenPosterior
from ...methods.laplace.laplace_torch import posterior_from
from ...methods.laplace.map import MAP
from ...methods.pruner import Pruner
from ...methods.spam import SpaM


def reading(method: str, pruner: Pruner, approximation: Any, network: nn.Module) -> tuple[Pruner, GivenPosterior]:
    """The method on the posterior that was given, and that posterior.

    Raises:
        UsageError: a method that takes its posterior from training, or wants a fresh one in every round; a posterior
            of another network.
    """
    if pruner.when != "after" or not isinstance(pruner.inference(), MAP | SpaM):
        raise UsageError(
            f"posterior= is for methods of a Laplace posterior at a trained network, such as opd, bmr-laplace or "
            f"pip-laplace; {method!r} takes its own from training"
        )
    if pruner.rounds > 1:
        raise UsageError(
            f"a posterior that is given is of the dense network only, not of {pruner.rounds} rounds: rounds=1"
        )
    found = GivenPosterior(posterior_from(approximation, network))
    return replace(pruner, inference=lambda: found), found
