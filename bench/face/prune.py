"""The face for Python: prune a network of one's own with any registered method, and keep the smaller one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from tqdm import tqdm

from ...architectures.compaction.certificate import Certificate
from ...architectures.discovery.units_of import units
from ...architectures.running.batch_norm import check_batches, reestimate_batch_norm
from ...architectures.running.modes import evaluating, take_modes_, take_types_, to_network, working_
from ...architectures.running.plain import copied, keep_removed_, plain
from ...architectures.saved import bundle
from ...architectures.units.mask import Mask
from ...architectures.units.vector import Granularity, Units
from ...datasets.data import Data, Likelihood, Split
from ...datasets.errors import UsageError, unknown
from ...methods.build import build as build_pruner
from ...methods.pruner import Inference, Pruner, State
from ..evaluation.deployment import CERTIFIED, compacted, count
from ..evaluation.flops import flops
from ..evaluation.latency import BATCHES, Speedup, speedups
from ..pruning.mask_for import mask_for
from ..pruning.ranking import keep_count, round_target
from ..pruning.select import shuffled_within_layers
from ..spec.budget import Budget
from ..spec.settings import Training
from ..training.loop import leave, train
from ..training.seeding import seeded, stream
from .gathering import Examples, gathered, readable
from .inputs import (
    as_plain,
    check_finetune,
    check_learned,
    check_pruner,
    check_sparsity,
    device_of,
    fitted,
)
from .targets import meaning

load = bundle.load


@dataclass(frozen=True)
class Pruned:
    """A pruned copy of a network: its zeros are in place; `compact` cuts structures out.

    Attributes:
        network: the pruned copy.
        mask: what was kept.
        scores: the worth of every unit.
        inputs: real inputs, for the certificate and for timing.
        dense: the network that was given; a plain copy of one that was wrapped or reparametrised.
        notes: how it came about: method, options, sparsity asked for, fine-tuning.
    """

    network: nn.Module
    mask: Mask
    scores: Tensor
    inputs: Tensor
    dense: nn.Module
    notes: Mapping[str, Any]

    @property
    def sparsity(self) -> float:
        """Share of the units that was removed."""
        return self.mask.sparsity

    @cached_property
    def _small(self) -> tuple[nn.Module, Certificate]:
        return compacted(self.network, self.mask, self.inputs)

    def deployable(self) -> nn.Module:
        """The compact network, or, of single weights, the masked one."""
        return self._small[0] if self.mask.units.removable else self.network

    def compact(self) -> nn.Module:
        """A physically smaller network, certified to compute the same; needs `structured=True`.

        Raises UsageError, with the layer's name, if its outputs differ from the masked network's by more than 1e-5.
        """
        return copied(self._small[0])

    @property
    def certificate(self) -> Certificate:
        """The largest difference between the outputs of the compact and the masked network on real inputs."""
        return self._small[1]

    def speedups(self, batches: tuple[int, ...] = BATCHES) -> list[Speedup]:
        """How much faster than the dense network the compact one is (or the masked one, of single weights)."""
        return speedups(self.dense, {"pruned": self.deployable()}, self.inputs, batches)["pruned"]

    def save(self, path: str | Path, architecture: Mapping[str, Any] | None = None) -> Path:
        """Write the compact network (the masked one, of single weights) so that `bayesprune.load` gives it back.

        With an `architecture` (name, input_shape, outputs, options) the file rebuilds it alone; else `load` needs
        a network of the class that was pruned.
        """
        certificate = self.certificate if self.mask.units.removable else None
        bundle.save(path, self.deployable(), architecture, certificate, dense=self.dense, notes=dict(self.notes))
        return Path(path)

    def summary(self) -> str:
        """What was removed, layer by layer, and what that saves."""
        rows = [f"{name:<40} {density:8.2%} kept" for name, density in self.mask.layer_density().items()]
        head = f"kept {self.mask.count:,} of {self.mask.units.n:,} units (sparsity {self.sparsity:.4f})"
        saved = self._saved_by_cutting() if self.mask.units.removable else self._saved_at_best()
        if collapsed := self.mask.collapsed():
            saved.append(f"collapsed layers (nothing kept): {', '.join(collapsed)}")
        return "\n".join([head, *rows, *saved, *self._said()])

    def _said(self) -> list[str]:
        """What was understood, or learned, without being asked for."""
        folded = ", ".join(f"{name} ({by})" for name, by in self.notes.get("folded", {}).items())
        learned = self.notes.get("learned") or {}
        found = [f"folded into plain weights: {folded}" if folded else None, self.notes.get("targets")]
        return [text for text in (*found, learned.get("said")) if text]

    def _saved_by_cutting(self) -> list[str]:
        small, certificate = self._small
        before, after = count(self.dense), count(small)
        work = [flops(n, self.inputs)["flops_dense"] for n in (self.dense, small)]
        return [
            f"compact: {after:,} of {before:,} parameters ({after / before:.1%}), "
            f"{work[1] / max(work[0], 1):.1%} of the operations",
            f"certified: {certificate}",
        ]

    def _saved_at_best(self) -> list[str]:
        work = flops(self.network, self.inputs)
        return [f"operations with a non-zero weight: {work['flops_ratio']:.1%} of the dense network's"]


def prune(
    network: nn.Module,
    data: Examples,
    method: str = "magnitude",
    sparsity: float | Literal["auto"] = 0.9,
    *,
    structured: bool | Granularity = False,
    finetune: int = 0,
    training: Training | None = None,
    budget: Budget | Mapping[str, Any] | None = None,
    batch_norm: Literal["keep", "reestimate"] = "keep",
    likelihood: Likelihood | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Pruned:
    """Prune a copy of `network`; the network itself is left as it is.

    Args:
        network: any module that maps a batch of inputs to outputs; trained already, unless the method
            prunes before training, in which case `finetune` epochs train what is left.
        data: training examples: (x, y) tensors or numpy arrays, a Split, a Data, or an iterable of batches such as a
            DataLoader. Integer y are class labels, real y regression targets, zeros and ones yes or no for a network
            of one output or of as many as there are columns, real rows that sum to one probabilities of the classes.
            Inputs of whole numbers are tokens to a network that takes no real ones.
        method: name of a registered method; see `bayesprune list methods`.
        sparsity: share of the units to remove, in [0, 1), or "auto" for the method's own threshold.
        structured: remove neurons, filters and heads instead of single weights; or only units of the kind "head" or
            "ffn_hidden", or "residual_out", what layers add to a residual stream.
        finetune: epochs of training after pruning, with the zeros held.
        training: optimiser, learning rate and batch size of the fine-tuning.
        budget: what the sparsity is a share of, and what layers keep: {"of": "flops", "round_to": 8, "at_least": 1}.
        batch_norm: "reestimate" sets BatchNorm's statistics anew after pruning, on the training examples.
        likelihood: "categorical", "gaussian" or "bernoulli", where the data do not say what is meant.
        seed: governs every random choice, those of a loader too.
        progress: show it, on a terminal.
        options: the method's own options, and `when`, `rounds`, `allocation`.

    Raises:
        UsageError: an unknown method or option, an impossible sparsity, data that do not fit the network,
            all before any work begins.
    """
    sparsity, finetune, seed, options = (as_plain(value) for value in (sparsity, finetune, seed, options))
    check_sparsity(sparsity)
    check_finetune(finetune)
    shares = _checked_budget(as_plain(budget))
    if batch_norm not in ("keep", "reestimate"):
        raise unknown("batch_norm", batch_norm, ("keep", "reestimate"))
    granularity = _granularity(structured)
    shares.check(granularity != "weights")
    pruner = build_pruner(method, **options)
    check_pruner(method, pruner, sparsity)
    split = gathered(data, seed).to(device_of(network))
    found = plain(network)
    dense = found.network if found.changed else network
    replica = working_(copied(dense) if found.changed else found.network)
    with seeded(seed, "trial"):
        split = fitted(replica, readable(replica, split), likelihood, not isinstance(data, Data | Split))
    settings = training or Training()
    if finetune:
        check_batches(replica, split.x, split.batch_sizes(settings.batch_size))
    target = None if sparsity == "auto" else float(sparsity)
    parts = units(replica, granularity, split.x[:2])
    if target is not None and shares.of == "units":
        keep_count(parts.n, target)  # refuses what would remove everything, before any work
    inference = pruner.inference().for_units(granularity)
    inference.attach(replica, units(replica, "weights"), split)
    check_learned(method, inference)
    learned = inference.adapt(replica, split) if pruner.when == "after" else None
    held = keep_removed_(replica, found.removed)
    scores, mask = torch.empty(0), Mask(parts, _present(parts, replica, found.removed))
    with _bar(method, pruner.rounds + finetune, progress) as advance:
        for i in range(pruner.rounds):
            scores, mask = _round(replica, split, inference, pruner, mask, target, i, seed, shares)
            if pruner.shuffle and i == pruner.rounds - 1:
                mask = Mask(parts, shuffled_within_layers(mask.kept, parts, stream(seed, "shuffle")))
                replica.load_state_dict(dense.state_dict())  # what the method's own mask zeroed is back
            leave(replica, inference, mask)
            if batch_norm == "reestimate":
                reestimate_batch_norm(replica, (x for x, _ in split.batches(64)))
            advance(i)
            epochs = _share(pruner, finetune, i)
            with seeded(seed, f"fine-tuning {i}"):
                order = stream(seed, f"fine-tuning order {i}")
                train(replica, split, inference, settings, epochs, order, mask, advance)
    inference.detach(replica)
    for handle in held:
        handle.remove()
    notes = {"method": method, "options": options, "sparsity": sparsity, "realised": mask.sparsity, "seed": seed,
             "finetune": finetune, "batch_norm": batch_norm, "budget": shares.model_dump(),
             "likelihood": split.likelihood, "folded": found.folded, "learned": learned,
             "targets": meaning(split)}  # fmt: skip
    _finish(replica, dense, split)
    return Pruned(replica, mask, scores, to_network(split.x[:CERTIFIED], dense), dense, notes)


def _present(parts: Units, network: nn.Module, removed: Mapping[str, Tensor]) -> Tensor:
    """Units of which anything is left, boolean (units.n,)."""
    if not removed:
        return torch.ones(parts.n, dtype=torch.bool)
    alive = {name: torch.ones_like(p, dtype=torch.double) for name, p in network.named_parameters()}
    alive |= {name: (~gone).double() for name, gone in removed.items()}
    return (parts.gather(alive) > 0).cpu()


@torch.no_grad()
def _finish(network: nn.Module, dense: nn.Module, split: Split) -> None:
    """Give the pruned network the types and modes of the dense one; refuse one whose outputs are not finite."""
    take_types_(network, dense)
    take_modes_(network, dense)
    with evaluating(network):
        outputs = network(to_network(split.x[:CERTIFIED], network))
    if not torch.isfinite(outputs).all():
        raise ArithmeticError(
            "the outputs of the pruned network are NaN or infinite, those of the dense one are not: prune less of its "
            "layers, or train with a lower learning rate"
        )


def _granularity(structured: bool | Granularity) -> Granularity:
    if not isinstance(structured, str):
        return "groups" if structured else "weights"
    if structured not in get_args(Granularity):
        raise unknown("structured", structured, get_args(Granularity))
    return structured


def _checked_budget(budget: Budget | Mapping[str, Any] | None) -> Budget:
    try:
        return Budget.model_validate(budget or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"budget: {where}={first['input']!r} is not valid: {first['msg'].lower()}") from error


@contextmanager
def _bar(method: str, steps: int, progress: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar over rounds of pruning and epochs of fine-tuning; none where there is no terminal."""
    with tqdm(total=steps, desc=method, unit="step", disable=None if progress else True, dynamic_ncols=True) as bar:

        def advance(_: int) -> None:
            bar.update()

        yield advance


def _round(
    network: nn.Module, split: Split, inference: Inference, pruner: Pruner, mask: Mask, sparsity: float | None,
    i: int, seed: int, budget: Budget,
) -> tuple[Tensor, Mask]:  # fmt: skip
    """Scores and mask of one of the pruner's rounds; what left before stays away."""
    parts = mask.units
    with seeded(seed, f"score {i}"):
        state = State(network, parts, split, inference, stream(seed, f"score {i} draws"))
        scores = pruner.score(state)
    target = round_target(sparsity, i, pruner.rounds)
    return scores, mask_for(scores, state, pruner, target, mask.kept, budget)


def _share(pruner: Pruner, epochs: int, i: int) -> int:
    """Epochs of fine-tuning after round i: shared evenly, or all after the last if pruning comes before training."""
    if pruner.when == "before":
        return epochs if i == pruner.rounds - 1 else 0
    return (i + 1) * epochs // pruner.rounds - i * epochs // pruner.rounds
