"""Evaluation: what a network, already trained and pruned, is worth. Only this file reads the test split.

It opens the seal for the moment in which it takes the tensors. The network itself runs under the seal of its cell, as
a method may have left something of its own in it.

The predictive distribution is the plug-in one: the network's outputs at its final weights. Temperature and
observation noise are fitted on the validation split.

A language model's tokens are examples of their own here: accuracy, NLL, calibration and the detection of foreign
tokens are means over tokens. Its outputs (sequences, tokens, vocabulary) are large: of each split the first sequences
are evaluated whose outputs hold at most `EVALUATED` numbers, and of those the first `KEPT` numbers are stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...architectures.running.modes import as_rows, evaluating, to_network
from ...datasets.data import Data
from ...datasets.examples import Examples
from ...datasets.seal import opened
from ...datasets.split import IGNORED, Split
from ...datasets.trees import tensors_in
from . import binary_metrics, metrics

BATCH = 1024
FEWEST, NUMBERS = 32, 1 << 20  # examples, inputs in one pass: memory for more takes longer to get than to fill
EVALUATED = 1 << 25  # numbers: 256 MiB in double precision
KEPT = 1 << 21  # numbers: 4 MiB in half precision
KEPT_BYTES = 1 << 29  # of shifted copies, per worker
SEVERITIES = range(1, 6)
PREDICTIVE = "plug-in"
CHOOSING = ("accuracy", "nll", "rmse")  # what variants may be chosen by, on the validation split
BRIEF = ("accuracy", "nll", "ece", "bpc", "perplexity", "average_precision")


class Decisions(NamedTuple):
    """How outputs that are logits are judged."""

    metrics: Callable[[Tensor, Tensor], dict[str, Any]]
    nll: Callable[[Tensor, Tensor], float]
    log_confidence: Callable[[Tensor], Tensor]
    log_probabilities: Callable[[Tensor], Tensor]  # which draws average...
    logits_of: Callable[[Tensor], Tensor]  # ...and logits of the average


DECISIONS = {
    "categorical": Decisions(
        metrics.categorical, metrics.negative_log_likelihood, metrics.log_confidence, partial(torch.log_softmax, dim=1),
        lambda log_probabilities: log_probabilities,
    ),
    "bernoulli": Decisions(
        binary_metrics.bernoulli, binary_metrics.negative_log_likelihood, binary_metrics.log_confidence,
        binary_metrics.log_probabilities, binary_metrics.logits_of,
    ),
}  # fmt: skip


def evaluate(network: nn.Module, data: Data, shift: bool = True) -> tuple[dict[str, Any], Tensor]:
    """All metrics of `network` on `data`, and the test outputs (N, outputs) as float16 on the CPU.

    Without `shift`, those on corrupted test inputs, which take most of the time, are left out. Of a language model
    come the outputs (n, T, outputs) of the first sequences.
    """
    with evaluating(network), torch.no_grad():
        outputs, y = _tested(network, data)
        if data.likelihood == "gaussian":
            values: dict[str, Any] = _gaussian(network, data, outputs, y) | validated(network, data)
        else:
            values = _of_decisions(network, data, outputs, y, shift)
        stored = outputs[: max(1, KEPT // outputs[0].numel())] if outputs.dim() == 3 else outputs
        return values, stored.half().cpu()


def predict(network: nn.Module, split: Examples) -> Tensor:
    """Outputs of `network` in its present mode, float64, shape (N, outputs) or (N, T, outputs)."""
    return outputs_and_targets(network, split)[0]


def outputs_and_targets(network: nn.Module, split: Examples) -> tuple[Tensor, Tensor]:
    """The same, and the targets beside them: one pass over the examples."""
    found = [(as_rows(network(to_network(x, network))).double(), y) for x, y in split.batches(batch_size(split))]
    outputs, targets = (torch.cat(column) for column in zip(*found, strict=True))
    return outputs, targets


def batch_size(split: Examples) -> int:
    """Examples in one pass: `BATCH`, halved while more than `NUMBERS` inputs would go in, but never below `FEWEST`."""
    numbers = sum(tensor.numel() for tensor in tensors_in(split[:1].x))
    size = BATCH
    while size > FEWEST and size * numbers > NUMBERS:
        size //= 2
    return size


def evaluated(split: Examples, outputs: int) -> Examples:
    """The examples that are evaluated: of a language model the first whose outputs fit, else all."""
    first = split[:1].y
    sequences = first.dim() > 1 and not first.is_floating_point()
    return split[: max(2, EVALUATED // (first[0].numel() * outputs))] if sequences else split


def predicted(network: nn.Module, split: Examples, outputs: int) -> tuple[Tensor, Tensor]:
    """Logits (n, outputs) and labels (n,), or real targets (n, outputs), of the likelihood's terms, as `evaluated`."""
    found, y = outputs_and_targets(network, evaluated(split, outputs))
    return that_count(found, y)


def that_count(outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs (n, outputs) and targets of all terms: those of tokens side by side, without what is ignored."""
    if y.is_floating_point():
        return outputs.flatten(0, -2), y
    outputs, y = outputs.flatten(0, -2), y.flatten()
    told = y != IGNORED
    return (outputs, y) if bool(told.all()) else (outputs[told], y[told])


def unsealed_test(data: Data) -> Examples:
    """The test split, for whoever judges."""
    with opened():
        return data.test


def _tested(network: nn.Module, data: Data) -> tuple[Tensor, Tensor]:
    """Outputs and targets of the test examples that are evaluated."""
    outputs, y = outputs_and_targets(network, evaluated(unsealed_test(data), data.outputs))
    if not torch.isfinite(outputs).all():
        raise ArithmeticError("the network's outputs on the test split are not finite; lower the learning rate")
    return outputs, y


def brief(network: nn.Module, data: Data) -> dict[str, float]:
    """The metrics of the dense control: accuracy, NLL and ECE (and average precision), or RMSE and NLL."""
    with evaluating(network), torch.no_grad():
        outputs, y = _tested(network, data)
        if data.likelihood == "gaussian":
            return _gaussian(network, data, outputs, y)
        found = _judged(outputs, y, data)
        return {k: v for k, v in found.items() if k in BRIEF}


def validation_nll(network: nn.Module, data: Data) -> float:
    """Negative log likelihood on the validation split: what hyperparameters may be chosen by."""
    return validated(network, data)["validation_nll"]


def validated(network: nn.Module, data: Data) -> dict[str, float]:
    """Metrics on the validation split, by which variants may be chosen without test data."""
    with evaluating(network), torch.no_grad():
        outputs, y = predicted(network, data.validation, data.outputs)
        if data.likelihood == "gaussian":
            assert data.target_std is not None
            return of_validation(metrics.gaussian(outputs, y, _residual_std(outputs, y), data.target_std))
        return of_validation(DECISIONS[data.likelihood].metrics(outputs, y))


def of_validation(values: Mapping[str, Any]) -> dict[str, float]:
    """The columns that records have of metrics on the validation split."""
    return {f"validation_{name}": values[name] for name in CHOOSING if name in values}


def digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes: equal runs have equal digests."""
    return hashlib.sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()


def _of_decisions(network: nn.Module, data: Data, outputs: Tensor, y: Tensor, shift: bool) -> dict[str, Any]:
    """All metrics of outputs that are logits: of classes, or of labels that hold or not."""
    of = DECISIONS[data.likelihood]
    held_out = predicted(network, data.validation, data.outputs)
    temperature = metrics.fitted_temperature(*held_out, of.nll)
    scaled = _judged(outputs / temperature, y, data)
    with opened():
        ood = data.ood
    foreign, _ = predicted(network, ood, data.outputs)
    return {
        **_judged(outputs, y, data),
        "nll_scaled": scaled["nll"],
        "ece_scaled": scaled["ece"],
        "temperature": temperature,
        "ood_auroc": metrics.ood_auroc(outputs.flatten(0, -2), foreign, of.log_confidence),
        **of_validation(of.metrics(*held_out)),
        **(_under_shift(network, data) if shift else {}),
    }


def _judged(outputs: Tensor, y: Tensor, data: Data) -> dict[str, Any]:
    """Metrics of test outputs (N, C) or (N, T, C); per token for a language model, and how many there were."""
    if outputs.dim() == 2:
        return DECISIONS[data.likelihood].metrics(outputs, y)
    outputs, y = that_count(outputs, y)
    found = metrics.categorical(outputs, y)
    return {**found, **metrics.language_model(found["nll"]), "test_terms": len(y)}


def _under_shift(network: nn.Module, data: Data) -> dict[str, Any]:
    found = {f"{kind}/{severity}": _shifted(network, split, data) for kind, severity, split in _shifted_tests(data)}
    return {
        "shift": found,
        "shift_accuracy": _mean(s["accuracy"] for s in found.values()),
        "shift_ece": _mean(s["ece"] for s in found.values()),
    }


def _gaussian(network: nn.Module, data: Data, outputs: Tensor, y: Tensor) -> dict[str, float]:
    assert data.target_std is not None
    noise = _residual_std(*outputs_and_targets(network, data.validation))
    return metrics.gaussian(outputs, y, noise, data.target_std)


def _residual_std(outputs: Tensor, y: Tensor) -> Tensor:
    return (outputs - y).square().mean(0).sqrt().clamp_min(1e-6)


def _shifted_tests(data: Data) -> Iterable[tuple[str, int, Examples]]:
    """All shifted copies: kept for the next network if they are small, else made one at a time."""
    copies = len(data.shifts) * len(SEVERITIES)
    test = unsealed_test(data)
    small = isinstance(test, Split) and copies * test.x.nbytes <= KEPT_BYTES
    return _kept_copies(data) if small else _made_copies(data)


def _made_copies(data: Data) -> Iterator[tuple[str, int, Examples]]:
    for kind in data.shifts:
        for severity in SEVERITIES:
            with opened():
                split = data.shifted(kind, severity)
            yield kind, severity, split


@lru_cache(maxsize=1)
def _kept_copies(data: Data) -> list[tuple[str, int, Examples]]:
    return list(_made_copies(data))


def _shifted(network: nn.Module, split: Examples, data: Data) -> dict[str, float]:
    values = DECISIONS[data.likelihood].metrics(*predicted(network, split, data.outputs))
    return {"accuracy": values["accuracy"], "ece": values["ece"]}


def _mean(values: Iterator[float]) -> float | None:
    listed = list(values)
    return sum(listed) / len(listed) if listed else None
