"""SOSP-H against Gauss-Newton matrices that are written out."""

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import units, weight_units
from bayesprune.architectures.units.prunable import trainable
from bayesprune.datasets.data import Split
from bayesprune.methods.laplace.map import MAP
from bayesprune.methods.opd import obd
from bayesprune.methods.pruner import State
from bayesprune.methods.sosp import sosp
from torch import nn
from torch.func import functional_call, jacrev

F64 = torch.float64


def explicit(network, split, names, hessian):
    """g and the Gauss-Newton matrix of the named parameters, from the Jacobian of all outputs."""
    parameters = {n: p.detach() for n, p in network.named_parameters()}
    own = {n: parameters[n] for n in names}
    jacobians = jacrev(lambda own: functional_call(network, parameters | own, (split.x,)))(own)
    j = torch.cat([jacobians[n].flatten(2) for n in names], 2)
    outputs = network(split.x).detach()
    slope, h = hessian(outputs, split.y)
    return torch.einsum("ncp,nc->p", j, slope), torch.einsum("ncp,ncd,ndq->pq", j, h, j)


def of_classes(outputs, y):
    p = outputs.softmax(1)
    return p - nn.functional.one_hot(y, p.shape[1]), torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)


def of_numbers(outputs, y):
    return outputs - y, torch.eye(outputs.shape[1], dtype=F64).expand(len(y), -1, -1)


@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
@pytest.mark.parametrize("granularity", ["weights", "groups"])
@pytest.mark.parametrize("name", ["mlp", "resnet", "vit"])
def test_scores_are_those_of_the_explicit_matrix(name, granularity, likelihood):
    """Every structure with its slices of weights, biases and norms, each entry of θ once in the product."""
    options = {"mlp": {"widths": [6, 5]}, "resnet": {"depth": 8, "width": 2}, "vit": {"dim": 8, "depth": 1}}[name]
    network = build(name, (1, 8, 8), 4, seed=0, **options).double().eval()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(7, 1, 8, 8, dtype=F64, generator=generator)
    real = likelihood == "gaussian"
    y = torch.randn(7, 4, dtype=F64, generator=generator) if real else torch.randint(4, (7,), generator=generator)
    split = Split(x, y)
    parts = units(network, granularity, x[:2])
    found = sosp(State(network, parts, split, MAP(1.0)), None)
    names = [n for n in trainable(network) if n in parts.shapes]
    theta = {n: network.get_parameter(n).detach() for n in names}
    flat = torch.cat([t.flatten() for t in theta.values()])
    g, h = explicit(network, split, names, of_numbers if real else of_classes)
    sizes = [t.numel() for t in theta.values()]

    def of_units(vector):
        pieces = zip(theta.items(), vector.split(sizes), strict=True)
        return parts.gather({n: piece.view(t.shape) for (n, t), piece in pieces}).abs()

    expected = of_units(flat * g) + 0.5 * of_units(flat * (h @ flat))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def test_it_is_obd_where_nothing_correlates():
    """A linear map of orthogonal inputs that fits its targets: no gradient, and a diagonal matrix."""
    network = nn.Sequential(nn.Linear(6, 2, bias=False)).double()
    q, _ = torch.linalg.qr(torch.randn(9, 6, dtype=F64, generator=torch.Generator().manual_seed(0)))
    x = q * torch.arange(1, 7)
    split = Split(x, network(x).detach())
    state = State(network, weight_units(network), split, MAP(1.0))
    torch.testing.assert_close(sosp(state, None), obd(state), rtol=1e-9, atol=1e-12)


def test_a_part_of_the_examples_stands_for_all():
    network = build("mlp", (1, 8, 8), 4, seed=0, widths=[6]).double()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 1, 8, 8, dtype=F64, generator=generator).expand(300, -1, -1, -1)
    split = Split(x, torch.full((300,), 2))
    state = State(network, weight_units(network), split, MAP(1.0))
    torch.testing.assert_close(sosp(state, 20), sosp(state, None), rtol=1e-10, atol=1e-12)
