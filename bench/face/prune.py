"""The face for Python: prune a network of one's own with any registered method, and keep the smaller one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ...architectures.discovery.units_of import units
from ...architectures.running.batch_norm import check_batches
from ...architectures.running.forms import Forward, adapt_, form_for, release_
from ...architectures.running.modes import evaluating, take_modes_, take_types_, to_network, working_
from ...architectures.running.plain import copied, plain
from ...architectures.saved import bundle
from ...architectures.units.vector import Granularity, Units
from ...datasets.errors import UsageError, unknown
from ...datasets.plain import as_plain
from ...datasets.split import AnyLikelihood
from ...datasets.trees import Inputs
from ...methods.build import build as build_pruner
from ...methods.closed_forms.likelihood import output_model
from ..evaluation.deployment import CERTIFIED
from ..pruning.engine import Engine
from ..pruning.ranking import keep_count
from ..pruning.schedules import prune as run_engine
from ..spec.budget import Budget
from ..spec.settings import Finetune, Training
from ..training.progress import bar
from ..training.seeding import seeded
from .gathering import AnyData, gathered, is_typed, readable
from .given import Given
from .inputs import (
    check_finetune,
    check_learned,
    check_pruner,
    check_sparsity,
    device_of,
    fitted,
)
from .pruned import Pruned
from .reading import likelihood_said
from .targets import meaning

load = bundle.load


def prune(
    network: nn.Module,
    data: AnyData,
    method: str = "magnitude",
    sparsity: float | Literal["auto"] = 0.9,
    *,
    structured: bool | Granularity = False,
    finetune: int = 0,
    training: Training | None = None,
    budget: Budget | Mapping[str, Any] | None = None,
    batch_norm: Literal["keep", "reestimate"] = "keep",
    likelihood: AnyLikelihood | None = None,
    forward: Forward | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Pruned:
    """Prune a copy of `network`; the network itself is left as it is.

    Args:
        network: any module that maps a batch of inputs to outputs; trained already, unless the method
            prunes before training, in which case `finetune` epochs train what is left.
        data: training examples: (x, y) tensors or numpy arrays, a Split, a Data, or an iterable of batches such as a
            DataLoader, which is gone through anew for every pass and never gathered. Integer y are class labels, real y
            regression targets, zeros and ones yes or no for a network of one output or of as many as there are
            columns, real rows that sum to one probabilities of the classes. Inputs of whole numbers are tokens to a
            network that takes no real ones.
        method: name of a registered method; see `bayesprune list methods`.
        sparsity: share of the units to remove, in [0, 1), or "auto" for the method's own threshold.
        structured: remove neurons, filters and heads instead of single weights; or only units of the kind "head" or
            "ffn_hidden", or "residual_out", what layers add to a residual stream.
        finetune: epochs of training after pruning, with the zeros held.
        training: optimiser, learning rate and batch size of the fine-tuning.
        budget: what the sparsity is a share of, and what layers keep: {"of": "flops", "round_to": 8, "at_least": 1}.
        batch_norm: "reestimate" sets BatchNorm's statistics anew after pruning, on the training examples.
        likelihood: "categorical", "gaussian", "heteroscedastic" (the network gives K means, then K log variances) or
            "bernoulli", where the data do not say what is meant; or a loss of your own, (outputs, targets) -> its mean
            over the batch, for methods that need no curvature of it.
        forward: (network, batch) -> (outputs, targets), for batches and networks of any form: several inputs, dicts,
            masks. Each has a row for every example, (N, K) or (N, T, K), and targets of -100 do not count. Without it
            batches are pairs (x, y), or dicts by the names of the network's arguments with `labels`, as Hugging Face's.
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
    device = device_of(network)
    found = plain(network)
    dense = found.network if found.changed else network
    replica = working_(copied(dense) if found.changed else found.network)
    with seeded(seed, "trial"):
        split = readable(replica, gathered(data, seed, replica, forward).to(device))
        form = form_for(replica, split[:2].x, forward)
        said = likelihood or (None if is_typed(data) else likelihood_said(replica))
        split = fitted(adapt_(replica, form), split, said, not is_typed(data))
    settings = training or Training()
    if finetune:
        sizes = split.batch_sizes(settings.batch_size)
        check_batches(replica, split[: min(sizes)].x, sizes)
    target = None if sparsity == "auto" else float(sparsity)
    few = split[:CERTIFIED]
    parts = units(replica, granularity, few[:2].x)
    if target is not None and shares.of == "units":
        keep_count(parts.n, target)  # refuses what would remove everything, before any work
    given = Given(dense, pruner, granularity, split, seed, found.removed, form)
    check_learned(method, given.attached()[1])
    # A method that prunes before training has no other training than the fine-tuning.
    engine = Engine(
        pruner, parts, split, split.device, given.start, seed, shares, settings.model_copy(update={"epochs": 0}),
        Finetune(epochs=finetune, batch_norm=batch_norm), present=_present(parts, replica, found.removed),
    )  # fmt: skip
    with bar(method, pruner.rounds + finetune, "step", progress) as engine.advance:
        outcome = run_engine(engine, target)
    pruned, mask = outcome.network, outcome.mask
    given.let_go()
    notes = {"method": method, "options": options, "allocation": pruner.allocation, "sparsity": sparsity,
             "realised": mask.sparsity, "seed": seed, "finetune": finetune, "batch_norm": batch_norm,
             "budget": shares.model_dump(), "likelihood": output_model(split.likelihood).name, "folded": found.folded,
             "learned": given.learned, "targets": meaning(few.likelihood, few.y)}  # fmt: skip
    _finish(pruned, dense, few.x)
    return Pruned(release_(pruned), mask, outcome.scores, to_network(few.x, dense), dense, notes, form)


def _present(parts: Units, network: nn.Module, removed: Mapping[str, Tensor]) -> Tensor | None:
    """Units of which anything is left, boolean (units.n,); None for all."""
    if not removed:
        return None
    alive = {name: torch.ones_like(p, dtype=torch.double) for name, p in network.named_parameters()}
    alive |= {name: (~gone).double() for name, gone in removed.items()}
    return (parts.gather(alive) > 0).cpu()


@torch.no_grad()
def _finish(network: nn.Module, dense: nn.Module, x: Inputs) -> None:
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
