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
from ...datasets.errors import UsageError, one_line
from ...datasets.examples import Examples
from ...datasets.split import IGNORED, AnyLikelihood, Split
from ...datasets.targets import Traits
from ...datasets.trees import Inputs, examples, tensors_in
from ...methods.closed_forms.likelihood import output_model
from ...methods.pruner import Inference, Pruner
from .gathering import WRAP
from .targets import interpreted, numbers_of

PROBE = 64  # examples in the forward pass that shows the shape of the outputs


def check_sparsity(sparsity: Any) -> None:
    """A number in [0, 1), or "auto"; raises UsageError for anything else."""
    if isinstance(sparsity, str) and sparsity == "auto":
        return
    if isinstance(sparsity, bool) or not isinstance(sparsity, Real) or not 0 <= float(sparsity) < 1:
        raise UsageError(f"sparsity must be a number in [0, 1) or 'auto', got {sparsity!r}")


def check_epochs(name: str, epochs: Any, least: int = 0) -> None:
    """A number of epochs; raises UsageError for anything else."""
    if isinstance(epochs, bool) or not isinstance(epochs, Integral) or epochs < least:
        raise UsageError(f"{name} must be a whole number of epochs >= {least}, got {epochs!r}")


def check_trained(method: str, pruner: Pruner) -> None:
    """A method that prunes a network which is trained already, or not at all; raises UsageError for any other."""
    if pruner.rewind is not None:
        raise UsageError(
            f"method {method!r} with rewind={pruner.rewind!r} goes back in the training of the network, which is not "
            "known here: use bayesprune.fit"
        )
    if pruner.when in ("during", "online", "dynamic"):
        raise UsageError(f"method {method!r} prunes during training: use bayesprune.fit, or choose when='after'")
    check_tuned(method, pruner.inference(), "use bayesprune.fit with validation=")


def check_tuned(method: str, inference: Inference, how: str) -> None:
    """One inference, not several to choose among; raises UsageError that says `how` otherwise."""
    if (count := len(inference.candidates())) > 1:
        raise UsageError(
            f"method {method!r} is to be tuned among {count} settings on a validation split, and there is none here; "
            f"{how}, or give a value instead of 'tuned'"
        )


def check_learned(method: str, inference: Inference) -> None:
    """An attached inference whose posterior a network that is trained already can have.

    Raises UsageError for any other.
    """
    if next(iter(inference.parameters()), None) is not None:
        raise UsageError(
            f"method {method!r} learns its posterior while it trains a network: use bayesprune.fit, which trains, or "
            "goes on training, or choose a method for trained networks, such as opd, bmr-laplace or pip-laplace"
        )


def device_of(network: Any) -> torch.device:
    """Where the network lives; refuses what is no network, and one without parameters."""
    if not isinstance(network, nn.Module):
        raise UsageError(f"network must be a torch.nn.Module, got {type(network).__name__}")
    parameter = next(network.parameters(), None)
    if parameter is None:
        raise UsageError(f"network {type(network).__name__} has no parameters; give one with weights to prune")
    return parameter.device


def fitted(
    network: nn.Module, data: Examples, likelihood: AnyLikelihood | None = None, given: bool = False
) -> Examples:
    """The examples with the likelihood of their targets, where all fits: finite inputs and outputs, and the targets.

    All are read once, and a batch goes through `network`, in evaluation mode and without gradients. See
    `targets.interpreted` for the likelihood. Raises UsageError for what does not fit, and for outputs that are
    probabilities.
    """
    traits, not_finite = _looked_at(data)
    outputs = _outputs(network, data[:PROBE])
    if not_finite is not None:
        raise not_finite
    shape = tuple(outputs.shape[1:])
    data = interpreted(data, traits, shape, likelihood, given)
    few = data[:PROBE]
    if few.likelihood == "categorical" and not few.y.is_floating_point():
        _check_labels(few.y, traits, shape)
    elif not callable(few.likelihood):
        _check_targets(few, shape, len(data))
    if not torch.isfinite(outputs).all():
        raise UsageError("the outputs of network are NaN or infinite on these data: look at its weights and the inputs")
    refuse_probabilities(network, data)
    return data


def _looked_at(data: Examples) -> tuple[Traits, UsageError | None]:
    """What all targets are by their values, and what to say of those that are not finite; raises that of inputs."""
    traits: Traits | None = None
    not_finite: UsageError | None = None
    start = 0
    for x, y in data.parts():
        count, targets = examples(x), len(y)
        if count != targets or not count:
            raise UsageError(
                f"data has {count} inputs and {targets} targets; give one target per input, and at least one"
            )
        for tensor in tensors_in(x):
            if found := _not_finite("x", tensor, start):
                raise found
        not_finite = not_finite or _not_finite("y", y, start)
        here = Traits.of(numbers_of(y))
        traits = here if traits is None else traits & here
        start += count
    assert traits is not None
    return traits, not_finite


def _not_finite(name: str, values: Tensor, start: int) -> UsageError | None:
    if not values.is_floating_point():
        return None
    finite = torch.isfinite(values).flatten(1).all(1) if values.dim() > 1 else torch.isfinite(values)
    if finite.all():
        return None
    example = start + int((~finite).nonzero()[0])
    return UsageError(f"{name} of data has NaN or infinite values, first in example {example}; remove them")


def _outputs(network: nn.Module, split: Split) -> Tensor:
    """Outputs (n, K), or (n, T, K) where the targets are sequences of T labels."""
    x, y = split.x, split.y
    try:
        with evaluating(network), torch.no_grad():
            outputs = network(x)
    except Exception as error:
        cause = one_line(error)
        hint = next((f"; {fix}" for sign, fix in _HINTS.items() if sign in str(error)), "")
        raise UsageError(f"network cannot take {_of_one(x)}: {cause}{hint}") from error
    if not isinstance(outputs, Tensor):
        raise UsageError(f"network must give one tensor of outputs (N, K), but gives {_described(outputs)}")
    outputs, shape = as_rows(outputs), tuple(outputs.shape)
    sequences = y.dim() == 2 and not y.is_floating_point() and shape[:-1] == tuple(y.shape)
    if len(outputs) != len(y) or not (outputs.dim() == 2 or sequences):
        raise UsageError(f"network must give outputs of shape (N, K), here ({len(y)}, K), but gives {shape}")
    return outputs


def _of_one(x: Inputs) -> str:
    """What the inputs of one example are, in words."""
    shapes = " and ".join(f"{tuple(tensor.shape[1:])}" for tensor in tensors_in(x))
    types = " and ".join(dict.fromkeys(str(tensor.dtype) for tensor in tensors_in(x)))
    return f"inputs of shape {shapes} per example, {types}"


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


def _check_labels(y: Tensor, traits: Traits, shape: tuple[int, ...]) -> None:
    outputs = shape[-1]
    if y.dim() != len(shape):
        raise UsageError(f"integer y are class labels of shape (N,), got {tuple(y.shape)}; give real y for regression")
    if traits.low > traits.high:
        raise UsageError(f"all labels in y are {IGNORED}, which are ignored; give some that count")
    outside = next((int(label) for label in (traits.low, traits.high) if not 0 <= label < outputs), None)
    if outside is not None and outputs == 1:
        raise UsageError(
            f"label {outside} in y does not fit a network of one output, which is for labels 0 and 1; give "
            "those, or real y for regression"
        )
    if outside is not None:
        raise UsageError(
            f"label {outside} in y does not fit a network of {outputs} outputs; give labels 0..{outputs - 1}, "
            "or real y for regression"
        )


def _check_targets(split: Split, shape: tuple[int, ...], count: int) -> None:
    model = output_model(split.likelihood)
    columns = model.target_columns(shape[-1])
    if tuple(split.y.shape[1:]) != (*shape[:-1], columns):
        outputs, what = shape[-1], _TARGETS.get(model.name, "y")
        raise UsageError(
            f"{what} has shape {(count, *split.y.shape[1:])} but the network has {outputs} outputs; give y of shape "
            f"(N, {outputs}), or integer labels of shape (N,) for classes"
        )


_TARGETS = {"gaussian": "regression y", "categorical": "y of probabilities", "bernoulli": "y of zeros and ones"}
