"""Groups of networks from elsewhere: what is offered can be cut out exactly, what is not comes with a reason."""

import time
import warnings

import pytest
import timm
import torch
import torchvision
from bayesprune.architectures.build import build
from bayesprune.architectures.compaction.compact import compact
from bayesprune.architectures.discovery.units_of import group_units, groups_of, left_out, units
from bayesprune.architectures.units.mask import Mask
from bayesprune.datasets.errors import UsageError
from torch import nn
from torch.nn import functional as F

# Each network with the side of its images.
FAST = {
    "resnet18": (lambda: timm.create_model("resnet18", num_classes=10), 64),
    "vit_tiny": (lambda: timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=64), 64),
    "mixer_s32": (lambda: timm.create_model("mixer_s32_224", num_classes=10, img_size=64), 64),
    "convnext_atto": (lambda: timm.create_model("convnext_atto", num_classes=10), 64),
    "mobilenetv3_small": (lambda: timm.create_model("mobilenetv3_small_050", num_classes=10), 64),
    "efficientnet_b0": (lambda: timm.create_model("efficientnet_b0", num_classes=10), 64),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=10), 64),
    "squeezenet": (lambda: torchvision.models.squeezenet1_1(num_classes=10), 64),
    "own": (lambda: Own(), 16),
    "wrapped_vit": (lambda: Wrapped(), 32),
}
SLOW = {
    "resnet50": (lambda: torchvision.models.resnet50(num_classes=10), 64),
    "vgg16_bn": (lambda: torchvision.models.vgg16_bn(num_classes=10), 32),
    "vit_b_16": (lambda: torchvision.models.vit_b_16(num_classes=10, image_size=32), 32),
}
NETWORKS = FAST | SLOW
network = pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])


class Own(nn.Module):
    """Branches, concatenation, a residual, grouped and transposed convolutions, five norms and a head."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.left = nn.Conv2d(16, 12, 3, padding=1, groups=4)
        self.right, self.group_norm = nn.Conv2d(16, 8, 1), nn.GroupNorm(4, 8)
        self.mix, self.prelu = nn.Conv2d(20, 16, 1), nn.PReLU(16)
        self.plain, self.instance = nn.BatchNorm2d(16, affine=False), nn.InstanceNorm2d(16, affine=True)
        self.gate = nn.Conv2d(16, 1, 1)
        self.scale = nn.Parameter(torch.full((16, 1, 1), 1e-6))
        self.up, self.up_grouped = nn.ConvTranspose2d(16, 6, 2, 2), nn.ConvTranspose2d(6, 8, 2, 2, groups=2)
        self.depthwise = nn.Conv2d(8, 24, 3, groups=8)
        self.hidden, self.head = nn.Linear(24 * 9, 20), nn.Linear(20, 10)

    def forward(self, x):
        x = F.relu(self.bn(self.stem(x)))
        y = torch.cat([F.gelu(self.left(x)), torch.sigmoid(self.group_norm(self.right(x)))], 1)
        x = x + self.scale * self.instance(self.prelu(self.plain(self.mix(y))))
        x = x * torch.sigmoid(self.gate(x))
        x = F.adaptive_avg_pool2d(self.depthwise(self.up_grouped(self.up(x))), 3).flatten(1)
        return self.head(torch.cos(self.hidden(x)))


class Wrapped(nn.Module):
    """A network that declares its groups, as a part of one that does not."""

    def __init__(self):
        super().__init__()
        self.backbone = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0, depth=2)
        self.hidden, self.head = nn.Linear(192, 24), nn.Linear(24, 10)

    def forward(self, x):
        return self.head(F.relu(self.hidden(self.backbone(x))))


class Chain(nn.Module):
    """Three linear layers; `between` is computed between the first two."""

    def __init__(self, between=None):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.between = between or torch.relu

    def forward(self, x):
        return self.third(torch.relu(self.second(self.between(self.first(x)))))


def perturbed(module, seed=0):
    """The module with noise on every parameter and statistic, so that no initial zero or one hides a mistake."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor):
        return torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for parameter in module.parameters():
            spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
            parameter.add_(noise(parameter) * (0.3 * spread + (0.02 if parameter.dim() > 1 else 0.3)))
        for name, buffer in module.named_buffers():
            if "running" in name:
                buffer.copy_(noise(buffer) * 0.3 if "mean" in name else noise(buffer).abs() + 0.5)
    return module.eval()


def random_mask(owner, seed, keep):
    """In each group as many units stay as `keep` says, at least one, at random."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.zeros(owner.n, dtype=torch.bool)
    for part in owner.split(kept):
        part[torch.randperm(len(part), generator=generator)[: max(1, round(keep * len(part)))]] = True
    return Mask(owner, kept)


def images(side, n=2):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(9))


# ---------------------------------------------------------------------------------- exactness


@network
def test_masked_equals_compact(name):
    make, side = NETWORKS[name]
    x = images(side)
    dense = perturbed(make())
    owner = group_units(dense, x)
    weights = {key: p.detach().clone() for key, p in dense.named_parameters()}
    buffers = {key: b.clone() for key, b in dense.named_buffers()}
    for keep in (0.7, 0.5, 0.3):
        dense.load_state_dict(weights | buffers, strict=False)
        mask = random_mask(owner, int(10 * keep), keep)
        small = compact(dense, mask)
        with torch.no_grad():
            before = dense(x)
            mask.apply_(dense)
            masked, cut = dense(x), small(x)
        scale = float(masked.abs().max())
        torch.testing.assert_close(cut, masked, rtol=0, atol=1e-5 * max(1.0, scale))
        assert float((before - masked).abs().max()) > 1e-2 * scale, "the test has no power"
    assert all(torch.equal(b, buffers[key]) for key, b in dense.named_buffers())
    sizes = [sum(p.numel() for p in net.parameters()) for net in (dense, small)]
    assert sizes[1] < 0.75 * sizes[0]


@pytest.mark.parametrize("name", ["own", "mobilenetv3_small"])
def test_compact_network_trains_and_is_pruned_again(name):
    make, side = NETWORKS[name]
    x = images(side, 4)
    dense = perturbed(make())
    small = compact(dense, random_mask(group_units(dense, x), 0, 0.6)).train()
    F.cross_entropy(small(x), torch.tensor([0, 1, 2, 3])).backward()
    assert all(p.grad is not None for p in small.parameters())
    small.eval()
    mask = random_mask(group_units(small, x), 1, 0.6)
    smaller = compact(small, mask)
    mask.apply_(small)
    torch.testing.assert_close(smaller(x), small(x), rtol=1e-5, atol=1e-5)


def test_masked_equals_compact_in_training_mode():
    x = images(16, 6).double()
    dense = perturbed(Own()).double()
    mask = random_mask(group_units(dense, x), 0, 0.5)
    small = compact(dense, mask).train()
    mask.apply_(dense)
    torch.testing.assert_close(small(x), dense.train()(x), rtol=1e-12, atol=1e-12)


def test_every_axis_of_a_residual_network_belongs_to_a_unit():
    """Of timm's ResNet-18 all but the image's own channels and the outputs can be cut; each part in one group."""
    dense = timm.create_model("resnet18", num_classes=10)
    owner = group_units(dense, images(64))
    assert len(owner.groups) == 8 + 4  # one inside each block, one stream per stage
    axes = [(part.name, part.axis) for group in owner.groups for part in (*group.slices, *group.buffers)]
    expected = {("fc.weight", 1)} | {(name, 0) for name, b in dense.named_buffers() if "running" in name}
    for name, p in dense.named_parameters():
        if not name.startswith("fc"):
            expected |= {(name, 0), (name, 1)} if p.dim() == 4 and name != "conv1.weight" else {(name, 0)}
    assert set(axes) == expected
    assert len(axes) == len(expected)


def test_units_of_the_own_network():
    """Whole groups of norms, and of convolutions where there are more groups than places in one; else places in all.

    The residual ties the stem to the four groups of `left`; `up_grouped` has two groups of three to four channels.
    """
    sizes = {group.name: group.size for group in groups_of(Own(), images(16))}
    assert sizes == {
        "stem channels": 4, "right channels": 4, "up channels": 3, "up_grouped channels": 4, "hidden neurons": 20
    }  # fmt: skip


@pytest.mark.parametrize("axis", [1, -3])
@pytest.mark.parametrize("between", ["", "conv"])
def test_flattened_channels_and_offsets_of_a_concatenation(axis, between):
    """12 channels side by side: 4, the 3 of the image, 5."""

    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 5, 3, padding=1)
            self.conv, self.fc = nn.Conv2d(12, 6, 1) if between else nn.Identity(), nn.LazyLinear(2)

        def forward(self, x):
            return self.fc(self.conv(torch.cat([self.a(x), x, self.b(x)], axis)).flatten(1))

    module, x = Parts(), images(4)
    module(x)
    first, second, *third = groups_of(module, x)
    reader = "conv.weight" if between else "fc.weight"
    columns = {part.name: part.index for part in second.slices}[reader]
    assert torch.equal(columns, torch.arange(7, 12)[:, None] if between else torch.arange(7 * 16, 12 * 16).view(5, 16))
    assert [part.index.shape for part in first.slices] == [(4, 1), (4, 1), (4, 1 if between else 16)]
    assert [group.name for group in third] == (["conv filters"] if between else [])


# ---------------------------------------------------------------------------------- what is left out

MIXING = {
    "softmax": lambda x: x.softmax(-1),
    "variance": lambda x: x / (1 + x.var(-1, keepdim=True)),
    "layer norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "width": lambda x: x / x.shape[1],
    "roll": lambda x: x.roll(1, -1),
    "sort": lambda x: x.sort(-1).values,
    "outer": lambda x: (x[:, :, None] * x[:, None]).sum(1) + x.prod(-1, keepdim=True),
    "matrix": lambda x: x @ torch.ones(6, 6).tril(),
}


@pytest.mark.parametrize("operation", MIXING)
def test_units_that_an_operation_mixes_are_left_out(operation):
    chain, x = Chain(MIXING[operation]), torch.randn(5, 4)
    assert [group.name for group in groups_of(chain, x)] == ["second neurons"]
    reasons = left_out(chain, x)
    assert "third neurons" in reasons
    assert any(name.startswith("first") for name in reasons)


# What is zero adds nothing to a sum, and what is not zero at zero meets a column that left with it.
HARMLESS = {
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
    "clamp": lambda x: x.clamp(0.5),
    "norm": lambda x: F.normalize(x, dim=-1),
    "cumsum": lambda x: x.cumsum(-1),
    "batch norm": lambda x: F.batch_norm(x, None, None, training=True),
    "flip": lambda x: x.flip(-1),
    "mean": lambda x: x - x.mean(-1, keepdim=True),  # what has left still counts
    "split": lambda x: torch.cat(x.split([2, 4], -1)[::-1], -1),
}


@pytest.mark.parametrize("operation", HARMLESS)
def test_operations_that_keep_zeros_apart_are_exact(operation):
    chain, x = perturbed(Chain(HARMLESS[operation])), torch.randn(5, 4)
    owner = group_units(chain, x)
    assert owner.layer_sizes == (6, 6)
    mask = random_mask(owner, 0, 0.5)
    small = compact(chain, mask)
    mask.apply_(chain)
    torch.testing.assert_close(small(x), chain(x), rtol=1e-5, atol=1e-5)


def test_normalisation_and_outputs_are_left_out_with_a_reason():
    module = torchvision.models.VisionTransformer(32, 16, 2, 4, 16, 24, num_classes=3)
    reasons = left_out(module, images(32))
    assert "normalises over all of them" in reasons["conv_proj channels"]
    assert "outputs of the network" in reasons["heads.head neurons"]
    heads = [group.name for group in groups_of(module, images(32)) if group.kind == "head"]
    assert heads == [f"encoder.layers.encoder_layer_{i}.self_attention heads" for i in range(2)]
    assert len(groups_of(module, images(32))) == 4


def test_frozen_parameters_are_not_cut():
    chain, x = Chain(), torch.randn(3, 4)
    chain.first.bias.requires_grad_(False)
    assert [group.name for group in groups_of(chain, x)] == ["second neurons"]
    assert left_out(chain, x)["first neurons"] == "first.bias is frozen"
    wrapped = Wrapped()
    wrapped.backbone.blocks[0].requires_grad_(False)
    kept = [group.name for group in groups_of(wrapped, images(32))]
    assert kept == ["backbone.blocks.1.attn heads", "backbone.blocks.1.mlp hidden", "hidden neurons"]


def test_shared_and_repeated_parameters_are_not_cut():
    x = torch.randn(3, 4)
    shared = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    shared[1].weight = shared[0].weight
    assert [group.name for group in groups_of(shared, x)] == ["2 neurons"]
    assert "0.weight is shared by several layers" in left_out(shared, x).values()


def test_layers_that_are_used_more_than_once_lose_the_same_units_in_all_places():
    class Twice(Chain):
        def forward(self, x):
            return self.third(
                self.second(torch.tanh(F.linear(torch.exp(self.second(self.first(x))), self.second.weight)))
            )

    owner = check_exact(perturbed(Twice()), torch.randn(3, 4))
    assert dict(zip(owner.layer_names, owner.layer_sizes, strict=True)) == {"first channels": 6}


def check_exact(module, x):
    """What stays when units of every group are cut out computes what the masked network does."""
    module, x = module.double(), x.double()
    owner = group_units(module, x)
    mask = random_mask(owner, 0, 0.5)
    small = compact(module, mask)
    mask.apply_(module)
    torch.testing.assert_close(small(x), module(x), rtol=1e-10, atol=1e-10)
    return owner


class Centred(nn.Module):
    """Weights minus their average over the inputs, which is another one once inputs have left."""

    def forward(self, weight):
        return weight - weight.mean(1, keepdim=True)


def test_weights_that_are_computed_are_cut_where_that_is_exact():
    chain, x = Chain(), torch.randn(3, 4)
    nn.utils.parametrizations.weight_norm(chain.third)  # lengths of rows, to which zeros add nothing
    assert check_exact(perturbed(chain), x).layer_sizes == (6, 6)
    chain = Chain()
    nn.utils.parametrizations.spectral_norm(chain.third)
    assert check_exact(perturbed(chain), x).layer_sizes == (6, 6)
    chain = Chain()
    nn.utils.parametrize.register_parametrization(chain.third, "weight", Centred())
    assert [group.name for group in groups_of(chain, x)] == ["first neurons"]
    assert left_out(chain, x)["second neurons"] == "the operation mean mixes or counts them"


class Tagger(nn.Module):
    """A recurrent layer between a table of words and two linear layers."""

    def __init__(self, kind, **options):
        super().__init__()
        self.table, self.recurrent = nn.Embedding(9, 8), kind(8, 6, batch_first=True, **options)
        self.hidden, self.head = nn.LazyLinear(7), nn.Linear(7, 2)

    def forward(self, tokens):
        return self.head(torch.relu(self.hidden(self.recurrent(self.table(tokens))[0][:, -1])))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (nn.LSTM, {}),
        (nn.GRU, {}),
        (nn.RNN, {}),
        (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
        (nn.GRU, {"bias": False}),
    ],
)
def test_units_of_recurrent_layers_leave_with_all_their_gates(kind, options):
    """In all layers and directions at once, which share one width."""
    tokens = torch.randint(9, (4, 5), generator=torch.Generator().manual_seed(0))
    tagger = Tagger(kind, **options)
    tagger(tokens)
    tagger = perturbed(tagger.double())
    owner = group_units(tagger, tokens)
    assert dict(zip(owner.layer_names, owner.layer_sizes, strict=True)) == {
        "table channels": 8, "recurrent channels": 6, "hidden neurons": 7
    }  # fmt: skip
    mask = random_mask(owner, 0, 0.5)
    small = compact(tagger, mask)
    mask.apply_(tagger)
    torch.testing.assert_close(small(tokens), tagger(tokens), rtol=1e-10, atol=1e-10)
    assert small.recurrent.hidden_size == 3


# ---------------------------------------------------------------------------------- refusals


class Branching(nn.Module):
    def __init__(self, look):
        super().__init__()
        self.layer, self.look = nn.Linear(4, 4), look

    def forward(self, x):
        return self.layer(x) if self.look(x.mul(2).sum()) else x


@pytest.mark.parametrize(
    "look", [lambda t: t > 0, lambda t: t.item() > 0, lambda t: float(t) > 0, lambda t: t.tolist(), lambda t: int(t)]
)
def test_control_flow_that_depends_on_inputs_is_refused_with_the_layer(look):
    module = nn.Sequential(nn.Linear(4, 4), Branching(look), nn.Linear(4, 2))
    with pytest.raises(UsageError, match=r"layer '1' of Sequential depends on values of its inputs"):
        groups_of(module, torch.randn(3, 4))


class Helped(nn.Module):
    """A network with a second head that is used in training only."""

    def __init__(self):
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.helper, self.drop, self.last = nn.Linear(8, 5), nn.Dropout(0.5), nn.Linear(5, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.body(x)))
        return (self.head(x), self.last(self.drop(torch.relu(self.helper(x))))) if self.training else self.head(x)


def test_layers_that_compute_in_training_only_are_cut_too():
    module, x = perturbed(Helped()).double(), torch.randn(6, 4).double()
    owner = group_units(module, x)
    assert dict(zip(owner.layer_names, owner.layer_sizes, strict=True)) == {"body neurons": 8, "helper neurons": 5}
    mask = random_mask(owner, 0, 0.5)
    small = compact(module, mask)
    mask.apply_(module)
    for network in (small, module):
        network.train()
        network.drop.p = 0.0
    for found, expected in zip(small(x), module(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_mixed_types_are_refused_with_the_layer():
    chain = Chain()
    chain.second.double()
    with pytest.raises(UsageError, match=r"second\.weight is torch\.float64 beside parameters of torch\.float32"):
        groups_of(chain, torch.randn(3, 4))


@pytest.mark.parametrize(
    ("module", "example", "said"),
    [
        (Chain(), None, r"groups of Chain are not known; .* pass example=, a batch of its inputs"),
        (Chain(), torch.randn(0, 4), r"n >= 1, got shape \(0, 4\)"),
        (Chain(), [1.0], r"n >= 1, got list"),
        (Chain(), torch.randn(3, 5), r"Chain cannot take inputs of shape \(2, 5\)"),
        (nn.Sequential(nn.LazyLinear(3)), torch.randn(3, 5), r"0\.weight has no shape yet"),
        (torch.jit.script(nn.Linear(4, 4)), torch.randn(3, 4), r"compiled script"),
        (nn.Linear(4, 4), torch.randn(3, 4), r"no group .*\(neurons: the outputs of the network stay\)"),
        (nn.ReLU(), torch.randn(3, 4), r"no output of ReLU can be differentiated"),
    ],
)
def test_what_cannot_be_traced_is_refused(module, example, said):
    with pytest.raises(UsageError, match=said):
        groups_of(module, example)


def test_declared_groups_need_no_example():
    mlp = build("mlp", (4,), 2, seed=0, widths=(5,))
    assert (
        [g.name for g in groups_of(mlp, torch.randn(3, 4))] == [g.name for g in groups_of(mlp)] == ["layers.0 neurons"]
    )
    assert left_out(mlp) == {}
    assert units(mlp, "groups").n == units(mlp, "groups", torch.randn(3, 4)).n == 5
    assert units(Chain(), "groups", torch.randn(3, 4)).n == 12


# ---------------------------------------------------------------------------------- leaving things alone


def everything(module):
    """Identity and value of all that a network holds."""
    tensors = {name: (id(t), t.clone()) for name, t in module.state_dict(keep_vars=True).items()}
    flags = [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in module.parameters()]
    attributes = [{key: id(value) for key, value in vars(m).items()} for m in module.modules()]
    hooks = [list(m._forward_hooks) + list(m._forward_pre_hooks) for m in module.modules()]
    return tensors, flags, attributes, hooks


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_left_as_it_was(fails):
    module, x = Own(), images(16)
    module.lock = iter(())  # cannot be copied or pickled
    module.seen = []
    module.mix.register_forward_hook(lambda *_: None)
    module.left.bias.requires_grad_(False)
    module.group_norm.train()
    module.bn.eval()
    module(x).sum().backward()
    if fails:
        module.register_forward_hook(lambda _, __, y: y * 2 if y.sum() > 0 else y)
    before, random = everything(module), torch.get_rng_state()
    if fails:
        with pytest.raises(UsageError, match="depends on values"):
            groups_of(module, x)
    else:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("error")
            groups_of(module, x)
            left_out(module, x)
    after = everything(module)
    torch.testing.assert_close(after[:2], before[:2], rtol=0, atol=0)
    assert after[2:] == before[2:]
    assert torch.equal(torch.get_rng_state(), random)


def test_groups_do_not_depend_on_weights_or_on_the_example():
    def described(seed, x):
        torch.manual_seed(seed)
        return [
            (group.name, [(part.name, part.axis, part.index.tolist()) for part in (*group.slices, *group.buffers)])
            for group in groups_of(Own(), x)
        ]

    first = described(0, images(16))
    assert first == described(1, torch.zeros(1, 3, 16, 16)) == described(2, images(16, 5) * 100)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_any_precision_are_traced(dtype):
    assert [group.size for group in groups_of(Chain().to(dtype), torch.randn(3, 4).to(dtype))] == [6, 6]


@pytest.mark.slow
def test_groups_of_resnet50_cost_less_than_ten_forward_passes_and_a_second():
    module, x = torchvision.models.resnet50(num_classes=10).eval(), images(224, 1)
    groups_of(module, x)  # imports

    def seconds(call):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    double = torchvision.models.resnet50(num_classes=10).eval().double()
    with torch.no_grad():
        forward = seconds(lambda: double(x.double()))  # as tracing and trials compute
    assert seconds(lambda: groups_of(module, x)) <= 10 * forward + 1
