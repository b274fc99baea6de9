"""Sums of γ of a low-rank curvature, by its spectrum and by its factor, against the dense inverse."""

import pytest
import torch
from bayesprune.methods.closed_forms.low_rank import Formed, LowRank, Outer

F64 = torch.float64
SIZES = (12, 5)


@pytest.fixture
def pieces(generator):
    g, a, rest = (torch.randn(7, n, generator=generator, dtype=F64) for n in (3, 4, 5))
    rows = torch.cat([(g.unsqueeze(2) * a.unsqueeze(1)).flatten(1), rest], 1)
    return LowRank({"w": Outer(g, a), "b": Formed(rest)}, SIZES, 7), rows


@pytest.mark.parametrize("prior", [(0.3, 0.3), (40.0, 40.0), (0.3, 2.0)], ids=["wide", "narrow", "layerwise"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_sums_over_tensors_are_those_of_the_dense_inverse(pieces, prior, masked, scale, generator):
    low, rows = pieces
    kept = torch.rand(sum(SIZES), generator=generator) > 0.3 if masked else torch.ones(sum(SIZES), dtype=torch.bool)
    low = (low.masked(kept) if masked else low).scaled(scale)
    delta = torch.cat([torch.full((n,), p, dtype=F64) for n, p in zip(SIZES, prior, strict=True)])
    h = scale * (rows * kept).T @ (rows * kept)
    gamma = 1 - delta * torch.linalg.inv(h + delta.diag()).diagonal()
    found = low.determined_in_sum(delta)
    for own, expected in zip(found.split(SIZES), gamma.split(SIZES), strict=True):
        torch.testing.assert_close(own.sum(), expected.sum(), atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(low.log_det_ratio(delta), torch.logdet(torch.eye(sum(SIZES)) + h / delta))


def test_what_is_shared_is_computed_once_for_all_scales_and_anew_for_a_mask(pieces, generator):
    low, _ = pieces
    delta = torch.ones(sum(SIZES), dtype=F64)
    low.scaled(3.0).determined_in_sum(delta)
    assert low.scaled(0.5).shared is low.shared
    assert set(low.shared) == {"grams", "spectrum"}
    assert not low.masked(torch.arange(sum(SIZES)) > 3).shared
