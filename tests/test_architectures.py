"""Every network by name: shapes, seeds, derivatives, errors; and accuracy on the digits."""

import subprocess
import sys

import pytest
import torch
from bayesprune.architectures import registry
from bayesprune.architectures.build import build
from bayesprune.architectures.compaction.compact import compact
from bayesprune.architectures.discovery.units_of import group_units, units, weight_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.architectures.units.prunable import prunable
from bayesprune.datasets.errors import UsageError
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

OWN = {
    "mlp": ("mlp", {}),
    "lenet-300-100": ("lenet-300-100", {}),
    "lenet5": ("lenet5", {}),
    "resnet-batch": ("resnet", {}),
    "resnet-group": ("resnet", {"norm": "group"}),
    "resnet-fixup": ("resnet", {"norm": "fixup"}),
    "vit": ("vit", {}),
    "mixer": ("mixer", {}),
}
own = pytest.mark.parametrize("own", OWN)
DIGITS = (1, 8, 8)


def built(own, shape=DIGITS, outputs=10, seed=0):
    name, options = OWN[own]
    return build(name, shape, outputs, seed=seed, **options)


def batch(shape=DIGITS, n=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, *shape, generator=generator), torch.randint(10, (n,), generator=generator)


# ---------------------------------------------------------------------------------- shapes and seeds


@own
@pytest.mark.parametrize("shape", [DIGITS, (1, 16, 16), (1, 28, 28), (3, 32, 32)])
def test_takes_images_of_the_usual_sizes(own, shape):
    network = built(own, shape)
    x, y = batch(shape, n=3)
    result = network(x)
    assert result.shape == (3, 10)
    F.cross_entropy(result, y).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@own
def test_the_seed_decides_the_weights_and_nothing_else_moves(own):
    torch.manual_seed(123)
    state = torch.get_rng_state()
    one, same, other = (built(own, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@own
def test_networks_start_in_training_mode_in_float32_on_the_cpu(own):
    network = built(own)
    assert network.training
    assert {(p.dtype, p.device.type) for p in network.parameters()} == {(torch.float32, "cpu")}


def test_mlp_takes_tables_and_any_widths():
    network = build("mlp", (30,), 2, seed=0, widths=[8, 4, 3], activation="silu")
    assert network(torch.randn(5, 30)).shape == (5, 2)
    assert [tuple(p.shape) for p in prunable(network).values()] == [(8, 30), (4, 8), (3, 4), (2, 3)]


def test_lenets_have_the_sizes_of_the_paper():
    """LeNet-300-100 has 266,610 parameters and LeNet-5 61,706 (both counts include biases)."""
    count = [
        sum(p.numel() for p in build(n, (1, 28, 28), 10, seed=0).parameters()) for n in ("lenet-300-100", "lenet5")
    ]
    assert count == [266_610, 61_706]
    assert sum(p.numel() for p in build("lenet5", (1, 32, 32), 10, seed=0).parameters()) == 61_706


def test_lenet_with_tanh_and_average_pooling_is_the_chain_of_its_layers():
    network = build("lenet5", (1, 32, 32), 10, seed=0, activation="tanh", pooling="average")
    pooled = [part for conv in (network.conv1, network.conv2) for part in (conv, nn.Tanh(), nn.AvgPool2d(2))]
    chain = nn.Sequential(*pooled, nn.Flatten(), network.fc1, nn.Tanh(), network.fc2, nn.Tanh(), network.fc3)
    x, _ = batch((1, 32, 32))
    assert torch.equal(network(x), chain(x))


def test_resnet_20_has_the_layers_of_the_paper():
    network = build("resnet", (3, 32, 32), 10, seed=0, depth=20)
    main_path = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "project" not in n]
    assert len(main_path) == 20
    # 0.27 M in the paper, plus the two projections (16 x 32 and 32 x 64 weights, 2 x 96 norm parameters).
    assert sum(p.numel() for p in network.parameters()) == 269_722 + 512 + 2048 + 192


def test_fixup_starts_as_the_paper_says():
    network = build("resnet", DIGITS, 10, seed=0, depth=20, norm="fixup")
    blocks = [m for m in network.modules() if type(m).__name__ == "FixupBlock"]
    assert len(blocks) == 9
    for block in blocks:
        fan_out = block.conv1.out_channels * 9
        assert block.conv1.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5 * 9**-0.5, rel=0.1)
        assert not block.conv2.weight.any()
        assert [b.item() for b in (block.bias1, block.bias2, block.bias3, block.bias4, block.scale)] == [0, 0, 0, 0, 1]


def test_patch_divides_the_image():
    sizes = {side: build("vit", (1, side, side), 2, seed=0).patch_embed.patch_size[0] for side in (8, 16, 28, 32, 224)}
    assert sizes == {8: 2, 16: 2, 28: 4, 32: 4, 224: 28}
    assert build("mixer", (1, 8, 16), 2, seed=0)(torch.zeros(1, 1, 8, 16)).shape == (1, 2)


# ---------------------------------------------------------------------------------- groups


@own
def test_groups_cover_what_they_promise(own):
    kinds = {group.kind for group in group_units(built(own)).groups}
    assert (
        kinds
        == {
            "mlp": {"neuron"},
            "lenet-300-100": {"neuron"},
            "lenet5": {"filter", "neuron"},
            "resnet-batch": {"channel"},
            "resnet-group": {"channel"},
            "resnet-fixup": {"channel"},
            "vit": {"head", "hidden"},
            "mixer": {"hidden"},
        }[own]
    )


@own
def test_outputs_are_never_removed(own):
    network = built(own)
    last = list(prunable(network))[-1]
    owner = group_units(network)
    mask = Mask(owner, torch.zeros(owner.n, dtype=torch.bool))
    assert not any(part.name == last and part.axis == 0 for group in owner.groups for part in group.slices)
    assert last.replace("weight", "bias") not in mask.tensors


def test_sizes_of_groups():
    assert dict(zip(*_layers("lenet5"), strict=True)) == {
        "conv1 filters": 6,
        "conv2 filters": 16,
        "fc1 neurons": 120,
        "fc2 neurons": 84,
    }
    inner = {f"stages.{stage}.0 channels": 16 * 2**stage for stage in range(3)}
    stream = {f"stages.{stage} stream": 16 * 2**stage for stage in range(3)}
    assert dict(zip(*_layers("resnet-batch"), strict=True)) == inner | stream
    assert dict(zip(*_layers("resnet-group"), strict=True)) == {n: s // 4 for n, s in (inner | stream).items()}
    heads = {f"blocks.{i}.attn heads": 4 for i in range(2)}
    assert dict(zip(*_layers("vit"), strict=True)) == heads | {f"blocks.{i}.mlp hidden": 64 for i in range(2)}


def _layers(own):
    owner = group_units(built(own))
    return owner.layer_names, owner.layer_sizes


def test_every_weight_of_a_resnet_stream_or_block_belongs_to_a_unit():
    """All convolution and norm parameters touch a group on every axis but the image's own channels."""
    network = built("resnet-batch")
    owner = group_units(network)
    axes = {(part.name, part.axis) for group in owner.groups for part in group.slices}
    for name, parameter in network.named_parameters():
        expected = {0, 1} if parameter.dim() == 4 else {1} if name == "head.weight" else {0}
        expected -= {1} if name == "stem.weight" else set()
        expected -= {0} if name == "head.bias" else set()
        assert {axis for axis in (0, 1) if (name, axis) in axes} == expected, name
    buffers = {part.name for group in owner.groups for part in group.buffers}
    assert buffers == {name for name, _ in network.named_buffers() if "running" in name}


@pytest.mark.parametrize("options", [{}, {"qk_norm": True}, {"init_values": 0.5}, {"class_token": True}])
def test_groups_of_other_timm_transformers_are_exact(options):
    """Variants that `vit` does not offer, as a timm/<model> may have them; attention is fused here."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "num_heads": 3, "depth": 2, "num_classes": 3}
    network = VisionTransformer(**sizes, **options).double().eval()
    owner = group_units(network)
    mask = Mask(owner, (torch.arange(owner.n) % 3 != 1))
    small = compact(network, mask)
    mask.apply_(network)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(small(x), network(x), rtol=1e-12, atol=1e-12)


def test_attention_that_normalises_over_heads_is_left_out():
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "num_heads": 3, "depth": 1}
    kinds = {g.kind for g in group_units(VisionTransformer(**sizes, scale_attn_norm=True)).groups}
    assert kinds == {"hidden"}
    kinds = {g.kind for g in group_units(VisionTransformer(**sizes, scale_mlp_norm=True)).groups}
    assert kinds == {"head"}


# ---------------------------------------------------------------------------------- derivatives


@own
@pytest.mark.parametrize("training", [False, True])
def test_second_derivatives_reach_every_weight(own, training):
    network = built(own).train(training)
    x, y = batch()
    parameters = list(network.parameters())
    first = torch.autograd.grad(F.cross_entropy(network(x), y), parameters, create_graph=True)
    sum(g.square().sum() for g in first).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in prunable(network).values())


@own
def test_per_example_gradients_add_up(own):
    network = built(own).eval()
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    x, y = batch()

    def loss(parameters, x, y):
        return F.cross_entropy(functional_call(network, parameters, (x[None],)), y[None])

    each = vmap(grad(loss), (None, 0, 0))(parameters, x, y)
    F.cross_entropy(network(x), y, reduction="sum").backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(each[name].sum(0), parameter.grad, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("own", [name for name in OWN if name != "resnet-fixup"])
def test_gradients_at_the_start_reach_every_weight(own):
    """Nothing starts at zero, so that a score at initialisation, |g w|, is not one large tie."""
    network = built(own)
    x, y = batch()
    F.cross_entropy(network(x), y).backward()
    assert all((p.grad * p).abs().max() > 0 for p in prunable(network).values())


# ---------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["lenet5", "resnet", "vit", "mixer", "timm/resnet10t", "torchvision/resnet18"])
def test_tables_are_refused_where_an_image_is_needed(name):
    with pytest.raises(UsageError, match=rf"{name}.* needs images .*\(30,\)"):
        build(name, (30,), 2, seed=0)


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("resnet", DIGITS, {"depth": 9}, "depth=9 is not 6n.2; use 8 or 14"),
        ("resnet", DIGITS, {"depth": 2}, "depth=2 is not 6n.2; use 8 or 14"),
        ("resnet", DIGITS, {"width": 6, "norm": "group"}, "multiple of 4, not 6"),
        ("resnet", DIGITS, {"width": 0}, "width=0 must be above 0"),
        ("resnet", DIGITS, {"norm": "layer"}, "norm='layer' is not valid"),
        ("resnet", DIGITS, {"dept": 8}, "did you mean 'depth'"),
        ("mlp", DIGITS, {"widths": [4, 0]}, "widths=0 must be above 0"),
        ("mlp", DIGITS, {"activation": "swish"}, "activation='swish' is not valid"),
        ("lenet5", (1, 3, 3), {}, r"at least 4x4, got shape \(1, 3, 3\)"),
        ("vit", DIGITS, {"patch": 3}, "patch=3 does not divide images of 8x8"),
        ("vit", DIGITS, {"patch": 0}, "patch=0 must be above 0"),
        ("vit", DIGITS, {"dim": 30}, "dim=30 must be a multiple of heads=4"),
        ("vit", (1, 28, 27), {}, "no patch divides images of 28x27"),
        ("mixer", DIGITS, {"mlp_ratio": [0.01, 1]}, "mlp_ratio=0 must be above 0"),
        ("timm/resnet10", DIGITS, {}, "unknown timm network 'resnet10'; did you mean 'resnet10t'"),
        ("timm/vit_tiny_patch16_224", DIGITS, {}, r"cannot take inputs of shape \(1, 8, 8\)"),
        ("torchvision/resnet19", (3, 8, 8), {}, "unknown torchvision network 'resnet19'; did you mean 'resnet18'"),
        ("torchvision/resnet18", DIGITS, {}, r"takes 3 channels, got inputs of shape \(1, 8, 8\)"),
        ("torchvision/vit_b_32", (3, 8, 8), {}, r"cannot take inputs of shape \(3, 8, 8\)"),
        ("resnett", DIGITS, {}, "unknown architecture 'resnett'; did you mean 'resnet'"),
        ("nowhere_to_be_found:net", DIGITS, {}, "cannot import 'nowhere_to_be_found'"),
    ],
)
def test_refusals_name_the_value(name, shape, options, message):
    with pytest.raises(UsageError, match=message):
        build(name, shape, 2, seed=0, **options)


# ---------------------------------------------------------------------------------- from elsewhere


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("timm/resnet10t", (1, 32, 32)),
        ("timm/mobilenetv3_small_050", (3, 32, 32)),
        ("torchvision/squeezenet1_0", (3, 32, 32)),
        ("torchvision/mobilenet_v3_small", (3, 32, 32)),
    ],
)
def test_foreign_networks_offer_their_weights_but_no_groups(name, shape):
    network = build(name, shape, 7, seed=0)
    assert network.training
    assert network(batch(shape, n=2)[0]).shape == (2, 7)
    found = prunable(network)
    kinds = dict(network.named_modules())
    assert all(isinstance(kinds[n.rpartition(".")[0]], nn.Conv2d | nn.Linear) for n in found)
    assert weight_units(network).n > 0.9 * sum(p.numel() for p in network.parameters())
    with pytest.raises(UsageError, match=r"are not known; its weights can still be pruned \(units: weights\)"):
        units(network, "groups")
    again = dict(build(name, shape, 7, seed=0).named_parameters())
    assert all(torch.equal(parameter, again[key]) for key, parameter in network.named_parameters())


@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224", "timm/mixer_s32_224"])
def test_groups_of_timm_transformers_and_mixers_are_known(name):
    network = build(name, (1, 32, 32), 5, seed=0)
    owner = group_units(network)
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(owner.n, generator=generator) < 0.5
    for part in owner.split(kept):
        part[0] = True
    mask = Mask(owner, kept)
    small = compact(network, mask).double().eval()
    mask.apply_(network)
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(small(x), network.double().eval()(x), rtol=1e-10, atol=1e-10)


def test_pretrained_weights_fill_all_but_the_classifier(monkeypatch):
    from bayesprune.architectures import foreign
    from torchvision import models

    source = models.squeezenet1_0(weights=None, num_classes=1000)

    class Weights:
        def get_state_dict(self, **_):
            return source.state_dict()

    network = models.squeezenet1_0(weights=None, num_classes=5)
    foreign._load_matching("torchvision/squeezenet1_0", network, Weights())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]) == ("classifier" not in name), name


def test_weights_that_cannot_be_fetched_are_a_usage_error():
    from bayesprune.architectures import foreign

    class Weights:
        def get_state_dict(self, **_):
            raise OSError("no route to host")

    with pytest.raises(UsageError, match="pretrained=True, but its weights cannot be loaded: no route to host"):
        foreign._load_matching("torchvision/resnet18", nn.Linear(1, 1), Weights())


MINE = """
import torch
from torch import nn

def good(input_shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(input_shape).numel(), outputs))

def wrong_width(input_shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(input_shape).numel(), outputs + 1))

def no_module(input_shape, outputs):
    return 3

def breaks(input_shape, outputs):
    raise KeyError("missing")
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(MINE)
    (tmp_path / "my_broken_networks.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_networks", None)


@pytest.mark.usefixtures("mine")
def test_a_function_of_the_user_builds_a_network():
    one, same = (build("my_networks:good", DIGITS, 4, seed=3) for _ in range(2))
    assert torch.equal(one[1].weight, same[1].weight)
    assert weight_units(one).n == 64 * 4


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_networks:god", "unknown function of 'my_networks' 'god'; did you mean 'good'"),
        ("my_networks:wrong_width", r"two inputs give \(2, 5\), expected shape \(2, 4\)"),
        ("my_networks:no_module", "returned int, not a torch.nn.Module"),
        ("my_networks:breaks", "missing"),
        ("my_broken_networks:good", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_function_of_the_user_that_cannot_be_used(name, message):
    with pytest.raises(UsageError, match=message):
        build(name, DIGITS, 4, seed=0)


# ---------------------------------------------------------------------------------- imports and names


def test_every_architecture_is_listed():
    names = {"<module>:<function>", "lenet-300-100", "lenet5", "mixer", "mlp", "resnet", "timm/<model>"}
    assert names | {"torchvision/<model>", "vit"} <= registry.catalogue().keys()
    assert all(entry.summary.endswith((".", ")")) for entry in registry.catalogue().values())


def run_python(*lines):
    command = [sys.executable, "-c", "\n".join(lines)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def loaded_by(*lines):
    return run_python("import sys", *lines, "print([m for m in ('torch', 'timm', 'torchvision') if m in sys.modules])")


def test_units_do_not_import_timm():
    assert (
        loaded_by("import bayesprune.architectures.discovery.units_of, bayesprune.architectures.compaction.compact")
        == "['torch']"
    )


def test_listing_does_not_import_torch():
    assert loaded_by("from bayesprune.architectures import registry", "registry.catalogue()") == "[]"


def test_groups_of_a_timm_network_are_found_without_the_builder():
    sizes = run_python(
        "from timm.models.mlp_mixer import MlpMixer",
        "from bayesprune.architectures.discovery.units_of import group_units",
        "print(group_units(MlpMixer(2, 8, 1, 4, 1, 8)).layer_sizes)",
    )
    assert sizes == "(4, 32)"


# ---------------------------------------------------------------------------------- accuracy


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, *DIGITS).astype("float32") / 16
    x, rest, y, rest_y = train_test_split(x, y, test_size=0.4, stratify=y, random_state=0)
    _, test, _, test_y = train_test_split(rest, rest_y, test_size=0.5, stratify=rest_y, random_state=0)
    mean, std = x.mean(), x.std()
    scaled = [torch.tensor((part - mean) / std) for part in (x, test)]
    return scaled[0], torch.tensor(y), scaled[1], torch.tensor(test_y)


@own
@pytest.mark.slow
def test_learns_the_digits(own, digits):
    """More than 95 % of the test split, after 20 epochs of Adam at 3e-3 in batches of 64."""
    x, y, test, test_y = digits
    network = built(own)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        for index in torch.randperm(len(x), generator=generator).split(64):
            optimiser.zero_grad()
            F.cross_entropy(network(x[index]), y[index]).backward()
            optimiser.step()
    with torch.no_grad():
        accuracy = (network.eval()(test).argmax(1) == test_y).double().mean().item()
    assert accuracy > 0.95
