"""Weights & Biases; WANDB_PROJECT, WANDB_MODE=offline and the rest of its variables hold."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib.pyplot  # noqa: F401  (wandb takes figures only where somebody has imported it)
import wandb

from .cell import Cell

PROJECT = "bayesprune"


class Tracker:
    """A run for each cell, its id the cell's key; offline runs go into the results folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def log(self, cell: Cell) -> None:
        """One run, in the group of all its seeds."""
        with wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), dir=self.folder, id=cell.key[:32], resume="allow",
            name=cell.name, group=cell.group[:128], config=dict(cell.config), tags=[cell.status],
            reinit="create_new", settings=wandb.Settings(silent=True, console="off"),
        ) as run:  # fmt: skip
            figure = {} if cell.figure is None else {"layers": wandb.Image(cell.figure)}
            run.log({**cell.metrics, **figure})
