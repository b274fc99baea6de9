"""The face for Python: prune a network of one's own with any registered method."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..architectures.compact import compact
from ..architectures.mask import Mask
from ..architectures.units import units
from ..datasets.data import Split
from ..methods.build import build as build_pruner
from ..methods.pruner import Inference, Pruner, State
from .evaluate import flops
from .inputs import Examples, check_finetune, check_fit, check_pruner, check_sparsity, device_of, gathered
from .seeding import seeded, stream
from .select import above, keep_count, round_target, select, shuffled_within_layers
from .training import Training, leave, train


@dataclass(frozen=True)
class Pruned:
    """A pruned copy of a network: its zeros are in place; `compact` cuts structures out."""

    network: nn.Module
    mask: Mask
    scores: Tensor
    example: Tensor

    @property
    def sparsity(self) -> float:
        """Share of the units that was removed."""
        return self.mask.sparsity

    def compact(self) -> nn.Module:
        """A physically smaller network with the same outputs; needs `structured=True`."""
        return compact(self.network, self.mask)

    def summary(self) -> str:
        """What was removed, layer by layer, and what that saves at best."""
        rows = [f"{name:<40} {density:8.2%} kept" for name, density in self.mask.layer_density().items()]
        work = flops(self.network, self.example)
        head = f"kept {self.mask.count:,} of {self.mask.units.n:,} units (sparsity {self.sparsity:.4f})"
        tail = [f"operations with a non-zero weight: {work['flops_ratio']:.1%} of the dense network's"]
        if collapsed := self.mask.collapsed():
            tail.append(f"collapsed layers (nothing kept): {', '.join(collapsed)}")
        return "\n".join([head, *rows, *tail])


def prune(
    network: nn.Module,
    data: Examples,
    method: str = "magnitude",
    sparsity: float | Literal["auto"] = 0.9,
    *,
    structured: bool = False,
    finetune: int = 0,
    training: Training | None = None,
    seed: int = 0,
    **options: Any,
) -> Pruned:
    """Prune a copy of `network`; the network itself is left as it is.

    Args:
        network: any module that maps a batch of inputs to outputs; trained already, unless the method
            prunes before training, in which case `finetune` epochs train what is left.
        data: training examples: (x, y) tensors or numpy arrays, a Split, a Data, or an iterable of batches such as a
            DataLoader. Integer y are class labels, real y regression targets.
        method: name of a registered method; see `bayesprune list methods`.
        sparsity: share of the units to remove, in [0, 1), or "auto" for the method's own threshold.
        structured: remove neurons, filters and heads instead of single weights.
        finetune: epochs of training after pruning, with the zeros held.
        training: optimiser, learning rate and batch size of the fine-tuning.
        seed: governs every random choice.
        options: the method's own options, and `when`, `rounds`, `allocation`.

    Raises:
        UsageError: an unknown method or option, an impossible sparsity, data that do not fit the network,
            all before any work begins.
    """
    check_sparsity(sparsity)
    check_finetune(finetune)
    pruner = build_pruner(method, **options)
    check_pruner(method, pruner, sparsity)
    split = gathered(data).to(device_of(network))
    replica = copy.deepcopy(network)
    with seeded(seed, "trial"):
        check_fit(replica, split)
    target = None if sparsity == "auto" else float(sparsity)
    parts = units(replica, "groups" if structured else "weights")
    if target is not None:
        keep_count(parts.n, target)  # refuses what would remove everything, before any work
    inference = pruner.inference()
    inference.attach(replica, units(replica, "weights"), split)
    scores, mask = torch.empty(0), Mask(parts, torch.ones(parts.n, dtype=torch.bool))
    for i in range(pruner.rounds):
        scores, mask = _round(replica, split, inference, pruner, mask, target, i, seed)
        if pruner.shuffle and i == pruner.rounds - 1:
            mask = Mask(parts, shuffled_within_layers(mask.kept, parts, stream(seed, "shuffle")))
            replica.load_state_dict(network.state_dict())  # what the method's own mask zeroed is back
        leave(replica, inference, mask)
        settings, epochs = training or Training(), _share(pruner, finetune, i)
        with seeded(seed, f"fine-tuning {i}"):
            train(replica, split, inference, settings, epochs, stream(seed, f"fine-tuning order {i}"), mask)
    inference.detach(replica)
    return Pruned(replica.train(network.training), mask, scores, split.x[:1])


def _round(
    network: nn.Module, split: Split, inference: Inference, pruner: Pruner, mask: Mask, sparsity: float | None,
    i: int, seed: int,
) -> tuple[Tensor, Mask]:  # fmt: skip
    """Scores and mask of one of the pruner's rounds; what left before stays away."""
    parts, floor = mask.units, 1 if mask.units.removable else 0
    with seeded(seed, f"score {i}"):
        state = State(network, parts, split, inference, stream(seed, f"score {i} draws"))
        scores = pruner.score(state)
    if sparsity is None:
        assert pruner.keep_above is not None
        return scores, Mask(parts, mask.kept & above(scores, state, pruner.keep_above, floor))
    keep = keep_count(parts.n, round_target(sparsity, i, pruner.rounds) or 0.0)
    return scores, Mask(parts, select(scores, state, keep, pruner.allocation, mask.kept, floor))


def _share(pruner: Pruner, epochs: int, i: int) -> int:
    """Epochs of fine-tuning after round i: shared evenly, or all after the last if pruning comes before training."""
    if pruner.when == "before":
        return epochs if i == pruner.rounds - 1 else 0
    return (i + 1) * epochs // pruner.rounds - i * epochs // pruner.rounds
