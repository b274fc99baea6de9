"""The Monte-Carlo predictive distribution: probabilities averaged over draws of the weights from their posterior.

Beside the plug-in metrics, for inferences whose posterior can be drawn from. Like every evaluation it is the last
thing that happens to a network.

BatchNorm statistics belong to weights: every draw is judged with its own, measured on training examples, as in
stochastic weight averaging (Maddox et al., "A simple baseline for Bayesian uncertainty", NeurIPS 2019, arXiv
1902.02476). Those collected in training are of noise that is independent at every position of an image, while all
positions share one draw of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from ...architectures.running.batch_norm import reestimate_batch_norm
from ...architectures.running.modes import evaluating
from ...architectures.running.plain import copied
from ...datasets.data import Data
from ...datasets.seal import sealed
from ..spec.metrics import register
from .evaluate import DECISIONS, predicted, unsealed_test

DRAWS = 50
EXAMPLES = 256  # of the training split, for the BatchNorm statistics of each draw


class Sampled(Protocol):
    """Whatever has a distribution of a network's weights, as an inference may."""

    def sample(self, network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
        """One draw of parameters of the detached `network`, by name; none where there is a point only."""
        ...


@register("monte_carlo")
@torch.no_grad()
def monte_carlo(
    network: nn.Module, inference: Sampled, data: Data, generator: torch.Generator, draws: int = DRAWS
) -> dict[str, float]:
    """Accuracy, NLL and ECE of the mean probability of S draws on the test split; nothing where there are no draws.

    `network` is detached from `inference` and stays as it is; regression is left to the plug-in predictive.
    """
    if data.likelihood == "gaussian" or not can_be_drawn(network, inference):
        return {}
    of, total = DECISIONS[data.likelihood], None
    for replica in drawn(network, inference, generator, draws, [data.train[:EXAMPLES].x]):
        logits, labels = predicted(replica, unsealed_test(data), data.outputs)
        total = added(of.log_probabilities(logits), total)
    assert total is not None
    found = of.metrics(of.logits_of(total - math.log(draws)), labels)  # pyright: ignore
    return {"mc_draws": draws, **{f"mc_{name}": found[name] for name in ("accuracy", "nll", "ece")}}


def can_be_drawn(network: nn.Module, inference: Sampled) -> bool:
    """Whether the inference has a distribution of the weights, rather than a point."""
    return bool(_draw(inference, network, torch.Generator()))


def added(log_probabilities: Tensor, total: Tensor | None) -> Tensor:
    """The logarithm of a sum of probabilities, with those of one more draw."""
    return log_probabilities if total is None else torch.logaddexp(total, log_probabilities)


@torch.no_grad()
def drawn(
    network: nn.Module, inference: Sampled, generator: torch.Generator, draws: int, statistics: Sequence[Tensor]
) -> Iterator[nn.Module]:
    """A copy of the detached `network` in evaluation mode with the weights of each draw, one after the other.

    `statistics` are batches of training inputs, of which BatchNorm's are measured for each draw.
    """
    replica = copied(network)
    with evaluating(replica):
        for _ in range(draws):
            _put(replica, _draw(inference, network, generator))
            reestimate_batch_norm(replica, statistics)
            yield replica


def _draw(inference: Sampled, network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    with sealed():
        return inference.sample(network, generator)


def _put(network: nn.Module, weights: dict[str, Tensor]) -> None:
    for name, weight in weights.items():
        network.get_parameter(name).data.copy_(weight)
