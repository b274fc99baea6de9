"""When units leave during training, and how many of them by then."""

from __future__ import annotations

import math

# A given sparsity is reached at the ends of the epochs in this stretch of the whole training.
GRADUAL_SPAN = (0.25, 0.75)


def pruning_span(training: int, finetune: int, decides: bool) -> tuple[int, int]:
    """First and last epoch that pruning may follow, given the epochs of training and of fine-tuning."""
    if decides:
        return 1, training
    epochs = training + finetune
    start, end = (math.ceil(share * epochs) for share in GRADUAL_SPAN)
    return start, max(start, end)


def is_pruned_after(epoch: int, span: tuple[int, int], every: int) -> bool:
    """Whether units leave at the end of an epoch: of every few, counted so that the span's last is among them."""
    start, end = span
    return start <= epoch <= end and (end - epoch) % every == 0


def gradual_share(epoch: int, span: tuple[int, int]) -> float:
    """1 - (1 - t)³, t growing to 1 in equal steps over the span."""
    start, end = span
    return 1 - ((end - epoch) / (end - start + 1)) ** 3
