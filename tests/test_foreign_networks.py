"""Published networks of other people: what is found in them, how much goes, and that it is right."""

import time

import bayesprune as bp
import pytest
import timm
import torch
import torchvision
from bayesprune.architectures.discovery.units_of import groups_of


def of_timm(name, side, **options):
    return lambda: timm.create_model(name, num_classes=10, **options), side


def of_torchvision(name, side, **options):
    return lambda: torchvision.models.get_model(name, weights=None, num_classes=10, **options), side


# How to make it and the side of its images; groups, layers of heads among them, and the least share that goes.
NETWORKS = {
    "swin": (*of_timm("swin_tiny_patch4_window7_224", 64, img_size=64, window_size=4), 24, 12, 0.45),
    "swinv2": (*of_timm("swinv2_tiny_window8_256", 64, img_size=64, window_size=4), 36, 12, 0.45),
    "beit": (*of_timm("beit_base_patch16_224", 64, img_size=64, depth=2), 4, 2, 0.45),
    "eva02": (*of_timm("eva02_tiny_patch14_224", 56, img_size=56), 24, 12, 0.45),
    "cait": (*of_timm("cait_xxs24_224", 64, img_size=64, depth=4), 16, 6, 0.45),
    "xcit": (*of_timm("xcit_nano_12_p16_224", 64, img_size=64), 31, 14, 0.45),
    "levit": (*of_timm("levit_128s", 224), 28, 11, 0.45),
    "maxvit": (*of_timm("maxvit_rmlp_pico_rw_256", 64, img_size=64), 85, 18, 0.45),
    "coatnet": (*of_timm("coatnet_nano_rw_224", 64, img_size=64), 34, 9, 0.45),
    "hiera": (*of_timm("hiera_tiny_224", 224), 23, 11, 0.45),
    "res2net": (*of_timm("res2net50_26w_4s", 64), 45, 0, 0.7),
    "dpn": (*of_timm("dpn68", 64), 50, 0, 0.7),
    "cspresnet": (*of_timm("cspresnet50", 64), 42, 0, 0.7),
    "skresnet": (*of_timm("skresnet18", 64), 20, 0, 0.7),
    "resnest": (*of_timm("resnest14d", 64), 19, 0, 0.7),
    "nf_resnet": (*of_timm("nf_resnet26", 64), 21, 0, 0.7),
    "mambaout": (*of_timm("mambaout_femto", 64), 36, 0, 0.4),  # its residual stream keeps the rest
    "convnextv2": (*of_timm("convnextv2_atto", 64), 12, 0, 0.4),  # this one's too
    "vit_b_16": (*of_torchvision("vit_b_16", 32, image_size=32), 24, 12, 0.45),
    "swin_t": (*of_torchvision("swin_t", 64), 24, 12, 0.45),
    "efficientnet_v2_s": (*of_torchvision("efficientnet_v2_s", 64), 75, 0, 0.7),
    "shufflenet_v2": (*of_torchvision("shufflenet_v2_x0_5", 64), 20, 0, 0.65),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_half_of_the_units_of_published_networks(name, tmp_path):
    make, side, groups, attentions, least = NETWORKS[name]
    torch.manual_seed(0)
    network = make().eval()
    x, y = torch.randn(4, 3, side, side), torch.arange(4)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    start = time.process_time()
    found = groups_of(network, x[:2])
    assert time.process_time() - start < 30
    assert (len(found), sum(group.kind == "head" for group in found)) == (groups, attentions)
    pruned = bp.prune(network, (x, y), "magnitude", 0.5, structured=True, allocation="layerwise", progress=False)
    small = pruned.compact().eval()
    sizes = [sum(p.numel() for p in net.parameters()) for net in (network, small)]
    assert 1 - sizes[1] / sizes[0] >= least
    assert pruned.certificate.difference <= 1e-5
    pruned.save(tmp_path / "small.safetensors")
    with torch.no_grad():
        assert torch.equal(bp.load(tmp_path / "small.safetensors", network)(x), small(x))
        exported = torch.export.export(small, (x,)).module()
        torch.testing.assert_close(exported(x), small(x), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
