"""Which matrices make which tier of the reference results, in the order in which they are computed."""

from __future__ import annotations

TIERS = {
    "mission": ("mission",),
    "core": (
        "reference-core-weights",
        "reference-core-groups",
        "reference-core-variational",
    ),
    "real": (
        "reference-real-perceptron",
        "reference-real-lenet5",
        "reference-real-cifar",
        "reference-real-uci",
        "reference-real-variational",
        "reference-real-groups",
    ),
    "given": ("reference-given", "reference-given-resnet"),
    "questions": (
        "question-ratios",
        "question-decay",
        "question-decay-retrained",
        "question-calibration-short",
        "question-calibration-short-retrained",
        "question-calibration-long",
        "question-calibration-long-retrained",
        "question-posterior-scores",
        "question-cost",
        "question-own-sparsities",
    ),
}
