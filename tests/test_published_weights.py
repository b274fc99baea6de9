"""Oracle (h): dense networks that others trained, pruned without any training."""

from pathlib import Path

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import units
from bayesprune.bench.pruning.engine import Engine
from bayesprune.bench.pruning.schedules import prune
from bayesprune.bench.spec.settings import Finetune, Training
from bayesprune.datasets.files import data_root
from bayesprune.datasets.load import load
from bayesprune.methods.build import build as build_pruner

WEIGHTS = "published_weights/mlpnet_mnist.npz"

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not (Path(data_root()) / WEIGHTS).is_file(), reason="the published weights are not there"),
]


@pytest.fixture(scope="module")
def data():
    return load("mnist", 0, scaling=(0.1307, 0.3081))


def accuracy(data, sparsity, granularity="weights", seed=0, **options):
    network = build("mlp", data.input_shape, 10, seed=0, widths=(40, 20), bias=False, weights=WEIGHTS)
    pruner = build_pruner("obs", **options)

    def start():
        copy = build("mlp", data.input_shape, 10, seed=0, widths=(40, 20), bias=False, weights=WEIGHTS)
        return copy, pruner.inference()

    parts = units(network, granularity)
    engine = Engine(
        pruner, parts, data.train, torch.device("cpu"), start, seed, training=Training(epochs=0), finetune=Finetune(epochs=0)
    )  # fmt: skip
    pruned = prune(engine, sparsity).network.eval()
    return 100 * float((pruned(data.test.x).argmax(1) == data.test.y).double().mean())


@pytest.mark.slow
@pytest.mark.parametrize(("sparsity", "least"), [(0.8, 93.7), (0.9, 93.4), (0.95, 92.6), (0.98, 88.0)])
def test_conditioning_in_rounds_keeps_what_one_shot_loses(data, sparsity, least):
    assert accuracy(data, sparsity) >= least


@pytest.mark.slow
def test_half_of_the_hidden_neurons_can_leave(data):
    assert accuracy(data, 0.5, "groups", rounds=30) >= 92.0


def test_the_authors_rule_is_reproduced(data):
    """Summed single moves on rows of 100 examples, one round, 95 %: their own log says 84.18."""
    rows = {"curvature": "lowrank", "kind": "ef", "examples": 100, "prior": None, "precision": 1e-5 * 54_000}
    kept = accuracy(data, 0.95, rounds=1, update="singles", allocation="layerwise", **rows)
    zeroed = accuracy(data, 0.95, rounds=1, update="none", allocation="layerwise", **rows)
    assert kept > zeroed
