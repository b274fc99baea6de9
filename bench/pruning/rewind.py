"""Rewinding: survivors take the values that they had in training, or others', and training goes on from there.

Frankle, Carbin, "The lottery ticket hypothesis", ICLR 2019; Frankle et al., ICML 2020 (a later epoch than the first);
Renda, Frankle, Carbin, ICLR 2020. What was there at the end of an epoch is not kept but trained again, which gives the
same, bit for bit; the rest of the training follows on its own schedule and in its own order of examples. A transplant
is the control: the same mask on a fresh initialisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...datasets.errors import UsageError
from ..training.loop import train
from ..training.seeding import seeded, stream
from .engine import Attached, Engine, Kept, Outcome


@dataclass(frozen=True)
class Past:
    """A network and its inference at the end of an epoch, and the draws of torch that come next."""

    epoch: int
    kept: Kept
    draws: Tensor


def past(engine: Engine) -> Past:
    """What survivors go back to; raises UsageError for an epoch beyond the training."""
    rewind, total = engine.pruner.rewind, engine.training.epochs
    epoch = rewind if isinstance(rewind, int) else 0
    if epoch >= total:
        raise UsageError(f"rewind={epoch} lies beyond the {total} epochs trained: give an earlier epoch")
    network, inference = _untrained(engine, fresh=rewind == "transplant")
    order = stream(engine.seed, "data order")
    with seeded(engine.seed, "training"):
        train(network, engine.split, inference, engine.training, epoch, order)
        return Past(epoch, Kept.of(network, inference), torch.get_rng_state())


def rewind_(engine: Engine, outcome: Outcome, to: Past) -> None:
    """Survivors go back, what has left stays away, and the rest of the training follows, in place."""
    outcome.network, outcome.inference = to.kept.into(*_untrained(engine))
    outcome.inference.reduce(outcome.network, outcome.mask)
    outcome.mask.apply_(outcome.network)
    order, settings = stream(engine.seed, "data order"), engine.training
    with seeded(engine.seed, "training"):
        torch.set_rng_state(to.draws)
        left = settings.epochs - to.epoch
        train(
            outcome.network, engine.split, outcome.inference, settings, left, order, outcome.mask,
            engine.told(outcome), 0, to.epoch,
        )  # fmt: skip


def _untrained(engine: Engine, fresh: bool = False) -> Attached:
    if engine.untrained is None:
        raise UsageError("rewind needs the training of the network, which is not known here: run it in a matrix")
    return engine.untrained(fresh)
