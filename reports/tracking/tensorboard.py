"""TensorBoard: event files in the results folder, with the table of hyperparameters."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from .cell import Cell


class Tracker:
    """Writes `tensorboard/CELL/`; look at it with `tensorboard --logdir FOLDER/tensorboard`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tensorboard"

    def log(self, cell: Cell) -> None:
        """A folder of events."""
        place = self.folder / f"{re.sub(r'[^A-Za-z0-9_.=-]+', '_', cell.name)[:100]}_{cell.key[:8]}"
        shutil.rmtree(place, ignore_errors=True)
        with SummaryWriter(str(place)) as writer:
            for name, value in cell.metrics.items():
                writer.add_scalar(name, value, 0)
            if cell.figure is not None:
                writer.add_figure("layers", cell.figure, 0)
            metrics = {f"cell/{name}": value for name, value in cell.metrics.items()}
            writer.add_hparams(dict(cell.config), metrics, run_name=".")
