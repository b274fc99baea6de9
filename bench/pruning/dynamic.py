"""Dynamic sparse training: a network that is sparse from the start, whose units are exchanged as it learns.

Mocanu et al., Nature Communications 9 (2018); Evci et al., "Rigging the lottery", ICML 2020. At the ends of epochs,
until three quarters of the training are over, the worst α_t n of the n kept units of each layer leave, and as many of
the absent ones grow, those that have just left among them, which then keep their value; α_t = α/2 (1 + cos(π t/T)).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...architectures.units.mask import Mask
from ...datasets.errors import NotApplicable
from ...datasets.seal import sealed
from ...methods.pruner import State
from ..training.seeding import seeded, stream
from .engine import Engine, Outcome, Scored
from .ranking import best, checked_scores

# The share of training during which units are exchanged.
UNTIL = 0.75


def check_dynamic(engine: Engine) -> None:
    """Raises NotApplicable for whole units, which would not come back from zero: they get no gradient there."""
    if engine.units.removable:
        raise NotApplicable("dynamic sparse training grows single weights: a unit that is all zeros gets no gradient")


def first_mask(engine: Engine, outcome: Outcome, sparsity: float) -> Mask:
    """As many units as the target keeps, at random within the layers' shares."""
    draws = torch.rand(engine.units.n, generator=stream(engine.seed, "first mask"), dtype=torch.float64)
    state = State(outcome.network, engine.units, engine.split, outcome.inference)
    return engine.mask(Scored(draws, state, outcome.score), sparsity)


def exchange(engine: Engine, outcome: Outcome, epoch: int, epochs: int) -> Mask | None:
    """The mask after an epoch in which units are exchanged; None after any other. Counts of layers stay."""
    last = math.floor(UNTIL * epochs)
    if epoch > last or epoch % engine.pruner.every:
        return None
    share = engine.pruner.regrow / 2 * (1 + math.cos(math.pi * epoch / last))
    scored = engine.score(outcome.network, outcome.inference, epoch, outcome.mask.kept)
    outcome.score += scored.cost
    outcome.scores = checked_scores(scored.scores, engine.units)
    worth = _growing(engine, scored.state, outcome.mask, epoch)
    kept, scores, worths = (engine.units.split(t) for t in (outcome.mask.kept, outcome.scores, worth))
    layers = zip(kept, scores, worths, strict=True)
    return Mask(engine.units, torch.cat([_exchanged(k, s, w, share) for k, s, w in layers]))


def _exchanged(kept: Tensor, scores: Tensor, worth: Tensor, share: float) -> Tensor:
    n = int(kept.sum())
    leave = min(round(share * n), len(kept) - n)
    stays = best(scores.masked_fill(~kept, -math.inf), n - leave) & kept
    return stays | (best(worth.masked_fill(stays, -math.inf), leave) & ~stays)


def _growing(engine: Engine, state: State, mask: Mask, epoch: int) -> Tensor:
    assert engine.pruner.grow is not None, "a dynamic pruner grows"
    with sealed(), seeded(engine.seed, f"grow {epoch}"):
        return checked_scores(engine.pruner.grow(state, mask), engine.units)
