"""What `prune` is given: the examples as one split in memory, and the checks that come before any work.

Whatever does not fit is a UsageError of one sentence that names the value and the fix.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...architectures.running.modes import evaluating
from ...datasets.data import Data, Split
from ...datasets.errors import UsageError, one_line
from ...datasets.own import one_hot
from ...methods.pruner import Inference, Pruner

Array = Tensor | np.ndarray
Examples = Data | Split | Sequence[Array] | Iterable[Sequence[Array]]

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
    if pruner.when in ("during", "online"):
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


def gathered(data: Examples) -> Split:
    """Training examples of any accepted form, as one split in memory; int64 inputs may be tokens, and stay.

    Raises UsageError for data of no such form.
    """
    if isinstance(data, Data):
        return data.train
    if isinstance(data, Split):
        return data
    batches = _batches(data)
    x, y = (_joined([b[i] for b in batches], what) for i, what in enumerate(("inputs", "targets")))
    if x.is_complex() or y.is_complex():
        raise UsageError(f"data must be real numbers, got {x.dtype} inputs and {y.dtype} targets")
    x = x if x.dtype == torch.int64 else x.float()
    if y.is_floating_point():
        return Split(x, y.float().unsqueeze(1) if y.dim() == 1 else y.float())
    return Split(x, y.long())


def readable(network: nn.Module, split: Split) -> Split:
    """The split with inputs of the type that the network reads: of whole numbers real ones, unless they are tokens.

    Tokens they are to a network that takes them as they are and does not take real numbers.
    """
    if split.x.is_floating_point():
        return split
    real = Split(split.x.float(), split.y)
    return split if _takes(network, split) and not _takes(network, real) else real


def _takes(network: nn.Module, split: Split) -> bool:
    try:
        with evaluating(network), torch.no_grad():
            network(split.x[:2])
    except Exception:
        return False
    return True


def _batches(data: Any) -> list[Sequence[Any]]:
    if isinstance(data, tuple | list) and len(data) == 2 and all(hasattr(part, "__array__") for part in data):
        return [data]
    listed = list(data) if isinstance(data, Iterable) and not hasattr(data, "__array__") else []
    if not listed or not all(isinstance(batch, tuple | list) and len(batch) == 2 for batch in listed):
        raise UsageError("data must be (x, y) arrays or an iterable of (x, y) batches with at least one batch")
    return listed


def _joined(parts: list[Any], what: str) -> Tensor:
    try:
        return torch.cat([_tensor(part) for part in parts])
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"the {what} of data are not numbers of one shape per example: {one_line(error)}") from error


def _tensor(values: Any) -> Tensor:
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values, order="C"))


def check_fit(network: nn.Module, split: Split) -> None:
    """Finite inputs that pass through the network, and targets that fit its outputs.

    A batch goes through `network`, in evaluation mode and without gradients.

    Raises UsageError for any others.
    """
    count, targets = len(split.x), len(split.y)
    if count != targets or not count:
        raise UsageError(f"data has {count} inputs and {targets} targets; give one target per input, and at least one")
    _check_finite("x", split.x)
    outputs = _output_shape(network, split[:PROBE])
    if one_hot(split.y.detach().cpu().numpy()):
        shape = tuple(split.y.shape)
        raise UsageError(f"y of shape {shape} is one-hot; give labels 0..{shape[1] - 1} of shape (N,)")
    if split.likelihood == "categorical":
        _check_labels(split.y, outputs)
    else:
        _check_finite("y", split.y)
        _check_targets(split.y, outputs)


def _check_finite(name: str, values: Tensor) -> None:
    finite = torch.isfinite(values).flatten(1).all(1) if values.dim() > 1 else torch.isfinite(values)
    if not finite.all():
        example = int((~finite).nonzero()[0])
        raise UsageError(f"{name} of data has NaN or infinite values, first in example {example}; remove them")


def _output_shape(network: nn.Module, split: Split) -> tuple[int, ...]:
    """The shape of an example's outputs: (K,), or (T, K) where the targets are sequences of T labels."""
    x, y = split.x, split.y
    try:
        with evaluating(network), torch.no_grad():
            outputs = network(x)
    except Exception as error:
        shape, cause = tuple(x.shape[1:]), one_line(error)
        raise UsageError(f"network cannot take inputs of shape {shape} per example, {x.dtype}: {cause}") from error
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    sequences = y.dim() == 2 and not y.is_floating_point() and shape[:-1] == tuple(y.shape)
    if not isinstance(outputs, Tensor) or len(outputs) != len(x) or not (outputs.dim() == 2 or sequences):
        raise UsageError(f"network must give outputs of shape (N, K), here ({len(x)}, K), but gives {shape}")
    return tuple(outputs.shape[1:])


def _check_labels(y: Tensor, shape: tuple[int, ...]) -> None:
    outputs = shape[-1]
    if y.dim() != len(shape):
        raise UsageError(f"integer y are class labels of shape (N,), got {tuple(y.shape)}; give real y for regression")
    outside = y[(y < 0) | (y >= outputs)]
    if len(outside):
        raise UsageError(
            f"label {int(outside[0])} in y does not fit a network of {outputs} outputs; give labels 0..{outputs - 1}, "
            "or real y for regression"
        )


def _check_targets(y: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(y.shape[1:]) != shape:
        outputs = shape[-1]
        raise UsageError(
            f"regression y has shape {tuple(y.shape)} but the network has {outputs} outputs; give y of shape "
            f"(N, {outputs}), or integer labels of shape (N,) for classes"
        )
