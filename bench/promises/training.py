"""What dynamic sparse training, and an inference with a step of its own, promise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...architectures.units.mask import Mask
from ...datasets.seal import sealed
from ...methods.pruner import Inference
from ..harness.workbench import Workbench
from ..pruning.dynamic import exchange, first_mask
from ..pruning.engine import Outcome
from ..training.loop import leave
from ..training.seeding import seeded
from .broken import Broken
from .promise import Promise

SPARSITY = 0.6


def growing_keeps_the_count(bench: Workbench) -> None:
    """After each exchange as many units are there in every layer as before, and scores and worths changed nothing.

    What grows is 0 at birth, so that outputs are at first those without what left.
    """
    outcome = _sparse(bench)
    for epoch in (1, 2):
        old, outputs = outcome.mask, _without(bench, outcome, None)
        outcome.mask = exchange(bench.engine, outcome, epoch, 4) or old
        if not torch.equal(outputs, _without(bench, outcome, None)):
            raise Broken("asking what grows changed the network's outputs; work on a copy")
        before, after = ([int(part.sum()) for part in bench.engine.units.split(m.kept)] for m in (old, outcome.mask))
        if before != after:
            raise Broken(f"layers had {before} units before an exchange and {after} after it")
        both = Mask(bench.engine.units, old.kept & outcome.mask.kept)
        bench.engine.settle(outcome, epoch)
        if not torch.equal(_without(bench, outcome, both), _without(bench, outcome, None)):
            raise Broken("what grows was not 0 at birth")


def steps_keep_zeros_and_means(bench: Workbench) -> None:
    """Where gradients are taken removed weights are 0; afterwards weights are what they were, come what may."""
    outcome = _sparse(bench)
    network, inference = outcome.network, outcome.inference
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for fails in (False, True):
        with _perturbed(bench, network, inference, fails):
            for name, kept in outcome.mask.tensors.items():
                if bool((network.get_parameter(name).detach()[~kept] != 0).any()):
                    raise Broken(f"removed weights of {name!r} are not 0 where gradients are taken")
        changed = [n for n, p in network.named_parameters() if not torch.equal(p, before[n])]
        if changed:
            raise Broken(f"after perturbed {changed[0]!r} is not what it was{' when it failed' if fails else ''}")


class _Interrupted(Exception):
    """What a step is interrupted by."""


@contextmanager
def _perturbed(bench: Workbench, network: nn.Module, inference: Inference, fails: bool) -> Iterator[None]:
    try:
        with sealed(), seeded(bench.run.seed, "perturbed"), inference.perturbed(network):
            yield
            if fails:
                raise _Interrupted
    except _Interrupted:
        pass


def _sparse(bench: Workbench) -> Outcome:
    outcome = bench.engine.outcome(*bench.engine.start())
    outcome.mask = first_mask(bench.engine, outcome, SPARSITY)
    leave(outcome.network, outcome.inference, outcome.mask)
    return outcome


@torch.no_grad()
def _without(bench: Workbench, outcome: Outcome, mask: Mask | None) -> Tensor:
    """Outputs in evaluation mode, of what the mask keeps; the network is left as it is."""
    kept = {name: p.detach().clone() for name, p in outcome.network.named_parameters()}
    modes = {module: module.training for module in outcome.network.modules()}
    if mask is not None:
        mask.apply_(outcome.network)
    outputs = outcome.network.eval()(bench.data.train[:8].x)
    for name, p in outcome.network.named_parameters():
        p.copy_(kept[name])
    for module, mode in modes.items():
        module.training = mode
    return outputs


def _grows(bench: Workbench) -> bool:
    return bench.engine.pruner.when == "dynamic"


PROMISES: dict[str, Promise] = {
    "exchanges keep the counts": Promise(growing_keeps_the_count, _grows),
    "steps keep zeros and means": Promise(steps_keep_zeros_and_means),
}
