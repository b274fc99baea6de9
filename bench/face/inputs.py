"""Checks of what `prune` is given, before any work.

Whatever does not fit is a UsageError of one sentence that names the value and the fix.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from ...architectures.running.modes import as_rows, evaluating
from ...architectures.running.outputs import refuse_probabilities
from ...datasets.data import Likelihood, Split
from ...datasets.errors import UsageError, one_line
from ...methods.pruner import Inference, Pruner
from .gathering import WRAP
from .targets import interpreted

PROBE = 64  # examples in the forward pass that shows the shape of the outputs


def check_sparsity(sparsity: Any) -> None:
    """A number in [0, 1), or "auto"; raises UsageError for anything else."""
    if isinstance(sparsity, str) and sparsity == "auto":
        return
    if isinstance(sparsity, bool) or not isinstance(sparsity, Real) or not 0 <= float(sparsity) < 1:
        raise UsageError(f"sparsity must be a number in [0, 1) or 'auto', got {sparsity!r}")


def check_finetune(finetune: Any) -> None:
    """A number of epochs; raises UsageError for anything else."""
    if isinstance(finetune, bool) or not isinstance(finetune, Integral) or finetune < 0:
        raise UsageError(f"finetune must be a whole number of epochs >= 0, got {finetune!r}")


def check_pruner(method: str, pruner: Pruner, sparsity: float | str) -> None:
    """A method that prunes one given network, once it is trained, without a validation split.

    Raises UsageError for any other.
    """
    if pruner.rewind is not None:
        raise UsageError(
            f"method {method!r} with rewind={pruner.rewind!r} goes back in the training of the network, which is not "
            "known here: run it in a matrix"
        )
    if pruner.when in ("during", "online", "dynamic"):
        raise UsageError(f"method {method!r} prunes during training; run it in a matrix, or choose when='after'")
    if sparsity == "auto" and not pruner.decides:
        raise UsageError(f"method {method!r} has no threshold of its own; give a sparsity in [0, 1)")
    if (count := len(pruner.inference().candidates())) > 1:
        raise UsageError(
            f"method {method!r} is to be tuned among {count} settings on a validation split, and there is none here; "
            "run it in a matrix, or give a value instead of 'tuned'"
        )


def check_learned(method: str, inference: Inference) -> None:
    """An attached inference whose posterior a network that is trained already can have.

    Raises UsageError for any other.
    """
    if next(iter(inference.parameters()), None) is not None:
        raise UsageError(
            f"method {method!r} learns its posterior while it trains a network, and this one is trained already: run "
            "it in a matrix, or choose a method for trained networks, such as opd, bmr-laplace or pip-laplace"
        )


def device_of(network: Any) -> torch.device:
    """Where the network lives; refuses what is no network, and one without parameters."""
    if not isinstance(network, nn.Module):
        raise UsageError(f"network must be a torch.nn.Module, got {type(network).__name__}")
    parameter = next(network.parameters(), None)
    if parameter is None:
        raise UsageError(f"network {type(network).__name__} has no parameters; give one with weights to prune")
    return parameter.device


def fitted(network: nn.Module, split: Split, likelihood: Likelihood | None = None, given: bool = False) -> Split:
    """The split with the likelihood of its targets, where all fits: finite inputs and outputs, and the targets.

    A batch goes through `network`, in evaluation mode and without gradients. See `targets.interpreted` for the
    likelihood. Raises UsageError for what does not fit, and for outputs that are probabilities.
    """
    count, targets = len(split.x), len(split.y)
    if count != targets or not count:
        raise UsageError(f"data has {count} inputs and {targets} targets; give one target per input, and at least one")
    _check_finite("x", split.x)
    outputs = _outputs(network, split[:PROBE])
    if split.y.is_floating_point():
        _check_finite("y", split.y)
    shape = tuple(outputs.shape[1:])
    split = interpreted(split, shape, likelihood, given)
    if split.likelihood == "categorical" and not split.y.is_floating_point():
        _check_labels(split.y, shape)
    else:
        _check_targets(split, shape)
    if not torch.isfinite(outputs).all():
        raise UsageError("the outputs of network are NaN or infinite on these data: look at its weights and the inputs")
    refuse_probabilities(network, split)
    return split


def _check_finite(name: str, values: Tensor) -> None:
    finite = torch.isfinite(values).flatten(1).all(1) if values.dim() > 1 else torch.isfinite(values)
    if not finite.all():
        example = int((~finite).nonzero()[0])
        raise UsageError(f"{name} of data has NaN or infinite values, first in example {example}; remove them")


def _outputs(network: nn.Module, split: Split) -> Tensor:
    """Outputs (n, K), or (n, T, K) where the targets are sequences of T labels."""
    x, y = split.x, split.y
    try:
        with evaluating(network), torch.no_grad():
            outputs = network(x)
    except Exception as error:
        shape, cause = tuple(x.shape[1:]), one_line(error)
        hint = next((f"; {fix}" for sign, fix in _HINTS.items() if sign in str(error)), "")
        raise UsageError(
            f"network cannot take inputs of shape {shape} per example, {x.dtype}: {cause}{hint}"
        ) from error
    if not isinstance(outputs, Tensor):
        raise UsageError(f"network must give one tensor of outputs (N, K), but gives {_described(outputs)}")
    outputs, shape = as_rows(outputs), tuple(outputs.shape)
    sequences = y.dim() == 2 and not y.is_floating_point() and shape[:-1] == tuple(y.shape)
    if len(outputs) != len(x) or not (outputs.dim() == 2 or sequences):
        raise UsageError(f"network must give outputs of shape (N, K), here ({len(x)}, K), but gives {shape}")
    return outputs


# What torch says, and what may be done.
_HINTS = {
    "positional argument": WRAP,
    "same dtype": "networks of half precision are worked on in single: convert inputs to the type of the weights, as "
    "in x.to(self.layer.weight.dtype), or call network.float()",
}


def _described(outputs: Any) -> str:
    """What a network gives that is no tensor, with the place of one that it holds."""
    kind = type(outputs).__name__
    if isinstance(outputs, Mapping) and outputs:
        wrapped = f"self.network(x)[{next(iter(outputs))!r}]"
        return f"a {kind} of {', '.join(map(repr, outputs))}: wrap it in a module whose forward(x) returns {wrapped}"
    if isinstance(outputs, tuple | list) and outputs:
        return f"a {kind} of {len(outputs)}: wrap it in a module whose forward(x) returns self.network(x)[0]"
    return f"a {kind}: wrap it in a module whose forward(x) returns the logits or predictions"


def _check_labels(y: Tensor, shape: tuple[int, ...]) -> None:
    outputs = shape[-1]
    if y.dim() != len(shape):
        raise UsageError(f"integer y are class labels of shape (N,), got {tuple(y.shape)}; give real y for regression")
    outside = y[(y < 0) | (y >= outputs)]
    if len(outside) and outputs == 1:
        raise UsageError(
            f"label {int(outside[0])} in y does not fit a network of one output, which is for labels 0 and 1; give "
            "those, or real y for regression"
        )
    if len(outside):
        raise UsageError(
            f"label {int(outside[0])} in y does not fit a network of {outputs} outputs; give labels 0..{outputs - 1}, "
            "or real y for regression"
        )


def _check_targets(split: Split, shape: tuple[int, ...]) -> None:
    if tuple(split.y.shape[1:]) != shape:
        outputs, what = shape[-1], _TARGETS[split.likelihood]
        raise UsageError(
            f"{what} has shape {tuple(split.y.shape)} but the network has {outputs} outputs; give y of shape "
            f"(N, {outputs}), or integer labels of shape (N,) for classes"
        )


_TARGETS = {"gaussian": "regression y", "categorical": "y of probabilities", "bernoulli": "y of zeros and ones"}
