"""A matrix that shares its trained networks against one that trains a network for every cell: at least 4x."""

import itertools
import time
from pathlib import Path

import pytest
from bayesprune.bench.harness import run_matrix as harness
from bayesprune.bench.results.frames import results
from bayesprune.bench.spec.matrix import Matrix
from bayesprune.bench.spec.settings import Finetune, Training

BOUND = 4.0
SPARSITY = [0.5, 0.75, 0.9, 0.95, 0.98, 0.99]
POST_HOC = [
    "magnitude",
    "lamp",
    "random",
    {"name": "random", "like": "magnitude"},
    {"name": "magnitude", "allocation": "layerwise"},
    {"name": "magnitude", "allocation": "erk"},
]
EPOCHS, FINETUNE = 30, 2


def matrix(methods: list, sparsity: list[float], epochs: int = EPOCHS) -> Matrix:
    return Matrix.model_validate({
        "datasets": ["digits"],
        "architectures": [{"name": "resnet", "depth": 8, "width": 8}],
        "methods": methods,
        "sparsity": sparsity,
        "seeds": [0],
        "training": Training(epochs=epochs, lr=2e-3),
        "finetune": Finetune(epochs=FINETUNE),
    })  # fmt: skip


def timed(folder: Path, content: Matrix) -> float:
    """Wall seconds of running a matrix in one process; every cell must have been done."""
    start = time.perf_counter()
    harness.run(content, folder, jobs=1)
    seconds = time.perf_counter() - start
    frame = results(folder)
    assert set(frame["status"]) == {"done"}, frame["reason"].tolist()
    assert len(list((folder / "fits").iterdir())) == 1
    return seconds


@pytest.mark.benchmark(group="matrix")
def test_shared_training_is_at_least_4_times_faster(tmp_path, benchmark, note):
    """6 criteria x 6 sparsities at once, against 6 of the 36 cells (one per criterion, at six sparsities), each
    in a fresh folder so that it trains its own network; their seconds are scaled by 36/6."""
    timed(tmp_path / "warm-up", matrix(["magnitude"], [0.5], epochs=1))
    alone: list[float] = []
    together: list[float] = []
    cells = list(zip(POST_HOC, SPARSITY, strict=True))

    def single(part: slice) -> None:
        for i, (method, sparsity) in itertools.islice(enumerate(cells), part.start, part.stop):
            alone.append(timed(tmp_path / f"cell-{i}", matrix([method], [sparsity])))

    def shared() -> None:
        single(slice(0, 3))  # half before and half after, so that a drift of the machine's load cancels
        together.append(timed(tmp_path / "shared", matrix(POST_HOC, SPARSITY)))
        single(slice(3, 6))

    benchmark.pedantic(shared, rounds=1)
    every_cell = sum(alone) * len(POST_HOC) * len(SPARSITY) / len(alone)
    ratio = every_cell / together[0]
    note(
        f"36 cells that each train their own network / one matrix that shares it, resnet: {ratio:.2f} "
        f"({every_cell:.0f} s, scaled from {len(alone)} cells, against {together[0]:.1f} s)",
        ratio=ratio, shared_seconds=together[0], alone_seconds_scaled=every_cell,
    )  # fmt: skip
    assert ratio >= BOUND, (
        f"sharing trained networks makes the matrix {ratio:.2f} times faster, at least {BOUND} wanted"
    )
