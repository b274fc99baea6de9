"""Whatever reads a structure carries its noise: as if the structure itself were multiplied by it."""

import copy

import pytest
import torch
from bayesprune.architectures.discovery.units_of import units
from bayesprune.methods.noise.carriers import carriers
from networks import Conv1D
from torch import nn


class Mean(nn.Module):
    """(N, C, ...) to (N, C)."""

    def forward(self, x):
        return x.flatten(2).mean(2)


class Branches(nn.Module):
    """One layer is read by a grouped convolution and by a plain one."""

    def __init__(self):
        super().__init__()
        self.first, self.grouped = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 8, 3, padding=1, groups=2)
        self.plain, self.head = nn.Conv2d(12, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        x = self.first(x).relu()
        return self.head((self.grouped(x) + self.plain(x)).mean((2, 3)))


def chain(first, *others):
    network = nn.Sequential()
    for name, layer in zip(["first", *"bcde"], (first, nn.ReLU(), *others), strict=False):
        network.add_module(name, layer)
    return network


IMAGES, LINES, TOKENS = (5, 3, 6, 6), (5, 3, 9), (5, 7, 3)
NETWORKS = {
    "grouped": (
        lambda: chain(nn.Conv2d(3, 12, 3), nn.Conv2d(12, 8, 3, groups=4, bias=False), Mean(), nn.Linear(8, 4)),
        IMAGES,
    ),
    "grouped, 1 d": (
        lambda: chain(nn.Conv1d(3, 12, 3), nn.Conv1d(12, 6, 3, groups=3, bias=False), Mean(), nn.Linear(6, 4)),
        LINES,
    ),
    "grouped and plain": (Branches, IMAGES),
    "transposed": (lambda: chain(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 2), Mean()), IMAGES),
    "grouped, transposed": (
        lambda: chain(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 2, groups=2, bias=False), Mean(), nn.Linear(4, 3)),
        IMAGES,
    ),
    "held transposed": (lambda: chain(Conv1D(8, 3), Conv1D(4, 8)), TOKENS),
    "linear behind held transposed": (lambda: chain(Conv1D(8, 3), nn.Linear(8, 4)), TOKENS),
}


def scaled(network, parts, noise):
    """A copy whose first layer computes its units, the first group, `noise` times as large; ReLU lets that through."""
    network = copy.deepcopy(network)
    for group, values in zip(parts.groups, parts.split(noise), strict=True):
        for piece in group.slices:
            if piece.name.startswith("first."):
                rows = network.get_parameter(piece.name).data.movedim(piece.axis, 0)
                for index, value in zip(piece.index, values, strict=True):
                    rows[index] *= value
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_noise_is_on_the_structure_itself(name):
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    network, x = make().double().eval(), torch.randn(shape, dtype=torch.float64)
    parts = units(network, "groups", x)
    noise = torch.ones(parts.n, dtype=torch.float64)
    noise[: parts.groups[0].size] += torch.rand(parts.groups[0].size, dtype=torch.float64)
    with torch.no_grad():
        before, expected = network(x), scaled(network, parts, noise)(x)
        found = carriers(network, parts)
        handles = [c.hook(network, lambda _, c=c: c.positions(noise).unsqueeze(0)) for c in found]
        torch.testing.assert_close(network(x), expected)
        for handle in handles:
            handle.remove()
        for carrier in found:
            carrier.fold(network, noise)
        torch.testing.assert_close(network(x), expected)
    assert (expected - before).abs().max() > 1e-4
