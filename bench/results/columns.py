"""The columns of a record, and what may stand in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from functools import lru_cache
from typing import Any

IDENTITY = (
    "key", "status", "reason", "dataset", "architecture", "method", "units", "sparsity_target", "sparsity_auto",
    "seed", "when", "inference", "criterion", "likelihood", "predictive",
    "revisions", "protocol",
)  # fmt: skip
RESULTS = (
    "sparsity", "kept", "total", "compression", "layer_density", "collapsed", "accuracy", "accuracy_top5", "nll",
    "brier", "ece", "average_precision", "exact_match", "labels", "nll_scaled", "ece_scaled", "temperature", "rmse",
    "ood_auroc", "shift_accuracy", "shift_ece",
    "shift", "validation_accuracy", "validation_nll", "validation_rmse", "bpc", "perplexity", "test_terms", "mc_draws",
    "mc_accuracy", "mc_nll", "mc_ece", "risk_bound", "risk_bound_empirical", "risk_bound_kl", "risk_bound_mask",
    "risk_bound_temper", "risk_bound_n", "risk_bound_draws", "risk_bound_test", "bits_per_weight", "bits_compression",
    "bits_accuracy", "bits_nll", "bits_rmse", "laplace_evidence", "dense_accuracy",
    "dense_nll", "dense_ece", "dense_average_precision",
    "dense_rmse", "dense_bpc", "dense_perplexity", "dense_validation_accuracy", "dense_validation_nll",
    "dense_validation_rmse", "flops_dense", "flops_nonzero", "flops_ratio",
    "parameters", "parameters_masked", "parameters_removed", "flops_compact", "bytes_dense", "bytes_compact",
    "certificate",
    "passes_train", "passes_score", "passes_finetune", "epochs_train", "epochs_finetune", "epochs_held", "tuned",
    "unfinished", "mask_digest", "logits_digest",
)  # fmt: skip

SECONDS = (
    "seconds_train", "seconds_score", "seconds_finetune", "speedup_masked", "speedup_masked_low",
    "speedup_masked_high", "speedup_compact", "speedup_compact_low", "speedup_compact_high",
)  # fmt: skip
COSTS = (
    "peak_bytes_train", "peak_bytes_score", "peak_bytes_finetune", "started", "device", "version_bayesprune",
    "version_torch", "version_python", "git_revision", "host_cpu", "host_cores", "host_workers", "threads",
    "fit_device", "fit_host_cpu",
)  # fmt: skip
NUMERIC_PREFIXES = (
    "accuracy", "nll", "ece", "mc_", "dense_", "validation_", "epochs_", "shift_", "seconds_", "flops_", "passes_",
    "peak_bytes_", "parameters", "bytes_", "speedup_", "certificate", "risk_bound", "bits_",
)  # fmt: skip
NUMBERS = (
    "sparsity", "sparsity_target", "kept", "total", "compression", "brier", "average_precision", "exact_match", "rmse",
    "ood_auroc", "temperature", "bpc", "perplexity", "test_terms", "host_cores", "host_workers", "laplace_evidence",
)  # fmt: skip
ORDER = ("dataset", "architecture", "units", "method", "sparsity_target", "seed", "key")
STATUS = ("done", "failed", "skipped")
NAMES = ("key", "dataset", "architecture", "method", "units")
REQUIRED = (*NAMES, "status", "seed", "sparsity_auto")
TEXTS = (
    "reason", "traceback", "when", "inference", "criterion", "likelihood", "predictive", "started", "device",
    "dataset_digest", "logits_digest", "mask_digest", "version_bayesprune", "version_torch", "version_python",
    "git_revision", "host_cpu", "fit_device", "fit_host_cpu", "unfinished",
)  # fmt: skip
MAPPINGS = ("revisions", "tuned", "layer_density", "shift", "learned", "latency", "run")
LISTS = ("reports", "adjustments", "collapsed")


def is_number(column: str) -> bool:
    """Whether a column holds numbers."""
    return column in NUMBERS or column.startswith(NUMERIC_PREFIXES)


def misfit(record: Mapping[str, Any]) -> str | None:
    """The first column whose value is of another kind than its column; None if there is none.

    Other columns than a cell's names may be missing or None.
    """
    absent = next((name for name in REQUIRED if record.get(name) is None), None)
    return absent or next((name for name, value in record.items() if not _fits(name, value)), None)


def _fits(column: str, value: Any) -> bool:
    check = _check(column)
    return value is None or check is None or check(value)


@lru_cache(maxsize=1024)
def _check(column: str) -> Callable[[Any], bool] | None:
    """What a value of the column must be; None where it may be anything."""
    kinds: tuple[tuple[Container[str], Callable[[Any], bool]], ...] = (
        ((*NAMES, *TEXTS), lambda value: isinstance(value, str)),
        (("status",), lambda value: value in STATUS),
        (("seed",), lambda value: type(value) is int),
        (("sparsity_auto",), lambda value: type(value) is bool),
        (MAPPINGS, lambda value: isinstance(value, dict)),
        (LISTS, lambda value: isinstance(value, list)),
    )
    found = next((check for names, check in kinds if column in names), None)
    return found or (_is_finite if is_number(column) else None)


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # a whole number that is larger than every float
        return False
