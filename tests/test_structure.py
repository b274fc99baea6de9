"""Well-known networks, structurally pruned through the public face: certified, trained on, saved, loaded, exported."""

import copy
import functools
import json
import subprocess
import sys
from itertools import product

import bayesprune as bp
import pytest
import torch
import torchvision
from bayesprune.architectures.build import build
from bayesprune.architectures.compaction.certificate import certify
from bayesprune.architectures.compaction.compact import compact
from bayesprune.architectures.running.batch_norm import reestimate_batch_norm
from bayesprune.architectures.saved.export import export
from bayesprune.bench.spec.settings import Training
from bayesprune.bench.training.loop import train
from bayesprune.datasets.data import Split
from bayesprune.methods.laplace.map import MAP
from safetensors import torch as safetensors
from test_dependency import perturbed
from torch import nn

# Each network with the side of its images: the smallest that it takes, and that leaves more than one patch.
NETWORKS = {
    "timm/resnet18": 32,
    "timm/vit_tiny_patch16_224": 32,
    "timm/mixer_s32_224": 64,
    "timm/convnext_atto": 32,
    "timm/mobilenetv3_small_050": 32,
    "timm/efficientnet_b0": 32,
    "torchvision/mobilenet_v2": 32,
    "torchvision/resnet50": 32,
    "torchvision/vgg16_bn": 32,
    "torchvision/vit_b_16": 224,
}
METHODS, SPARSITIES = ("random", "magnitude"), (0.3, 0.5, 0.7)
CASES = list(product(NETWORKS, METHODS, SPARSITIES))
# What runs in every suite: together less than 40 seconds.
LIGHT = {
    ("timm/resnet18", "random", 0.5),
    ("timm/vit_tiny_patch16_224", "magnitude", 0.5),
    ("timm/mixer_s32_224", "random", 0.7),
    ("timm/mobilenetv3_small_050", "magnitude", 0.3),
}
OUTPUTS = 10
SETTINGS = Training(batch_size=4)

LOADER = """
import json, sys, torch
import bayesprune as bp
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
for line in sys.stdin:
    bundle, x, outputs = json.loads(line)
    with torch.no_grad():
        y = bp.load(bundle)(load_file(x)["x"].clone())  # aligned as any other tensor
    save_file({"y": y}, outputs)
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def elsewhere():
    """Outputs for x of a bundle, computed by another process that has never seen the network."""
    process = subprocess.Popen([sys.executable, "-c", LOADER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def outputs(bundle, x):
        files = [str(bundle), *(str(bundle.with_name(name)) for name in ("x.safetensors", "y.safetensors"))]
        safetensors.save_file({"x": x}, files[1])
        process.stdin.write(json.dumps(files) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n", "the other process failed; its error is in the captured output"
        return safetensors.load_file(files[2])["y"]

    yield outputs
    process.communicate()


@functools.lru_cache(maxsize=1)  # the cases come network by network
def dense(name):
    return perturbed(build(name, shape(name), OUTPUTS, seed=0))


def shape(name):
    return (3, NETWORKS[name], NETWORKS[name])


def examples(name):
    n = 8 if NETWORKS[name] < 224 else 4
    return torch.randn(n, *shape(name), generator=torch.Generator().manual_seed(9)), torch.arange(n)


def count(network):
    return sum(p.numel() for p in network.parameters())


def certified_in_double_precision(pruned):
    """The certificate where BatchNorm lets every layer pass on what it is given, and the outputs' spread.

    A deep network of random weights either forgets its inputs on the way, which hides a mistake, or magnifies the
    rounding of single precision beyond 1e-5, which looks like one.
    """
    masked, x = copy.deepcopy(pruned.network).double(), pruned.inputs.double()
    for norm in (module for module in masked.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.bias.data.abs_()  # not below what ReLU passes on
    reestimate_batch_norm(masked, [x])
    certificate = certify(masked, compact(masked, pruned.mask, x), x)
    with torch.no_grad():
        return certificate, float(masked.eval()(x).std(0).max())


@pytest.mark.parametrize(
    ("name", "method", "sparsity"),
    [pytest.param(*case, marks=[] if case in LIGHT else pytest.mark.slow) for case in CASES],
)
def test_pruned_structures_leave_the_network(name, method, sparsity, elsewhere, tmp_path, record_property):
    network, (x, y) = dense(name), examples(name)
    pruned = bp.prune(network, (x, y), method, sparsity, structured=True, finetune=1, training=SETTINGS)
    assert pruned.sparsity == pytest.approx(sparsity, abs=1 / pruned.mask.units.n)
    small, certificate = pruned.compact().eval(), pruned.certificate
    removed = 1 - count(small) / count(network)
    assert certificate.difference <= 1e-5
    assert certificate.largest > 0.1, "a network whose outputs vanish proves little"
    assert removed > 0.05

    exact, spread = certified_in_double_precision(pruned)
    assert exact.difference <= 1e-10
    assert spread > 1e-3 * exact.largest, "a network that ignores its inputs proves little"

    with torch.no_grad():
        expected = small(x)
    path = pruned.save(tmp_path / "small.bundle", {"name": name, "input_shape": shape(name), "outputs": OUTPUTS})
    assert torch.equal(elsewhere(path, x), expected)
    assert torch.equal(export(small, x).module()(x), small(x))  # with gradients, as fused attention is not exported

    train(small, Split(x, y), MAP(), SETTINGS, 1, torch.Generator().manual_seed(0))
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in small.parameters())
    found = {"certificate": certificate.difference, "largest": certificate.largest, "double": exact.difference}
    for key, value in (found | {"spread": spread / exact.largest, "removed": removed}).items():
        record_property(key, value)


def test_fused_attention_is_not_exported():
    """Where gradients are off, nn.MultiheadAttention takes a kernel that rounds otherwise and is in no program."""
    network = perturbed(torchvision.models.VisionTransformer(32, 16, 2, 4, 16, 24, num_classes=3))
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    assert torch.equal(export(network, x).module()(x), network(x))
    assert torch.backends.mha.get_fastpath_enabled()
