"""What one batch holds: the inputs of a network, and the targets of its outputs.

A batch is a pair (x, y); or a dict by the names of the network's arguments, with labels, as Hugging Face's are; or
anything else that the user's own `forward` takes.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ...architectures.running.forms import Form, Forward, arguments_of
from ...datasets.errors import UsageError
from ...datasets.examples import Batch
from ...datasets.split import IGNORED, Likelihood
from ...datasets.trees import Inputs, described, plain_tree, tensors_in

LABELS = ("labels", "label", "targets", "target")
# How Hugging Face names networks that predict the next token, and compare token t with the outputs at t - 1.
CAUSAL = ("ForCausalLM", "LMHeadModel")
# What its configurations call what the labels of a classifier are.
PROBLEMS: Mapping[str, Likelihood] = {
    "regression": "gaussian",
    "single_label_classification": "categorical",
    "multi_label_classification": "bernoulli",
}


def with_targets(network: nn.Module, forward: Forward, batch: Any) -> Batch:
    """The whole batch as inputs, and the targets that `forward` has for it.

    It is run for them once more, without gradients: a pass over such batches costs one forward pass more.
    """
    x = plain_tree(batch)
    y = Form(forward).targets(network, x)
    return check_rows(x, y), y


def is_named(network: nn.Module, batch: Any) -> bool:
    """Whether a batch is a dict of labels and of what `network` takes by these names."""
    return isinstance(batch, Mapping) and _label(batch) is not None and bool(_inputs(network, batch))


def by_name(network: nn.Module, batch: Mapping[str, Any]) -> Batch:
    """Inputs and labels of such a dict; what the network does not take is left out.

    Labels of a network that predicts the next token are moved to the output that predicts them.
    """
    y = plain_tree(batch[_label(batch) or ""])
    if not isinstance(y, Tensor):
        raise UsageError(f"the labels of a batch must be a tensor, got {described(y)}")
    x = check_rows(plain_tree(_inputs(network, batch)), y)
    if any(kind.__name__.endswith(CAUSAL) for kind in type(network).__mro__) and y.dim() == 2:
        y = F.pad(y[:, 1:], (0, 1), value=IGNORED)
    return x, y


def likelihood_said(network: nn.Module) -> Likelihood | None:
    """The likelihood that a network of Hugging Face says in its configuration; None where it does not."""
    return PROBLEMS.get(getattr(getattr(network, "config", None), "problem_type", None) or "")


def check_rows(x: Inputs, y: Tensor) -> Inputs:
    """The inputs, if all have a row for each of the targets; raises UsageError for others."""
    for tensor in tensors_in(x):
        if not tensor.dim() or len(tensor) != len(y):
            raise UsageError(
                f"an input of shape {tuple(tensor.shape)} has no row for each of the {len(y)} examples of its batch: "
                "repeat it for all, or make it in forward"
            )
    return x


def _label(batch: Mapping[str, Any]) -> str | None:
    return next((name for name in LABELS if name in batch), None)


def _inputs(network: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    known = arguments_of(network)
    named = {name for name, p in known.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    found = {str(name): value for name, value in batch.items() if name in named and name not in LABELS}
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    return {str(n): v for n, v in batch.items() if n not in LABELS} if anything and not found else found
