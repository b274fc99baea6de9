"""The face for Python: prune a network of one's own with any registered method, and keep the smaller one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from ...architectures.running.forms import Forward
from ...architectures.saved import bundle
from ...architectures.units.vector import Granularity
from ...datasets.split import AnyLikelihood
from ..spec.budget import Budget
from ..spec.settings import Training
from .gathering import AnyData
from .given import adapted
from .inputs import check_learned, check_trained
from .posterior import reading
from .pruned import Pruned
from .work import asked, work

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
    posterior: Any = None,
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
        posterior: a fitted `laplace.Laplace` of laplace-torch over all weights ("diag", "kron" or "full"), for methods
            of a Laplace posterior to score by.
        seed: governs every random choice, those of a loader too.
        progress: show it, on a terminal.
        options: the method's own options, and `when`, `rounds`, `allocation`.

    Raises:
        UsageError: an unknown method or option, an impossible sparsity, data that do not fit the network,
            all before any work begins.
    """
    wish = asked(method, structured, finetune, training, budget, batch_norm, seed, options).at(sparsity)
    check_trained(method, wish.pruner)
    job = work(network, data, wish, likelihood, forward, trains=wish.finetune.epochs > 0)
    learned = None
    if posterior is not None:
        pruner, learned = reading(method, wish.pruner, posterior, job.replica)
        job = replace(job, asked=replace(wish, pruner=pruner))
    given = job.given(adapted)
    check_learned(method, given.attached()[1])
    # A method that prunes before training has no other training than the fine-tuning.
    engine = job.engine(given, epochs=0)
    pruned = job.done(engine, given, wish.pruner.rounds + wish.finetune.epochs, progress, {})
    if learned is not None and not learned.read:
        warnings.warn(f"method {method!r} looks at no posterior: the one that was given changed nothing", stacklevel=2)
    return pruned
