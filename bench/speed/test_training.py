"""What the harness's training loop adds to the loop that anyone would write by hand: at most 5 %."""

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import weight_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.spec.settings import Training
from bayesprune.bench.training.loop import train
from bayesprune.datasets.data import Split
from bayesprune.datasets.load import load
from bayesprune.methods.laplace.map import MAP
from torch import nn

BOUND = 1.05
SETTINGS = Training(batch_size=64)
PRECISION = 1.0
# Short runs in many pairs: the load of a shared machine changes between runs, not inside a pair.
SIZES = {"mlp": (2, 101), "lenet5": (1, 61), "resnet": (1, 21), "vit": (1, 21)}  # epochs of a run, pairs


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def bare(network: nn.Module, split: Split, epochs: int) -> None:
    """The loop without a harness: Adam, L2 penalty by its weight decay, shuffled batches in memory."""
    decay = PRECISION / len(split)
    optimizer = torch.optim.Adam(network.parameters(), SETTINGS.lr, weight_decay=decay, fused=True)
    generator = torch.Generator().manual_seed(0)
    network.train()
    for _ in range(epochs):
        for x, y in split.batches(SETTINGS.batch_size, generator):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()


def harnessed(network: nn.Module, split: Split, epochs: int, mask: Mask | None = None) -> None:
    """The same training by the harness."""
    train(network, split, MAP(PRECISION), SETTINGS, epochs, torch.Generator().manual_seed(0), mask)


def fresh(digits, name: str) -> nn.Module:
    return build(name, digits.input_shape, digits.outputs, seed=0)


@pytest.mark.parametrize("name", SIZES)
def test_both_loops_train_the_same_network(digits, name):
    split = Split(digits.train.x[:160].double(), digits.train.y[:160])
    ours, theirs = fresh(digits, name).double(), fresh(digits, name).double()
    harnessed(ours, split, 2)
    bare(theirs, split, 2)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.benchmark(group="training loop")
@pytest.mark.parametrize("name", SIZES)
def test_harness_costs_at_most_5_percent(digits, contender, compare, name):
    epochs, rounds = SIZES[name]
    ours = contender(lambda net: harnessed(net, digits.train, epochs), lambda: fresh(digits, name))
    theirs = contender(lambda net: bare(net, digits.train, epochs), lambda: fresh(digits, name))
    ratio = compare(f"train() / bare loop, {name}", ours, theirs, rounds)
    assert ratio.median <= BOUND, f"train() takes {ratio} times what the bare loop takes on {name}, at most {BOUND}"


@pytest.mark.benchmark(group="training loop, 90 % masked")
@pytest.mark.parametrize("name", SIZES)
def test_training_under_a_mask(digits, contender, compare, name):
    """Reported, without a bound: the mask is enforced after every step."""
    epochs, rounds = SIZES[name]
    units = weight_units(fresh(digits, name))
    mask = Mask(units, torch.rand(units.n, generator=torch.Generator().manual_seed(0)) > 0.9)
    ours = contender(lambda net: harnessed(net, digits.train, epochs, mask), lambda: fresh(digits, name))
    theirs = contender(lambda net: bare(net, digits.train, epochs), lambda: fresh(digits, name))
    compare(f"train() under a 90 % mask / bare loop without one, {name}", ours, theirs, rounds // 2)
