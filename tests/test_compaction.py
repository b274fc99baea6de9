"""Compaction: folded constants, the certificate that nothing changed, and BatchNorm statistics."""

import copy

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.compaction.certificate import Certificate, certify
from bayesprune.architectures.compaction.compact import compact
from bayesprune.architectures.discovery.units_of import group_units
from bayesprune.architectures.running.batch_norm import Reestimation, reestimate_batch_norm
from bayesprune.architectures.units.mask import Mask
from bayesprune.architectures.units.slices import Group, Slice
from bayesprune.architectures.units.vector import Units
from bayesprune.datasets.errors import UsageError
from torch import nn
from torch.nn import functional as F

FAMILIES = {
    "mlp-relu": ("mlp", {"widths": [20, 10]}),
    "mlp-tanh": ("mlp", {"widths": [20, 10], "activation": "tanh"}),
    "mlp-gelu": ("mlp", {"widths": [20, 10], "activation": "gelu"}),
    "mlp-silu": ("mlp", {"widths": [20, 10], "activation": "silu"}),
    "lenet-300-100": ("lenet-300-100", {}),
    "lenet5": ("lenet5", {}),
    "lenet5-tanh": ("lenet5", {"activation": "tanh", "pooling": "average"}),
    "resnet-batch": ("resnet", {"width": 8}),
    "resnet-group": ("resnet", {"width": 16, "norm": "group"}),
    "resnet-fixup": ("resnet", {"width": 8, "norm": "fixup"}),
    "vit": ("vit", {"dim": 20, "heads": 5}),
    "mixer": ("mixer", {"dim": 16}),
}
SHAPE, OUTPUTS = (1, 8, 8), 3
family = pytest.mark.parametrize("family", FAMILIES)


def reference(family):
    """The architecture as a bundle wants it."""
    name, options = FAMILIES[family]
    return {"name": name, "input_shape": list(SHAPE), "outputs": OUTPUTS, "options": options}


def network_of(family, seed=0):
    """The family's network with every parameter and running statistic random, so that nothing hides a bug."""
    name, options = FAMILIES[family]
    network = build(name, SHAPE, OUTPUTS, seed=seed, **options)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.3)
            if name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return network


def mask_of(network, kind, removed, seed=0):
    """Remove a share of every group: at random, or the units of smallest norm."""
    owner = group_units(network)
    scores = owner.gather({name: p.detach() ** 2 for name, p in network.named_parameters()})
    if kind == "random":
        scores = torch.rand(owner.n, generator=torch.Generator().manual_seed(seed))
    kept = torch.zeros(owner.n, dtype=torch.bool)
    for part, score in zip(owner.split(kept), owner.split(scores), strict=True):
        part[score.topk(max(1, round(len(part) * (1 - removed)))).indices] = True
    return Mask(owner, kept)


def masked_and_small(family, kind="random", removed=0.5, seed=0):
    network = network_of(family, seed)
    mask = mask_of(network, kind, removed, seed)
    small = compact(network, mask)
    mask.apply_(network)
    return network, small


def images(n=24, seed=0):
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------- every family


@family
@pytest.mark.parametrize("kind", ["random", "magnitude"])
@pytest.mark.parametrize("removed", [0.3, 0.5, 0.7])
def test_every_family_is_certified_and_trains_on(family, kind, removed):
    masked, small = masked_and_small(family, kind, removed, seed=int(10 * removed))
    modes = [module.training for network in (masked, small) for module in network.modules()]
    certificate = certify(masked, small, images(70))
    assert modes == [module.training for network in (masked, small) for module in network.modules()]
    assert certificate.difference <= certificate.tolerance == 1e-5
    assert masked.eval()(images(70)).std(0).min() > 1e-4, "a network that ignores its input shows nothing"
    assert (certificate.examples, certificate.dtype) == (70, "float32")
    again = copy.deepcopy(small)
    assert all(type(p) is nn.Parameter and p.grad is None and p.requires_grad for p in again.parameters())
    optimiser = torch.optim.SGD(again.parameters(), lr=0.01, momentum=0.9)
    F.cross_entropy(again.train()(images(8)), torch.arange(8) % OUTPUTS).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in again.parameters())
    optimiser.step()
    assert any(not torch.equal(a, b) for a, b in zip(again.parameters(), small.parameters(), strict=True))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in masked.parameters())


def test_frozen_parameters_stay_frozen():
    network = network_of("mlp-relu")
    network.layers[0].requires_grad_(False)
    small = compact(network, mask_of(network, "random", 0.5))
    assert [p.requires_grad for p in small.parameters()] == [False, False, True, True, True, True]


# ---------------------------------------------------------------------------------- folding


def written(network, writers, reader, kept):
    """A mask that zeroes only what writes the units: the reader's columns are cut, but never masked."""
    tensors = network.state_dict()
    size = len(kept)
    index = torch.arange(size)[:, None]
    slices = [Slice(name, 0, index, tensors[name].shape) for name in writers]
    transposed = isinstance(network.get_submodule(reader), nn.modules.conv._ConvTransposeNd)
    columns = Slice(f"{reader}.weight", 0 if transposed else 1, index, tensors[f"{reader}.weight"].shape)
    statistics = [
        Slice(name, 0, index, tensor.shape) for name, tensor in tensors.items() if name.endswith(("_mean", "_var"))
    ]
    group = Group("units", "neuron", tuple(slices), (columns, *statistics))
    return Mask(Units((group,)), torch.tensor(kept))


KEPT = [True, False, True, False, False]


def perceptron(activation, bias=True):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), activation, nn.Linear(5, 3, bias=bias)).double()


@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.Softplus(), nn.ReLU(), nn.ELU(), nn.Hardsigmoid()])
@pytest.mark.parametrize("bias", [True, False])
def test_an_activation_s_value_at_zero_is_folded(activation, bias):
    network = perceptron(activation, bias)
    mask, x = written(network, ["0.weight", "0.bias"], "2", KEPT), torch.randn(9, 4).double()
    small = compact(network, mask, x)
    before = {name: p.clone() for name, p in network.named_parameters()}
    unfolded = compact(network, mask)
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())
    mask.apply_(network)
    y = torch.randn(20, 4).double()
    torch.testing.assert_close(small(y), network(y), rtol=1e-14, atol=1e-14)
    emits = activation(torch.zeros(1)).item() != 0
    assert emits == bool((unfolded(y) - network(y)).abs().max() > 1e-3)
    assert (small[2].bias is not None) == (bias or emits), "no bias where there is nothing to fold"
    if small[2].bias is not None:
        assert type(small[2].bias) is nn.Parameter
        assert small[2].bias.requires_grad


def test_a_bias_outside_the_group_is_folded():
    """relu(b) of a writer whose bias is cut but never masked."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    mask = written(network, ["0.weight"], "2", KEPT)
    group = mask.units.groups[0]
    bias = Slice("0.bias", 0, torch.arange(5)[:, None], network[0].bias.shape)
    mask = Mask(Units((Group("units", "neuron", group.slices, (*group.buffers, bias)),)), mask.kept)
    x = torch.randn(6, 4).double()
    small = compact(network, mask, x)
    mask.apply_(network)
    assert network[0].bias[~mask.kept].any()
    torch.testing.assert_close(small(x), network(x), rtol=1e-14, atol=1e-14)


def convolutions(reader, norm=True):
    torch.manual_seed(2)
    layers = [nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5, affine=False) if norm else nn.Identity(), nn.Softplus(), reader]
    network = nn.Sequential(*layers).eval()
    if norm:
        network[1].running_mean.uniform_(-1, 1)
        network[1].running_var.uniform_(0.5, 2)
    return network.double()


@pytest.mark.parametrize(
    "reader",
    [
        nn.Conv2d(5, 4, 3),
        nn.Conv2d(5, 4, 3, stride=2, dilation=2, bias=False),
        nn.Conv2d(5, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(5, 4, 3, padding="same", padding_mode="circular"),
        nn.Conv2d(5, 4, 1),
        nn.ConvTranspose2d(5, 4, 1),
    ],
    ids=str,
)
def test_a_batch_norm_without_affine_part_is_folded_into_a_convolution(reader):
    network = convolutions(reader)
    mask = written(network, ["0.weight", "0.bias"], "3", KEPT)
    x = torch.randn(3, 2, 9, 9).double()
    small = compact(network, mask, x)
    mask.apply_(network)
    assert network[:3](x)[:, 1].std() < 1e-12 < network[:3](x)[:, 1].mean()
    torch.testing.assert_close(small(x), network(x), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    "reader", [nn.Conv2d(5, 4, 3, padding=1), nn.ConvTranspose2d(5, 4, 3), nn.Conv2d(5, 4, 1, padding=1)], ids=str
)
def test_what_fades_at_the_border_is_refused(reader):
    network = convolutions(reader)
    mask = written(network, ["0.weight", "0.bias"], "3", KEPT)
    with pytest.raises(UsageError, match=r"send a constant to '3', but Conv.*zero padding"):
        compact(network, mask, torch.randn(3, 2, 9, 9).double())


def test_what_is_not_constant_is_refused():
    network = perceptron(nn.Sigmoid())
    mask = written(network, ["0.bias"], "2", KEPT)  # the incoming weights stay
    mask = Mask(
        Units((Group("units", "neuron", mask.units.groups[0].slices, (*mask.units.groups[0].buffers, row(network))),)),
        mask.kept,
    )
    with pytest.raises(UsageError, match=r"send to '2' \(Linear\) is not the same for all examples"):
        compact(network, mask, torch.randn(9, 4).double())
    with pytest.raises(UsageError, match="at least two examples"):
        compact(network, mask, torch.randn(1, 4).double())


def row(network):
    return Slice("0.weight", 0, torch.arange(5)[:, None], network[0].weight.shape)


def test_a_reader_that_is_not_called_is_refused():
    class Direct(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            return F.linear(torch.sigmoid(self.a(x)), self.b.weight)

    network = Direct()
    with pytest.raises(UsageError, match="'b' reads removed units, but is not called"):
        compact(network, written(network, ["a.weight", "a.bias"], "b", KEPT), torch.randn(4, 4))


@family
def test_with_an_example_the_declared_groups_compact_as_without(family):
    """Their masks zero the reader's columns too, so that nothing is left to fold."""
    network = network_of(family)
    mask = mask_of(network, "random", 0.5)
    one, two = compact(network, mask), compact(network, mask, images(4))
    assert one.state_dict().keys() == two.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


# ---------------------------------------------------------------------------------- the certificate


def test_a_broken_batch_norm_is_refused_by_name():
    masked, small = masked_and_small("resnet-batch")
    norm = small.stages[1][0].norm1
    norm.running_var[norm.bias.argmax()] *= 1.5  # the channel that the activation passes on most often
    with pytest.raises(UsageError, match=r"no certificate: .* differ by .*, first in 'stages\.1\.0\.norm1'"):
        certify(masked, small, images())


@pytest.mark.parametrize("family", ["resnet-batch", "vit", "mixer", "mlp-tanh"])
def test_any_broken_parameter_is_found_where_it_is(family):
    """A change of one tensor is found in the very module that holds it."""
    masked, small = masked_and_small(family, removed=0.3)
    certify(masked, small, images())
    named = {}
    for name, parameter in small.named_parameters():
        with torch.no_grad():
            parameter.mul_(1.5)
            try:
                certify(masked, small, images())
                torch.testing.assert_close(masked.eval()(images()), small.eval()(images()), rtol=1e-4, atol=1e-4)
            except UsageError as error:
                named[name] = str(error)
            parameter.div_(1.5)
    assert len(named) >= 0.8 * len(list(small.parameters()))
    for name, message in named.items():
        owner = name.rpartition(".")[0]
        assert not owner or f"first in '{owner}'" in message, name


def test_a_wrong_slice_is_refused_by_name():
    network = network_of("lenet5")
    mask = mask_of(network, "random", 0.5)
    small = compact(network, mask)
    wrong = mask.kept.clone()
    part = mask.units.split(wrong)[1]
    part[:] = part.flip(0) if not torch.equal(part, part.flip(0)) else part.roll(1)
    small.conv2.load_state_dict(compact(network, Mask(mask.units, wrong)).conv2.state_dict())
    mask.apply_(network)
    with pytest.raises(UsageError, match="first in 'conv2'"):
        certify(network, small, images())


@pytest.mark.parametrize("which", ["masked", "compact"])
def test_outputs_that_are_not_finite_are_refused(which):
    pair = dict(zip(("masked", "compact"), masked_and_small("mlp-relu"), strict=True))
    with torch.no_grad():
        pair[which].layers[1].bias[0] = float("nan")
    with pytest.raises(UsageError, match=rf"the {which} network's outputs are not finite, first in 'layers\.1'"):
        certify(pair["masked"], pair["compact"], images())


class Restless(nn.Module):
    """Dropout that evaluation mode does not switch off."""

    def forward(self, x):
        return F.dropout(x, 0.5, training=True)


def test_dropout_active_by_mistake_is_refused():
    masked, small = masked_and_small("mlp-relu")
    masked.activation, small.activation = (nn.Sequential(nn.ReLU(), Restless()) for _ in range(2))
    with pytest.raises(UsageError, match=r"masked network computes something else on each call.*'activation\.1'"):
        certify(masked, small, images())
    masked, small = masked_and_small("mlp-relu")
    small.activation = nn.Sequential(nn.ReLU(), Restless())
    with pytest.raises(UsageError, match="compact network computes something else on each call"):
        certify(masked, small, images())


def test_dropout_that_evaluation_mode_switches_off_is_no_difference():
    masked, small = masked_and_small("mlp-relu")
    masked.activation, small.activation = (nn.Sequential(nn.ReLU(), nn.Dropout(0.5)) for _ in range(2))
    assert certify(masked.train(), small.train(), images()).difference < 1e-6


def test_a_wrong_number_of_heads_is_refused():
    masked, small = masked_and_small("vit", removed=0.4)
    attention = small.blocks[0].attn
    assert attention.num_heads == 3
    attention.num_heads, attention.head_dim = 1, 12
    with pytest.raises(UsageError, match=r"first in 'blocks\.0\.attn"):
        certify(masked, small, images())


def test_double_precision_is_held_to_more():
    masked, small = (network.double() for network in masked_and_small("resnet-group"))
    certificate = certify(masked, small, images().double())
    assert certificate.difference < 1e-13
    assert (certificate.tolerance, certificate.dtype) == (1e-10, "float64")
    with torch.no_grad():
        small.head.bias[0] += 1e-8
    with pytest.raises(UsageError, match="more than 1e-10, first in 'head'"):
        certify(masked, small, images())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_single_precision(dtype):
    masked, small = (network.to(dtype) for network in masked_and_small("vit"))
    certificate = certify(masked, small, images())
    assert certificate.difference < 1e-5
    assert certificate.dtype == "float32"
    assert {p.dtype for network in (masked, small) for p in network.parameters()} == {dtype}


def test_the_difference_is_relative_to_large_outputs_only():
    one, two = nn.Linear(4, 2), nn.Linear(4, 2)
    two.load_state_dict(one.state_dict())
    with torch.no_grad():
        two.bias[0] += 1e-3
    x = torch.randn(130, 4)
    certificate = certify(one, two, x, tolerance=1e-2)
    assert certificate.difference == pytest.approx(1e-3 / max(1.0, one(x).abs().max().item()), rel=1e-3)
    with torch.no_grad():
        one.weight.mul_(100), two.weight.mul_(100)
    smaller = certify(one, two, x, tolerance=1e-2)
    assert smaller.difference == pytest.approx(1e-3 / one(x).abs().max().item(), rel=0.05)
    assert smaller.largest == pytest.approx(one(x).abs().max().item())
    assert str(Certificate(1e-6, 2.345, 130, 1e-5, "float32")) == (
        "outputs of up to 2.3 differ by at most 1.0e-06 on 130 examples (float32; allowed 1e-05)"
    )


def test_other_shapes_and_no_inputs_are_refused():
    with pytest.raises(UsageError, match=r"have shape \(5, 3\), those of the masked one \(5, 2\)"):
        certify(nn.Linear(4, 2), nn.Linear(4, 3), torch.randn(5, 4))
    with pytest.raises(UsageError, match="x is empty"):
        certify(nn.Linear(4, 2), nn.Linear(4, 2), torch.randn(0, 4))

    class Silent(nn.Linear):
        def forward(self, x):
            return ()

    with pytest.raises(UsageError, match="the masked network returns 1 tensors, the compact one 0"):
        certify(nn.Linear(4, 2), Silent(4, 2), torch.randn(5, 4))


# ---------------------------------------------------------------------------------- BatchNorm


def test_re_estimated_statistics_are_averages_over_the_batches():
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, momentum=0.3), nn.Dropout(0.5), nn.Linear(6, 2))
    network[0].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    batches = [torch.randn(n, 4) for n in (10, 30, 7)]
    assert reestimate_batch_norm(network, batches) == Reestimation(("1",), 3, 47)
    inner = [network[0](batch).detach() for batch in batches]
    mean = torch.stack([h.mean(0) for h in inner]).mean(0)
    variance = torch.stack([h.var(0) for h in inner]).mean(0)
    torch.testing.assert_close(network[1].running_mean, mean)
    torch.testing.assert_close(network[1].running_var, variance)
    assert network[1].num_batches_tracked == 3
    assert network[1].momentum == 0.3
    assert [module.training for module in network] == [False, True, True, True]
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "without a batch"),
        ([torch.randn(5, 4), torch.randn(1, 4)], "batch of 1"),
        ([torch.full((5, 4), float("inf"))], "statistics of '1' are not finite"),
    ],
)
def test_a_failed_re_estimation_changes_nothing(batches, message):
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)).eval()
    network[1].running_mean.uniform_()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(UsageError, match=message):
        reestimate_batch_norm(network, batches)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network[1].momentum == 0.1
    assert not network[1].training


def test_masked_and_compact_networks_re_estimate_alike():
    masked, small = masked_and_small("resnet-batch")
    batches = [images(16, seed) for seed in range(3)]
    assert reestimate_batch_norm(masked, batches) == reestimate_batch_norm(small, batches)
    assert certify(masked, small, images()).difference < 1e-5


def test_a_network_without_batch_norm_is_not_run():
    assert reestimate_batch_norm(network_of("vit"), [torch.ones(0)]) == Reestimation((), 0, 0)
