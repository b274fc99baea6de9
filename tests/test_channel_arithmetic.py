"""Channels that are cut into parts, shuffled, gated, weighted by softmax or grouped: found, and cut out exactly."""

import copy

import numpy as np
import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.compaction.certificate import certify
from bayesprune.architectures.compaction.compact import compact
from bayesprune.architectures.discovery.positions import Positions, blocks, placed, reshaped
from bayesprune.architectures.discovery.units_of import group_units, left_out
from bayesprune.architectures.saved import bundle
from bayesprune.architectures.units.mask import Mask
from bayesprune.datasets.errors import UsageError
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    """Channels computed by `first`, treated by a function, and read by `last` and a classifier."""

    def __init__(self, function, wide=12, read=12, sizes=None, **layers):
        super().__init__()
        self.first, self.last, self.head = nn.Conv2d(3, wide, 3), nn.Conv2d(read, 7, 1), nn.Linear(7, 2)
        self.function = function
        for name, each in (layers | (sizes or {})).items():
            setattr(self, name, each)

    def forward(self, x):
        x = self.function(self, F.silu(self.first(x)))
        return self.head(F.relu(self.last(x)).mean((2, 3)))


def conv(read, written, kernel=1, **options):
    return nn.Conv2d(read, written, kernel, padding=kernel // 2, **options)


def shuffled(x, groups):
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def selective(m, x):
    """Kernels weighted by a softmax over paths."""
    y = torch.stack([m.one(x), m.other(x)], 1)
    weights = m.attend(y.sum(1).mean((2, 3), keepdim=True)).view(len(x), 2, -1, 1, 1).softmax(1)
    return (y * weights).sum(1)


def radix(m, x):
    n, c, h, w = (y := m.split(x)).shape
    y = y.reshape(n, m.radix, c // m.radix, h, w)
    weights = m.attend(y.sum(1).mean((2, 3), keepdim=True)).view(n, m.radix, -1).softmax(1).reshape(n, -1, 1, 1)
    return (y * weights.reshape(n, m.radix, c // m.radix, 1, 1)).sum(1)


def hierarchical(m, x):
    """As in Res2Net: every part is added to the next one before its own convolution."""
    parts, last, found = x.split(m.width, 1), 0, []
    for i, part in enumerate(parts[:-1]):
        last = getattr(m, f"c{i}")(part + last)
        found.append(last)
    return torch.cat([*found, parts[-1]], 1)


def dual(m, x):
    return torch.cat([x[:, : m.kept] + m.one(x), x[:, m.kept :], m.other(x)], 1)


def unequal(m, x):
    a, b, c = torch.split(x, m.sizes, 1)
    return a.sigmoid() * b.repeat(1, 2, 1, 1) if m is None else torch.cat([c, m.one(a), b.tanh()], 1)


# The function, its network, and the sizes of the groups that are expected.
FOUND = {
    "chunks": (lambda m, x: torch.cat(x.chunk(2, 1)[::-1], 1), {}, [6, 7]),
    "chunks of their own": (lambda m, x: torch.cat([(p := x.chunk(2, 1))[0], m.one(p[1])], 1), {"one": conv(6, 6)}, [6, 6, 7]),
    "gated, packed": (lambda m, x: F.gelu((p := x.chunk(2, 1))[0]) * p[1], {"read": 6}, [6, 7]),
    "gated, apart": (lambda m, x: F.silu(m.one(x)) * m.other(x), {"one": conv(12, 5), "other": conv(12, 5), "read": 5}, [12, 5, 7]),
    "gated by torch": (lambda m, x: F.glu(x, 1), {"read": 6}, [6, 7]),
    "halves by a number": (lambda m, x: torch.cat([x[:, 6:], x[:, :6].tanh()], 1), {}, [6, 7]),
    "parts by a number": (lambda m, x: torch.cat([p.tanh() for p in x.split([8, 4], 1)][::-1], 1), {}, [12, 7]),
    "parts by an attribute": (hierarchical, {"width": 4, "c0": conv(4, 4, 3), "c1": conv(4, 4, 3)}, [4, 4, 7]),
    "parts by a list": (unequal, {"sizes": {"sizes": [2, 4, 6]}, "one": conv(2, 3, 3), "read": 13}, [2, 10, 3, 7]),
    "slices by an attribute": (dual, {"kept": 8, "one": conv(12, 8), "other": conv(12, 2), "read": 14}, [8, 4, 2, 7]),
    "every second": (lambda m, x: torch.cat([x[:, ::2], x[:, 1::2]], 1), {}, [6, 7]),
    "shuffled": (lambda m, x: m.two(shuffled(x, 2)), {"two": conv(12, 12, 3)}, [6, 12, 7]),
    "shuffled by torch": (lambda m, x: F.channel_shuffle(x, 3), {}, [4, 7]),
    "flipped": (lambda m, x: x.flip(1), {}, [12, 7]),
    "unflattened": (lambda m, x: x.unflatten(1, (4, -1)).tanh().flatten(1, 2), {}, [4, 7]),
    "kernels weighted": (selective, {"one": conv(12, 6, 3), "other": conv(12, 6, 3), "attend": nn.Sequential(conv(6, 5), nn.ReLU(), conv(5, 12)), "read": 6}, [12, 6, 5, 7]),
    "radix": (radix, {"radix": 2, "split": conv(12, 12, 3, groups=2), "attend": conv(6, 12), "read": 6}, None),
    "dense": (lambda m, x: torch.cat([x, y := m.one(x), m.other(torch.cat([x, y], 1))], 1), {"one": conv(12, 4, 3), "other": conv(16, 4, 3), "read": 20}, [12, 4, 4, 7]),
    "whole groups": (lambda m, x: m.one(x), {"one": conv(12, 12, 3, groups=6)}, [6, 7]),
    "places in all groups": (lambda m, x: m.one(x), {"one": conv(12, 8, 3, groups=2), "read": 8}, [6, 4, 7]),
    "places of transposed groups": (lambda m, x: m.one(x), {"one": nn.ConvTranspose2d(12, 8, 2, groups=2), "read": 8}, [6, 4, 7]),
    "one place for each": (lambda m, x: m.one(x), {"one": conv(12, 24, 3, groups=12), "read": 24}, [12, 7]),
    "pixels": (lambda m, x: F.pixel_shuffle(x, 2), {"read": 3}, [3, 7]),
    "unfolded": (lambda m, x: F.unfold(x, 2).view(len(x), 48, 5, 5), {"read": 48}, [12, 7]),
    "padded": (lambda m, x: F.pad(m.one(F.pad(x, (1, 1, 0, 2))), (0, 0, 1, 1)), {"one": conv(12, 12, 3)}, [12, 12, 7]),
    "stacked and summed": (lambda m, x: torch.stack([x, m.one(x)]).sum(0), {"one": conv(12, 12)}, [12, 7]),
    "maximum": (lambda m, x: torch.maximum(m.one(x), m.other(x)), {"one": conv(12, 6), "other": conv(12, 6), "read": 6}, [12, 6, 7]),
    "squeezed": (lambda m, x: x * m.other(F.relu(m.one(x.mean((2, 3), keepdim=True)))).sigmoid(), {"one": conv(12, 4), "other": conv(4, 12)}, [12, 4, 7]),
    "instance norm": (lambda m, x: m.norm(m.one(x)), {"one": conv(12, 12), "norm": nn.InstanceNorm2d(12)}, [12, 12, 7]),
    "group norm": (lambda m, x: m.norm(m.one(x)), {"one": conv(12, 12), "norm": nn.GroupNorm(4, 12, affine=False)}, [12, 4, 7]),
    "averaged": (lambda m, x: x - x.mean(1, keepdim=True) / (1e-6 + x.abs().mean(dim=(1, 2, 3), keepdim=True)), {}, [12, 7]),
    "response norm": (lambda m, x: x * (y := x.norm(dim=(2, 3), keepdim=True)) / (torch.mean(y, 1, True) + 0.1), {}, [12, 7]),
    "einsum": (lambda m, x: torch.einsum("nchw,cd->ndhw", x, m.matrix), {"matrix": nn.Parameter(torch.randn(12, 9)), "read": 9}, [12, 9, 7]),
    "tokens": (lambda m, x: m.up(x.flatten(2).mT).mT.reshape(len(x), -1, 6, 6), {"up": nn.Linear(12, 9), "read": 9}, [12, 9, 7]),
}  # fmt: skip
found = pytest.mark.parametrize("name", FOUND)


def network_of(name):
    torch.manual_seed(0)
    function, options, _ = FOUND[name]
    options = {key: copy.deepcopy(value) for key, value in options.items()}
    return Net(function, **options).double().eval()


def images(n=3):
    return torch.randn(n, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def some(owner):
    generator = torch.Generator().manual_seed(2)
    kept = torch.zeros(owner.n, dtype=torch.bool)
    for part in owner.split(kept):
        part[torch.randperm(len(part), generator=generator)[: max(1, len(part) // 3)]] = True
    return Mask(owner, kept)


@found
def test_channels_are_found_and_cut_out_exactly(name, tmp_path):
    network, x = network_of(name), images()
    owner = group_units(network, x)
    expected = FOUND[name][2]
    if expected is not None:
        assert sorted(owner.layer_sizes) == sorted(expected), owner.layer_sizes
    mask = some(owner)
    small = compact(network, mask)
    dense = copy.deepcopy(network)
    mask.apply_(network)
    torch.testing.assert_close(small(x), network(x), rtol=1e-10, atol=1e-12)
    assert sum(p.numel() for p in small.parameters()) < 0.7 * sum(p.numel() for p in network.parameters())
    bundle.save(tmp_path / "small.safetensors", small, dense=dense)
    assert torch.equal(bundle.load(tmp_path / "small.safetensors", dense)(x), small(x))


MIXED = {
    "rolled": lambda m, x: x.roll(1, 1),
    "by their spread": lambda m, x: x / x.std(1, keepdim=True),
    "softmax": lambda m, x: x.softmax(1),
    "sorted": lambda m, x: x.sort(1).values,
    "by their number": lambda m, x: x * x.shape[1] ** -0.5,
    "one by one": lambda m, x: torch.stack(x.unbind(1)[::-1], 1),
    "at random places": lambda m, x: x[:, [0, 3, 2, 1, 11, 4, 5, 6, 7, 8, 9, 10]],
    "into others": lambda m, x: torch.zeros_like(x).index_copy(1, torch.arange(12), x),
    "maximum of all": lambda m, x: x / x.abs().amax(1, keepdim=True),
    "with themselves": lambda m, x: torch.einsum("nchw,ndhw->nchw", x, x),
    "transformed": lambda m, x: torch.fft.fft(x, dim=1).real,
}


@pytest.mark.parametrize("name", MIXED)
def test_channels_that_are_mixed_stay_and_nothing_else_does(name):
    network, x = Net(MIXED[name]).double().eval(), images()
    owner = group_units(network, x)
    mask = some(owner)
    small = compact(network, mask)
    mask.apply_(network)
    torch.testing.assert_close(small(x), network(x), rtol=1e-10, atol=1e-12)
    if "first filters" not in owner.layer_names:
        assert any(key.startswith("first") for key in left_out(network, x))
    assert "last filters" in owner.layer_names


def test_numbers_that_modules_keep_say_how_many_are_left():
    network, x = network_of("parts by an attribute"), images()
    small = compact(network, some(group_units(network, x)))
    assert (network.width, small.width) == (4, 1)
    network = network_of("parts by a list")
    small = compact(network, some(group_units(network, x)))
    assert (network.sizes, small.sizes) == ([2, 4, 6], [1, 1, 2])
    network = network_of("instance norm")
    assert compact(network, some(group_units(network, x))).norm.num_features == 4


def test_rounding_is_not_taken_for_mixing():
    """Sixty layers that double their inputs and take most of it away again, in which float32 keeps no digit."""

    class Chaotic(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(60))

        def forward(self, x):
            for layer in self.layers:
                x = torch.sin(1.5 * layer(x))
            return x

    found = [group_units(Chaotic(), torch.randn(2, 8, generator=torch.Generator().manual_seed(i))).n for i in range(3)]
    assert found == [59 * 8] * 3


# ---------------------------------------------------------------------------------- positions themselves


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, 12), (2, 3, 4)),
        ((2, 3, 4), (6, 4)),
        ((4, 1, 6), (2, 2, 6, 1)),
        ((24,), (2, 3, 4)),
        ((1, 1), (1,)),
        ((), (1,)),
    ],
)
def test_views_are_followed_as_numpy_views_them(before, after):
    """Every combination of axes on which positions vary, against reshaping the whole array."""
    n = torch.Size(before).numel()
    whole = torch.arange(1, n + 1).reshape(before).numpy()
    for vary in range(2 ** len(before)):
        track = whole[tuple(slice(None) if vary >> i & 1 else slice(0, 1) for i in range(len(before)))]
        found = reshaped(np.asarray(track), before, after)
        full = torch.from_numpy(np.array(track)).expand(before).reshape(after)
        assert torch.equal(torch.from_numpy(np.array(found)).expand(after), full)
    assert [a for old, _ in blocks(before, after) for a in old] == list(range(len(before)))


def test_positions_that_are_tied_leave_together_whatever_the_order():
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(1, 41, (60, 2), generator=generator).numpy()
    groups = [{i} for i in range(41)]
    for a, b in pairs:
        joined = next(g for g in groups if a in g) | next(g for g in groups if b in g)
        groups = [g for g in groups if not g & joined] + [joined]
    for order in (pairs, pairs[::-1], pairs[:, ::-1]):
        positions = Positions()
        nodes = positions.fresh(40)
        for some_pairs in (order[:17], order[17:18], order[18:]):
            positions.tie(some_pairs[:, 0], some_pairs[:, 1])
        roots = positions.find(nodes)
        assert {frozenset(nodes[roots == root].tolist()) for root in roots} == {
            frozenset(g) for g in groups if 0 not in g
        }


def test_tracks_are_placed_on_other_axes():
    track = torch.arange(6).reshape(2, 1, 3).numpy()
    assert placed(track, {0: 3, 2: 1}, 4).shape == (1, 3, 1, 2)
    assert (placed(track, {0: 3, 2: 1}, 4)[0, :, 0, :] == track[:, 0, :].T).all()


# ---------------------------------------------------------------------------------- inputs and outputs


class Several(nn.Module):
    """Two inputs, and a dictionary of results."""

    def __init__(self):
        super().__init__()
        self.one, self.other, self.head = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, u, v):
        hidden = torch.relu(self.one(u) + self.other(v))
        return {"logits": self.head(hidden), "more": [hidden.sum(1), self.head(hidden.square())]}


@pytest.mark.parametrize("named", [False, True])
def test_networks_with_several_inputs_and_outputs_are_traced_and_certified(named):
    network, (u, v) = Several().double().eval(), (torch.randn(70, 6).double(), torch.randn(70, 4).double())
    inputs = {"v": v, "u": u} if named else (u, v)
    owner = group_units(network, inputs)
    assert dict(zip(owner.layer_names, owner.layer_sizes, strict=True)) == {"one channels": 8}
    mask = some(owner)
    small = compact(network, mask)
    mask.apply_(network)
    assert certify(network, small, inputs).examples == 70
    small.head.bias.data += 1
    with pytest.raises(UsageError, match="differ by"):
        certify(network, small, inputs)


def test_what_is_left_out_beside_declared_groups_is_told():
    vit = build("vit", (1, 8, 8), 10, seed=0)
    assert left_out(vit) == {}
    reasons = left_out(vit, torch.randn(2, 1, 8, 8))
    assert reasons["head neurons"] == "the outputs of the network stay"
    assert "normalises over all of them" in reasons["patch_embed.proj channels"]
    assert not any("attn.qkv" in name or "mlp.fc1" in name for name in reasons)
