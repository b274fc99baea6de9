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

import torch
from torch import Tensor, nn

from ...architectures.running.batch_norm import reestimate_batch_norm
from ...architectures.running.modes import evaluating
from ...architectures.running.plain import copied
from ...datasets.data import Data
from ...datasets.seal import sealed
from ...methods.pruner import Inference
from .evaluate import DECISIONS, predicted, unsealed_test

DRAWS = 50
EXAMPLES = 256  # of the training split, for the BatchNorm statistics of each draw


def monte_carlo(
    network: nn.Module, inference: Inference, data: Data, generator: torch.Generator, draws: int = DRAWS
) -> dict[str, float]:
    """Accuracy, NLL and ECE of the mean probability of S draws on the test split; nothing where there are no draws.

    `network` is detached from `inference` and stays as it is; regression is left to the plug-in predictive.
    """
    if data.likelihood == "gaussian" or not (weights := _draw(inference, network, generator)):
        return {}
    replica, of = copied(network), DECISIONS[data.likelihood]
    total: Tensor | None = None
    with evaluating(replica), torch.no_grad():
        for i in range(draws):
            _put(replica, weights if i == 0 else _draw(inference, network, generator))
            reestimate_batch_norm(replica, [data.train[:EXAMPLES].x])
            logits, labels = predicted(replica, unsealed_test(data), data.outputs)
            log_probabilities = of.log_probabilities(logits)
            total = log_probabilities if total is None else torch.logaddexp(total, log_probabilities)
        found = of.metrics(of.logits_of(total - math.log(draws)), labels)  # pyright: ignore
    return {"mc_draws": draws, **{f"mc_{name}": found[name] for name in ("accuracy", "nll", "ece")}}


def _draw(inference: Inference, network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    with sealed():
        return inference.sample(network, generator)


def _put(network: nn.Module, weights: dict[str, Tensor]) -> None:
    for name, weight in weights.items():
        network.get_parameter(name).data.copy_(weight)
