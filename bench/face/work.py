"""What `prune` and `fit` have in common: what they are given, checked and made ready, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal, get_args

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ...architectures.discovery.units_of import units
from ...architectures.running.batch_norm import check_batches
from ...architectures.running.forms import Form, Forward, adapt_, release_
from ...architectures.running.modes import evaluating, take_modes_, take_types_, to_network, working_
from ...architectures.running.plain import Plain, copied, plain
from ...architectures.units.mask import Mask
from ...architectures.units.vector import Granularity, Units
from ...datasets.data import AnyLikelihood, Split
from ...datasets.errors import UsageError, unknown
from ...datasets.examples import Examples
from ...datasets.plain import as_plain
from ...datasets.trees import Inputs
from ...methods.build import build as build_pruner
from ...methods.closed_forms.likelihood import output_model
from ...methods.pruner import Pruner
from ..evaluation.deployment import CERTIFIED
from ..pruning.engine import Engine
from ..pruning.ranking import keep_count
from ..pruning.schedules import prune as run_engine
from ..spec.budget import Budget
from ..spec.settings import Finetune, Training
from ..training.progress import bar
from .gathering import AnyData
from .given import Given, Learn
from .inputs import check_epochs, check_sparsity, device_of
from .pruned import Pruned
from .readers import read
from .targets import meaning


@dataclass(frozen=True)
class Asked:
    """What a user asks for, checked.

    Attributes:
        method: the name of the method, and
        options: its options, of which
        pruner: is made.
        sparsity: a share of the budget, or "auto"; None where it is still to be said.
        granularity: what is pruned.
        budget: what the sparsity is a share of.
        finetune: what follows the pruning.
        training: optimiser, learning rate and batch size.
        seed: governs every random choice.
    """

    method: str
    options: Mapping[str, Any]
    pruner: Pruner
    sparsity: float | Literal["auto"] | None
    granularity: Granularity
    budget: Budget
    finetune: Finetune
    training: Training
    seed: int

    @property
    def target(self) -> float | None:
        """The sparsity as a number; None for the method's own decision."""
        return float(self.sparsity) if isinstance(self.sparsity, Real) else None

    def at(self, sparsity: Any) -> Asked:
        """The same with another sparsity; raises UsageError for one that cannot be."""
        sparsity = as_plain(sparsity)
        check_sparsity(sparsity)
        if sparsity == "auto" and not self.pruner.decides:
            raise UsageError(f"method {self.method!r} has no threshold of its own; give a sparsity in [0, 1)")
        return replace(self, sparsity=sparsity)

    def notes(self, mask: Mask, few: Split) -> dict[str, Any]:
        """How the result came about, as JSON."""
        return {
            "method": self.method, "options": self.options, "allocation": self.pruner.allocation,
            "sparsity": self.sparsity, "realised": mask.sparsity, "seed": self.seed,
            "finetune": self.finetune.epochs, "batch_norm": self.finetune.batch_norm,
            "budget": self.budget.model_dump(), "likelihood": output_model(few.likelihood).name,
            "targets": meaning(few.likelihood, few.y),
        }  # fmt: skip


def asked(
    method: str, structured: bool | Granularity, finetune: Any, training: Training | None,
    budget: Budget | Mapping[str, Any] | None, batch_norm: Any, seed: Any, options: Mapping[str, Any],
) -> Asked:  # fmt: skip
    """The wishes of a user; raises UsageError for what cannot be, before any work begins."""
    finetune, seed, options = (as_plain(value) for value in (finetune, seed, options))
    check_epochs("finetune", finetune)
    shares = checked_budget(as_plain(budget))
    if batch_norm not in ("keep", "reestimate"):
        raise unknown("batch_norm", batch_norm, ("keep", "reestimate"))
    granularity = granularity_of(structured)
    shares.check(granularity != "weights")
    pruner = build_pruner(method, **options)
    after = Finetune(epochs=finetune, batch_norm=batch_norm)
    return Asked(method, options, pruner, None, granularity, shares, after, training or Training(), seed)


@dataclass(frozen=True)
class Work:
    """The network and the examples that the wishes are about.

    Attributes:
        dense: the network that was given; a plain copy of one that was wrapped or reparametrised.
        found: how it was made plain.
        replica: a copy to try things on.
        split: training examples on the network's device, in the types that it reads.
        parts: the units that are pruned.
        form: how the network is called, where it does not take and give one tensor.
    """

    asked: Asked
    dense: nn.Module
    found: Plain
    replica: nn.Module
    split: Examples
    parts: Units
    form: Form | None

    def given(self, learn: Learn) -> Given:
        """Where the engine starts."""
        asked = self.asked
        return Given(
            self.dense, asked.pruner, asked.granularity, self.split, asked.seed, self.found.removed, learn, self.form
        )

    def engine(self, given: Given, epochs: int) -> Engine:
        """The engine, with `epochs` of training for methods that prune before it or meanwhile."""
        asked = self.asked
        return Engine(
            asked.pruner, self.parts, self.split, self.split.device, given.start, asked.seed, asked.budget,
            asked.training.model_copy(update={"epochs": epochs}), asked.finetune,
            present=_present(self.parts, self.replica, self.found.removed),
        )  # fmt: skip

    def done(self, engine: Engine, given: Given, steps: int, progress: bool, notes: Mapping[str, Any]) -> Pruned:
        """Let the engine work, in so many `steps` of the progress bar, and give what came of it."""
        asked = self.asked
        with bar(asked.method, steps, "step", progress) as engine.advance:
            outcome = run_engine(engine, asked.target)
        given.let_go()
        few = self.split[:CERTIFIED]
        finish_(outcome.network, self.dense, few.x)
        learned = given.learned
        said = {**asked.notes(outcome.mask, few), "folded": self.found.folded, "learned": learned, **notes}
        inputs = to_network(few.x, self.dense)
        network = release_(outcome.network)
        return Pruned(network, outcome.mask, outcome.scores, inputs, self.dense, said, outcome.inference, self.form)


def work(
    network: nn.Module, data: AnyData, asked: Asked, likelihood: AnyLikelihood | None, forward: Forward | None,
    trains: bool,
) -> Work:  # fmt: skip
    """What the wishes need, made ready; `trains`: whether the network will be trained on the examples.

    Raises UsageError for data that do not fit the network, and a sparsity that would remove everything.
    """
    device_of(network)  # refuses what is no network
    found = plain(network)
    dense = found.network if found.changed else network
    replica = working_(copied(dense) if found.changed else found.network)
    split, form = read(replica, data, asked.seed, likelihood, forward)
    adapt_(replica, form)
    if trains:
        sizes = split.batch_sizes(asked.training.batch_size)
        check_batches(replica, split[: min(sizes)].x, sizes)
    parts = units(replica, asked.granularity, split[:2].x)
    if asked.target is not None and asked.budget.of == "units":
        keep_count(parts.n, asked.target)  # refuses what would remove everything, before any work
    return Work(asked, dense, found, replica, split, parts, form)


def _present(parts: Units, network: nn.Module, removed: Mapping[str, Tensor]) -> Tensor | None:
    """Units of which anything is left, boolean (units.n,); None for all."""
    if not removed:
        return None
    alive = {name: torch.ones_like(p, dtype=torch.double) for name, p in network.named_parameters()}
    alive |= {name: (~gone).double() for name, gone in removed.items()}
    return (parts.gather(alive) > 0).cpu()


@torch.no_grad()
def finish_(network: nn.Module, dense: nn.Module, x: Inputs) -> None:
    """Give the pruned network the types and modes of the dense one; refuse one whose outputs are not finite."""
    take_types_(network, dense)
    take_modes_(network, dense)
    with evaluating(network):
        outputs = network(to_network(x, network))
    if not torch.isfinite(outputs).all():
        raise ArithmeticError(
            "the outputs of the pruned network are NaN or infinite, those of the dense one are not: prune less of its "
            "layers, or train with a lower learning rate"
        )


def granularity_of(structured: bool | Granularity) -> Granularity:
    """What is pruned: single weights, all groups, or those of one kind."""
    if not isinstance(structured, str):
        return "groups" if structured else "weights"
    if structured not in get_args(Granularity):
        raise unknown("structured", structured, get_args(Granularity))
    return structured


def checked_budget(budget: Budget | Mapping[str, Any] | None) -> Budget:
    """What a sparsity is a share of; raises UsageError for fields that there are not."""
    try:
        return Budget.model_validate(budget or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"budget: {where}={first['input']!r} is not valid: {first['msg'].lower()}") from error
