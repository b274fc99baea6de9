"""Bundles load in a fresh process bit-identically, damage is named, and exports compute the same."""

import copy
import importlib.util
import json
import re
import subprocess
import sys

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.compaction.certificate import certify
from bayesprune.architectures.compaction.compact import compact
from bayesprune.architectures.saved import export as export_module
from bayesprune.architectures.saved.bundle import load, read, save
from bayesprune.architectures.saved.export import ONNX, export, export_onnx
from bayesprune.architectures.units.mask import Mask
from bayesprune.architectures.units.slices import Group, Slice
from bayesprune.architectures.units.vector import Units
from bayesprune.datasets.errors import UsageError
from safetensors import torch as safetensors
from test_compaction import FAMILIES, OUTPUTS, SHAPE, family, images, masked_and_small, network_of, reference
from torch import nn

LOADER = """
import json, pickle, sys, torch
def refuse(*_, **__):
    raise AssertionError("something was unpickled")
pickle.load = pickle.loads = torch.load = refuse
from safetensors.torch import load_file, save_file
from bayesprune.architectures.saved.bundle import load
torch.set_num_threads(1)
folder = sys.argv[1]
x = load_file(folder + "/x.safetensors")["x"].clone()  # aligned as any other tensor
outputs = {}
for name in json.loads(sys.argv[2]):
    with torch.no_grad():
        outputs[name] = load(f"{folder}/{name}.bundle", trust="trust" in sys.argv)(x)
save_file(outputs, folder + "/outputs.safetensors")
"""


def loaded_elsewhere(folder, names, x, *more, cwd=None):
    """Outputs for x of the bundles in a fresh process that cannot unpickle."""
    safetensors.save_file({"x": x}, folder / "x.safetensors")
    command = [sys.executable, "-c", LOADER, str(folder), json.dumps(names), *more]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return safetensors.load_file(folder / "outputs.safetensors")


def outputs_of(network, x):
    with torch.no_grad():
        return copy.deepcopy(network).eval()(x)


@pytest.fixture
def bundle(tmp_path):
    """A compact vision transformer, and its file."""
    masked, small = masked_and_small("vit")
    path = tmp_path / "vit.bundle"
    save(path, small, reference("vit"), certify(masked, small, images()), notes={"method": "opd", "sparsity": 0.5})
    return small, path


# ---------------------------------------------------------------------------------- there and back


def test_every_family_comes_back_in_a_fresh_process(tmp_path):
    """Compact at every share that leaves, and once merely masked."""
    expected, x = {}, images()
    for name in FAMILIES:
        pairs = {
            0.3: ("random", "small"),
            0.5: ("magnitude", "small"),
            0.7: ("random", "small"),
            0.6: ("random", "masked"),
        }
        for removed, (kind, which) in pairs.items():
            network = dict(zip(("masked", "small"), masked_and_small(name, kind, removed), strict=True))[which]
            save(tmp_path / f"{name}-{removed}.bundle", network, reference(name))
            expected[f"{name}-{removed}"] = outputs_of(network, x)
    found = loaded_elsewhere(tmp_path, list(expected), x)
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


@family
def test_a_dense_network_of_the_caller_will_do(family, tmp_path):
    _, small = masked_and_small(family)
    small.requires_grad_(False).get_parameter(next(iter(dict(small.named_parameters())))).requires_grad_(True)
    dense = network_of(family, seed=5)
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    plan = save(tmp_path / "b", small, dense=dense)
    again = load(tmp_path / "b", dense)
    assert plan.architecture is None
    assert torch.equal(outputs_of(again, images()), outputs_of(small, images()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in small.parameters()]
    assert again.state_dict().keys() == small.state_dict().keys()
    assert not any(module.training for module in again.modules())
    optimiser = torch.optim.SGD(again.requires_grad_(True).train().parameters(), lr=0.1)
    again(images(8)).square().sum().backward()
    optimiser.step()
    with pytest.raises(UsageError, match=r"b does not say how to build its .*; give load the dense network"):
        load(tmp_path / "b")


def test_without_dense_shapes_anything_large_enough_will_do(tmp_path):
    _, small = masked_and_small("mlp-relu")
    save(tmp_path / "b", small)
    assert torch.equal(
        outputs_of(load(tmp_path / "b", network_of("mlp-relu", 3)), images()), outputs_of(small, images())
    )
    with pytest.raises(UsageError, match=r"'layers\.0\.\w+' of shape .* cannot be cut out of \(8,"):
        load(tmp_path / "b", build("mlp", SHAPE, OUTPUTS, seed=0, widths=[8, 8]))


def test_the_plan_tells_what_the_file_is(bundle):
    small, path = bundle
    plan, tensors = read(path)
    assert plan.notes == {"method": "opd", "sparsity": 0.5}
    assert plan.certificate.examples == 24
    assert plan.certificate.difference < 1e-5
    assert plan.network == "VisionTransformer"
    assert plan.architecture.name == "vit"
    weight = plan.tensors["blocks.0.attn.qkv.weight"]
    assert (weight.dense, weight.shape) == ((60, 20), tuple(small.blocks[0].attn.qkv.weight.shape))
    assert plan.sizes["blocks.0.attn"]["num_heads"] == small.blocks[0].attn.num_heads == 2
    assert all(torch.equal(tensors[name], tensor) for name, tensor in small.state_dict().items())
    assert safetensors.load_file(path).keys() == small.state_dict().keys(), "any safetensors reader can open it"


def test_saving_again_gives_the_same_bytes(bundle):
    _, path = bundle
    content = path.read_bytes()
    plan, _ = read(path)
    save(path, load(path), reference("vit"), plan.certificate, notes=plan.notes)
    assert path.read_bytes() == content
    assert [found.name for found in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_precision_comes_back(dtype, tmp_path):
    _, small = masked_and_small("resnet-batch")
    save(tmp_path / "b", small.to(dtype), reference("resnet-batch"))
    again = load(tmp_path / "b")
    assert {p.dtype for p in again.parameters()} == {dtype}
    assert torch.equal(outputs_of(again, images().to(dtype)), outputs_of(small, images().to(dtype)))


def test_shared_tensors_stay_shared(tmp_path):
    def tied():
        network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        network[2].weight = network[0].weight
        return network

    network = tied()
    save(tmp_path / "b", network)
    again = load(tmp_path / "b", tied())
    assert again[0].weight is again[2].weight
    assert torch.equal(again(torch.ones(1, 4)), network(torch.ones(1, 4)))
    with pytest.raises(UsageError, match=r"b is of another network: Sequential has a tensor '2\.weight'"):
        load(tmp_path / "b", nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)))


def test_a_bias_that_folding_made_comes_back(tmp_path):
    def dense():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 3, bias=False))

    network, index = dense(), torch.arange(5)[:, None]
    rows = [Slice(name, 0, index, network.get_parameter(name).shape) for name in ("0.weight", "0.bias")]
    columns = Slice("2.weight", 1, index, network[2].weight.shape)
    mask = Mask(Units((Group("units", "neuron", tuple(rows), (columns,)),)), torch.arange(5) < 2)
    x = torch.randn(6, 4)
    small = compact(network, mask, x)
    save(tmp_path / "b", small, dense=dense())
    again = load(tmp_path / "b", dense())
    assert type(again[2].bias) is nn.Parameter
    assert torch.equal(again(x), small(x))
    with pytest.raises(UsageError, match=r"Sequential has no tensor '2\.bias'"):
        load(tmp_path / "b", nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), nn.Embedding(3, 5)))


OWN = """
import torch
from torch import nn

class Cached(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.heads, self.shape, self.inner = 4, (2, width), nn.Linear(64, width)
        self.register_buffer("table", torch.arange(float(width)), persistent=False)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        x = self.inner(x.flatten(1)) + self.table
        x = x.unflatten(1, (self.heads, self.shape[1] // self.heads)).mean(2)
        return self.out(nn.functional.pad(x, (0, 4 - self.heads)))

def network(input_shape, outputs, width=8):
    return Cached(width)
"""


def test_sizes_that_a_module_of_one_s_own_keeps_come_back(tmp_path, monkeypatch):
    """No function of `resize` knows this class, and one buffer is not in its state_dict."""
    (tmp_path / "own_cached.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    own = {"name": "own_cached:network", "input_shape": SHAPE, "outputs": OUTPUTS}
    network = build("own_cached:network", SHAPE, OUTPUTS, seed=0)
    network.inner.weight.data, network.inner.bias.data = network.inner.weight[:6].data, network.inner.bias[:6].data
    network.table = network.table[2:] * 3
    network.heads, network.shape, network.inner.out_features = 3, (2, 6), 6
    save(tmp_path / "own.bundle", network, own)
    found = loaded_elsewhere(tmp_path, ["own"], images(), "trust", cwd=tmp_path)["own"]
    assert torch.equal(found, outputs_of(network, images()))


@pytest.mark.parametrize("name", ["timm/resnet10t", "torchvision/squeezenet1_1"])
def test_networks_of_other_libraries_come_back_without_their_weights(name, tmp_path, monkeypatch):
    shape = (3, 32, 32)
    network = build(name, shape, 5, seed=1)
    architecture = {"name": name, "input_shape": shape, "outputs": 5, "options": {"pretrained": True}}
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *_, **__: pytest.fail("weights were downloaded"))
    save(tmp_path / "b", network, architecture)
    x = torch.randn(2, *shape)
    assert torch.equal(outputs_of(load(tmp_path / "b"), x), outputs_of(network, x))


# ---------------------------------------------------------------------------------- damage


def rewritten(path, change):
    """The bundle with its plan changed, as JSON text, and everything else as it was."""
    _, tensors = read(path)
    size = int.from_bytes(path.read_bytes()[:8], "little")
    text = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]["bayesprune"]
    path.write_bytes(safetensors.save(tensors, {"bayesprune": change(text)}))


def test_every_flipped_byte_is_noticed(tmp_path):
    network = nn.Linear(2, 2)
    path = tmp_path / "small.bundle"
    save(path, network)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x15]) + content[position + 1 :])
        with pytest.raises(UsageError, match=r"small\.bundle") as found:
            load(path, nn.Linear(2, 2))
        if position >= 8 + size:
            assert re.search(r"damaged: tensor '(weight|bias)' does not agree", str(found.value))


def test_a_truncated_file_is_refused_at_every_length(tmp_path):
    path = tmp_path / "small.bundle"
    save(path, nn.Linear(2, 2))
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(UsageError, match=r"cannot read the bundle .*small\.bundle"):
            load(path, nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('"format":1', '"format":2').replace('"0.', '"9.'), r"it has format 2.*upgrade to"),
        (lambda text: text[:-4], "plan cannot be read as JSON"),
        (lambda text: "[1]", "plan cannot be read as JSON"),
        (lambda text: "{}", "plan cannot be read as JSON"),
        (lambda text: text.replace('"num_heads":2', '"num_heads":4'), "does not agree with its checksum"),
    ],
)
def test_a_plan_that_cannot_be_trusted_is_refused(bundle, change, message):
    _, path = bundle
    rewritten(path, change)
    with pytest.raises(UsageError, match=rf"cannot read the bundle .*vit\.bundle: .*{message}"):
        load(path)


def test_missing_and_extra_tensors_are_named(bundle):
    _, path = bundle
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size])["__metadata__"]
    tensors = safetensors.load(content)
    without = {name: tensor for name, tensor in tensors.items() if name != "head.bias"}
    for changed, name in ((without, "head.bias"), (tensors | {"more": torch.ones(2)}, "more")):
        path.write_bytes(safetensors.save(changed, metadata))
        with pytest.raises(UsageError, match=rf"vit\.bundle is damaged: tensor '{name}' is not both"):
            load(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read the bundle .*none"):
        load(tmp_path / "none")
    safetensors.save_file({"a": torch.ones(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(UsageError, match=r"plain\.safetensors is not a bundle"):
        load(tmp_path / "plain.safetensors")
    (tmp_path / "text").write_text("not a bundle at all, but a text of some length")
    with pytest.raises(UsageError, match="cannot read the bundle"):
        load(tmp_path / "text")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: build("vit", SHAPE, 7, seed=0, dim=20, heads=5), r"'head\.\w+' has shape \(7,.*, expected \(3,"),
        (lambda: build("vit", SHAPE, 3, seed=0, dim=20, heads=5, depth=3), r"has a tensor 'blocks\.2\."),
        (lambda: build("vit", SHAPE, 3, seed=0, dim=20, heads=5, depth=1), r"has no tensor 'blocks\.1\."),
        (lambda: nn.Linear(2, 2), r"Linear has a tensor '(weight|bias)' that the VisionTransformer has not"),
    ],
)
def test_the_wrong_network_is_refused(bundle, other, message):
    _, path = bundle
    with pytest.raises(UsageError, match=rf"vit\.bundle is of another network: .*{message}"):
        load(path, other())


# ---------------------------------------------------------------------------------- what is not saved


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (
            reference("mlp-tanh") | {"options": {"widths": [20, 10], "activation": "relu"}},
            "is another network.*first in 'activation'",
        ),
        (reference("mlp-tanh") | {"options": {"widths": [20, 9]}}, r"'layers\.1\.weight' of shape"),
        (reference("lenet5"), "LeNet5 has a tensor"),
        (reference("mlp-tanh") | {"name": "mpl"}, "unknown architecture 'mpl'; did you mean 'mlp'"),
        ({"name": "mlp"}, "architecture: input_shape: field required"),
    ],
)
def test_a_bundle_that_would_load_as_something_else_is_not_written(architecture, message, tmp_path):
    _, small = masked_and_small("mlp-tanh", removed=0.0)
    with pytest.raises(UsageError, match=message):
        save(tmp_path / "b", small, architecture)
    assert not list(tmp_path.iterdir())


class Stateful(nn.Linear):
    def get_extra_state(self):
        return {"step": 3}


def test_what_cannot_be_saved_is_refused(tmp_path):
    with pytest.raises(UsageError, match="'1' keeps state that is not in tensors"):
        save(tmp_path / "b", nn.Sequential(nn.ReLU(), Stateful(2, 2)))
    with pytest.raises(UsageError, match="notes must be plain JSON"):
        save(tmp_path / "b", nn.Linear(2, 2), notes={"when": object()})
    with pytest.raises(UsageError, match="notes must be plain JSON"):
        save(tmp_path / "b", nn.Linear(2, 2), notes={"loss": float("nan")})
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot save"):
        save(tmp_path / "file" / "b", nn.Linear(2, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_save_leaves_the_old_bundle(bundle, monkeypatch):
    _, path = bundle
    content = path.read_bytes()

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UsageError, match="disk full"):
        save(path, nn.Linear(2, 2))
    assert path.read_bytes() == content
    assert [found.name for found in path.parent.iterdir()] == [path.name]


# ---------------------------------------------------------------------------------- export


@family
def test_every_family_exports_with_identical_outputs(family):
    _, small = masked_and_small(family)
    modes = [module.training for module in small.modules()]
    program = export(small, images(4)).module()
    assert modes == [module.training for module in small.modules()]
    for size in (1, 4, 9):
        assert torch.equal(program(images(size)), outputs_of(small, images(size))), size


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.reshape(6, -1).repeat(1, 2)[:, : x.shape[0]]


def test_a_batch_size_that_the_network_insists_on_is_fixed():
    x = torch.randn(6, 4)
    program = export(FixedBatch(), x).module()
    assert torch.equal(program(x), FixedBatch()(x))
    assert export(nn.Linear(4, 2), x[:1]).module()(torch.randn(3, 4)).shape == (3, 2)


class Untraceable(nn.Module):
    def forward(self, x):
        return x * 2 if float(x.sum()) > 0 else x


def test_what_cannot_be_traced_is_refused():
    with pytest.raises(UsageError, match="Untraceable cannot be exported"):
        export(Untraceable(), torch.randn(6, 4))


needs_onnx = pytest.mark.skipif(any(importlib.util.find_spec(name) is None for name in ONNX), reason="needs onnx")


@needs_onnx
@pytest.mark.parametrize("family", ["lenet5", "resnet-group", "vit"])
def test_onnx_computes_the_same(family, tmp_path):
    import onnxruntime

    _, small = masked_and_small(family)
    certificate = export_onnx(tmp_path / "n.onnx", small, images(4))
    assert certificate.difference <= 1e-5
    assert [found.name for found in tmp_path.iterdir()] == ["n.onnx"]
    runner = onnxruntime.InferenceSession(tmp_path / "n.onnx")
    (found,) = runner.run(None, {runner.get_inputs()[0].name: images(7).numpy()})
    torch.testing.assert_close(torch.from_numpy(found), outputs_of(small, images(7)), rtol=1e-5, atol=1e-5)


@needs_onnx
def test_onnx_that_differs_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "_run_onnx", lambda content, x: torch.ones(4, 2))
    with pytest.raises(UsageError, match="ONNX outputs differ by"):
        export_onnx(tmp_path / "n.onnx", nn.Linear(3, 2), torch.randn(4, 3))
    assert not list(tmp_path.iterdir())


def test_missing_onnx_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "ONNX", ("onnx", "no_such_package"))
    with pytest.raises(UsageError, match=r"no_such_package.*pip install 'bayesprune\[onnx\]'"):
        export_onnx(tmp_path / "n.onnx", nn.Linear(3, 2), torch.randn(4, 3))
