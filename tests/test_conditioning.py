"""Conditioning of Gaussian posteriors against dense inverses, in every structure."""

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.methods.closed_forms import conditioning
from bayesprune.methods.closed_forms.conditioning import conjugate_gradients
from bayesprune.methods.closed_forms.curvature_matrix import Dense, Diagonal
from bayesprune.methods.closed_forms.flat import flat, named
from bayesprune.methods.closed_forms.kronecker_product import Kronecker, KroneckerProduct
from bayesprune.methods.closed_forms.low_rank import Formed, LowRank, Outer
from bayesprune.methods.closed_forms.model_reduction import savage_dickey, without
from bayesprune.methods.closed_forms.posteriors import Laplace
from bayesprune.methods.curvature.diagonals import diagonal
from bayesprune.methods.curvature.rows import low_rank

F64 = torch.float64
SIZE = 24


@pytest.fixture
def draw(generator):
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=F64)


def psd(draw, n):
    root = draw(n, n)
    return root @ root.T / n + 0.01 * torch.eye(n, dtype=F64)


def curvatures(draw):
    """Every structure, with its H as a matrix."""
    g, a = psd(draw, 4), psd(draw, 6)
    pairs = [(psd(draw, 2), psd(draw, 3)) for _ in range(2)]
    h = draw(SIZE).square()
    parts = {
        "w": KroneckerProduct.of(g[:3, :3][None], a[:4, :4][None]),
        "b": Diagonal(h[:4]),
        "v": KroneckerProduct.of(psd(draw, 2)[None], psd(draw, 4)[None]),
    }
    v = torch.kron(parts["v"].factors[0][0], parts["v"].factors[1][0])
    whole = psd(draw, SIZE)
    return {
        "diagonal": (Diagonal(h), h.diag()),
        "dense": (Dense(whole), whole),
        "kronecker": (KroneckerProduct.of(g[None], a[None]), torch.kron(g, a)),
        "groups": (
            KroneckerProduct.of(*(torch.stack(factors) for factors in zip(*pairs * 2, strict=True))),
            torch.block_diag(*(torch.kron(*pair) for pair in pairs * 2)),
        ),
        "lowrank": _rows(draw),
        "blocks": (Kronecker(parts, (12, 4, 8)), torch.block_diag(torch.kron(g[:3, :3], a[:4, :4]), h[:4].diag(), v)),
    }


def _rows(draw):
    """Ten rows of three tensors, one of them kept as outer products."""
    g, a, rest = draw(10, 3), draw(10, 4), draw(10, 12)
    rows = torch.cat([(g.unsqueeze(2) * a.unsqueeze(1)).flatten(1), rest], 1)
    parts = {"w": Outer(g, a), "b": Formed(rest[:, :5]), "v": Formed(rest[:, 5:])}
    return LowRank(parts, (12, 5, 7), 10, scale=1.7), 1.7 * rows.T @ rows


STRUCTURES = ("diagonal", "dense", "kronecker", "groups", "lowrank", "blocks")


@pytest.fixture(params=["direct", "iterated"])
def solver(request, monkeypatch):
    if request.param == "iterated":
        monkeypatch.setattr(conditioning, "DIRECT", 0)
        monkeypatch.setattr(conjugate_gradients, "__defaults__", (1e-15, 1000))
    else:
        monkeypatch.setattr(conjugate_gradients, "__defaults__", (1e-15, 1000))  # groups have no direct solution


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("seed", range(3))
def test_every_structure_equals_the_dense_formula_in_two_rounds(structure, seed, solver):
    """(a) with a precision for every entry; what left first takes no part in the second round."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=F64)  # noqa: E731
    curvature, h = curvatures(draw)[structure]
    prior, mean = 0.1 + draw(SIZE).square(), draw(SIZE)
    order = torch.randperm(SIZE, generator=generator)
    covariance = torch.linalg.inv(h + prior.diag())
    there = torch.ones(SIZE, dtype=torch.bool)
    expected, live = mean.clone(), covariance
    for leave in (order[:7].sort().values, order[7:15].sort().values):
        kept = there.clone()
        kept[leave] = False
        removed = ~kept[there]
        z = 0.5 * mean[leave] @ (h + prior.diag())[leave][:, leave] @ mean[leave]
        c = 0.5 * mean[leave] @ torch.linalg.solve(live[removed][:, removed], mean[leave])
        expected, live = without(expected, live, removed)
        found = curvature.condition(prior, mean, kept)
        torch.testing.assert_close(found.mean[kept], expected, atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(found.zeroing, z, atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(found.cost, c, atol=1e-10, rtol=1e-10)
        assert found.cost <= found.zeroing
        assert not found.mean[~kept].any()
        mean, there = found.mean, kept


def test_one_after_the_other_is_all_at_once(draw, generator):
    """(b) and the single costs add up to the joint one."""
    h, prior, mean = psd(draw, SIZE), torch.full((SIZE,), 0.3, dtype=F64), draw(SIZE)
    leave = torch.randperm(SIZE, generator=generator)[:9]
    kept = torch.ones(SIZE, dtype=torch.bool)
    w, total = mean, 0.0
    for q in leave:
        kept[q] = False
        found = Dense(h).condition(prior, w, kept)
        w, total = found.mean, total + found.cost
    joint = Dense(h).condition(prior, mean, kept)
    torch.testing.assert_close(w, joint.mean, atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(total, joint.cost, atol=1e-11, rtol=1e-11)


def test_the_small_example():
    """A precision written out by hand."""
    h = torch.tensor([[2.0, 1, 0], [1, 3, 1], [0, 1, 2]], dtype=F64)
    mean, kept = torch.tensor([1.0, -1, 2], dtype=F64), torch.tensor([True, True, False])
    found = Dense(h).condition(torch.zeros(3, dtype=F64), mean, kept)
    torch.testing.assert_close(found.mean, torch.tensor([0.6, -0.2, 0.0], dtype=F64))
    torch.testing.assert_close((found.zeroing, found.cost), tuple(torch.tensor([4.0, 3.2], dtype=F64)))
    variance = torch.linalg.inv(h)[2, 2]
    assert float(variance) == pytest.approx(5 / 8)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_no_other_survivors_are_better_on_the_quadratic(structure, draw, generator, solver):
    """(c)"""
    curvature, h = curvatures(draw)[structure]
    prior, mean = 0.1 + draw(SIZE).square(), draw(SIZE)
    kept = torch.rand(SIZE, generator=generator) > 0.4
    found = curvature.condition(prior, mean, kept)
    cost = lambda w: 0.5 * (w - mean) @ (h + prior.diag()) @ (w - mean)  # noqa: E731
    torch.testing.assert_close(cost(found.mean), found.cost, atol=1e-10, rtol=1e-10)
    for _ in range(50):
        assert cost(found.mean + draw(SIZE) * kept * 0.3) > found.cost


@pytest.mark.parametrize("structure", ["dense", "lowrank"])
def test_the_change_of_evidence_is_the_savage_dickey_ratio(structure, draw, generator):
    """(d), of what is still there; the bound by variances is below it."""
    (curvature, h), prior, mean = curvatures(draw)[structure], 0.1 + draw(SIZE).square(), draw(SIZE)
    gone = torch.arange(SIZE) < 5
    kept = ~gone & (torch.rand(SIZE, generator=generator) > 0.4)
    live = ~gone
    mean[gone] = 0
    posterior = Laplace.at({"w": mean}, curvature.masked(live), prior)
    found = posterior.condition(mean, kept)
    covariance = torch.linalg.inv((h + prior.diag())[live][:, live])
    expected = savage_dickey(mean[live], covariance, 0 * mean[live], (1 / prior[live]).diag(), ~kept[live])
    torch.testing.assert_close(posterior.delta_f(live, kept, found), expected, atol=1e-10, rtol=1e-10)
    assert posterior.least_delta_f(live & ~kept, found.cost) <= expected


def test_a_product_knows_a_bound_of_the_change_of_evidence(draw, generator):
    product = curvatures(draw)["kronecker"][0]
    prior, mean = torch.full((SIZE,), 0.4, dtype=F64), draw(SIZE)
    kept, everything = torch.rand(SIZE, generator=generator) > 0.4, torch.ones(SIZE, dtype=torch.bool)
    posterior = Laplace.at({"w": mean}, product, prior)
    found = posterior.condition(mean, kept)
    assert posterior.delta_f(everything, kept, found) is None
    covariance = torch.linalg.inv(torch.kron(*(f[0] for f in product.factors)) + prior.diag())
    assert posterior.least_delta_f(~kept, found.cost) <= savage_dickey(
        mean, covariance, 0 * mean, (1 / prior).diag(), ~kept
    )


def test_conditioning_a_linear_regression_is_ridge_regression_on_the_support(draw, generator):
    """(e)"""
    x, y, prior = draw(40, 8), draw(40), 0.1 + draw(8).square()
    mean = torch.linalg.solve(x.T @ x + prior.diag(), x.T @ y)
    kept = torch.tensor([1, 0, 1, 1, 0, 0, 1, 1], dtype=torch.bool)
    found = Dense(x.T @ x).condition(prior, mean, kept)
    refit = torch.linalg.solve(x[:, kept].T @ x[:, kept] + prior[kept].diag(), x[:, kept].T @ y)
    torch.testing.assert_close(found.mean[kept], refit, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_where_nothing_leaves_nothing_moves(structure, draw, solver):
    """(f), and where nothing stays there is nothing to move."""
    curvature, _ = curvatures(draw)[structure]
    prior, mean, everything = torch.ones(SIZE, dtype=F64), draw(SIZE), torch.ones(SIZE, dtype=torch.bool)
    assert torch.equal(curvature.condition(prior, mean, everything).mean, mean)
    nothing = curvature.condition(prior, mean, ~everything)
    assert not nothing.mean.any()
    torch.testing.assert_close(nothing.cost, nothing.zeroing)


def test_rows_of_a_diagonal_factor_decouple(draw, generator):
    """(g): each row is a least-squares problem of its own in the inputs' second moment."""
    g, a = draw(5).square() + 0.1, psd(draw, 7)
    mean, kept = draw(5, 7), torch.rand(5, 7, generator=generator) > 0.5
    product = KroneckerProduct.of(g.diag()[None], a[None])
    found = product.condition(torch.zeros(35, dtype=F64), mean.flatten(), kept.flatten()).mean.view(5, 7)
    for row, w, stays in zip(found, mean, kept, strict=True):
        w_row = w[stays] + torch.linalg.solve(a[stays][:, stays], a[stays][:, ~stays] @ w[~stays])
        torch.testing.assert_close(row[stays], w_row, atol=1e-10, rtol=1e-10)


def test_whole_rows_and_columns_have_closed_forms(draw):
    """Rows move by G alone where there is no prior; columns leave row by row of the eigenbasis."""
    g, a, mean = psd(draw, 5), psd(draw, 7), draw(5, 7)
    product = KroneckerProduct.of(g[None], a[None])
    kept = torch.ones(5, 7, dtype=torch.bool)
    kept[[1, 3]] = False
    found = product.condition(torch.zeros(35, dtype=F64), mean.flatten(), kept.flatten())
    r, s = [0, 2, 4], [1, 3]
    moved = mean[r] + torch.linalg.solve(g[r][:, r], g[r][:, s] @ mean[s])
    torch.testing.assert_close(found.mean.view(5, 7)[r], moved, atol=1e-10, rtol=1e-10)
    inverse = torch.linalg.inv(torch.linalg.inv(g)[s][:, s])
    torch.testing.assert_close(found.cost, 0.5 * (inverse @ mean[s] @ a @ mean[s].T).trace(), atol=1e-10, rtol=1e-10)


def test_summed_single_moves_can_be_worse_than_none(generator):
    """Why joint is the default: they break c ≤ z, which the joint move cannot."""
    worse = 0
    for _ in range(200):
        root = torch.randn(6, 6, generator=generator, dtype=F64)
        precision, mean = root @ root.T + 0.05 * torch.eye(6, dtype=F64), torch.randn(6, generator=generator, dtype=F64)
        kept = torch.tensor([1, 1, 1, 0, 0, 0], dtype=torch.bool)
        covariance = torch.linalg.inv(precision)
        pull = (mean / covariance.diagonal()) * ~kept
        singles = (mean - covariance @ pull) * kept
        cost = lambda w: 0.5 * (w - mean) @ precision @ (w - mean)  # noqa: B023, E731
        found = Dense(precision).condition(torch.zeros(6, dtype=F64), mean, kept)
        torch.testing.assert_close(cost(found.mean), found.cost, atol=1e-8, rtol=1e-8)
        worse += bool(cost(singles) > found.zeroing)
    assert worse > 20


@pytest.mark.parametrize("structure", ["dense", "kronecker"])
def test_a_singular_posterior_is_refused_by_name(structure):
    zero = torch.zeros(6, dtype=F64)
    cases = {"dense": Dense(torch.zeros(6, 6, dtype=F64))}
    cases["kronecker"] = KroneckerProduct.of(torch.zeros(1, 2, 2), torch.zeros(1, 3, 3))
    mean, kept = torch.ones(6, dtype=F64), torch.arange(6) < 3
    with pytest.raises(ArithmeticError, match="is singular or not finite"):
        cases[structure].condition(zero, mean, kept)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_solving_is_the_inverse(structure, draw):
    curvature, h = curvatures(draw)[structure]
    prior, v = torch.full((SIZE,), 0.7, dtype=F64), draw(SIZE)
    expected = torch.linalg.solve(h + prior.diag(), v)
    torch.testing.assert_close(curvature.solve(prior, v), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_sums_of_what_is_determined_agree_tensor_by_tensor(structure, draw, generator):
    curvature, _ = curvatures(draw)[structure]
    sizes = getattr(curvature, "sizes", (SIZE,))
    prior = torch.cat([torch.full((n,), 0.2 + i, dtype=F64) for i, n in enumerate(sizes)])
    there = torch.rand(SIZE, generator=generator) > 0.3
    for found in (curvature, curvature.masked(there)):
        exact = found.determined(prior)
        if isinstance(found, KroneckerProduct) and found is not curvature:
            exact = exact * there
        sums = [part.sum() for part in exact.split(sizes)]
        torch.testing.assert_close([p.sum() for p in found.determined_in_sum(prior).split(sizes)], sums)


def test_names_survive(draw):
    mean = {"a": draw(2, 3), "b": draw(18)}
    posterior = Laplace.at(mean, Dense(psd(draw, SIZE)), torch.ones(SIZE, dtype=F64))
    found = posterior.condition(torch.cat([m.flatten() for m in mean.values()]), torch.arange(SIZE) > 3)
    assert named(found.mean, mean)["a"].shape == (2, 3)


def test_the_evidence_of_rows_is_that_of_the_matrix(draw, generator):
    """Log determinants, shares and precisions, of all and of what is left, under any precisions."""
    rows, h = _rows(draw)
    kept = torch.rand(SIZE, generator=generator) > 0.3
    for prior in (torch.full((SIZE,), 0.3, dtype=F64), 0.1 + draw(SIZE).square()):
        for found, dense in ((rows, Dense(h)), (rows.masked(kept), Dense(h).masked(kept))):
            torch.testing.assert_close(found.log_det_ratio(prior), dense.log_det_ratio(prior))
            torch.testing.assert_close(found.determined(prior), dense.determined(prior))
            torch.testing.assert_close(found.precision(prior), dense.precision(prior))


@pytest.mark.parametrize("name", ["mlp", "lenet5", "resnet", "vit"])
@pytest.mark.parametrize("kind", ["ef", "ggn"])
def test_rows_of_a_network_square_to_its_curvature(name, kind):
    """Sums of squares of the columns are the exact diagonal, whatever the layers."""
    network = build(name, (1, 8, 8), 4, seed=0, **({"dim": 16, "depth": 1} if name == "vit" else {})).double()
    x, y = torch.randn(12, 1, 8, 8, dtype=F64), torch.arange(12) % 4
    found = low_rank(network, Split(x, y), kind)
    assert found.n == 12 * (3 if kind == "ggn" else 1)
    expected = flat(diagonal(network, x, y, kind=kind))
    torch.testing.assert_close(found.precision(torch.zeros_like(expected)), expected, rtol=1e-9, atol=1e-12)


def test_too_many_rows_are_refused_before_any_work():
    network = build("mlp", (1, 8, 8), 10, seed=0)
    split = Split(torch.randn(6000, 1, 8, 8), torch.arange(6000) % 10)
    with pytest.raises(UsageError, match=r"6,000 rows .* choose examples: 1000"):
        low_rank(network, split, "ef")
