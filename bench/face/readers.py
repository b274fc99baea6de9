"""What a user gives as data, in the form that a network reads, and the form in which the network is called."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ...architectures.running.forms import Form, Forward, form_for, in_form
from ...datasets.data import AnyLikelihood
from ...datasets.examples import Examples
from ..training.seeding import seeded
from .gathering import AnyData, gathered, is_typed, readable
from .inputs import device_of, fitted
from .reading import likelihood_said


def read(
    network: nn.Module, data: AnyData, seed: int, likelihood: AnyLikelihood | None = None,
    forward: Forward | None = None, of_all: Callable[[Examples], Examples] | None = None,
) -> tuple[Examples, Form | None]:  # fmt: skip
    """The examples on the network's device, with their likelihood, and how the network is called with them.

    Args:
        network: in its own form, as it is afterwards; run for a few examples, in evaluation mode.
        data: in any form that `prune` takes.
        seed: governs what a loader draws.
        likelihood: where it is said.
        forward: of the user, for batches of any form.
        of_all: makes one set of those of several processes.

    Raises:
        UsageError: data that do not fit the network.
    """
    with seeded(seed, "trial"):
        found = gathered(data, seed, network, forward).to(device_of(network))
        split = readable(network, of_all(found) if of_all else found)
        form = form_for(network, split[:2].x, forward)
        said = likelihood or (None if is_typed(data) else likelihood_said(network))
        with in_form(form, network):
            return fitted(network, split, said, not is_typed(data)), form
