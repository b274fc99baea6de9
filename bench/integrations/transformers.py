"""A callback for Hugging Face's Trainer: any registered method in `Trainer.train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from ...datasets.errors import UsageError

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise UsageError("TrainerPruning needs transformers: pip install 'bayesprune[transformers]'") from error

from .riding import Riding

FILE = "bayesprune.pt"


class TrainerPruning(TrainerCallback, Riding):
    """Trains by a method and prunes at the end; `pruned` is then the result.

    >>> trainer = Trainer(model, args, callbacks=[bp.TrainerPruning("spam-opd", 0.5)], ...)   # doctest: +SKIP

    Args:
        method: name of a registered method.
        sparsity: share of the units to remove, in [0, 1), or "auto".
        options: those of `bayesprune.attach`.

    Accumulation, clipping, precision and checkpoints are the trainer's; the method's state lies beside them.
    """

    def __init__(self, method: str = "magnitude", sparsity: float | Literal["auto"] = 0.9, **options: Any) -> None:
        Riding.__init__(self, method, sparsity, **options)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Attach; a training that is resumed finds the method's state beside the checkpoint."""
        path = Path(args.output_dir or "") / f"checkpoint-{state.global_step}" / FILE
        if state.global_step and path.is_file():
            self.load(torch.load(path, weights_only=True))
        self.begin(given["model"], given["train_dataloader"])

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Gradients are there."""
        self.before_step()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """A step has been taken."""
        self.after_step(given["optimizer"].param_groups[0]["lr"])

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """What the method does after an epoch."""
        self.at_work.after_epoch(self.options.get("data", given["train_dataloader"]))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """The method's part of a checkpoint."""
        torch.save(self.state(), Path(args.output_dir or "") / f"checkpoint-{state.global_step}" / FILE)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Prune."""
        self.end(self.options.get("data", given["train_dataloader"]))
