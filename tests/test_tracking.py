"""Trackers are told of every cell, by the command and while a run goes on; none of them can spoil a run."""

import importlib.util
from pathlib import Path

import pytest
import yaml
from bayesprune.bench.cli import main
from bayesprune.bench.results.frames import results
from bayesprune.bench.results.store import Store
from bayesprune.reports.tracking import tracking as module
from click.testing import CliRunner

INSTALLED = [name for name in module.TRACKERS if importlib.util.find_spec(name)]
needs = {name: pytest.mark.skipif(name not in INSTALLED, reason=f"{name} is not installed") for name in module.TRACKERS}
MATRIX = {
    "datasets": ["digits"], "architectures": [{"name": "mlp", "widths": [8]}], "methods": ["magnitude"],
    "sparsity": [0.5, 0.9], "seeds": [0], "training": {"epochs": 1}, "finetune": {"epochs": 0},
}  # fmt: skip


def invoke(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of two cells, of which all trackers are told while it goes on, and a third cell that failed."""
    place = tmp_path_factory.mktemp("tracked")
    (place / "tiny.yaml").write_text(yaml.safe_dump(MATRIX))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        trackers = [f"--track={name}" for name in INSTALLED]
        done = invoke("run", place / "tiny.yaml", "--out", place / "r", "--jobs", 1, *trackers)
    assert done.exit_code == 0, done.output
    store = Store(place / "r")
    record = store.records()[0]
    store.write_record({**record, "key": "f" * 64, "seed": 1, "status": "failed", "reason": "it broke",
                        "accuracy": None, "layer_density": None})  # fmt: skip
    return place / "r"


def expected(folder: Path) -> dict[float, float]:
    frame = results(folder)
    frame = frame[frame["status"] == "done"]
    return dict(zip(frame["sparsity_target"], frame["accuracy"], strict=True))


@needs["tensorboard"]
def test_a_run_tells_of_each_cell_as_it_goes_on(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found, hyperparameters = {}, 0
    for place in sorted((folder / "tensorboard").iterdir()):
        events = EventAccumulator(str(place)).Reload()
        found[float(place.name.split("_weights_")[1].split("_")[0])] = events.Scalars("accuracy")[0].value
        assert events.Images("layers")
        hyperparameters += any(name.startswith("_hparams_") for name in events.summary_metadata)
    assert found == pytest.approx(expected(folder), abs=1e-6)
    assert hyperparameters == len(found) == 2


@needs["mlflow"]
def test_mlflow_knows_a_cell_once_however_often_it_is_told(folder, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert invoke("track", "mlflow", folder).exit_code == 0
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("bayesprune").experiment_id])
    done = [run for run in runs if run.info.status == "FINISHED"]
    found = {float(run.data.params["sparsity_target"]): run.data.metrics["accuracy"] for run in done}
    assert found == pytest.approx(expected(folder))
    (failed,) = [run for run in runs if run.info.status == "FAILED"]
    assert failed.data.params["reason"] == "it broke"
    assert "accuracy" not in failed.data.metrics
    assert {run.data.params["run.method.name"] for run in runs} == {"magnitude"}
    assert [item.path for item in client.list_artifacts(done[0].info.run_id)] == ["layers.svg"]


@needs["wandb"]
def test_wandb_writes_a_run_for_each_cell_without_a_network(folder):
    runs = [*(folder / "wandb").glob("offline-run-*")]
    done = [r["key"][:32] for r in Store(folder).records() if r["status"] == "done"]
    assert sorted(path.name.rsplit("-", 1)[1] for path in runs) == sorted(done)
    assert all(any(path.glob("files/media/images/layers*.png")) for path in runs)


@needs["mlflow"]
def test_a_tracker_that_fails_is_warned_of_and_spoils_nothing(folder, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://m")
    assert invoke("track", "mlflow", folder).exit_code == 0
    assert "mlflow is told of no further cell" in capfd.readouterr().err


def test_what_cannot_be_told_is_said_before_anything_runs(tmp_path, monkeypatch):
    done = invoke("run", "smoke", "--out", tmp_path / "r", "--track", "wand")
    assert done.exit_code == 2
    assert "unknown tracker 'wand'; did you mean 'wandb'?" in done.output
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    done = invoke("run", "smoke", "--out", tmp_path / "r", "--track", "mlflow")
    assert "mlflow is not installed: pip install 'bayesprune[mlflow]'" in done.output
    assert not (tmp_path / "r").exists()
