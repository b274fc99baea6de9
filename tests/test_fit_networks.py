"""Every method on networks of others: fitted, pruned, cut, saved and loaded again.

Small random configurations; a few methods on all of them, and all methods in the slow tests.
"""

import warnings

import bayesprune as bp
import pytest
import timm
import torch
import torchvision
from bayesprune.datasets.errors import NotApplicable
from bayesprune.methods import registry
from bayesprune.methods.build import build

transformers = pytest.importorskip("transformers")
warnings.filterwarnings("ignore")

METHODS = [n for n in registry.catalogue() if "<" not in n and not n.startswith("lstm")] + ["spam-opd"]
SOME = ["bmrs-u", "mean-field", "spam-opd", "snip"]
COMMON = {"num_hidden_layers": 1, "num_attention_heads": 4, "hidden_size": 16, "intermediate_size": 24}


def _images(n=24, size=16):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, size, size, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def _named(x, name):
    """Batches as Hugging Face's loaders give them."""
    found, y = x
    return [{name: a, "labels": b} for a, b in zip(found.split(8), y.split(8), strict=True)]


def _tokens(labels):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 30, (24, 8), generator=generator)
    y = x.clone() if labels == "next" else torch.randint(0, 2, (24,), generator=generator)
    mask = torch.ones_like(x)
    mask[::3, 6:] = 0
    if labels == "next":
        y[mask == 0] = -100
    parts = zip(x.split(8), mask.split(8), y.split(8), strict=True)
    return [{"input_ids": a, "attention_mask": m, "labels": b} for a, m, b in parts]


def timm_vit():
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=3
    )


class Narrow(torchvision.models.resnet.Bottleneck):
    """Convolutions of few inputs, as obc takes time that grows with their cube."""

    expansion = 1


def resnet():
    return torchvision.models.ResNet(Narrow, [1, 1, 1, 1], num_classes=3, width_per_group=8)


def bert():
    config = transformers.BertConfig(**COMMON, vocab_size=30, max_position_embeddings=8, num_labels=2)
    return transformers.BertForSequenceClassification(config)


def hf_vit():
    config = transformers.ViTConfig(**COMMON, image_size=16, patch_size=8, num_labels=3)
    return transformers.ViTForImageClassification(config)


def swin():
    config = transformers.SwinConfig(
        image_size=16, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=2, num_labels=3
    )
    return transformers.SwinForImageClassification(config)


def gpt2():
    config = transformers.GPT2Config(vocab_size=30, n_positions=8, n_embd=16, n_layer=1, n_head=4)
    return transformers.GPT2LMHeadModel(config)


def llama():
    config = transformers.LlamaConfig(**COMMON, vocab_size=30, max_position_embeddings=8, num_key_value_heads=2)
    return transformers.LlamaForCausalLM(config)


NETWORKS = {
    "timm-vit": (timm_vit, _images),
    "torchvision-resnet": (resnet, lambda: _images(24, 32)),
    "bert": (bert, lambda: _tokens("class")),
    "hf-vit": (hf_vit, lambda: _named(_images(), "pixel_values")),
    "swin": (swin, lambda: _named(_images(), "pixel_values")),
    "gpt2": (gpt2, lambda: _tokens("next")),
    "llama": (llama, lambda: _tokens("next")),
}


def fitted_and_reloaded(name, method, folder):
    make, data = NETWORKS[name]
    torch.manual_seed(0)
    network = make()
    pruner = build(method)
    structured = pruner.when != "dynamic" and pruner.allocation != "rowwise"  # whole units do not grow back
    examples, options = data(), {}
    if name == "swin":  # its layers see windows, not examples
        known = registry.catalogue()[method].options if method in registry.catalogue() else {}
        options = {option: "minibatch" for option in ("draws", "ties") if option in known}
    try:
        pruned = bp.fit(network, examples, method, 0.3, epochs=2, structured=structured, progress=False, **options)
    except NotApplicable as reason:
        pytest.skip(str(reason))
    assert pruned.sparsity == pytest.approx(0.3, abs=0.1)
    small = pruned.deployable().eval()
    if structured:
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in network.parameters())
    again = bp.load(pruned.save(folder / "small.safetensors"), make()).eval()
    for key, tensor in small.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
    batch = examples[0] if isinstance(examples, list) else {"x": examples[0][:8]}
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    with torch.no_grad():
        outputs = [net(*inputs.values()) if "x" in inputs else net(**inputs) for net in (small, again)]
    first, second = (o if isinstance(o, torch.Tensor) else o.logits for o in outputs)
    assert torch.equal(first, second)
    assert torch.isfinite(first).all()


@pytest.mark.parametrize("method", SOME)
@pytest.mark.parametrize("name", NETWORKS)
def test_some_methods(name, method, tmp_path):
    fitted_and_reloaded(name, method, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", [m for m in METHODS if m not in SOME])
@pytest.mark.parametrize("name", NETWORKS)
def test_all_methods(name, method, tmp_path):
    fitted_and_reloaded(name, method, tmp_path)
