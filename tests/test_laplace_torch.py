"""Posteriors to and from laplace-torch, masks of torch.nn.utils.prune."""

import bayesprune as bp
import pytest
import torch
from bayesprune.architectures.units.prunable import trainable
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.methods.closed_forms.flat import flat
from bayesprune.methods.laplace.laplace_torch import laplace_of, posterior_from
from laplace import Laplace
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

STRUCTURES = ("diag", "kron", "full")


@pytest.fixture(scope="module")
def split():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(96, 6, generator=generator)
    return Split(x, (x[:, 0] + x[:, 1] * x[:, 2] > 0).long() + (x[:, 3] > 1).long())


@pytest.fixture(scope="module")
def trained(split):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    fitted = bp.fit(network, split, "magnitude", 0.0, epochs=40, training=bp.Training(lr=1e-2), progress=False)
    return fitted.network.eval()


def theirs(network, split, structure, prior=2.5):
    task = "regression" if split.likelihood == "gaussian" else "classification"
    found = Laplace(network, task, subset_of_weights="all", hessian_structure=structure, prior_precision=prior)
    found.fit(DataLoader(TensorDataset(split.x, split.y), batch_size=32))
    return found


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_posterior_read_has_the_precision_that_it_has_there(structure, trained, split):
    approximation = theirs(trained, split, structure)
    found = posterior_from(approximation, trained)
    if structure == "diag":
        expected = approximation.posterior_precision
    else:
        matrix = approximation.posterior_precision
        expected = (matrix.to_matrix() if structure == "kron" else matrix).diagonal()
    torch.testing.assert_close(flat(found.precision), expected.double(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(flat(found.mean), approximation.mean.double())
    marginal = expected.reciprocal() if structure == "diag" else torch.linalg.inv(
        (matrix.to_matrix() if structure == "kron" else matrix).double()
    ).diagonal()  # fmt: skip
    torch.testing.assert_close(flat(found.marginal_precision).reciprocal(), marginal.double(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("method", ["opd", "bmr-laplace", "pip-laplace", "spam-opd"])
def test_methods_score_by_the_posterior_that_is_given(structure, method, trained, split):
    approximation = theirs(trained, split, structure)
    pruned = bp.prune(trained, split, method, 0.5, posterior=approximation, progress=False)
    assert pruned.sparsity == pytest.approx(0.5, abs=0.01)
    if method == "opd":
        found = posterior_from(approximation, trained)
        score = {n: 0.5 * found.precision[n] * found.mean[n] ** 2 for n in found.mean}
        torch.testing.assert_close(pruned.scores, pruned.mask.units.gather(score))


def test_the_observation_noise_is_part_of_the_curvature(split):
    torch.manual_seed(0)
    network = nn.Linear(6, 1)
    real = Split(split.x, split.x[:, :1] * 2)
    approximation = Laplace(network, "regression", "all", "full", sigma_noise=0.5, temperature=2.0, prior_precision=3.0)
    approximation.fit(DataLoader(TensorDataset(real.x, real.y), batch_size=32))
    found = posterior_from(approximation, network)
    # A linear model: H = X'X with a column of ones, over s² T.
    design = torch.cat([real.x, torch.ones(len(real), 1)], 1).double()
    expected = design.T @ design / (0.25 * 2.0) + 3.0 * torch.eye(7, dtype=torch.double)
    torch.testing.assert_close(torch.linalg.inv(found.covariance), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_posterior_handed_over_predicts_as_their_own_fit(structure, trained, split):
    ours, expected = laplace_of(trained, split, structure, prior_precision=2.5), theirs(trained, split, structure)
    x = split.x[:20]
    # Kronecker factors are those of laplace-torch up to the share of one example in the other factor.
    torch.testing.assert_close(ours(x), expected(x), rtol=2e-3, atol=2e-4)
    torch.testing.assert_close(ours.posterior_variance if structure == "diag" else ours.functional_variance(
        ours.backend.jacobians(x)[0]), expected.posterior_variance if structure == "diag"
        else expected.functional_variance(expected.backend.jacobians(x)[0]), rtol=5e-2, atol=1e-4)  # fmt: skip


@pytest.mark.parametrize("structure", ["diag", "full"])
def test_predictions_of_a_pruned_network_are_certain_of_its_zeros(structure, trained, split):
    pruned = bp.prune(trained, split, "opd", 0.5, progress=False)
    approximation = pruned.laplace(split, structure)
    drawn = approximation.sample(50)
    gone = ~flat({n: pruned.mask.tensors.get(n, torch.ones_like(p, dtype=torch.bool))
                  for n, p in trainable(pruned.network).items()}).bool()  # fmt: skip
    assert drawn[:, gone].abs().max() < 1e-4
    assert (drawn[:, ~gone].std(0) > 1e-3).all()
    probabilities = approximation(split.x[:10])
    torch.testing.assert_close(probabilities.sum(1), torch.ones(10))


def test_predictions_of_a_compact_network_have_kronecker_factors(trained, split):
    pruned = bp.prune(trained, split, "opd", 0.5, structured=True, progress=False)
    approximation = pruned.laplace(split, "kron")
    assert sum(p.numel() for p in approximation.model.parameters()) < sum(p.numel() for p in trained.parameters())
    assert approximation(split.x[:10]).shape == (10, 3)


def test_what_cannot_be_read_is_told(trained, split):
    with pytest.raises(UsageError, match="not fitted yet"):
        posterior_from(Laplace(trained, "classification", "all", "diag"), trained)
    with pytest.raises(UsageError, match="subset_of_weights='all'"):
        posterior_from(Laplace(trained, "classification", "last_layer", "diag"), trained)
    approximation = theirs(trained, split, "diag")
    other = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3))
    with pytest.raises(UsageError, match=r"another network: '0\.bias'"):
        bp.prune(other, split, "opd", 0.5, posterior=approximation)
    moved = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    with pytest.raises(UsageError, match="at other weights"):
        bp.prune(moved, split, "opd", 0.5, posterior=approximation)
    with pytest.raises(UsageError, match="takes its own from training"):
        bp.prune(trained, split, "snip", 0.5, posterior=approximation)
    with pytest.raises(UsageError, match="not of 5 rounds"):
        bp.prune(trained, split, "opd", 0.5, rounds=5, posterior=approximation)
    with pytest.warns(UserWarning, match="looks at no posterior"):
        bp.prune(trained, split, "magnitude", 0.5, posterior=approximation)
    pruned = bp.prune(trained, split, "opd", 0.5, progress=False)
    with pytest.raises(UsageError, match="cannot leave a Kronecker product"):
        pruned.laplace(split, "kron")
    with pytest.raises(UsageError, match="structure 'diagonal'"):
        pruned.laplace(split, "diagonal")


def test_masks_go_to_torch_and_come_back(trained, split):
    pruned = bp.prune(trained, split, "opd", 0.5, progress=False)
    masked = pruned.with_torch_masks()
    for name, kept in pruned.mask.tensors.items():
        assert torch.equal(masked.get_buffer(f"{name}_mask").bool(), kept)
    torch.testing.assert_close(masked(split.x), pruned.network(split.x), rtol=0, atol=0)
    again = bp.prune(masked, split, "magnitude", 0.7, progress=False)
    for name, kept in again.mask.tensors.items():
        assert not (kept & ~pruned.mask.tensors[name]).any()
