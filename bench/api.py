"""The face for Python: prune a network of one's own with any registered method."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..architectures.compact import compact
from ..architectures.mask import Mask
from ..architectures.units import units
from ..datasets.data import Data, Split
from ..datasets.registry import UsageError
from ..methods.build import build as build_pruner
from ..methods.pruner import Inference, Pruner, State
from .evaluate import flops
from .seeding import seeded, stream
from .select import above, keep_count, select
from .training import Training, train

Examples = Data | Split | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]


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
        data: training examples: (x, y) tensors, a Split, a Data, or an iterable of batches such as a
            DataLoader. Integer y are class labels, real y regression targets.
        method: name of a registered method; see `bayesprune list methods`.
        sparsity: share of the units to remove, in [0, 1), or "auto" for the method's own threshold.
        structured: remove neurons, filters and heads instead of single weights.
        finetune: epochs of training after pruning, with the zeros held.
        training: optimiser, learning rate and batch size of the fine-tuning.
        seed: governs every random choice.
        options: the method's own options, and `when`, `rounds`, `allocation`.

    Raises:
        UsageError: an unknown method or option, an impossible sparsity, data of a shape that does not fit.
    """
    if sparsity != "auto" and not 0 <= sparsity < 1:
        raise UsageError(f"sparsity must be in [0, 1) or 'auto', got {sparsity!r}")
    pruner = build_pruner(method, **options)
    if pruner.when == "during":
        raise UsageError(f"method {method!r} prunes during training; run it in a matrix, or choose when='after'")
    if sparsity == "auto" and pruner.keep_above is None:
        raise UsageError(f"method {method!r} has no threshold of its own; give a sparsity in [0, 1)")
    replica = copy.deepcopy(network)
    split = gathered(data).to(next(replica.parameters()).device)
    inference = pruner.inference()
    inference.attach(replica, units(replica, "weights"), split)
    scores, mask = _mask(replica, split, inference, pruner, None if sparsity == "auto" else sparsity, structured, seed)
    inference.reduce(replica, mask)
    mode = network.training
    with seeded(seed, "fine-tuning"):
        train(replica, split, inference, training or Training(), finetune, stream(seed, "fine-tuning order"), mask)
    inference.detach(replica)
    return Pruned(replica.train(mode), mask, scores, split.x[:1])


def gathered(data: Examples) -> Split:
    """Training examples of any accepted form, as one split in memory."""
    if isinstance(data, Data):
        return data.train
    if isinstance(data, Split):
        return data
    batches = [data] if isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], Tensor) else list(data)
    if not batches or not all(len(b) == 2 for b in batches):
        raise UsageError("data must be (x, y) tensors or an iterable of (x, y) batches with at least one batch")
    x, y = (torch.cat([torch.as_tensor(b[i]) for b in batches]) for i in (0, 1))
    if len(x) != len(y) or not len(x):
        raise UsageError(f"data has {len(x)} inputs and {len(y)} targets; give one target per input, and at least one")
    if y.is_floating_point():
        return Split(x.float(), y.float() if y.dim() == 2 else y.float().unsqueeze(1))
    return Split(x.float(), y.long())


def _mask(
    network: nn.Module,
    split: Split,
    inference: Inference,
    pruner: Pruner,
    sparsity: float | None,
    structured: bool,
    seed: int,
) -> tuple[Tensor, Mask]:
    """Scores and mask after the pruner's rounds; the network's removed weights are zero."""
    parts = units(network, "groups" if structured else "weights")
    floor = 1 if structured else 0
    kept = torch.ones(parts.n, dtype=torch.bool)
    scores, mask = torch.empty(0), Mask(parts, kept)
    for i in range(pruner.rounds):
        with seeded(seed, f"score {i}"):
            state = State(network, parts, split, inference, stream(seed, f"score {i} draws"))
            scores = pruner.score(state)
        if sparsity is None:
            assert pruner.keep_above is not None
            kept = kept & above(scores, state, pruner.keep_above, floor)
        else:
            target = 1 - (1 - sparsity) ** ((i + 1) / pruner.rounds)
            kept = select(scores, state, keep_count(parts.n, target), pruner.allocation, kept, floor)
        mask = Mask(parts, kept)
        mask.apply_(network)
    return scores, mask
