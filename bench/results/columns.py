"""The columns of a record, and what may stand in them."""

from __future__ import annotations

import sys
from collections.abc import Container, Mapping
from functools import lru_cache
from types import NoneType
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
LARGEST = sys.float_info.max


def is_number(column: str) -> bool:
    """Whether a column holds numbers."""
    return column in NUMBERS or column.startswith(NUMERIC_PREFIXES)


def misfit(record: Mapping[str, Any]) -> str | None:
    """The first column whose value is of another kind than its column; None if there is none.

    Other columns than a cell's names may be missing or None; numbers are finite. Values are as JSON gives them.
    """
    absent = next((name for name in REQUIRED if record.get(name) is None), None)
    if absent or record["status"] not in STATUS:
        return absent or "status"
    for name, types in _types(tuple(record)):  # of tens of thousands of records: no calls in here
        value = record[name]
        if type(value) not in types or (types is _NUMBER and value is not None and not -LARGEST <= value <= LARGEST):
            return name
    return None


_NUMBER, _TEXT = frozenset({int, float, bool, NoneType}), frozenset({str, NoneType})
_KINDS: tuple[tuple[Container[str], frozenset[type]], ...] = (
    ((*NAMES, *TEXTS), _TEXT),
    (("seed",), frozenset({int})),
    (("sparsity_auto",), frozenset({bool})),
    (MAPPINGS, frozenset({dict, NoneType})),
    (LISTS, frozenset({list, NoneType})),
)


@lru_cache(maxsize=256)
def _types(columns: tuple[str, ...]) -> tuple[tuple[str, frozenset[type]], ...]:
    """What the values of some columns may be; without those that may be anything."""
    return tuple((name, types) for name in columns if (types := _kind(name)))


def _kind(column: str) -> frozenset[type] | None:
    number = _NUMBER if is_number(column) else None
    return next((types for names, types in _KINDS if column in names), number)
