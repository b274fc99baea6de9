"""The columns of a record."""

from __future__ import annotations

IDENTITY = (
    "key", "status", "reason", "dataset", "architecture", "method", "units", "sparsity_target", "sparsity_auto",
    "seed", "when", "inference", "criterion", "likelihood", "predictive",
)  # fmt: skip
RESULTS = (
    "sparsity", "kept", "total", "compression", "layer_density", "collapsed", "accuracy", "accuracy_top5", "nll",
    "brier", "ece", "average_precision", "exact_match", "labels", "nll_scaled", "ece_scaled", "temperature", "rmse",
    "ood_auroc", "shift_accuracy", "shift_ece",
    "shift", "bpc", "perplexity", "test_terms", "mc_draws", "mc_accuracy", "mc_nll", "mc_ece", "dense_accuracy",
    "dense_nll", "dense_ece", "dense_average_precision", "dense_rmse", "dense_bpc", "dense_perplexity", "flops_dense",
    "flops_nonzero", "flops_ratio",
    "parameters", "parameters_masked", "parameters_removed", "flops_compact", "bytes_dense", "bytes_compact",
    "certificate",
    "passes_train", "passes_score", "passes_finetune", "mask_digest", "logits_digest",
)  # fmt: skip

SECONDS = (
    "seconds_train", "seconds_score", "seconds_finetune", "speedup_masked", "speedup_masked_low",
    "speedup_masked_high", "speedup_compact", "speedup_compact_low", "speedup_compact_high",
)  # fmt: skip
COSTS = (
    "peak_bytes_train", "peak_bytes_score", "peak_bytes_finetune", "started", "device", "version_bayesprune",
    "version_torch", "version_python", "git_revision", "host_cpu", "threads",
)  # fmt: skip
NUMERIC_PREFIXES = (
    "accuracy", "nll", "ece", "mc_", "dense_", "shift_", "seconds_", "flops_", "passes_", "peak_bytes_",
    "parameters", "bytes_", "speedup_", "certificate",
)  # fmt: skip
NUMBERS = (
    "sparsity", "sparsity_target", "kept", "total", "compression", "brier", "average_precision", "exact_match", "rmse",
    "ood_auroc", "temperature", "bpc", "perplexity", "test_terms",
)  # fmt: skip
ORDER = ("dataset", "architecture", "units", "method", "sparsity_target", "seed", "key")
