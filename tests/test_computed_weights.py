"""Layers that standardise their weights: rows leave as they are, columns once the weights are settled."""

import copy

import pytest
import timm
import torch
from bayesprune.architectures.compaction.certificate import certify
from bayesprune.architectures.compaction.compact import compact
from bayesprune.architectures.discovery.units_of import group_units, left_out
from bayesprune.architectures.layers.settled import computed_weight, settle_
from bayesprune.architectures.saved import bundle
from bayesprune.architectures.units.mask import Mask
from bayesprune.datasets.errors import UsageError
from torch import nn
from torch.nn import functional as F


class Standardised(nn.Conv2d):
    """Rows of zero mean and unit spread, by one's own arithmetic."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-5).sqrt()
        return self._conv_forward(x, weight, self.bias)


class Unit(nn.Linear):
    """Rows of unit length: a sum, to which zeros add nothing."""

    def forward(self, x):
        return F.linear(x, F.normalize(self.weight, dim=1), self.bias)


class Padded(Standardised):
    """Does more than apply its weights."""

    def forward(self, x):
        return super().forward(F.pad(x, (1, 1, 1, 1)))


def network_of(kind, activation=nn.SiLU):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), activation(), kind(8, 10, 3), activation(), kind(10, 6, 1), activation()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def half(owner):
    kept = torch.rand(owner.n, generator=torch.Generator().manual_seed(3)) < 0.5
    for part in owner.split(kept):
        part[0], part[-1] = True, False
    return Mask(owner, kept)


IMAGES = torch.randn(6, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
KINDS = [Standardised, timm.layers.StdConv2d, timm.layers.ScaledStdConv2d]


@pytest.mark.parametrize("kind", KINDS)
def test_standardised_layers_lose_rows_and_columns_exactly(kind, tmp_path):
    network = network_of(kind)
    owner = group_units(network, IMAGES)
    assert owner.layer_sizes == (8, 10, 6)
    mask = half(owner)
    small = compact(network, mask, IMAGES)
    dense, masked = copy.deepcopy(network), network
    mask.apply_(masked)
    assert certify(masked, small, IMAGES).difference < 1e-13
    assert [type(small[i]) for i in (0, 2, 4)] == [nn.Conv2d] * 3
    assert sum(p.numel() for p in small.parameters()) < 0.6 * sum(p.numel() for p in masked.parameters())
    bundle.save(tmp_path / "small.safetensors", small, dense=dense)
    again = bundle.load(tmp_path / "small.safetensors", dense)
    assert torch.equal(again(IMAGES), small(IMAGES))
    assert type(dense[2]) is kind
    smaller = compact(small, half(group_units(small, IMAGES)))
    assert smaller(IMAGES).isfinite().all()


def test_rows_alone_leave_a_layer_its_class():
    """Only the units that the last standardised layer computes leave."""
    network = network_of(Standardised)
    owner = group_units(network, IMAGES)
    kept = torch.ones(owner.n, dtype=torch.bool)
    kept[-3:] = False
    mask = Mask(owner, kept)
    small = compact(network, mask)
    mask.apply_(network)
    assert [type(small[i]) for i in (2, 4)] == [Standardised] * 2
    assert certify(network, small, IMAGES).difference < 1e-13


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Softplus])
def test_columns_stay_where_zeros_do_not_arrive_as_zeros(activation):
    """Masked units send f(0) on, through columns that no mask takes away."""
    network = network_of(Standardised, activation)
    assert group_units(network, IMAGES).layer_names == ("4 filters",)
    assert set(left_out(network, IMAGES)) == {"0 filters", "2 filters", "8 neurons"}


def test_layers_that_do_more_than_apply_their_weights_are_not_settled():
    network = network_of(Padded)
    assert "4 filters" in group_units(network, IMAGES).layer_names
    assert computed_weight(Padded(2, 3, 1)) is None
    assert computed_weight(nn.Conv2d(2, 3, 1)) is None
    with pytest.raises(UsageError, match="does not apply weights that it computes"):
        settle_(Padded(2, 3, 1))


def test_rows_of_unit_length_stay_as_they_are():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), Unit(8, 7), nn.ReLU(), nn.Linear(7, 2)).double()
    x = torch.randn(9, 4).double()
    mask = half(group_units(network, x))
    small = compact(network, mask)
    mask.apply_(network)
    assert certify(network, small, x).difference < 1e-13
    assert type(small[2]) is Unit


def test_a_settled_layer_computes_what_it_did():
    for kind in KINDS:
        layer, x = kind(3, 5, 3, stride=2, padding=1), IMAGES.float()
        before = layer(x)
        settle_(layer)
        torch.testing.assert_close(layer(x), before)
        assert {name for name, _ in layer.named_parameters()} <= {"weight", "bias"}
