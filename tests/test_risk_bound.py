"""PAC-Bayes certificates: small kl against scipy, divergences against quadrature, and how often bounds hold."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import units
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.evaluation.gaussians import gaussians
from bayesprune.bench.evaluation.risk_bound import Centre, Randomised, can_be_certified, risk_bound
from bayesprune.bench.harness.run_matrix import run
from bayesprune.bench.harness.workbench import Workbench
from bayesprune.bench.pruning.schedules import prune
from bayesprune.bench.results.store import Store
from bayesprune.bench.spec.matrix import Matrix
from bayesprune.bench.training.seeding import stream
from bayesprune.datasets.errors import NotApplicable
from bayesprune.datasets.load import load
from bayesprune.datasets.split import Split
from bayesprune.methods.closed_forms import pac_bayes
from bayesprune.methods.closed_forms.posteriors import Gaussian
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import comb, ndtr
from scipy.stats import bernoulli, norm


@pytest.mark.parametrize(
    ("q", "c", "published"),
    [(0.0, 0.01, 0.00995017), (0.02, 0.05, 0.09857217), (0.1, 0.01, 0.14767554), (0.02, 0.2, 0.24045473)],
)
def test_the_inverse_of_small_kl(q, c, published):
    """Against numbers computed elsewhere, the root that Brent's method finds, and scipy's entropies."""
    found = pac_bayes.inverse(q, c)
    assert found == pytest.approx(published, abs=1e-8)
    assert found == pytest.approx(brentq(lambda p: pac_bayes.coins(q, p) - c, max(q, 1e-300), 1 - 1e-12), abs=1e-10)
    ours, theirs = bernoulli(found), bernoulli(q)
    expected = sum(theirs.pmf(k) * (theirs.logpmf(k) - ours.logpmf(k)) for k in (0, 1) if theirs.pmf(k))
    assert pac_bayes.coins(q, found) == pytest.approx(expected, rel=1e-9)


def test_a_whole_bound():
    """q̂ 0.02 of 1,000 draws, KL 5,000 nats, 30,000 examples."""
    assert pac_bayes.risk(pac_bayes.of_draws(0.02, 1000), 5000, 30_000) == pytest.approx(0.24907, abs=1e-5)
    assert pac_bayes.inverse(0.3, math.inf) == 1.0
    assert pac_bayes.inverse(1.0, 0.1) == 1.0


def test_the_divergence_against_quadrature():
    """Of one weight, with the λ that the grid offers; the choice of it costs what is left."""
    mean, variance, centre = 0.7, 0.05, 0.2
    found = pac_bayes.divergence([tuple(torch.tensor([v], dtype=torch.float64) for v in (mean, variance, centre))])
    j = round(100 * math.log(variance + (mean - centre) ** 2))
    q, p = norm(mean, variance**0.5), norm(centre, math.exp(j / 200))
    kl = quad(lambda w: q.pdf(w) * (q.logpdf(w) - p.logpdf(w)), mean - 3, mean + 3)[0]
    assert found == pytest.approx(kl + math.log(2 * (abs(j) + 1) * (abs(j) + 2)), rel=1e-8)
    assert sum(1 / (2 * (abs(i) + 1) * (abs(i) + 2)) for i in range(-100_000, 100_001)) < 1


def test_masks_pay_for_their_number_and_their_choice():
    assert pac_bayes.of_mask(20, 7) == pytest.approx(math.log(comb(20, 7) * 21))
    assert sum(comb(20, k) * math.exp(-pac_bayes.of_mask(20, k)) for k in range(21)) == pytest.approx(1)
    assert pac_bayes.of_mask(32_360, 3_236) == pytest.approx(10_515 + math.log(32_361), abs=3)


def test_what_a_mask_costs_a_certificate():
    """30,000 examples, q̂ 0.02 of 1,000 draws, KL 1,000: a tenth of 32,360 weights, or half of 60 neurons, is left."""
    empirical = pac_bayes.of_draws(0.02, 1000)
    known, neurons, weights = (
        pac_bayes.risk(empirical, 1000 + nats, 30_000)
        for nats in (0.0, pac_bayes.of_mask(60, 30), pac_bayes.of_mask(32_360, 3_236))
    )
    assert [known, neurons, weights] == pytest.approx([0.109, 0.111, 0.413], abs=5e-4)
    for found, nats in ((known, 1000.0), (weights, 1000 + math.log(comb(32_360, 3_236, exact=True) * 32_361))):
        c = (nats + math.log(2 * math.sqrt(30_000) / 0.025)) / 30_000
        assert brentq(lambda p, c=c: pac_bayes.coins(empirical, p) - c, empirical, 0.99) == pytest.approx(
            found, abs=1e-9
        )


def test_bounds_hold_as_often_as_they_say():
    """Thresholds w ~ N(m, s²) on the line, m found on the data, labels wrong with probability 0.1: the risk is known.

    The bound is more than the risk in all but a share δ₁ + δ₂ of data sets, here 3 of 600 at most where 21 are
    allowed; with the divergence left out it would be broken often.
    """
    rng, n, draws, s = np.random.default_rng(0), 30, 50, 0.02
    broken = cheated = 0
    grid = np.linspace(-1, 1, 81)
    for _ in range(600):
        x = rng.uniform(-1, 1, n)
        y = (x > 0.3) ^ (rng.random(n) < 0.1)
        m = grid[np.argmin([np.mean((x > w) != y) for w in grid])]
        w = rng.normal(m, s, draws)
        empirical = pac_bayes.of_draws(float(np.mean((x > w[:, None]) != y)), draws)
        kl = pac_bayes.divergence([tuple(torch.tensor([v]) for v in (m, s**2, 0.0))])
        # E|w - 0.3| / 2 is the share of the line between them
        gap = m - 0.3
        apart = (gap * (2 * ndtr(gap / s) - 1) + 2 * s * norm.pdf(gap / s)) / 2
        risk = 0.1 + 0.8 * apart
        broken += risk > pac_bayes.risk(empirical, kl, n)
        cheated += risk > float(np.mean((x > w[:, None]) != y))
    assert broken <= 3
    assert cheated > 300


def certified(mean, variance, sparsity=0.5):
    network = build("mlp", (1, 8, 8), 10, seed=0, widths=[12])
    parts = units(network, "weights")
    mask = Mask(parts, torch.arange(parts.n) % 10 >= 10 * sparsity)
    posterior = Gaussian(
        {n: mean(p.detach().double()) for n, p in network.named_parameters()},
        {n: torch.full_like(p, 1 / variance, dtype=torch.float64) for n, p in network.named_parameters()},
    )
    return network, posterior, mask


def test_draws_are_of_what_is_left_and_have_the_variances_of_the_posterior():
    network, posterior, mask = certified(lambda p: p, 0.04)
    del posterior.precision["layers.0.bias"]
    del posterior.mean["layers.0.bias"]
    q = Randomised.of(network, posterior, mask)
    generator = torch.Generator().manual_seed(0)
    found = torch.stack([q.sample(network, generator)["layers.0.weight"] for _ in range(400)])
    stays = mask.tensors["layers.0.weight"]
    assert not found[:, ~stays].any()
    assert float(found[:, stays].var(0).mean()) == pytest.approx(0.04, rel=0.02)
    assert (
        float(found[:, stays].mean(0).sub(network.get_parameter("layers.0.weight").detach()[stays]).abs().max()) < 0.06
    )
    assert q.variance["layers.0.bias"] == pytest.approx(0.04)


def test_a_posterior_that_is_the_prior_costs_nothing_but_the_choice():
    """Then the bound is that of the draws' own errors; of a network that has learned nothing, nine in ten."""
    data = load("digits", 0, subset=200)
    network, posterior, mask = certified(torch.zeros_like, 0.01)
    centre = Centre({n: torch.zeros_like(p) for n, p in network.named_parameters()}, data.train)
    found = risk_bound(network, posterior, mask, data, centre, torch.Generator().manual_seed(0), draws=20)
    assert found["risk_bound_kl"] == pytest.approx(4 * math.log(2 * 461 * 462), abs=0.2)  # for each of four tensors
    assert found["risk_bound_empirical"] == pytest.approx(0.9, abs=0.05)
    nats = found["risk_bound_kl"] + found["risk_bound_mask"]
    assert found["risk_bound"] == pac_bayes.risk(
        pac_bayes.of_draws(found["risk_bound_empirical"], 20), nats, len(data.train)
    )


def test_targets_that_are_no_classes_have_no_bound():
    assert can_be_certified(load("digits", 0, subset=50))
    assert not can_be_certified(load("diabetes", 0))


MATRIX = {
    "datasets": [{"name": "digits", "subset": 300}], "architectures": [{"name": "mlp", "widths": [8]}],
    "methods": ["mean-field", {"name": "magnitude", "precision": 10.0}, "pip-gates"], "sparsity": [0.5], "seeds": [0],
    "training": {"epochs": 6, "lr": 0.01}, "finetune": {"epochs": 2}, "shift": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    found = {}
    for kind in ("none", "initial", "half"):
        folder = tmp_path_factory.mktemp(kind)
        run(Matrix.model_validate(MATRIX | {"risk_bound": kind}), folder, jobs=1)
        found[kind] = {r["method"]: r for r in Store(folder).records()}
    return found


def test_records_have_the_bound_and_are_otherwise_the_same(records):
    of_time = ("seconds_", "peak_bytes_", "started", "host_", "key", "run", "risk_bound")
    for kind in ("initial", "half"):
        for method, record in records[kind].items():
            plain = records["none"][method]
            assert record["status"] == "done", record
            same = {k: v for k, v in record.items() if not k.startswith(of_time)}
            assert same == {k: v for k, v in plain.items() if not k.startswith(of_time)}
            assert record["key"] != plain["key"]
            assert record["risk_bound"] > max(record["risk_bound_empirical"], record["risk_bound_test"])


def test_half_of_the_examples_is_the_priors(records):
    n, half = (records[kind]["mean-field"]["risk_bound_n"] for kind in ("initial", "half"))
    assert half in (n // 2, n - n // 2)
    kls = [records[kind]["mean-field"]["risk_bound_kl"] for kind in ("initial", "half")]
    assert kls[1] < kls[0]  # a network of half of the data is nearer than one of none


@pytest.fixture(scope="module")
def benches(tmp_path_factory):
    """Of cells whose masks are of all examples, or of the prior's."""

    def bench(kind, data=None, method="mean-field", **options):
        own = {"methods": [{"name": method, **options}], "risk_bound": "half", "mask_from": kind}
        (cell,) = Matrix.model_validate(MATRIX | own).cells()
        store = Store(tmp_path_factory.mktemp("bench"))
        return Workbench(cell, data or load("digits", 0, subset=300), store, torch.device("cpu"))

    return bench


def test_a_mask_of_the_priors_examples_is_free_and_has_not_seen_the_others(benches):
    """Other targets of the bound's examples are another network with the same mask."""
    cell = benches("prior")
    outcome = cell.prune(0.5)
    alone = prune(cell.prior, 0.5)  # of the same half, in an engine that knows nothing else
    assert torch.equal(outcome.mask.kept, alone.mask.kept)
    assert not torch.equal(outcome.mask.kept, benches("all").prune(0.5).mask.kept)
    found = risk_bound(
        outcome.network, gaussians(outcome.network, outcome.inference, cell.data), outcome.mask, cell.data, cell.centre,
        torch.Generator().manual_seed(0), draws=5,
    )  # fmt: skip
    assert found["risk_bound_mask"] == 0
    assert found["risk_bound"] == pac_bayes.risk(
        pac_bayes.of_draws(found["risk_bound_empirical"], 5), found["risk_bound_kl"], found["risk_bound_n"]
    )
    train = cell.data.train
    bounds = torch.randperm(len(train), generator=stream(0, "prior half")).tensor_split(2)[1]
    labels = train.y.clone()
    labels[bounds] = (labels[bounds] + 1) % 10
    other = benches("prior", replace(cell.data, train=Split(train.x, labels, train.likelihood))).prune(0.5)
    assert torch.equal(other.mask.kept, outcome.mask.kept)
    name = next(iter(other.mask.tensors))
    assert not torch.equal(other.network.get_parameter(name), outcome.network.get_parameter(name))


def test_survivors_of_a_given_mask_move_by_what_the_whole_network_knows(benches):
    cell = benches("prior", method="magnitude", curvature="kfac", adjust="condition")
    outcome = cell.prune(0.5)
    assert len(outcome.adjustments) == 1
    for name, kept in outcome.mask.tensors.items():
        assert not outcome.network.get_parameter(name).detach()[~kept].any()
    assert cell.prune(0.5).mask.count == outcome.mask.count


def test_masks_that_cannot_be_the_priors_are_refused(benches):
    with pytest.raises(NotApplicable, match="prunes while it trains"):
        benches("prior", method="magnitude", when="during").prune(0.5)
    for kind in ("none", "initial"):
        with pytest.raises(ValueError, match="must be asked for"):
            Matrix.model_validate(MATRIX | {"risk_bound": kind, "mask_from": "prior"})


def test_a_matrix_without_bounds_has_the_cells_that_it_had():
    plain, told = (
        Matrix.model_validate(MATRIX | more).cells() for more in ({}, {"risk_bound": "none", "mask_from": "all"})
    )
    assert [run.key for run in plain] == [run.key for run in told]
    assert not {"risk_bound", "mask_from"} & plain[0].canonical().keys()
