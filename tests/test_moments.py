"""Scores of one moment of a variational posterior: the mean, or the precision, without the other."""

import pytest
import torch
from bayesprune.architectures.build import build as network_of
from bayesprune.architectures.discovery.units_of import weight_units
from bayesprune.datasets.data import Split
from bayesprune.methods.build import build, options
from bayesprune.methods.pruner import State

METHODS = {"mean-field": {"prior": "scalar"}, "ivon-opd": {}, "variational-dropout": {}}


def state(pruner):
    """A network with the posterior of a pruner's inference, whose spreads differ from weight to weight."""
    network = network_of("mlp", (1, 4, 4), 3, seed=0, widths=[5])
    units = weight_units(network)
    generator = torch.Generator().manual_seed(0)
    data = Split(torch.randn(12, 1, 4, 4, generator=generator), torch.arange(12) % 3)
    inference = pruner.inference()
    inference.attach(network, units, data)
    for tensor in inference.tensors().values():
        if tensor.is_floating_point():
            with torch.no_grad():
                tensor.add_(torch.rand(tensor.shape, generator=generator).to(tensor))
    return State(network, units, data, inference)


@pytest.mark.parametrize("method", METHODS)
def test_the_mean_alone_is_magnitude_and_the_precision_alone_reads_no_weight(method):
    seen = state(build(method, **METHODS[method]))
    posterior = seen.posterior
    flat = {name: torch.cat([getattr(posterior, name)[n].flatten() for n in seen.weights()]).double()
            for name in ("mean", "precision")}  # fmt: skip
    mean, precision = (build(method, by=by, **METHODS[method]).score(seen).double() for by in ("mean", "precision"))
    torch.testing.assert_close(mean, flat["mean"].abs(), rtol=1e-6, atol=0)
    torch.testing.assert_close(precision, flat["precision"], rtol=1e-6, atol=0)
    both = build(method, **METHODS[method]).score(seen)
    assert both.argsort().tolist() == (flat["mean"].square() * flat["precision"]).argsort().tolist()
    assert mean.argsort().tolist() != both.argsort().tolist() != precision.argsort().tolist()


@pytest.mark.parametrize("method", METHODS)
def test_the_default_stays_what_it_was(method):
    assert options(method, {"by": "both"}) == {}
    one, other = (build(method, **given).inference().identity() for given in ({}, {"by": "mean"}))
    assert one == other


def test_a_rate_of_dropout_decides_only_where_it_ranks():
    assert build("variational-dropout").decides
    assert not build("variational-dropout", by="precision").decides
