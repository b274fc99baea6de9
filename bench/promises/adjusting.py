"""What a method that moves survivors promises; one that does not has nothing to break."""

from __future__ import annotations

import torch

from ...architectures.units.mask import Mask
from ...datasets.seal import sealed
from ..evaluation.deployment import compacted
from ..harness.workbench import Workbench
from ..pruning.adjusting import take_
from .broken import Broken, changes, fingerprint
from .examined import Examined
from .promise import Promise

# By how much a share, of what zeroing costs, rounding may make adjusting dearer.
ROUNDING = 1e-6


def is_pure(bench: Examined) -> None:
    """Adjusting leaves the state's network as it is, for other sparsities share it."""
    scored = bench.engine.score(*bench.engine.start())  # of the first state nobody knows what was done to it before
    before = fingerprint(scored.state.network)
    bench.adjust(bench.halved, scored.state)
    if changed := changes(before, scored.state.network):
        raise Broken(f"adjusting changed {', '.join(changed[:3])} of the network it was given; return new tensors")


def revives_nothing(bench: Examined) -> None:
    """New weights are 0 wherever the mask takes them."""
    moved = bench.moved.tensors
    for name, kept in bench.halved.tensors.items():
        if name in moved and bool((moved[name][~kept] != 0).any()):
            raise Broken(f"adjusting revived removed weights of {name!r}")


def of_nothing_is_nothing(bench: Examined) -> None:
    """Where all units stay, all weights are what they were, bit for bit."""
    state = bench.engine.first.state
    everything = Mask(bench.engine.units, torch.ones(bench.engine.units.n, dtype=torch.bool))
    for name, value in bench.adjust(everything).tensors.items():
        if not torch.equal(value, state.network.get_parameter(name).detach()):
            raise Broken(f"adjusting moved {name!r} although nothing left")


def helps_its_own_quadratic(bench: Examined) -> None:
    """On the posterior that it reads, adjusting costs no more than zeroing does."""
    report = bench.moved.report
    zeroing, cost = report.get("zeroing"), report.get("cost")
    if zeroing is not None and cost is not None and not cost <= zeroing * (1 + ROUNDING):
        raise Broken(f"adjusting costs {cost:.6g} nats where zeroing costs {zeroing:.6g}; that is no conditional mean")


def repeats(bench: Examined) -> None:
    """The same seed gives the same new weights."""
    again = bench.adjust(bench.halved)
    for name, value in bench.moved.tensors.items():
        if not torch.equal(value, again.tensors[name]):
            raise Broken(f"two calls under one seed moved {name!r} differently; draw from state.generator")


def survives_compaction(bench: Examined) -> None:
    """Where whole units leave, the compact network computes what the masked one does."""
    network, inference = bench.engine.start()
    take_(network, bench.moved)
    bench.halved.apply_(network)
    with sealed():
        inference.detach(network)
    compacted(network, bench.halved, bench.data.validation[:256].x)


def _adjusts(bench: Workbench) -> bool:
    return bench.engine.pruner.adjusts


def _adjusts_and_removes(bench: Workbench) -> bool:
    return bench.engine.pruner.adjusts and bench.engine.units.removable


PROMISES: dict[str, Promise] = {
    "adjusting leaves the network as it was": Promise(is_pure, _adjusts),
    "adjusting revives nothing": Promise(revives_nothing, _adjusts),
    "adjusting nothing moves nothing": Promise(of_nothing_is_nothing, _adjusts),
    "adjusting costs no more than zeroing": Promise(helps_its_own_quadratic, _adjusts),
    "adjusting is deterministic under a seed": Promise(repeats, _adjusts),
    "adjusted, compact is masked": Promise(survives_compaction, _adjusts_and_removes),
}
