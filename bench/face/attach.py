"""The face for Python: any registered method in a training loop of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from ...architectures.discovery.units_of import units
from ...architectures.running.forms import Form, Forward, form_for, in_form
from ...architectures.running.modes import evaluating, precision_of, to_network
from ...architectures.running.plain import copied, is_dressed, unwrapped
from ...architectures.units.vector import Granularity
from ...datasets.data import AnyLikelihood
from ...datasets.errors import UsageError
from ...datasets.examples import Examples
from ...datasets.plain import as_plain
from ...datasets.trees import Inputs, examples, rows
from ...methods.pruner import Inference
from ..pruning.engine import Attached, Engine, Kept
from ..spec.budget import Budget
from ..spec.settings import Finetune
from ..training.seeding import seeded
from .announced import Announced
from .attached import AttachedMethod
from .gathering import AnyData
from .inputs import check_epochs, check_tuned, device_of
from .readers import read
from .work import Asked, asked


def attach(
    network: nn.Module,
    method: str = "magnitude",
    *,
    example: Inputs | None = None,
    size: int | None = None,
    data: AnyData | None = None,
    structured: bool | Granularity = False,
    sparsity: float | Literal["auto"] | None = None,
    epochs: int | None = None,
    likelihood: AnyLikelihood | None = None,
    forward: Forward | None = None,
    budget: Budget | Mapping[str, Any] | None = None,
    seed: int = 0,
    **options: Any,
) -> AttachedMethod:
    """A method at work on `network`, which is trained in place by a loop of yours.

    >>> method = bp.attach(network, "bmrs-u", example=x, size=len(train_set), structured=True)   # doctest: +SKIP
    >>> optimizer = torch.optim.AdamW([*network.parameters(), *method.parameters()])   # doctest: +SKIP

    and then, in the loop, `method.backward(loss)` for `loss.backward()`, `method.after_step()` after the optimiser's
    step, `method.after_epoch(loader)` after each epoch, and `method.finish("auto")` in the end. Augmentation, mixed
    precision, accumulation, clipping, schedules and DistributedDataParallel are the loop's. Attach before the network
    is wrapped or compiled, and after it has moved to its device.

    Args:
        network: any module, trained already or not; parameters in single or double precision.
        method: name of a registered method; see `bayesprune list methods`.
        example: a batch of inputs, (n, ...), or of any form that the network or `forward` takes.
        size: N, how many examples (of a language model tokens) the training set has, in all ranks together: the
            penalty, in nats for all of them, is divided by it.
        data: the training examples, in any form that `prune` takes, instead of `example` and `size`; needed by methods
            that prune before training.
        structured: remove neurons, filters and heads instead of single weights; see `prune`.
        sparsity: share of the units to remove or "auto", where units leave before or during training; else `finish`
            may be told.
        epochs: of the loop, for methods that prune during training, and those whose divergence rises over a share of it
            (over twenty epochs if nobody says).
        likelihood: "categorical" (default), "gaussian", "heteroscedastic" or "bernoulli": what the loss is the negative
            logarithm of; or the loss itself, see `prune`.
        forward: (network, batch) -> (outputs, targets), for batches of any form, see `prune`.
        budget: what the sparsity is a share of, see `prune`.
        seed: governs what the method draws beside its noise, which comes from torch's global generators.
        options: the method's own options, and `when`, `rounds`, `allocation`.

    Raises:
        UsageError: an unknown method or option, or something that the method needs and was not given.
    """
    wish = asked(method, structured, 0, None, budget, "keep", seed, options)
    wish = wish if sparsity is None else wish.at(sparsity)
    check_tuned(method, wish.pruner.inference(), "choose one by bayesprune.fit with validation=")
    _check_moment(wish, epochs, data)
    device = device_of(network)
    network = _workable(network)
    split, form = _announced(network, example, size, data, likelihood, forward, device, seed)
    dense, inference = copied(network), wish.pruner.inference().for_units(wish.granularity)
    with in_form(form, network), seeded(seed, "attach"):
        parts = units(network, wish.granularity, split[:2].x)
        inference.attach(network, units(network, "weights"), split)
    engine = Engine(
        wish.pruner, parts, split, device, _same(network, inference, wish), seed, wish.budget, wish.training,
        Finetune(epochs=0),
    )  # fmt: skip
    return AttachedMethod(wish, engine, network, inference, dense, likelihood, epochs, forward, form)


def _same(network: nn.Module, inference: Inference, wish: Asked) -> Callable[[], Attached]:
    """The pair itself; a shuffled control in rounds begins its last round again, with the first values."""
    if not (wish.pruner.shuffle and wish.pruner.rounds > 1):
        return lambda: (network, inference)
    kept = Kept.of(network, inference)
    return lambda: kept.into(network, inference)


def _check_moment(wish: Asked, epochs: Any, data: AnyData | None) -> None:
    """What a method needs to know beforehand, by when it prunes."""
    when = wish.pruner.when
    if wish.pruner.retrain != "shared":
        raise UsageError(f"retrain={wish.pruner.retrain!r} is for training by the suite: use bayesprune.fit")
    if wish.pruner.rewind is not None:
        raise UsageError(f"rewind={wish.pruner.rewind!r} trains the network again: use bayesprune.fit")
    if when in ("during", "online", "dynamic"):
        check_epochs("epochs, which this method needs to know,", as_plain(epochs), 10 if when == "online" else 1)
    if when in ("before", "during", "dynamic") and wish.sparsity is None:
        raise UsageError(f"method {wish.method!r} prunes {when} training: give attach sparsity=, in [0, 1) or 'auto'")
    if when == "before" and data is None:
        raise UsageError(
            f"method {wish.method!r} scores the network before it is trained: give attach data=, the loader or (x, y)"
        )


def _workable(network: nn.Module) -> nn.Module:
    """The network inside its wrappers; raises UsageError for one whose weights cannot be trained in place."""
    inner = unwrapped(network)
    if is_dressed(inner):
        raise UsageError(
            "some weights of the network are computed from others by torch.nn.utils (prune, weight or spectral norm): "
            "remove that before a method is attached, or use bayesprune.fit, which folds it into a copy"
        )
    if precision_of(inner) not in (torch.float32, torch.float64):
        raise UsageError(
            f"the network's parameters are {precision_of(inner)}: keep them in float32 and train under torch.autocast"
        )
    return inner


def _announced(
    network: nn.Module, example: Inputs | None, size: Any, data: AnyData | None, likelihood: AnyLikelihood | None,
    forward: Forward | None, device: torch.device, seed: int,
) -> tuple[Examples, Form | None]:  # fmt: skip
    """The training set, or what is known of it."""
    if data is not None:
        return read(network, data, seed, likelihood, forward)
    size = as_plain(size)
    if example is None or size is None:
        raise UsageError("give example=, a batch of inputs, and size=, how many training examples there are (or data=)")
    if not examples(example):
        raise UsageError(f"example must be a batch of inputs, a tensor (n, ...), got {type(example).__name__}")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UsageError(f"size must be the number of training examples, a whole number >= 1, got {size!r}")
    x = to_network(example, network)
    form = form_for(network, rows(x, slice(2)), forward)
    with in_form(form, network), evaluating(network), torch.no_grad():
        network(rows(x, slice(2)))
    return Announced(x, torch.zeros(examples(x), device=device), likelihood or "categorical", size), form
