"""What a method that moves survivors promises; one that does not has nothing to break."""

from __future__ import annotations

import torch

from ...architectures.units.mask import Mask
from ...datasets.seal import sealed
from ...methods.pruner import Adjusted, State
from ..evaluation.deployment import compacted
from ..harness.workbench import Workbench
from ..pruning.adjusting import adjusted, take_
from ..training.seeding import seeded
from .broken import Broken, changes, fingerprint
from .promise import Promise

SPARSITY = 0.5
# By how much a share, of what zeroing costs, rounding may make adjusting dearer.
ROUNDING = 1e-6


def is_pure(bench: Workbench) -> None:
    """Adjusting leaves the state's network as it is, for other sparsities share it."""
    scored = bench.engine.score(*bench.engine.start())  # of the first state nobody knows what was done to it before
    before = fingerprint(scored.state.network)
    _adjusted(bench, bench.engine.mask(scored, SPARSITY), scored.state)
    if changed := changes(before, scored.state.network):
        raise Broken(f"adjusting changed {', '.join(changed[:3])} of the network it was given; return new tensors")


def revives_nothing(bench: Workbench) -> None:
    """New weights are 0 wherever the mask takes them."""
    mask, found = _asked(bench)
    for name, kept in mask.tensors.items():
        if name in found.tensors and bool((found.tensors[name][~kept] != 0).any()):
            raise Broken(f"adjusting revived removed weights of {name!r}")


def of_nothing_is_nothing(bench: Workbench) -> None:
    """Where all units stay, all weights are what they were, bit for bit."""
    state = bench.engine.first.state
    everything = Mask(bench.engine.units, torch.ones(bench.engine.units.n, dtype=torch.bool))
    found = _adjusted(bench, everything)
    for name, value in found.tensors.items():
        if not torch.equal(value, state.network.get_parameter(name).detach()):
            raise Broken(f"adjusting moved {name!r} although nothing left")


def helps_its_own_quadratic(bench: Workbench) -> None:
    """On the posterior that it reads, adjusting costs no more than zeroing does."""
    report = _asked(bench)[1].report
    zeroing, cost = report.get("zeroing"), report.get("cost")
    if zeroing is not None and cost is not None and not cost <= zeroing * (1 + ROUNDING):
        raise Broken(f"adjusting costs {cost:.6g} nats where zeroing costs {zeroing:.6g}; that is no conditional mean")


def repeats(bench: Workbench) -> None:
    """The same seed gives the same new weights."""
    (_, first), (_, second) = _asked(bench), _asked(bench)
    for name, value in first.tensors.items():
        if not torch.equal(value, second.tensors[name]):
            raise Broken(f"two calls under one seed moved {name!r} differently; draw from state.generator")


def survives_compaction(bench: Workbench) -> None:
    """Where whole units leave, the compact network computes what the masked one does."""
    mask, found = _asked(bench)
    network, inference = bench.engine.start()
    take_(network, found)
    mask.apply_(network)
    with sealed():
        inference.detach(network)
    compacted(network, mask, bench.data.validation[:256].x)


def _asked(bench: Workbench) -> tuple[Mask, Adjusted]:
    mask = bench.engine.mask(bench.engine.first, SPARSITY)
    return mask, _adjusted(bench, mask)


def _adjusted(bench: Workbench, mask: Mask, state: State | None = None) -> Adjusted:
    state = bench.engine.first.state if state is None else state
    state.generator.manual_seed(0)
    with sealed(), seeded(bench.run.seed, "adjust 0"):
        return adjusted(bench.engine.pruner, state, mask)


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
