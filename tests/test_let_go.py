"""Curvature lets go of its examples: nothing of a pass stays in memory after it, not even in cycles."""

import gc

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.methods.curvature.diagonals import diagonal
from bayesprune.methods.curvature.kronecker import kfac


@pytest.mark.parametrize("curvature", [diagonal, kfac])
@pytest.mark.parametrize("name", ["mlp", "lenet5"])
def test_the_inputs_are_free_after_a_pass(name, curvature):
    x, y = torch.randn(300, 1, 8, 8), torch.arange(300) % 10
    network = build(name, x.shape[1:], 10, seed=0)
    curvature(network, x, y)
    gc.collect()
    place = x.untyped_storage().data_ptr()
    tensors = [o for o in gc.get_objects() if type(o) is torch.Tensor and o is not x]
    assert not [t.shape for t in tensors if t.untyped_storage().data_ptr() == place]
    assert not [t.shape for t in tensors if t.dim() > 1 and len(t) in (256, 44)]
