"""The PAC-Bayes certificate of a pruned network: a bound of its 0-1 risk from the training examples alone.

Q is the Gaussian posterior of the final network, on what the mask has left, or Gaussians with the variances of other
posteriors' draws. What else trains, and is a point to it, gets the geometric mean of its variances. A posterior may be
too wide for its own network, or narrower than the bound pays for: a few draws choose how far Q is tempered, draws of
their own judge it (`closed_forms.pac_bayes`). Networks without a posterior, targets that are no classes, and tokens,
which are not independent, have none.

What the bound takes for given: P, and everything else but the weights, has not seen the examples. BatchNorm's
statistics are measured on validation inputs; a data set that is standardised by its own training inputs is not given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...architectures.units.mask import Mask
from ...architectures.units.prunable import trainable
from ...datasets.data import Data
from ...datasets.examples import Examples
from ...methods.closed_forms import pac_bayes
from ...methods.closed_forms.posteriors import Gaussian
from ..spec.metrics import register
from .evaluate import predicted, unsealed_test
from .monte_carlo import EXAMPLES, drawn

DRAWS = 200
# Of the few draws that choose how far the variances are tempered, and from what.
PILOTS, TEMPERS = 3, (1.0, 0.1, 0.01, 1e-3, 1e-4)


@dataclass(frozen=True)
class Centre:
    """The means of P by parameter name, the examples that have had no part in them, and whether P knows the mask.

    It does where the mask was chosen without these examples, and then costs nothing.
    """

    weights: Mapping[str, Tensor]
    examples: Examples
    knows_mask: bool = False


@dataclass(frozen=True)
class Randomised:
    """Q: independent Gaussians over what is left of a network's parameters, by name."""

    mean: Mapping[str, Tensor]
    variance: Mapping[str, Tensor]
    kept: Mapping[str, Tensor]

    @classmethod
    def of(cls, network: nn.Module, posterior: Gaussian, mask: Mask) -> Randomised:
        """Around the posterior's means, and around the parameters that it does not know."""
        points = {name: p.detach().double() for name, p in trainable(network).items()}
        kept = {name: mask.tensors.get(name, torch.ones_like(p, dtype=torch.bool)) for name, p in points.items()}
        kept = {name: stays.to(points[name].device) for name, stays in kept.items()}
        mean = points | {name: value for name, value in posterior.mean.items() if name in points}
        known = {name: posterior.variance.get(name, torch.zeros_like(p)) for name, p in points.items()}
        logs = torch.cat([v[kept[name] & (v > 0)].log() for name, v in known.items()])
        typical = logs.mean().exp() if len(logs) else torch.ones_like(logs.sum())
        return cls(mean, {name: torch.where(v > 0, v, typical) for name, v in known.items()}, kept)

    def tempered(self, factor: float) -> Randomised:
        """With variances times a factor."""
        return replace(self, variance={name: factor * v for name, v in self.variance.items()})

    def divergence(self, centre: Mapping[str, Tensor]) -> float:
        """From the best P around `centre`, nats."""
        return pac_bayes.divergence(
            (self.mean[n][stays], self.variance[n][stays], centre[n].to(stays.device)[stays])
            for n, stays in self.kept.items()
        )

    def sample(self, network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
        """One draw, by parameter name; 0 of what has left."""
        noise = {n: torch.randn(m.shape, generator=generator, dtype=m.dtype).to(m.device) for n, m in self.mean.items()}
        return {n: (m + self.variance[n].sqrt() * noise[n]) * self.kept[n] for n, m in self.mean.items()}


def can_be_certified(data: Data) -> bool:
    """Whether examples are independent, and each has one class."""
    return data.likelihood == "categorical" and data.train[:1].y.dim() == 1


@register("risk_bound")
@torch.no_grad()
def risk_bound(
    network: nn.Module, posterior: Gaussian, mask: Mask, data: Data, centre: Centre, generator: torch.Generator,
    draws: int = DRAWS,
) -> dict[str, float]:  # fmt: skip
    """The bound, which fails with a probability of 0.035 at most, what it is made of, and the risk of Q on test data.

    Columns: `risk_bound`; `risk_bound_empirical`, the mean 0-1 loss of the draws on the n examples; `risk_bound_kl` and
    `risk_bound_mask`, nats, of a mask that P knows 0; `risk_bound_temper`, on the variances; `risk_bound_n`;
    `risk_bound_draws`; `risk_bound_test`, which is no part of it.
    """
    whole, examples = Randomised.of(network, posterior, mask), centre.examples
    nats = 0.0 if centre.knows_mask else pac_bayes.of_mask(mask.units.n, mask.count)

    inputs = [data.validation[:EXAMPLES].x]

    def losses(q: Randomised, count: int, *splits: Examples) -> list[float]:
        each = [[_loss(one, part, data) for part in splits] for one in drawn(network, q, generator, count, inputs)]
        return [sum(column) / count for column in zip(*each, strict=True)]

    def tried(temper: float) -> tuple[float, float]:
        q = whole.tempered(temper)
        (loss,), kl = losses(q, PILOTS, examples), q.divergence(centre.weights)
        return pac_bayes.risk(loss, kl + nats, len(examples)), kl  # where bounds say nothing, the divergence decides

    temper = min(TEMPERS, key=tried)
    q = whole.tempered(temper)
    (empirical, test), kl = losses(q, draws, examples, unsealed_test(data)), q.divergence(centre.weights)
    return {
        "risk_bound": pac_bayes.risk(pac_bayes.of_draws(empirical, draws), kl + nats, len(examples)),
        "risk_bound_empirical": empirical,
        "risk_bound_kl": kl,
        "risk_bound_mask": nats,
        "risk_bound_temper": temper,
        "risk_bound_n": len(examples),
        "risk_bound_draws": draws,
        "risk_bound_test": test,
    }


def _loss(network: nn.Module, examples: Examples, data: Data) -> float:
    logits, labels = predicted(network, examples, data.outputs)
    return float((logits.argmax(1) != labels).double().mean())
