"""What it costs to read examples batch by batch: against those in memory, with a loader that costs nothing."""

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import units
from bayesprune.bench.spec.settings import Training
from bayesprune.bench.training.loop import train
from bayesprune.datasets.data import Split
from bayesprune.datasets.stream import Stream
from bayesprune.methods.build import build as build_method
from bayesprune.methods.curvature import diagonals
from bayesprune.methods.curvature.estimate import curvature_of

BOUND = 1.1
NETWORKS = {
    "mlp": (lambda: build("mlp", (784,), 10, seed=0, widths=(256, 128)), (784,), 4096),
    "lenet5": (lambda: build("lenet5", (1, 28, 28), 10, seed=0), (1, 28, 28), 1024),
    "vit": (lambda: build("vit", (3, 32, 32), 10, seed=0, dim=64, depth=6), (3, 32, 32), 256),
}
BATCH = 256  # as in the other benchmarks of the curvature


class Free:
    """A loader whose batches are there already."""

    def __init__(self, split):
        self.batches = list(zip(split.x.split(BATCH), split.y.split(BATCH), strict=True))

    def __iter__(self):
        return iter(self.batches)


@pytest.fixture
def setting(monkeypatch):
    def make(name):
        torch.manual_seed(0)
        network, shape, count = NETWORKS[name]
        monkeypatch.setattr(diagonals, "BATCH", BATCH)
        split = Split(torch.randn(count, *shape), torch.randint(0, 10, (count,)))
        return network().eval(), split, Stream(Free(split))

    return make


@pytest.mark.benchmark(group="streams, curvature")
@pytest.mark.parametrize("structure", ["diag", "kfac"])
@pytest.mark.parametrize("name", NETWORKS)
def test_curvature_of_a_stream_against_that_of_examples_in_memory(setting, contender, compare, name, structure):
    network, split, stream = setting(name)

    def curvature(data):
        return curvature_of(network, data, structure, "rademacher", torch.Generator().manual_seed(0))

    ratio = compare(
        f"curvature {structure} of a stream / in memory, {name}",
        contender(lambda _: curvature(stream)),
        contender(lambda _: curvature(split)),
        7,
    )
    assert ratio.median <= BOUND


@pytest.mark.benchmark(group="streams, training")
@pytest.mark.parametrize("name", NETWORKS)
def test_training_on_a_stream_against_that_on_examples_in_memory(setting, contender, compare, name):
    network, split, stream = setting(name)
    inference = build_method("magnitude").inference()
    inference.attach(network, units(network, "weights"), split)

    def fit(data):
        train(network, data, inference, Training(epochs=1, batch_size=BATCH), 1, torch.Generator().manual_seed(0))

    ratio = compare(
        f"training on a stream / in memory, {name}",
        contender(lambda _: fit(stream)),
        contender(lambda _: fit(split)),
        7,
    )
    assert ratio.median <= BOUND
