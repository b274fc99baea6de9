"""BatchNorm under noise: statistics belong to the weights that they are used with, of means and of each draw."""

import copy

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import weight_units
from bayesprune.architectures.running.batch_norm import reestimate_batch_norm
from bayesprune.bench.evaluation import metrics
from bayesprune.bench.evaluation.evaluate import brief
from bayesprune.bench.evaluation.monte_carlo import EXAMPLES, monte_carlo
from bayesprune.bench.spec.settings import Training
from bayesprune.bench.training.loop import train
from bayesprune.datasets.load import load
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.horseshoe import Horseshoe
from bayesprune.methods.laplace.map import MAP
from bayesprune.methods.mean_field import MeanField
from bayesprune.methods.variational.student import StudentT
from torch import nn

SETTINGS = Training(batch_size=50, lr=1e-2)
NOISY = {
    "mean field": lambda: MeanField(start=-2.0),
    "one scale per layer": lambda: StudentT(draws="minibatch"),
    "horseshoe": Horseshoe,
    "variational dropout": lambda: build_pruner("variational-dropout", start=-1.0).inference(),
    "gates": lambda: build_pruner("pip-gates").inference(),
    "group dropout": lambda: build_pruner("group-variational-dropout").inference(),
    "multiplicative": lambda: build_pruner("bmrs-n").inference(),
}


@pytest.fixture(scope="module")
def digits():
    return load("digits", 0, subset=300)


def network_of(data):
    return build("resnet", data.input_shape, data.outputs, seed=0, depth=8, width=4)


def trained(inference, data, epochs=2):
    """A small residual network with its inference, still attached."""
    network = network_of(data)
    torch.manual_seed(0)
    inference.attach(network, weight_units(network), data.train)
    train(network, data.train, inference, SETTINGS, epochs, torch.Generator().manual_seed(0))
    return network


def norms(network):
    return {name: m for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}


def batch_statistics(network, split):
    """Mean and variance of what reaches each BatchNorm in training mode, averaged over batches: by their own sums."""
    found, replica = {name: [] for name in norms(network)}, copy.deepcopy(network).train()
    for name, module in norms(replica).items():
        module.register_forward_hook(lambda m, inputs, _, name=name: found[name].append(inputs[0].detach().double()))
    for x, _ in split.batches(SETTINGS.batch_size):
        replica(x)
    means = {name: torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0) for name, seen in found.items()}
    spreads = {name: torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0) for name, seen in found.items()}
    return means, spreads


@pytest.mark.parametrize("make", NOISY.values(), ids=NOISY)
def test_statistics_of_a_detached_network_are_those_of_its_own_weights(make, digits):
    inference = make()
    network = trained(inference, digits)
    inference.detach(network)
    means, spreads = batch_statistics(network, digits.train)
    for name, module in norms(network).items():
        torch.testing.assert_close(module.running_mean.double(), means[name], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(module.running_var.double(), spreads[name], rtol=1e-3, atol=1e-6)


def test_without_noise_statistics_are_those_of_training(digits):
    network = trained(MAP(), digits)
    steps = 2 * len(digits.train.batch_sizes(SETTINGS.batch_size))
    assert all(int(module.num_batches_tracked) == steps for module in norms(network).values())


def test_no_training_leaves_statistics_alone(digits):
    network, inference = network_of(digits), Horseshoe()
    inference.attach(network, weight_units(network), digits.train)
    before = copy.deepcopy(network.state_dict())
    train(network, digits.train, inference, SETTINGS, 0, torch.Generator())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_the_network_of_means_predicts_as_well_as_with_statistics_of_the_batch(digits):
    inference = StudentT()
    network = trained(inference, digits, epochs=10)
    inference.detach(network)
    plug_in = brief(network, digits)
    with torch.no_grad():
        outputs = copy.deepcopy(network).train()(digits.test.x)
    batch = metrics.categorical(outputs.double(), digits.test.y)
    assert plug_in["accuracy"] > batch["accuracy"] - 0.03
    assert plug_in["nll"] < 1.05 * batch["nll"]


# ------------------------------------------------------------------ draws


class Rescaled(MAP):
    """Draws of the first weight on another scale, to which BatchNorm makes the network blind."""

    def sample(self, network, generator):
        return {"stem.weight": network.stem.weight.detach() * (0.2 + 3 * torch.rand((), generator=generator))}


def test_every_draw_has_its_own_statistics(digits):
    network = trained(MAP(), digits)
    reestimate_batch_norm(network, [digits.train.x[:EXAMPLES]])
    before = copy.deepcopy(network.state_dict())
    drawn = monte_carlo(network, Rescaled(), digits, torch.Generator().manual_seed(0), 5)
    plug_in = brief(network, digits)
    for name in ("accuracy", "nll", "ece"):
        assert drawn[f"mc_{name}"] == pytest.approx(plug_in[name], abs=1e-3)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
