"""Units, masks and compaction against brute force: loops over single units, enumeration, the masked network."""

import itertools

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.compaction.compact import compact
from bayesprune.architectures.discovery.units_of import group_units, groups_of, units, weight_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.architectures.units.prunable import prunable
from bayesprune.architectures.units.slices import Elementwise, Group, Slice
from bayesprune.architectures.units.vector import Units
from bayesprune.datasets.errors import UsageError
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

FAMILIES = {
    "mlp": ("mlp", {"widths": (7, 5), "activation": "gelu"}),
    "lenet5": ("lenet5", {}),
    "resnet-batch": ("resnet", {"width": 4}),
    "resnet-group": ("resnet", {"width": 8, "norm": "group", "depth": 14}),
    "resnet-fixup": ("resnet", {"width": 4, "norm": "fixup"}),
    "vit": ("vit", {"dim": 12, "heads": 3}),
    "mixer": ("mixer", {"dim": 8}),
}
family = pytest.mark.parametrize("family", FAMILIES)


def network_of(family, seed=0, channels=1):
    """The family's network with every parameter and running statistic random, so that nothing hides a bug."""
    name, options = FAMILIES[family]
    network = build(name, (channels, 8, 8), 3, seed=seed, **options)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
        for name, buffer in network.named_buffers():
            if "running" in name:
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return network


def random_mask(owner, seed, keep=0.5):
    """Every unit stays with probability `keep`; one of each group stays in any case."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(owner.n, generator=generator) < keep
    for part in owner.split(kept):
        part[torch.randint(len(part), (1,), generator=generator)] = True
    return Mask(owner, kept)


def values_of(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(p.shape, generator=generator) for name, p in network.named_parameters()}


# ---------------------------------------------------------------------------------- gather and scatter


def gathered_by_loop(owner, values):
    sums = []
    for group in owner.groups:
        for unit in range(group.size):
            total = 0.0
            for part in group.slices:
                tensor = values[part.name].double()
                if isinstance(part, Elementwise):
                    total += tensor.flatten()[unit].item()
                else:
                    for position in part.index[unit].tolist():
                        total += tensor.select(part.axis, position).sum().item()
            sums.append(total)
    return torch.tensor(sums, dtype=torch.float64)


def masks_by_loop(owner, kept):
    masks = {}
    for group, part in zip(owner.groups, owner.split(kept), strict=True):
        for piece in group.slices:
            mask = masks.setdefault(piece.name, torch.ones(piece.shape, dtype=torch.bool))
            for unit in (~part).nonzero().flatten().tolist():
                if isinstance(piece, Elementwise):
                    mask.view(-1)[unit] = False
                else:
                    for position in piece.index[unit].tolist():
                        mask.select(piece.axis, position).fill_(False)
    return masks


@family
def test_gather_of_groups_equals_a_loop_over_units(family):
    network = network_of(family)
    owner, values = group_units(network), values_of(network)
    torch.testing.assert_close(owner.gather(values), gathered_by_loop(owner, values), rtol=1e-12, atol=1e-12)


def test_gather_of_weights_is_the_weights_in_order():
    network = network_of("mlp")
    owner, values = weight_units(network), values_of(network)
    assert owner.n == sum(p.numel() for p in prunable(network).values())
    assert owner.gather(values).dtype == torch.float64
    assert torch.equal(owner.gather(values), gathered_by_loop(owner, values))


def test_gather_sums_in_float64():
    """Float32 sums would lose the small terms beside the large ones."""
    owner = Units((Group("a", "neuron", (Slice("weight", 0, torch.arange(1)[:, None], torch.Size([1, 3])),)),))
    assert owner.gather({"weight": torch.tensor([[1e8, 1.0, -1e8]])}).item() == 1.0


def test_gather_ignores_names_without_units_and_accepts_a_part_of_a_group():
    network = network_of("mlp")
    owner, values = group_units(network), values_of(network)
    weights = {name: value for name, value in values.items() if name.endswith("weight")}
    expected = torch.cat(
        [
            values[f"layers.{i}.weight"].double().sum(1) + values[f"layers.{i + 1}.weight"].double().sum(0)
            for i in range(2)
        ]
    )
    torch.testing.assert_close(owner.gather(weights | {"elsewhere": torch.ones(2)}), expected)


def test_gather_refuses_a_missing_group_and_a_wrong_shape():
    network = network_of("mlp")
    owner, values = group_units(network), values_of(network)
    with pytest.raises(UsageError, match=r"'layers\.1 neurons'"):
        owner.gather({"layers.0.bias": values["layers.0.bias"]})
    with pytest.raises(UsageError, match=r"layers\.0\.weight has shape \(2,\), expected \(7, 64\)"):
        owner.gather(values | {"layers.0.weight": torch.ones(2)})


@family
@pytest.mark.parametrize("granularity", ["weights", "groups"])
def test_scatter_equals_enumeration(family, granularity):
    network = network_of(family)
    owner = units(network, granularity)
    generator = torch.Generator().manual_seed(3)
    # All but a few hundred units stay, so that the loop of the oracle is short.
    kept = torch.rand(owner.n, generator=generator) < max(0.5, 1 - 300 / owner.n)
    expected = masks_by_loop(owner, kept)
    found = owner.scatter(kept)
    assert found.keys() == expected.keys() <= dict(network.named_parameters()).keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(mask.is_contiguous() for mask in found.values())


def test_scatter_refuses_a_wrong_vector():
    owner = group_units(network_of("mlp"))
    with pytest.raises(UsageError, match=r"kept has shape \(3,\), expected \(12,\)"):
        owner.scatter(torch.ones(3, dtype=torch.bool))
    with pytest.raises(UsageError, match=r"torch\.float32"):
        owner.scatter(torch.ones(owner.n))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
)
def test_scatter_then_gather_counts_what_stays(sizes, seed):
    """A chain of layers with n units of k columns each: kept entries counted per unit, by both routes."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for i, (n, k) in enumerate(sizes):
        index = torch.randperm(n * k, generator=generator).view(n, k)
        axis = int(torch.randint(2, (1,), generator=generator))
        shape = torch.Size([n * k, 3] if axis == 0 else [3, n * k])
        parts.append(Group(f"g{i}", "neuron", (Slice(f"w{i}", axis, index, shape),)))
    owner = Units(tuple(parts))
    kept = torch.rand(owner.n, generator=generator) < 0.5
    counts = owner.gather({name: mask.double() for name, mask in owner.scatter(kept).items()})
    per_unit = torch.cat([torch.full((n,), 3.0 * k, dtype=torch.float64) for n, k in sizes])
    assert torch.equal(counts, torch.where(kept, per_unit, 0.0))


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_elementwise_scatter_and_gather_are_inverse(shapes, seed):
    owner = Units(tuple(Group(f"w{i}", "weight", (Elementwise(f"w{i}", torch.Size(s)),)) for i, s in enumerate(shapes)))
    kept = torch.rand(owner.n, generator=torch.Generator().manual_seed(seed)) < 0.5
    assert torch.equal(owner.gather(owner.scatter(kept)).bool(), kept)


def test_units_describe_their_layers():
    owner = group_units(network_of("mlp"))
    assert owner.layer_names == ("layers.0 neurons", "layers.1 neurons")
    assert owner.layer_sizes == (7, 5)
    assert owner.n == 12
    flat = torch.arange(12)
    assert [part.tolist() for part in owner.split(flat)] == [list(range(7)), list(range(7, 12))]
    assert owner.to("cpu").layer_names == owner.layer_names
    assert owner.shapes["layers.1.weight"] == (5, 7)


def test_groups_must_have_one_size_and_different_names():
    one = Slice("w", 0, torch.arange(3)[:, None], torch.Size([3, 2]))
    other = Slice("w", 1, torch.arange(2)[:, None], torch.Size([3, 2]))
    with pytest.raises(ValueError, match="slices of one size"):
        Group("g", "neuron", (one, other))
    with pytest.raises(ValueError, match="slices of one size"):
        Group("g", "neuron", ())
    with pytest.raises(ValueError, match="two groups are called 'g'"):
        Units((Group("g", "neuron", (one,)), Group("g", "neuron", (other,))))


# ---------------------------------------------------------------------------------- what is prunable


class Everything(nn.Module):
    """One of each kind of layer; `tied` is the weight of `first`, `head` the embedding table."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.position = nn.Parameter(torch.randn(1, 3, 4))
        self.first = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.first.weight
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embedding.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.conv = nn.Conv2d(2, 4, 3)
        self.up = nn.ConvTranspose1d(4, 2, 3)
        self.norm = nn.BatchNorm2d(4)
        self.layer_norm = nn.LayerNorm(4)
        self.group_norm = nn.GroupNorm(2, 4)
        self.lstm = nn.LSTM(4, 3, num_layers=2)
        self.cell = nn.GRUCell(4, 3)
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.activation = nn.PReLU()


def test_prunable_takes_weights_and_nothing_else():
    assert list(prunable(Everything())) == [
        "first.weight",
        "conv.weight",
        "up.weight",
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
        "lstm.weight_ih_l1",
        "lstm.weight_hh_l1",
        "cell.weight_ih",
        "cell.weight_hh",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    ]


def test_prunable_returns_the_parameters_themselves():
    network = network_of("vit")
    named = dict(network.named_parameters())
    found = prunable(network)
    assert all(found[name] is named[name] for name in found)
    assert not any("norm" in name or "pos_embed" in name or name.endswith("bias") for name in found)
    assert "patch_embed.proj.weight" in found


def test_nothing_prunable_is_refused():
    with pytest.raises(UsageError, match="nothing prunable in Sequential"):
        weight_units(nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()))
    with pytest.raises(UsageError, match="nothing prunable"):
        weight_units(nn.Linear(2, 2).requires_grad_(False))


def test_unknown_groups_are_refused():
    with pytest.raises(UsageError, match=r"groups of Sequential are not known.*units: weights"):
        groups_of(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(UsageError, match="MLP has no group"):
        group_units(build("mlp", (4,), 2, seed=0, widths=()))


@family
@pytest.mark.parametrize("granularity", ["weights", "groups"])
def test_order_of_units_does_not_depend_on_the_seed(family, granularity):
    first, second = (units(network_of(family, seed), granularity) for seed in (0, 1))
    assert first.layer_names == second.layer_names
    assert first.layer_sizes == second.layer_sizes
    for one, two in zip(first.groups, second.groups, strict=True):
        assert [part.name for part in one.slices] == [part.name for part in two.slices]
        for a, b in zip(one.slices, two.slices, strict=True):
            assert isinstance(a, Elementwise) or torch.equal(a.index, b.index)


# ---------------------------------------------------------------------------------- masks


def test_mask_counts_are_exact():
    owner = group_units(network_of("mlp"))
    kept = torch.tensor([True] * 4 + [False] * 8)
    mask = Mask(owner, kept)
    assert (mask.count, mask.density, mask.sparsity) == (4, 4 / 12, 8 / 12)
    assert mask.layer_density() == {"layers.0 neurons": 4 / 7, "layers.1 neurons": 0.0}
    assert mask.collapsed() == ["layers.1 neurons"]
    assert Mask(owner, torch.ones(12, dtype=torch.bool)).collapsed() == []


@pytest.mark.parametrize("kept", [torch.ones(3, dtype=torch.bool), torch.ones(12), torch.ones(12, 1, dtype=torch.bool)])
def test_mask_refuses_a_wrong_vector(kept):
    with pytest.raises(UsageError, match="a mask over 12 units"):
        Mask(group_units(network_of("mlp")), kept)


@family
def test_apply_zeroes_masked_entries_only_and_never_a_buffer(family):
    network = network_of(family)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    mask = random_mask(group_units(network), seed=5)
    mask.apply_(network)
    after = network.state_dict()
    for name, tensor in before.items():
        expected = torch.where(mask.tensors[name], tensor, 0) if name in mask.tensors else tensor
        assert torch.equal(after[name], expected), name
    assert not mask.tensors.keys() & dict(network.named_buffers()).keys()


@pytest.mark.parametrize("granularity", ["weights", "groups"])
@pytest.mark.parametrize(
    "optimiser",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    ],
)
def test_enforcer_keeps_zeros_that_the_optimiser_would_revive(granularity, optimiser):
    network = network_of("resnet-batch")
    step = optimiser(network.parameters())
    x, y = torch.randn(16, 1, 8, 8), torch.randint(3, (16,))

    def train():
        step.zero_grad()
        F.cross_entropy(network(x), y).backward()
        step.step()

    train()  # momentum now points somewhere
    mask = random_mask(units(network, granularity), seed=1)
    masked = {name: ~m for name, m in mask.tensors.items() if not m.all()}
    mask.apply_(network)
    train()
    assert any(network.get_parameter(name)[m].any() for name, m in masked.items()), "the test has no power"
    enforce = mask.enforcer(network)
    for _ in range(3):
        enforce()
        assert not any(network.get_parameter(name)[m].any() for name, m in masked.items())
        assert all(network.get_parameter(name)[~m].any() for name, m in masked.items())
        train()


def test_enforcer_of_a_full_mask_does_nothing():
    network = network_of("mlp")
    before = {name: p.clone() for name, p in network.named_parameters()}
    owner = weight_units(network)
    Mask(owner, torch.ones(owner.n, dtype=torch.bool)).enforcer(network)()
    assert all(torch.equal(before[name], p) for name, p in network.named_parameters())


@pytest.mark.parametrize("granularity", ["weights", "groups"])
def test_mask_survives_saving(tmp_path, granularity):
    owner = units(network_of("lenet5"), granularity)
    mask = random_mask(owner, seed=2)
    mask.save(tmp_path / "mask.safetensors")
    assert torch.equal(Mask.load(tmp_path / "mask.safetensors", owner).kept, mask.kept)
    assert [path.name for path in tmp_path.iterdir()] == ["mask.safetensors"]


def test_mask_file_of_another_network_or_damaged_is_refused(tmp_path):
    path = tmp_path / "mask.safetensors"
    random_mask(group_units(network_of("lenet5")), seed=2).save(path)
    with pytest.raises(UsageError, match="of another network"):
        Mask.load(path, group_units(network_of("mlp")))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UsageError, match="cannot read the mask"):
        Mask.load(path, group_units(network_of("lenet5")))
    with pytest.raises(UsageError, match="cannot read the mask"):
        Mask.load(tmp_path / "none", group_units(network_of("lenet5")))


def test_a_failed_save_leaves_the_old_mask(tmp_path, monkeypatch):
    owner = group_units(network_of("mlp"))
    old, new = random_mask(owner, seed=1), random_mask(owner, seed=2)
    path = tmp_path / "mask.safetensors"
    old.save(path)

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        new.save(path)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert torch.equal(Mask.load(path, owner).kept, old.kept)


# ---------------------------------------------------------------------------------- compaction


def masked_and_compact(family, seed, keep, dtype):
    network = network_of(family, seed).to(dtype)
    mask = random_mask(group_units(network), seed, keep)
    small = compact(network, mask)
    mask.apply_(network)
    return network, small, mask


# keep = -1 leaves exactly one unit per group, 2 leaves all.
@family
@pytest.mark.parametrize(("seed", "keep"), [(0, 0.5), (1, 0.2), (2, 0.8), (3, -1.0), (4, 2.0)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("training", [False, True])
def test_masked_equals_compact(family, seed, keep, dtype, tolerance, training):
    masked, small, mask = masked_and_compact(family, seed, keep, dtype)
    x = torch.randn(6, 1, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    full, cut = masked.train(training)(x), small.train(training)(x)
    assert full.abs().max() > 1e-3
    torch.testing.assert_close(cut, full, rtol=tolerance, atol=tolerance * float(full.detach().abs().max()))
    size = [sum(p.numel() for p in network.parameters()) for network in (masked, small)]
    assert (size[1] < size[0]) == (mask.count < mask.units.n)


@family
def test_compact_network_has_the_masked_network_s_gradients(family):
    masked, small, mask = masked_and_compact(family, 7, 0.4, torch.float64)
    x, y = torch.randn(6, 1, 8, 8, dtype=torch.float64), torch.randint(3, (6,))
    for network in (masked, small):
        F.cross_entropy(network.eval()(x), y).backward()
    dense = {name: p.grad for name, p in masked.named_parameters()}
    for name, parameter in small.named_parameters():
        expected = dense[name]
        if name in mask.tensors:
            expected = expected[mask.tensors[name]].view(parameter.shape)
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-9, atol=1e-12, msg=name)


@family
def test_compact_network_can_be_pruned_again(family):
    """Its size attributes agree with its tensors: units are found, and a second compaction is exact."""
    _, small, first = masked_and_compact(family, 8, 0.7, torch.float64)
    owner = group_units(small)
    assert owner.n == first.count
    second = random_mask(owner, 9, 0.6)
    smaller = compact(small, second)
    second.apply_(small)
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(smaller.eval()(x), small.eval()(x), rtol=1e-12, atol=1e-11)


@family
def test_compact_network_trains_and_reloads(family):
    _, small, _ = masked_and_compact(family, 6, 0.5, torch.float32)
    optimiser = torch.optim.Adam(small.parameters(), lr=1e-3)
    x, y = torch.randn(8, 1, 8, 8), torch.randint(3, (8,))
    losses = []
    for _ in range(5):
        optimiser.zero_grad()
        loss = F.cross_entropy(small.train()(x), y)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_size_attributes_follow_the_tensors():
    _, small, mask = masked_and_compact("resnet-group", 0, 0.5, torch.float32)
    for module in small.modules():
        match module:
            case nn.Conv2d():
                assert module.weight.shape[:2] == (module.out_channels, module.in_channels)
            case nn.Linear():
                assert module.weight.shape == (module.out_features, module.in_features)
            case nn.GroupNorm():
                assert len(module.weight) == module.num_channels == 4 * module.num_groups
    _, small, mask = masked_and_compact("vit", 0, 0.5, torch.float32)
    heads = [int(part.sum()) for part in mask.units.split(mask.kept)[:2]]
    assert [block.attn.num_heads for block in small.blocks] == heads


def test_grouped_and_transposed_convolutions_follow_their_weights():
    """Units of a depthwise chain: channels of a pointwise, a depthwise and a transposed convolution."""
    network = nn.Sequential(
        nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 2, 3)
    )
    network.eval()
    index = torch.arange(6)[:, None]
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    slices = [Slice(n, 0, index, shapes[n]) for n in shapes if n not in ("3.bias", "2.num_batches_tracked")]
    group = Group(
        "channels",
        "channel",
        tuple(part for part in slices if "running" not in part.name),
        tuple(part for part in slices if "running" in part.name),
    )
    mask = Mask(Units((group,)), torch.tensor([True, False, True, True, False, False]))
    small = compact(network, mask)
    mask.apply_(network)
    x = torch.randn(2, 2, 5, 5)
    torch.testing.assert_close(small(x), network(x), rtol=1e-5, atol=1e-6)
    assert (small[1].groups, small[1].in_channels, small[1].out_channels, small[2].num_features) == (3, 3, 3, 3)
    assert (small[3].in_channels, small[3].out_channels) == (3, 2)


@family
def test_compact_leaves_the_original_as_it_was(family):
    network = network_of(family)
    F.cross_entropy(network(torch.randn(4, 1, 8, 8)), torch.randint(3, (4,))).backward()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    gradients = {name: p.grad.clone() for name, p in network.named_parameters()}
    small = compact(network, random_mask(group_units(network), 1))
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.fill_(1.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(torch.equal(gradients[name], p.grad) for name, p in network.named_parameters())
    assert all(p.grad is None for p in small.parameters())


@family
def test_every_group_needs_a_unit(family):
    network = network_of(family)
    owner = group_units(network)
    for i, name in enumerate(owner.layer_names):
        kept = torch.ones(owner.n, dtype=torch.bool)
        owner.split(kept)[i].fill_(False)
        with pytest.raises(UsageError, match=f"removes all of '{name}'"):
            compact(network, Mask(owner, kept))


def test_weight_masks_and_other_networks_cannot_be_compacted():
    network, other = network_of("mlp"), network_of("lenet5")
    owner = weight_units(network)
    with pytest.raises(UsageError, match="masked but not cut out"):
        compact(network, Mask(owner, torch.ones(owner.n, dtype=torch.bool)))
    with pytest.raises(UsageError, match="of another network"):
        compact(other, random_mask(group_units(network), 0))


@pytest.mark.parametrize("kept", list(itertools.product([True, False], repeat=3))[:-1])
def test_masked_equals_compact_for_every_mask_of_one_small_layer(kept):
    network = build("mlp", (4,), 2, seed=0, widths=(3,), activation="tanh").double()
    mask = Mask(group_units(network), torch.tensor(kept))
    small = compact(network, mask)
    mask.apply_(network)
    x = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(small(x), network(x), rtol=1e-13, atol=1e-13)
