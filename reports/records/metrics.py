"""What each number of a record means: its name on an axis, its direction, its unit. The one place that says so."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One quality of a network on held-out data.

    `label` stands on axes and in column heads; `scale` and `digits` turn a stored value into text;
    `logarithmic` allows a log axis where the values span more than a factor of twenty.
    """

    name: str
    label: str
    higher_is_better: bool
    scale: float = 1.0
    digits: int = 3
    logarithmic: bool = False

    @property
    def dense_column(self) -> str:
        """The record column that holds this metric of the unpruned network, where records have one."""
        return f"dense_{self.name}"

    @property
    def sign(self) -> float:
        """+1 if more is better, -1 if less is: `sign * value` is always better when larger."""
        return 1.0 if self.higher_is_better else -1.0

    @property
    def direction(self) -> str:
        """In words, for captions."""
        return "higher is better" if self.higher_is_better else "lower is better"

    def number(self, value: float) -> str:
        """The value as text, without its unit; an en dash where there is none."""
        return f"{self.scale * value:.{self.digits}f}" if math.isfinite(value) else "–"


_ALL = (
    Metric("accuracy", "accuracy (%)", True, 100.0, 1),
    Metric("accuracy_top5", "top-5 accuracy (%)", True, 100.0, 1),
    Metric("nll", "negative log likelihood (nats)", False, logarithmic=True),
    Metric("brier", "Brier score", False),
    Metric("ece", "expected calibration error (%)", False, 100.0, 1),
    Metric("average_precision", "mean average precision", True),
    Metric("exact_match", "examples with all labels right (%)", True, 100.0, 1),
    Metric("nll_scaled", "NLL after temperature scaling (nats)", False, logarithmic=True),
    Metric("ece_scaled", "ECE after temperature scaling (%)", False, 100.0, 1),
    Metric("bpc", "bits per character", False),
    Metric("perplexity", "perplexity", False, digits=1, logarithmic=True),
    Metric("mc_accuracy", "accuracy of averaged draws (%)", True, 100.0, 1),
    Metric("mc_nll", "NLL of averaged draws (nats)", False, logarithmic=True),
    Metric("mc_ece", "ECE of averaged draws (%)", False, 100.0, 1),
    Metric("risk_bound", "certified risk, PAC-Bayes (%)", False, 100.0, 1),
    Metric("bits_per_weight", "bits of a kept weight", False, digits=1),
    Metric("bits_compression", "bits before over bits after", True, digits=1, logarithmic=True),
    Metric("bits_accuracy", "accuracy of rounded weights (%)", True, 100.0, 1),
    Metric("laplace_evidence", "log evidence (nats)", True, digits=1),
    Metric("rmse", "root mean squared error", False, logarithmic=True),
    Metric("ood_auroc", "out-of-distribution AUROC", True),
    Metric("shift_accuracy", "accuracy under shift (%)", True, 100.0, 1),
    Metric("shift_ece", "ECE under shift (%)", False, 100.0, 1),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}

REMOVED_GROUPS = Metric("sparsity", "groups removed (%)", True, 100.0, 1)
MASKED = Metric("parameters_masked_share", "parameters masked (%)", True, 100.0, 1)
REMOVED_PARAMETERS = Metric("parameters_removed_share", "parameters removed (%)", True, 100.0, 1)
REMOVED_FLOPS = Metric("flops_removed", "FLOPs removed (%)", True, 100.0, 1)
COMPACT_FLOPS = Metric("flops_left", "FLOPs left (%)", False, 100.0, 1)
COMPACT_BYTES = Metric("bytes_left", "bytes left (%)", False, 100.0, 1)
PRIMARY = ("bpc", "rmse", "accuracy")
"""The metrics by which networks are ranked: the first of them that records have."""

QUALITY = "accuracy (gaussian data: RMSE; language models: bits per character)"
"""The primary metric in the words of captions."""

RELATIVE = {"accuracy": "accuracy", "rmse": "dense RMSE / RMSE", "bpc": "dense bits / bits per character"}
"""What quality relative to the dense network means, by primary metric."""

LESS_IS_BETTER = f"gaussian data: {RELATIVE['rmse']}; language models: {RELATIVE['bpc']}"
