"""The evidence of networks as they are, against marginal likelihoods in closed form; what of it a record tells."""

import json
import math

import pytest
import torch
from bayesprune.architectures.discovery.units_of import weight_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.cli import main
from bayesprune.bench.evaluation.laplace_evidence import laplace_evidence
from bayesprune.bench.results.store import Store
from bayesprune.datasets.split import Split
from bayesprune.methods.laplace.evidence import evidence_of
from bayesprune.methods.laplace.map import MAP
from bayesprune.methods.spam import SpaM
from click.testing import CliRunner
from torch import nn
from torch.distributions import MultivariateNormal

F64 = torch.float64
N, D, DELTA = 40, 6, 2.5
ALL = torch.ones(D, dtype=torch.bool)


@pytest.fixture
def regression():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=generator, dtype=F64)
    y = x @ torch.randn(D, 1, generator=generator, dtype=F64) + torch.randn(N, 1, generator=generator, dtype=F64)
    return Split(x, y)


def ridge(split, delta, kept):
    """A linear network at its mode under the prior, with the weights that are kept."""
    network = nn.Linear(D, 1, bias=False).double()
    x = split.x[:, kept]
    weight = torch.zeros(1, D, dtype=F64)
    weight[0, kept] = torch.linalg.solve(x.mT @ x + delta * torch.eye(x.shape[1], dtype=F64), x.mT @ split.y).squeeze()
    network.weight.data = weight
    return network


def marginal(split, delta, kept, noise=1.0):
    """log N(y; 0, s² + X X' / δ)."""
    x = split.x[:, kept]
    covariance = noise**2 * torch.eye(N, dtype=F64) + x @ x.mT / delta
    return float(MultivariateNormal(torch.zeros(N, dtype=F64), covariance).log_prob(split.y.squeeze()))


@pytest.mark.parametrize("gone", [[], [1], [0, 3, 4]])
def test_of_a_linear_model_it_is_the_marginal_likelihood_of_what_is_left(regression, gone):
    kept = torch.tensor([i not in gone for i in range(D)])
    network = ridge(regression, DELTA, kept)
    posterior = MAP(DELTA, curvature="full").posterior(network, regression)
    expected = marginal(regression, DELTA, kept)
    assert float(evidence_of(network, regression, posterior, kept)) == pytest.approx(expected, rel=1e-10)
    found = laplace_evidence(network, posterior, Mask(weight_units(network), kept), regression)
    assert found == pytest.approx({"laplace_evidence": expected})


def test_a_fitted_noise_is_that_of_the_evidence(regression):
    """At the mode under the fitted prior and noise, too, it is the marginal likelihood."""
    network = ridge(regression, DELTA, ALL)
    inference = MAP(DELTA, curvature="full", prior="scalar", update_rule="mackay")
    for _ in range(30):
        posterior = inference.posterior(network, regression)
        delta, noise = float(posterior.prior["weight"][0, 0]), float(posterior.noise)
        network = ridge(regression, delta * noise**2, ALL)
    assert noise != pytest.approx(1.0, abs=0.01)
    expected = marginal(regression, delta, ALL, noise)
    posterior = inference.posterior(network, regression)
    assert float(evidence_of(network, regression, posterior)) == pytest.approx(expected, rel=1e-6)


def test_tempered_it_is_what_training_raises():
    generator = torch.Generator().manual_seed(1)
    split = Split(torch.randn(N, D, generator=generator), torch.randint(3, (N,), generator=generator))
    network = nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, 3))
    inference = SpaM(prior="layerwise", temperature=0.3)
    inference.attach(network, None, split)
    evidence = inference.evidence(network, split)
    raised = float(evidence.value(inference.hyper.precision(), inference.hyper.log_noise))
    found = evidence_of(network, split, inference.posterior(network, split))
    assert float(found) == pytest.approx(raised, rel=1e-9)
    assert not math.isclose(
        raised, float(evidence_of(network, split, MAP(1.0).posterior(network, split))), rel_tol=0.01
    )


def test_a_record_tells_it_where_there_is_a_laplace_posterior(tmp_path):
    matrix = {
        "datasets": ["two-moons"], "architectures": [{"name": "mlp", "widths": [8]}], "sparsity": [0.0, 0.5],
        "methods": ["opd", "opd-kfac", "spam-opd", "bmr", "wanda"], "seeds": [0], "training": {"epochs": 2},
        "finetune": {"epochs": 0}, "shift": False, "evidence": True,
    }  # fmt: skip
    (tmp_path / "matrix.yaml").write_text(json.dumps(matrix))
    said = CliRunner().invoke(
        main, ["run", str(tmp_path / "matrix.yaml"), "--out", str(tmp_path / "out"), "--jobs", "1"]
    )
    assert said.exit_code == 0, said.output
    records = Store(tmp_path / "out", create=False).records()
    found = {(r["method"], r["sparsity_target"]): r.get("laplace_evidence") for r in records}
    assert {method for (method, _), value in found.items() if value is not None} == {"opd", "opd-kfac", "spam-opd"}
    assert len(set(found.values())) == 7
