"""Likelihoods against what autograd makes of their densities: losses, roots, draws; ignored labels; losses of one's own."""

import math

import bayesprune as bp
import pytest
import torch
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.split import IGNORED
from bayesprune.methods.closed_forms.likelihood import MODELS, mean_loss, output_model, summed_loss
from bayesprune.methods.curvature.diagonals import diagonal
from bayesprune.methods.curvature.estimate import curvature_of
from bayesprune.methods.curvature.output_vectors import output_vectors
from bayesprune.methods.laplace.evidence import evidence_at
from torch import nn
from torch.distributions import Bernoulli, Categorical, Normal
from torch.func import hessian, jacrev

DENSITIES = {
    "categorical": lambda f, y: -Categorical(logits=f).log_prob(y),
    "gaussian": lambda f, y: -Normal(f, 1.0).log_prob(y).sum() - f.numel() * 0.5 * math.log(2 * math.pi),
    "bernoulli": lambda f, y: -Bernoulli(logits=f).log_prob(y).sum(),
    "heteroscedastic": lambda f, y: -Normal(f[:2], (0.5 * f[2:]).exp()).log_prob(y).sum(),
}


def outputs_and_targets(name, n=5):
    generator = torch.Generator().manual_seed(3)
    outputs = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    y = {
        "categorical": torch.randint(0, 4, (n,), generator=generator),
        "gaussian": torch.randn(n, 4, generator=generator, dtype=torch.float64),
        "bernoulli": (torch.rand(n, 4, generator=generator) > 0.5).double(),
        "heteroscedastic": torch.randn(n, 2, generator=generator, dtype=torch.float64),
    }[name]
    return outputs, y


def expected_information(name, f):
    """E over y of the Hessian of -log p(y | f): exactly where there are finitely many y, else by its known form."""
    if name == "heteroscedastic":  # linear in (y - μ)², whose expectation is e^s, and in y - μ, whose is 0
        s = f[2:]
        below, above = (f[:2] + sign * (0.5 * s).exp() for sign in (-1.0, 1.0))
        return sum(hessian(lambda g, y=y: DENSITIES[name](g, y))(f) for y in (below, above)) / 2
    y = {"categorical": torch.tensor(0), "gaussian": torch.zeros(4).double(), "bernoulli": torch.zeros(4).double()}
    return hessian(lambda g: DENSITIES[name](g, y[name]))(f)  # of these the Hessian does not depend on y


@pytest.mark.parametrize("name", MODELS)
def test_losses_are_negative_log_densities(name):
    outputs, y = outputs_and_targets(name)
    expected = torch.stack([DENSITIES[name](f, t) for f, t in zip(outputs, y, strict=True)])
    torch.testing.assert_close(mean_loss(outputs, y, name), expected.mean())
    network, split = nn.Identity(), Split(outputs, y, name)
    torch.testing.assert_close(summed_loss(network, split), expected.sum())


@pytest.mark.parametrize("name", MODELS)
def test_roots_multiply_to_the_information_of_the_outputs(name):
    outputs, y = outputs_and_targets(name)
    for kind, top in (("ggn", 1), ("topk", 9)):
        vectors = output_vectors(outputs, y, name, kind, torch.Generator(), top)
        for f, found in zip(outputs, vectors, strict=True):
            torch.testing.assert_close(found.mT @ found, expected_information(name, f), atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["mc", "rademacher", "topk"])
def test_draws_are_unbiased(name, kind):
    outputs, y = outputs_and_targets(name, 1)
    many = 40_000
    vectors = output_vectors(
        outputs.expand(many, -1), y.expand(many, *y.shape[1:]), name, kind, torch.Generator().manual_seed(0)
    )
    products = torch.einsum("nka,nkb->nab", vectors, vectors)
    expected, spread = expected_information(name, outputs[0]), products.std(0) / math.sqrt(many)
    assert ((products.mean(0) - expected).abs() <= 5 * spread + 1e-9).all()


@pytest.mark.parametrize("name", MODELS)
def test_the_empirical_vector_is_the_gradient(name):
    outputs, y = outputs_and_targets(name)
    found = output_vectors(outputs, y, name, "ef")[:, 0]
    expected = torch.stack([jacrev(lambda f, t=t: DENSITIES[name](f, t))(f) for f, t in zip(outputs, y, strict=True)])
    torch.testing.assert_close(found.abs(), expected.abs())
    assert torch.equal(found.sign() * found.sign()[0, 0], expected.sign() * expected.sign()[0, 0])


@pytest.mark.parametrize("name", MODELS)
def test_the_diagonal_of_a_network_is_that_of_jacobians_and_information(name):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    x, y = torch.randn(6, 3, dtype=torch.float64), outputs_and_targets(name, 6)[1]
    parameters = dict(network.named_parameters())
    for key, found in diagonal(network, x, y, name).items():

        def output(value, example, key=key):
            return torch.func.functional_call(network, {**parameters, key: value}, (example[None],))[0]

        expected = torch.zeros_like(found)
        for example in x:
            jacobian = jacrev(output)(parameters[key], example).flatten(1)
            information = expected_information(name, network(example).detach())
            expected += (jacobian * (information @ jacobian)).sum(0).view_as(expected)
        torch.testing.assert_close(found, expected)


def test_a_heteroscedastic_network_is_pruned_and_fitted():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(400, 1, generator=generator) * 4 - 2
    y = x.sin() + (0.1 + 0.4 * (x > 0)) * torch.randn(400, 1, generator=generator)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(400):
        optimizer.zero_grad()
        mean_loss(network(x), y, "heteroscedastic").backward()
        optimizer.step()
    pruned = bp.prune(network, (x, y), "opd", 0.3, likelihood="heteroscedastic", finetune=30)
    assert pruned.notes["likelihood"] == "heteroscedastic"
    deviation = (0.5 * pruned.network(x)[:, 1]).exp()
    assert deviation[x[:, 0] > 0.2].mean() > 2.5 * deviation[x[:, 0] < -0.2].mean()
    evidence = evidence_at(network, Split(x, y, "heteroscedastic"), "diag", "ggn", torch.Generator())
    assert evidence.count is None  # the network tells the noise, the evidence has none to fit
    with pytest.raises(UsageError, match=r"has shape .* but the network has 2 outputs"):
        bp.prune(network, (x, torch.cat([y, y], 1)), "opd", 0.3, likelihood="heteroscedastic")
    with pytest.raises(UsageError, match="an even number of outputs, got 3"):
        diagonal(nn.Linear(1, 3), x, y, "heteroscedastic")


# ---------------------------------------------------------------------- ignored labels


@pytest.mark.parametrize("kind", ["ggn", "rademacher", "mc", "ef"])
@pytest.mark.parametrize("structure", ["diag", "full"])
def test_ignored_labels_count_for_nothing(kind, structure):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.randint(0, 3, (8,))
    ignoring, told = y.clone(), torch.arange(8) % 3 > 0
    ignoring[~told] = IGNORED
    whole, part = Split(x, ignoring), Split(x[told], y[told])
    assert (whole.terms, whole.numbers) == (part.terms, part.numbers)
    with torch.no_grad():
        torch.testing.assert_close(summed_loss(network, whole), summed_loss(network, part))
    if kind in ("rademacher", "mc"):  # other draws: of the same expectation, but not the same
        assert (
            curvature_of(network, whole, structure, kind, torch.Generator()).precision(torch.zeros(31)).isfinite().all()
        )
        return
    found, expected = (curvature_of(network, s, structure, kind, torch.Generator()) for s in (whole, part))
    delta = torch.ones(31, dtype=torch.float64)
    torch.testing.assert_close(found.precision(delta), expected.precision(delta))


def test_sequences_without_their_padding_are_the_same():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5)).double()
    x, y = torch.randint(0, 5, (4, 6)), torch.randint(0, 5, (4, 6))
    y[:, 4:] = IGNORED
    for kind in ("ggn", "ef"):
        found, expected = diagonal(network, x, y, kind=kind), diagonal(network, x[:, :4], y[:, :4], kind=kind)
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name])


def test_batches_in_which_all_is_ignored_add_nothing():
    outputs = torch.randn(3, 4, requires_grad=True)
    y = torch.full((3,), IGNORED)
    assert output_model("categorical").summed_loss(outputs, y).item() == 0
    with pytest.raises(UsageError, match="all labels in y are -100"):
        bp.prune(nn.Linear(2, 4), (torch.randn(3, 2), y), "opd", 0.5)


# ---------------------------------------------------------------------- a loss of one's own


def huber(outputs, y):
    return nn.functional.smooth_l1_loss(outputs, y, reduction="none").sum(1).mean()


def setting():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)), torch.randn(40, 3), torch.randn(40, 2)


@pytest.mark.parametrize("method", ["magnitude", "snip", "grasp", "lamp", "random"])
def test_methods_without_curvature_take_a_loss_of_ones_own(method):
    network, x, y = setting()
    pruned = bp.prune(network, (x, y), method, 0.5, likelihood=huber, finetune=3)
    assert pruned.notes["likelihood"] == "huber"
    assert pruned.sparsity == 0.5


@pytest.mark.parametrize("method", ["opd", "opd-kfac", "obd", "bmr-laplace", "pip-laplace", "spam-opd"])
def test_methods_that_need_its_curvature_refuse_it_unless_gradients_are_enough(method):
    network, x, y = setting()
    with pytest.raises(UsageError, match=r"likelihood 'huber' is a loss of your own, whose curvature .* kind='ef'"):
        bp.prune(network, (x, y), method, 0.5, likelihood=huber)
    assert bp.prune(network, (x, y), method, 0.5, likelihood=huber, kind="ef").sparsity == 0.5


def test_the_empirical_curvature_of_a_loss_of_ones_own_is_that_of_its_gradients():
    network, x, y = setting()
    found = diagonal(network, x, y, huber, "ef")
    for name, parameter in network.named_parameters():
        expected = torch.zeros_like(parameter, dtype=torch.float64)
        for example, target in zip(x, y, strict=True):
            expected += torch.autograd.grad(huber(network(example[None]), target[None]), parameter)[0].double().square()
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-9)
    of_squares = diagonal(network, x, y, lambda f, t: 0.5 * (f - t).square().sum(1).mean(), "ef")
    for name, value in diagonal(network, x, y, "gaussian", "ef").items():
        torch.testing.assert_close(of_squares[name], value, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda f, y: (f - y).square(), r"must return the mean loss of a batch, a scalar .* got shape \(32, 2\)"),
        (lambda f, y: 1.0, "got float"),
        (lambda f, y: (f - y).detach().square().mean(), "that can be differentiated"),
        ("hinge", "unknown likelihood 'hinge'"),
        (3, "unknown likelihood 3"),
    ],
)
def test_what_is_no_loss_is_refused(loss, message):
    network, x, y = setting()
    with pytest.raises(UsageError, match=message):
        bp.prune(network, (x[:32], y[:32]), "magnitude", 0.5, likelihood=loss, finetune=1)
