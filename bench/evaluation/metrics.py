"""Metrics of predictions: pure functions of logits (N, C) and labels (N,), float64.

Where labels are probabilities of the classes, (N, C), accuracy and calibration are against the most probable class.
Accuracy, negative log likelihood in nats, multi-class Brier score, expected calibration error, temperature
scaling, and the area under the ROC curve of detecting out-of-distribution inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from ..spec.metrics import register
from .auroc import auroc

ECE_BINS = 15
LARGEST_EXPONENT = 700.0  # a perplexity beyond is no finite number


def categorical(logits: Tensor, y: Tensor) -> dict[str, float]:
    """Accuracy (top-1, and top-5 where there are more than five classes), NLL, Brier score and ECE."""
    probabilities = logits.softmax(1)
    return {
        "accuracy": top_k_accuracy(logits, y, 1),
        **({"accuracy_top5": top_k_accuracy(logits, y, 5)} if logits.shape[1] > 5 else {}),
        "nll": negative_log_likelihood(logits, y),
        "brier": brier(probabilities, y),
        "ece": expected_calibration_error(probabilities, y),
    }


@register("language_model")
def language_model(nll: float) -> dict[str, float]:
    """Bits per token (per character in a model of characters), and perplexity, of a mean NLL in nats."""
    return {"bpc": nll / math.log(2), "perplexity": math.exp(min(nll, LARGEST_EXPONENT))}


@register("accuracy")
def top_k_accuracy(logits: Tensor, y: Tensor, k: int) -> float:
    """Share of examples whose label is among the k largest logits."""
    return (logits.topk(k, 1).indices == _labels(y).unsqueeze(1)).any(1).double().mean().item()


@register("nll")
def negative_log_likelihood(logits: Tensor, y: Tensor) -> float:
    """Mean of -log p(label), in nats."""
    return torch.nn.functional.cross_entropy(logits, y.to(logits) if y.is_floating_point() else y).item()


@register("brier")
def brier(probabilities: Tensor, y: Tensor) -> float:
    """Mean squared distance between the predicted distribution and the label's, summed over classes; in [0, 2]."""
    truth = y if y.is_floating_point() else torch.nn.functional.one_hot(y, probabilities.shape[1])
    return (probabilities - truth).square().sum(1).mean().item()


def _labels(y: Tensor) -> Tensor:
    return y.argmax(1) if y.is_floating_point() else y


@register("ece")
def expected_calibration_error(probabilities: Tensor, y: Tensor, bins: int = ECE_BINS) -> float:
    """Mean |accuracy - confidence| over equal-width bins of the top probability, weighted by their share.

    Guo et al., "On calibration of modern neural networks", ICML 2017, equation 3.
    """
    confidence, predicted = probabilities.max(1)
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64, device=y.device)
    gaps.index_add_(0, bin_of, (predicted == _labels(y)).double() - confidence.double())
    return (gaps.abs().sum() / len(y)).item()


@register("temperature")
def fitted_temperature(
    logits: Tensor, y: Tensor, nll: Callable[[Tensor, Tensor], float] = negative_log_likelihood
) -> float:
    """The temperature T in [0.05, 20] that minimises the NLL of logits / T; fit it on validation data only."""
    result = minimize_scalar(
        lambda log_t: nll(logits / math.exp(log_t), y),
        bounds=(math.log(0.05), math.log(20)),
        method="bounded",
    )
    return float(math.exp(result.x))  # pyright: ignore[reportAttributeAccessIssue]


def log_confidence(logits: Tensor) -> Tensor:
    """Log probability of the most probable class of each example: (N,)."""
    return logits.log_softmax(1).max(1).values


@register("ood_auroc")
def ood_auroc(logits: Tensor, logits_ood: Tensor, confidence: Callable[[Tensor], Tensor] = log_confidence) -> float:
    """Probability that an in-distribution input has a larger top probability than an out-of-distribution one."""
    return auroc(confidence(logits), confidence(logits_ood))


@register("gaussian")
def gaussian(outputs: Tensor, y: Tensor, noise: Tensor, scale: Tensor) -> dict[str, float]:
    """RMSE and NLL in the targets' own units.

    Args:
        outputs, y: standardised predictions and targets, shape (N, K).
        noise: standard deviation of the standardised residuals, (K,), estimated on validation data.
        scale: standard deviation of the targets, (K,).
    """
    residual = (outputs - y) * scale
    deviation = noise * scale
    log_density = -0.5 * (residual / deviation).square() - deviation.log() - 0.5 * math.log(2 * math.pi)
    return {"rmse": residual.square().mean().sqrt().item(), "nll": -log_density.sum(1).mean().item()}
