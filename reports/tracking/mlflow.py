"""MLflow; MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME hold, and without them a database in the results folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from .cell import Cell

EXPERIMENT = "bayesprune"
LONGEST = 6000  # characters of a parameter that MLflow takes
FINISHED = {"done": "FINISHED", "failed": "FAILED", "skipped": "KILLED"}


class Tracker:
    """A run for each cell; `mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db` of mlflow shows them."""

    def __init__(self, folder: Path) -> None:
        for library in ("mlflow", "alembic"):  # which tell how they make a database
            logging.getLogger(library).setLevel(logging.WARNING)
        folder = folder.resolve()
        self.client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}")
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        known: Any = self.client.get_experiment_by_name(name)
        own = None if os.environ.get("MLFLOW_TRACKING_URI") else (folder / "mlflow").as_uri()
        self.experiment = known.experiment_id if known else self.client.create_experiment(name, own)

    def log(self, cell: Cell) -> None:
        """One run; an older one of the same cell is deleted."""
        for old in self.client.search_runs([self.experiment], f"tags.cell = '{cell.key}'"):
            self.client.delete_run(old.info.run_id)
        run = self.client.create_run(self.experiment, run_name=cell.name).info.run_id
        metrics = [Metric(name, value, 0, 0) for name, value in cell.metrics.items()]
        params = [Param(name, str(value)[:LONGEST]) for name, value in cell.config.items()]
        tags = [RunTag("cell", cell.key), RunTag("group", cell.group), RunTag("status", cell.status)]
        self.client.log_batch(run, metrics, params, tags)
        if cell.figure is not None:
            self.client.log_figure(run, cell.figure, "layers.svg")
        self.client.set_terminated(run, FINISHED[cell.status])
