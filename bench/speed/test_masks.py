"""What masks cost beside training: selection among a million weights, and enforcement after a step. Reported."""

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import weight_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.pruning.ranking import keep_count
from bayesprune.bench.pruning.select import select
from bayesprune.datasets.load import load
from bayesprune.methods.laplace.map import MAP
from bayesprune.methods.magnitude import magnitude
from bayesprune.methods.pruner import State
from torch import nn

MILLION = {"widths": (1000, 925)}  # 64 x 1000 + 1000 x 925 + 925 x 10 = 998,250 weights
SPARSITY = 0.9
SIZE = 64


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def million(digits) -> State:
    network = build("mlp", digits.input_shape, digits.outputs, seed=0, **MILLION)
    return State(network, weight_units(network), digits.train, MAP())


def stepped(network: nn.Module, optimizer: torch.optim.Optimizer, x, y) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(network(x), y).backward()
    optimizer.step()


def optimizer_of(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), 1e-3, fused=True)


@pytest.mark.benchmark(group="a million weights")
@pytest.mark.parametrize("allocation", ["global", "layerwise", "erk", "lamp"])
def test_score_select_and_mask(digits, contender, compare, allocation):
    state = million(digits)
    optimizer = optimizer_of(state.network)
    x, y = digits.train.x[:SIZE], digits.train.y[:SIZE]

    def pruned(fresh: State) -> None:
        kept = select(magnitude(fresh), fresh, keep_count(fresh.units.n, SPARSITY), allocation)
        Mask(fresh.units, kept).apply_(fresh.network)

    ours = contender(pruned, lambda: million(digits))
    theirs = contender(lambda _: stepped(state.network, optimizer, x, y))
    compare(f"score, select and mask 1e6 weights / one training step on them, {allocation}", ours, theirs, rounds=7)


@pytest.mark.benchmark(group="enforcement")
@pytest.mark.parametrize("name", ["mlp", "resnet", "vit", "million"])
def test_enforcer_against_the_optimizer_step(digits, contender, compare, name):
    options = MILLION if name == "million" else {}
    network = build("mlp" if options else name, digits.input_shape, digits.outputs, seed=0, **options)
    units = weight_units(network)
    enforce = Mask(units, torch.rand(units.n, generator=torch.Generator().manual_seed(0)) > SPARSITY).enforcer(network)
    optimizer = optimizer_of(network)
    stepped(network, optimizer, digits.train.x[:SIZE], digits.train.y[:SIZE])
    ours, theirs = contender(lambda _: repeated(enforce)), contender(lambda _: repeated(optimizer.step))
    compare(f"enforcing a mask / optimiser step, {name}", ours, theirs, rounds=31)


def repeated(call, times: int = 20) -> None:
    for _ in range(times):
        call()
