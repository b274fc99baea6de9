"""The one training loop: every network of every method is trained, fine-tuned and refined here."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...architectures.running.batch_norm import enough_examples, reestimate_batch_norm
from ...architectures.running.modes import train_
from ...architectures.units.mask import Mask
from ...datasets.examples import Examples
from ...datasets.seal import sealed
from ...methods.closed_forms.likelihood import mean_loss
from ...methods.pruner import Inference
from ..spec.settings import Drops, Finetune, Training
from .adabelief import AdaBelief
from .seeding import seeded, stream
from .steps import AfterEpoch, Steps


class DivergedError(ArithmeticError):
    """The training loss became infinite or NaN."""


def train(
    network: nn.Module,
    split: Examples,
    inference: Inference,
    settings: Training,
    epochs: int,
    generator: torch.Generator,
    mask: Mask | None = None,
    after_epoch: AfterEpoch | None = None,
    past: int = 0,
    over: int = 0,
) -> None:
    """Minimise mean negative log likelihood + penalty / N over `split`, in place; N counts its `terms`.

    BatchNorm statistics that were collected under noise are then measured without it, see `without_noise`.

    Args:
        network: trained in place and left in training mode, but for what is frozen (`modes.held`).
        split: training examples, on the network's device.
        inference: gives the penalty, its own parameters, and the update after each epoch.
        settings: optimiser and schedule; its number of epochs is that of a whole training.
        epochs: passes over the split.
        generator: CPU generator of the data order.
        mask: enforced from the start and after every optimiser step.
        after_epoch: told the number of epochs done, may return a new mask, enforced from then on.
        past: epochs of earlier phases, counted in what the inference and `after_epoch` are told.
        over: epochs of this phase that are over, in another network: their orders are drawn, and the schedule is at
            their end.

    Raises:
        DivergedError: an epoch's loss was not finite.
        UsageError: a batch of one example, from which BatchNorm cannot learn.
    """
    steps = Steps(network, inference, split.terms, mask, past + over)
    parameters, each = steps.parameters(), steps_per_epoch(split, settings)
    if not past + over:
        inference.begin(settings.epochs or epochs)
    optimizer, scheduler = _optimizer(inference, parameters, settings, (over + epochs) * each, each)
    _skip(over, split, generator, scheduler, each)
    train_(network)
    for epoch in range(past + over + 1, past + over + epochs + 1):
        total = torch.zeros((), device=split.device)
        for x, y in split.batches(settings.batch_size, generator):
            for parameter in parameters:  # as optimizer.zero_grad(), whose bookkeeping costs more than the penalty
                parameter.grad = None
            with inference.perturbed(network):
                with enough_examples(len(y)):
                    outputs = network(x)
                loss = mean_loss(outputs, y, split.likelihood)
                steps.gradient(loss)
            steps.penalise()
            optimizer.step()
            steps.after_step()
            if scheduler:
                scheduler.step()
            total += loss.detach()
        if not math.isfinite(total.item()):
            raise DivergedError(
                f"the training loss became {total.item()} in epoch {epoch}; lower the learning rate {settings.lr}"
            )
        steps.after_epoch(split, after_epoch, optimizer)
    if epochs:
        without_noise(network, inference, split, settings)


def refine(
    network: nn.Module, split: Examples, inference: Inference, training: Training, finetune: Finetune, seed: int,
    epochs: int, mask: Mask | None = None, done: int = 0, after_epoch: AfterEpoch | None = None,
) -> None:  # fmt: skip
    """Train on after pruning, in place, with the fine-tuning's learning rate, `done` epochs of it being over."""
    settings = training.model_copy(update={"lr": finetune.lr or training.lr})
    purpose = f"fine-tuning {done}"
    with sealed(), seeded(seed, purpose):
        if mask is not None and finetune.batch_norm == "reestimate":
            reestimate_batch_norm(network, (x for x, _ in split.batches(settings.batch_size)))
        order = stream(seed, f"{purpose} order")
        train(network, split, inference, settings, epochs, order, mask, after_epoch, training.epochs + done)


def without_noise(network: nn.Module, inference: Inference, split: Examples, settings: Training) -> None:
    """Give a network that was trained under noise the BatchNorm statistics that it has without: one pass, in place.

    Running statistics of training are those of noisy activations, whose variance is larger. Training itself, which
    normalises by the statistics of each batch, does not read them.
    """
    if inference.stochastic:
        reestimate_batch_norm(network, (x for x, _ in split.batches(settings.batch_size)))


def leave(network: nn.Module, inference: Inference, mask: Mask) -> None:
    """Units leave: the inference is told first, then the network's weights become zero."""
    inference.reduce(network, mask)
    mask.apply_(network)


def steps_per_epoch(split: Examples, settings: Training) -> int:
    """Optimiser steps in one pass over `split`."""
    return len(split.batch_sizes(settings.batch_size))


def _optimizer(inference: Inference, parameters: list[nn.Parameter], settings: Training, steps: int, each: int):
    own = inference.optimizer(parameters, settings.lr, steps)
    optimizer = own or _OPTIMIZERS[settings.optimizer](parameters, settings)
    return optimizer, _scheduler(optimizer, settings, steps, each)


def _scheduler(optimizer: torch.optim.Optimizer, settings: Training, steps: int, each: int) -> Any:
    """Of a phase of so many steps, `each` of them an epoch; None where the rate stays."""
    if isinstance(settings.schedule, Drops):
        milestones = [epoch * each for epoch in settings.schedule.at]
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, settings.schedule.factor)
    cosine = settings.schedule == "cosine" and steps > 0
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if cosine else None


def _skip(epochs: int, split: Examples, generator: torch.Generator, scheduler: Any, steps: int) -> None:
    """As if so many epochs had been trained."""
    for _ in range(epochs):
        split.skip(generator)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of schedules that precede the first step
        for _ in range(epochs * steps if scheduler else 0):
            scheduler.step()


_OPTIMIZERS: dict[str, Callable[[list[nn.Parameter], Training], torch.optim.Optimizer]] = {
    "adam": lambda parameters, s: torch.optim.Adam(parameters, s.lr, fused=True),
    "sgd": lambda parameters, s: torch.optim.SGD(parameters, s.lr, momentum=s.momentum, fused=True),
    "adabelief": lambda parameters, s: AdaBelief(parameters, s.lr),
}
