"""What the outputs of a network are: logits, or probabilities, which the likelihoods here do not take."""

from __future__ import annotations

import torch
from torch import nn

from ...datasets.errors import UsageError
from ...datasets.examples import Examples
from .loan import lent, randomise_
from .modes import as_rows, evaluating, to_network

PROBE = 64  # examples
_LAST = {"categorical": "softmax", "bernoulli": "sigmoid"}  # what makes probabilities of logits
TRIALS = 5  # of random parameters: logits leave [0, 1] in one of them, probabilities in none
SUM = 1e-3  # by which probabilities may miss a sum of one


@torch.no_grad()
def refuse_probabilities(network: nn.Module, split: Examples) -> None:
    """Refuse a network that ends in a softmax or sigmoid, where the likelihood of `split` takes logits.

    `network` is lent for forward passes; with random parameters, too, its outputs are then probabilities. Raises
    UsageError that says what to leave out.
    """
    last = next((end for kind, end in _LAST.items() if split.likelihood == kind), None)
    if last is None or not _gives_probabilities(network, split):
        return
    generator, dtype = torch.Generator().manual_seed(0), next(network.parameters()).dtype
    for _ in range(TRIALS):
        with lent(network):
            randomise_(network, dtype, generator)
            if not _gives_probabilities(network, split):
                return
    rows = "sum to one for every example" if last == "softmax" else "lie in [0, 1]"
    raise UsageError(
        f"the outputs of network {rows}, whatever its weights: they are probabilities, where the {split.likelihood} "
        f"likelihood takes logits; give logits, leave the {last} out"
    )


def _gives_probabilities(network: nn.Module, split: Examples) -> bool:
    with evaluating(network):
        outputs = as_rows(network(to_network(split[:PROBE].x, network)))
    inside = bool(((outputs >= 0) & (outputs <= 1)).all())
    if split.likelihood == "bernoulli":
        return inside
    return inside and outputs.shape[-1] > 1 and bool(((outputs.sum(-1) - 1).abs() < SUM).all())
