"""A callback for Lightning: any registered method in `Trainer.fit`."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    from ...datasets.errors import UsageError

    raise UsageError("LightningPruning needs Lightning: pip install 'bayesprune[lightning]'") from error

from .riding import Riding


class LightningPruning(Callback, Riding):
    """Trains by a method and prunes at the end; `pruned` is then the result.

    >>> trainer = Trainer(callbacks=[bp.LightningPruning("bmrs-u", "auto", structured=True)])   # doctest: +SKIP

    Args:
        method: name of a registered method.
        sparsity: share of the units to remove, in [0, 1), or "auto".
        network: name of the submodule that maps inputs to outputs; the LightningModule itself unless given.
        options: those of `bayesprune.attach`.

    Accumulation, clipping, precision and checkpoints are the trainer's; a checkpoint holds the method's state.
    """

    def __init__(
        self, method: str = "magnitude", sparsity: float | Literal["auto"] = 0.9, network: str = "", **options: Any
    ) -> None:
        Riding.__init__(self, method, sparsity, **options)
        self.path, self._lr = network, 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach, before the optimisers' state is restored."""
        trainer.fit_loop.setup_data()
        network: nn.Module = pl_module.get_submodule(self.path)
        self.begin(network, trainer.train_dataloader)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Gradients are there."""
        self._lr = optimizer.param_groups[0]["lr"]
        self.before_step()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step has been taken, unless batches accumulate."""
        if self._lr:
            self.after_step(self._lr)
            self._lr = 0.0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What the method does after an epoch."""
        self.at_work.after_epoch(self._data(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune."""
        self.end(self._data(trainer))

    def _data(self, trainer: Trainer) -> Any:
        return self.options.get("data", trainer.train_dataloader)

    def state_dict(self) -> dict[str, Any]:
        """The method's part of a checkpoint."""
        return self.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from it."""
        self.load(state_dict)
