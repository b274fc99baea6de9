"""What layers add to a residual stream: units that leave on the side that writes them, and noise there."""

import copy

import bayesprune as bp
import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.compaction.certificate import certify
from bayesprune.architectures.compaction.compact import compact
from bayesprune.architectures.discovery.traced_residual import find
from bayesprune.architectures.discovery.units_of import residual_outputs, units, weight_units
from bayesprune.architectures.layers.spread import SpreadGroupNorm, SpreadLinear
from bayesprune.architectures.saved import bundle
from bayesprune.architectures.units.mask import Mask
from bayesprune.architectures.units.vector import Units
from bayesprune.bench.harness import run_matrix as harness
from bayesprune.bench.results.frames import results
from bayesprune.bench.spec.run import Choice
from bayesprune.datasets.errors import NotApplicable, UsageError
from bayesprune.datasets.load import load
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.noise.carriers import Reading, Writing
from bayesprune.methods.noise.multiplicative import MultiplicativeNoise
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

SHAPE, OUTPUTS = (1, 8, 8), 10
FAMILIES = {
    "resnet-batch": ("resnet", {"width": 8}),
    "resnet-group": ("resnet", {"width": 8, "norm": "group"}),
    "resnet-fixup": ("resnet", {"width": 8, "norm": "fixup"}),
    "vit": ("vit", {"dim": 16}),
    "mixer": ("mixer", {"dim": 16}),
}
family = pytest.mark.parametrize("family", FAMILIES)


def network_of(family: str) -> nn.Module:
    name, options = FAMILIES[family]
    return randomised(build(name, SHAPE, OUTPUTS, seed=0, **options))


def randomised(network: nn.Module) -> nn.Module:
    """Every parameter and running statistic random, so that nothing hides behind a zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        for module in network.modules():
            if isinstance(module, _NormBase):
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
                module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    return network


def half(owner: Units) -> Mask:
    kept = torch.rand(owner.n, generator=torch.Generator().manual_seed(2)) < 0.5
    for layer in owner.split(kept):
        layer[0], layer[-1] = True, False
    return Mask(owner, kept)


def masked_and_compact(network: nn.Module, x: torch.Tensor) -> tuple[nn.Module, nn.Module]:
    mask = half(units(network, "residual_out", x))
    mask.apply_(network)
    return network, compact(network, mask, x)


@pytest.fixture(scope="module")
def data():
    return load("digits", 0, subset=120)


# ---------------------------------------------------------------------- units and compaction


@family
def test_the_compact_network_computes_what_the_masked_one_does(family, tmp_path):
    x = torch.randn(40, *SHAPE, dtype=torch.float64)
    masked, small = masked_and_compact(network_of(family).double(), x)
    assert certify(masked, small, x).difference < 1e-12
    assert sum(p.numel() for p in small.parameters()) < 0.85 * sum(p.numel() for p in masked.parameters())
    name, options = FAMILIES[family]
    reference = {"name": name, "input_shape": SHAPE, "outputs": OUTPUTS, "options": options}
    small = small.float().eval()
    bundle.save(tmp_path / "small.safetensors", small, reference)
    again = bundle.load(tmp_path / "small.safetensors")
    assert torch.equal(again(x.float()), small(x.float()))
    exported = torch.export.export(small, (x[:3].float(),), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.testing.assert_close(exported.module()(x.float()), small(x.float()))


@family
def test_the_compact_network_learns_as_the_masked_one_does(family):
    """The same gradients, in training mode too: zeros are put where the mask has them, and nothing else."""
    x = torch.randn(12, *SHAPE, dtype=torch.float64)
    masked, small = masked_and_compact(network_of(family).double(), x)
    for network in (masked, small):
        network.train()(x).square().sum().backward()
    full = dict(masked.named_parameters())
    for name, parameter in small.named_parameters():
        if parameter.shape == full[name].shape and not name.endswith("bias"):
            torch.testing.assert_close(parameter.grad, full[name].grad, rtol=1e-9, atol=1e-9)


def test_transformers_have_them_behind_both_projections():
    """Wright et al. (2024): one for every feature of the stream in 24 layers of a ViT-B/16; here 4 layers of 16."""
    found = residual_outputs(network_of("vit"))
    layers = [f"blocks.{block}.{layer}" for block in (0, 1) for layer in ("attn.proj", "mlp.fc2")]
    assert [group.spread for group in found] == layers
    assert {group.size for group in found} == {16}


@pytest.mark.parametrize("family", ["resnet-batch", "resnet-group"])
def test_residual_networks_have_them_behind_every_norm_and_tracing_finds_the_same(family):
    network = network_of(family)
    norms = {name for name, module in network.named_modules() if isinstance(module, (_NormBase, nn.GroupNorm))}
    cuts = [
        {(p.name, p.axis) for g in found for p in g.slices} for found in (residual_outputs(network), traced(network))
    ]
    assert {f"{name}.weight" for name in norms} <= {name for name, _ in cuts[0]}
    assert cuts[0] == cuts[1]


def traced(network):
    return find(network, torch.randn(2, *SHAPE))


def test_a_published_network_has_a_variable_behind_every_norm():
    """As torchvision's ResNet-18; the ResNet-50 of Wright et al. (2024) has 53 layers of 26,560 in all (see slow)."""
    torchvision = pytest.importorskip("torchvision")
    network = randomised(torchvision.models.resnet18(num_classes=5))
    x = torch.randn(3, 3, 32, 32)
    owner = units(network, "residual_out", x)
    channels = [m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert sorted(owner.layer_sizes) == sorted(channels)
    masked, small = masked_and_compact(network, x)
    assert certify(masked, small, x).difference < 1e-5


@pytest.mark.slow
def test_the_resnet_50_of_the_paper_has_53_layers_and_26560_variables():
    timm = pytest.importorskip("timm")
    owner = units(timm.create_model("resnet50", num_classes=10), "residual_out", torch.randn(2, 3, 64, 64))
    assert (len(owner.groups), owner.n) == (53, 26_560)
    vit = timm.create_model("vit_base_patch16_224", num_classes=10)
    owner = units(vit, "residual_out")
    assert (len(owner.groups), owner.n) == (24, 24 * 768)


class Net(nn.Module):
    """Layers of width 6 between a first and a last one, put together by a function."""

    def __init__(self, function, **layers):
        super().__init__()
        self.first, self.head, self.function = nn.Linear(6, 6), nn.Linear(6, 3), function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.head(self.function(self, self.first(x)))


def linear(*names) -> dict[str, nn.Module]:
    return {name: nn.Linear(6, 6) for name in names}


def norm(name, **options) -> dict[str, nn.Module]:
    return {name: nn.BatchNorm1d(6, **options)}


POSITIONS = {"positions": nn.ParameterList([torch.randn(6)])}
FOUND = {
    "pre-norm": (lambda n, x: n.ln(x + n.f(n.ln0(x))), linear("f") | {"ln0": nn.LayerNorm(6), "ln": nn.LayerNorm(6)}),
    "post-norm": (lambda n, x: n.ln(n.ln0(x) + n.f(n.v(n.ln0(x)))),
                  linear("f", "v") | {"ln0": nn.LayerNorm(6), "ln": nn.LayerNorm(6)}),
    "norm behind": (lambda n, x: (x + n.bn(n.f(x.relu()))).relu(), linear("f") | norm("bn")),
    "table of positions": (lambda n, x: (lambda y: y + n.f(n.v(y).relu()))(x + n.positions[0]),
                           linear("f", "v") | POSITIONS),
    "scaled, dropped out, in place": (lambda n, x: x.clone().add_(n.drop(0.3 * n.f(x.relu()))),
                                      linear("f") | {"drop": nn.Dropout(0.2)}),
    "gated": (lambda n, x: x + n.f(x.relu()) * n.g(x).sigmoid(), linear("f", "g")),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_what_is_added_is_found_in_networks_of_ones_own(name):
    """Only the end of the branch: not the start of the stream, nor a gate, whose zeros would be one half."""
    network, x = randomised(Net(*FOUND[name][:1], **FOUND[name][1])), torch.randn(30, 6)
    found = residual_outputs(network, x)
    assert [group.name for group in found] == ["f outputs"]
    assert found[0].spread == ("bn" if name == "norm behind" else "f")
    masked, small = masked_and_compact(network, x)
    certify(masked, small, x)


def tied(layers, name):
    """Two layers with one parameter."""
    setattr(layers["g"], name, getattr(layers["f"], name))
    return layers


def frozen(layers):
    layers["bn"].weight.requires_grad_(False)
    return layers


def twice(n, x):
    x = x + n.f(x.relu())
    return x + n.g(x.relu())


class FastPath(nn.Module):
    """In evaluation mode torch's own encoder reads the weights of its layers without calling them."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.encoder(x.unsqueeze(1).expand(-1, 2, -1)).mean(1))


REFUSED = {
    "no sum": (Net(lambda n, x: n.f(x.relu()), **linear("f")), "no layer is added to what another one computes"),
    "both terms of one": (Net(lambda n, x: n.f(x + 0.04 * x**3), **linear("f")), "no layer is added"),
    "a norm that is no function of zero": (
        Net(lambda n, x: x + n.bn(n.f(x.relu()).relu()), **linear("f"), **norm("bn")), "no layer is added"),
    "a norm without scale": (
        Net(lambda n, x: (x + n.bn(n.f(x.relu()))).relu(), **linear("f"), **norm("bn", affine=False)), "bn has no scale"),
    "tied biases": (Net(twice, **tied(linear("f", "g"), "bias")), "bias is shared"),
    "tied weights": (Net(twice, **tied(linear("f", "g"), "weight")), "weight is shared"),
    "a frozen norm": (Net(lambda n, x: (x + n.bn(n.f(x.relu()))).relu(), **frozen(linear("f") | norm("bn"))), "is frozen"),
    "a class of one's own": (
        Net(lambda n, x: x + n.f(x.relu()), f=type("Mine", (nn.Linear,), {})(6, 6)), "no plain layer of torch"),
    "layers read without being called": (FastPath(), "computes something else"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_leave_is_refused_with_the_reason(name):
    network, reason = REFUSED[name]
    with pytest.raises(UsageError, match=f"adds to a residual stream can leave .*{reason}"):
        units(network, "residual_out", torch.randn(2, 6))


@pytest.mark.parametrize("family", ["vit", "resnet-batch", "resnet-group"])
def test_a_compact_network_can_lose_more(family):
    x = torch.randn(20, *SHAPE, dtype=torch.float64)
    _, small = masked_and_compact(network_of(family).double(), x)
    masked, smaller = masked_and_compact(copy.deepcopy(small), x)
    certify(masked, smaller, x)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in small.parameters())
    if family == "vit":
        masked, smaller = copy.deepcopy(small), units(small, "groups")
        mask = half(smaller)
        mask.apply_(masked)
        certify(masked, compact(masked, mask, x), x)
    else:
        with pytest.raises(UsageError, match="has lost some of what it adds"):
            units(small, "groups")


def test_kinds_are_known_of_networks_that_declare_them():
    with pytest.raises(UsageError, match="no unit that is known to be of the kind 'head'"):
        units(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), "head", torch.randn(2, 6))


def test_tracing_needs_an_example():
    with pytest.raises(UsageError, match="pass example="):
        units(FastPath(), "residual_out")


def test_kinds_of_groups_are_the_groups_of_that_kind():
    network = network_of("vit")
    found = {kind: units(network, kind).groups for kind in ("groups", "head", "ffn_hidden")}
    assert {g.kind for g in found["head"]} == {"head"}
    assert {g.kind for g in found["ffn_hidden"]} == {"hidden"}
    assert len(found["head"]) + len(found["ffn_hidden"]) == len(found["groups"])


def test_a_bundle_that_spreads_what_cannot_be_spread_is_refused(tmp_path):
    """Places belong to a layer that is known; a network of another class that has such a layer elsewhere is another."""
    masked, small = masked_and_compact(network_of("vit"), torch.randn(4, *SHAPE))
    bundle.save(tmp_path / "small.safetensors", small, dense=masked)
    assert isinstance(small.get_submodule("blocks.0.attn.proj"), SpreadLinear)
    other = copy.deepcopy(masked)
    other.blocks[0].attn.proj = nn.Identity()
    with pytest.raises(UsageError, match=r"blocks\.0\.attn\.proj"):
        bundle.load(tmp_path / "small.safetensors", other)


def test_groups_of_channels_leave_behind_a_group_norm():
    _, small = masked_and_compact(network_of("resnet-group"), torch.randn(4, *SHAPE))
    layer = small.get_submodule("stages.0.0.norm2")
    assert isinstance(layer, SpreadGroupNorm)
    assert layer(torch.randn(2, len(layer.weight), 3, 3)).shape == (2, 8, 3, 3)
    assert "spread over 8" in repr(layer)


# ---------------------------------------------------------------------- noise


def noisy(family, data, structures="residual_out", **options):
    """A network with random noise on its structures."""
    network = network_of(family)
    inference = MultiplicativeNoise(**options).for_units(structures)
    inference.attach(network, weight_units(network), data.train)
    steps = torch.randn(inference.steps.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    inference.load_tensors({"steps": steps + torch.tensor([[0.0], [4.0]])})
    return network, inference


@family
def test_the_mean_folds_into_what_is_written(family, data):
    network, inference = noisy(family, data)
    network.eval()
    with torch.no_grad():
        attached = network(data.train.x)
        inference.detach(network)
        torch.testing.assert_close(network(data.train.x), attached, rtol=1e-4, atol=1e-4)
    assert not [m for m in network.modules() if m._forward_pre_hooks or m._forward_hooks]


@pytest.mark.parametrize("draws", ["example", "minibatch", "element"])
def test_outputs_of_a_projection_are_multiplied(draws, data):
    """One factor for each example and feature, the same for every token; none of it is shared between layers."""
    network, _ = noisy("vit", data, draws=draws)
    plain = network_of("vit").blocks[0].mlp.fc2
    written = {}
    layer = network.blocks[0].mlp.fc2
    layer.register_forward_hook(lambda module, inputs, output: written.update(x=inputs[0], y=output))
    torch.manual_seed(0)
    network.train()(data.train.x[:8])
    factor = (written["y"] / plain(written["x"])).detach()
    assert factor.shape == (8, 16, 16)
    assert ((factor > 0) & (factor <= 1 + 1e-4)).all()
    tokens, examples = factor.std(1).max(), factor.mean(1).std(0).max()
    assert (tokens < 1e-3) == (draws != "element")
    assert (examples < 1e-3) == (draws == "minibatch")


def test_every_layer_that_writes_has_noise_of_its_own(data):
    """Groups share the noise of a stream among all that read it; here each of its writers has one."""
    _, inference = noisy("resnet-batch", data)
    writing = {carrier.layer for carrier in inference.noise.carriers if isinstance(carrier, Writing)}
    assert {"stem_norm", "stages.0.0.norm2", "stages.1.0.norm3"} <= writing
    reading = {carrier.layer for carrier in inference.noise.carriers if isinstance(carrier, Reading)}
    assert reading == {f"stages.{stage}.0.conv2" for stage in range(3)}  # behind the norms of inner channels
    _, groups = noisy("resnet-batch", data, "groups")
    assert len(inference.mu) > len(groups.mu)


def test_noise_behind_a_norm_is_noise_on_what_the_next_layer_reads(data):
    """θ > 0 passes through ReLU: inner channels carry the published noise at their reader."""
    network, _ = noisy("resnet-batch", data, draws="minibatch")
    block = network.stages[0][0]
    seen = {}
    block.norm1.register_forward_hook(lambda module, inputs, output: seen.update(normed=output.detach()))
    block.conv2.register_forward_hook(lambda module, inputs, output: seen.update(y=output.detach(), x=inputs[0]))
    network.train()(data.train.x[:8])
    ratio = seen["x"].detach() / seen["normed"].relu()
    per_channel = ratio.nanmean((0, 2, 3))
    torch.testing.assert_close((seen["normed"] * per_channel.view(1, -1, 1, 1)).relu(), seen["x"].detach(),
                               rtol=1e-3, atol=1e-4)  # fmt: skip


def test_factors_of_dropout_are_for_what_is_read(data):
    network = network_of("vit")
    inference = build_pruner("group-variational-dropout").inference().for_units("residual_out")
    with pytest.raises(NotApplicable, match="where structures are read"):
        inference.attach(network, weight_units(network), data.train)


# ---------------------------------------------------------------------- through the harness


def test_operations_are_counted_without_noise(tmp_path):
    text = MATRIX.replace("[head, ffn_hidden, residual_out]", "[groups]").replace(
        "shift:", "budget: {of: flops}\nshift:"
    )
    text = text.replace("when: during}, magnitude, l2-group, group-variational-dropout", "when: after}")
    (tmp_path / "matrix.yaml").write_text(text.replace("mlp, ", ""))
    harness.run(str(tmp_path / "matrix.yaml"), tmp_path / "results", jobs=1)
    assert list(results(tmp_path / "results")["reason"].isna()) == [True]


MATRIX = """
datasets: [{name: digits, subset: 120}]
architectures: [mlp, {name: vit, dim: 16, depth: 1}]
methods: [{name: bmrs-n, when: during}, magnitude, l2-group, group-variational-dropout]
sparsity: [0.5]
seeds: [0]
units: [head, ffn_hidden, residual_out]
training: {epochs: 2}
finetune: {epochs: 1}
shift: false
"""


def test_a_matrix_prunes_each_kind_of_unit_and_says_what_it_skips(tmp_path):
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    harness.run(str(tmp_path / "matrix.yaml"), tmp_path / "results", jobs=1)
    frame = results(tmp_path / "results")
    on = frame[frame["architecture"] != "mlp"].set_index(["method", "units"])
    assert (frame[frame["architecture"] == "mlp"]["status"] == "skipped").all()
    skipped = on[on["status"] == "skipped"]
    assert list(skipped.index) == [("group-variational-dropout", "residual_out")]
    done = on[on["status"] == "done"]
    assert len(done) == 11
    assert (done["certificate"] < 1e-5).all()
    assert (done["parameters_removed"] > 0).all()
    totals = {"head": 4, "ffn_hidden": 32, "residual_out": 32}
    for (_, kind), row in done.iterrows():
        assert (row["total"], row["kept"]) == (totals[kind], totals[kind] // 2)


def test_prune_takes_the_kind(data):
    network = network_of("vit")
    pruned = bp.prune(network, data, "magnitude", 0.5, structured="residual_out", progress=False)
    assert pruned.mask.units.n == 64
    assert pruned.mask.count == 32
    assert any(isinstance(module, SpreadLinear) for module in pruned.compact().modules())
    with pytest.raises(UsageError, match="did you mean 'residual_out'"):
        bp.prune(network, data, "magnitude", 0.5, structured="residual", progress=False)


def test_old_records_keep_their_keys():
    """Kinds of units are new; cells that existed before are what they were."""
    from bayesprune.bench.spec.run import Run

    cell = Run(dataset=Choice(name="digits"), architecture=Choice(name="mlp"), method=Choice(name="magnitude"),
               sparsity=0.5, seed=0, units="groups")  # fmt: skip
    assert cell.canonical() == {
        "dataset": {"name": "digits"}, "architecture": {"name": "mlp"}, "method": {"name": "magnitude"},
        "sparsity": 0.5, "seed": 0, "units": "groups",
    }  # fmt: skip


def test_gates_of_nodes_are_on_what_is_pruned(data):
    """One gate for each row of a projection, and different scores for what a gate says."""
    network = network_of("vit")
    inference = build_pruner("pip-gates", level="nodes").inference().for_units("residual_out")
    inference.attach(network, weight_units(network), data.train)
    owner = units(network, "residual_out")
    assert inference.count == owner.n == 64
    rows = dict(
        zip(inference.names, inference.owner.split([s.numel() for s in inference.shapes.values()]), strict=True)
    )
    for at, group in enumerate(owner.groups):
        gates = rows[f"{group.spread}.weight"].view(16, -1)
        assert (gates == torch.arange(16 * at, 16 * (at + 1)).unsqueeze(1)).all()
