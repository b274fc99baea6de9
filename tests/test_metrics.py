"""Metrics against torchmetrics, scikit-learn, scipy and hand-made cases."""

import math

import numpy as np
import pytest
import torch
from bayesprune.bench.evaluation import metrics
from bayesprune.bench.evaluation.auroc import auroc
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import log_loss, roc_auc_score


def predictions(n=500, classes=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, classes, (n,), generator=generator)


@pytest.mark.parametrize("bins", [5, 15])
def test_ece_equals_torchmetrics(bins):
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, y = predictions()
    expected = multiclass_calibration_error(logits.softmax(1), y, num_classes=7, n_bins=bins, norm="l1")
    assert metrics.expected_calibration_error(logits.softmax(1), y, bins) == pytest.approx(expected.item(), abs=1e-6)


def test_ece_by_hand():
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]], dtype=torch.float64)
    y = torch.tensor([0, 1, 0, 0])  # accuracy ½ at confidence .9, 1 at .6
    assert metrics.expected_calibration_error(probabilities, y) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)


def test_nll_brier_and_accuracy_equal_their_definitions():
    logits, y = predictions()
    p = logits.softmax(1).numpy()
    found = metrics.categorical(logits, y)
    assert found["nll"] == pytest.approx(log_loss(y, p, labels=range(7)))
    assert found["brier"] == pytest.approx(((p - np.eye(7)[y]) ** 2).sum(1).mean())
    assert found["accuracy"] == pytest.approx((p.argmax(1) == y.numpy()).mean())
    top5 = np.argsort(-p, axis=1)[:, :5]
    assert found["accuracy_top5"] == pytest.approx((top5 == y.numpy()[:, None]).any(1).mean())
    assert "accuracy_top5" not in metrics.categorical(logits[:, :3], y % 3)


@settings(deadline=None, max_examples=20)
@given(st.floats(0.2, 6))
def test_temperature_undoes_a_known_scaling(factor):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 5, generator=generator, dtype=torch.float64)
    y = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    assert metrics.fitted_temperature(logits * factor, y) == pytest.approx(factor, rel=0.1)


def test_auroc_equals_scikit_learn_with_ties():
    inside, outside = predictions(seed=1)[0].round(), predictions(300, seed=2)[0].round() / 2
    confidence = torch.cat([inside, outside]).log_softmax(1).max(1).values
    labels = [1] * len(inside) + [0] * len(outside)
    assert metrics.ood_auroc(inside, outside) == pytest.approx(roc_auc_score(labels, confidence))


@given(*[st.lists(st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 0.5000001, math.inf]), min_size=1, max_size=9)] * 2)
def test_auroc_is_the_share_of_pairs_in_order_and_half_of_the_ties(positive, negative):
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    found = auroc(torch.tensor(positive).double(), torch.tensor(negative).double())
    assert found == wins / (len(positive) * len(negative))


@pytest.mark.parametrize("scores", [([1.0, math.nan], [0.0]), ([1.0], [math.nan]), ([], [0.0]), ([1.0], [])])
def test_auroc_of_what_is_no_number_is_none(scores):
    assert math.isnan(auroc(*map(torch.tensor, scores)))


def test_gaussian_likelihood_is_in_the_units_of_the_targets():
    generator = torch.Generator().manual_seed(0)
    outputs, y = (torch.randn(50, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    noise, scale = torch.tensor([0.5, 2.0]), torch.tensor([10.0, 0.1])
    found = metrics.gaussian(outputs, y, noise, scale)
    expected = -norm.logpdf((y * scale).numpy(), (outputs * scale).numpy(), (noise * scale).numpy()).sum(1).mean()
    assert found["nll"] == pytest.approx(expected)
    assert found["rmse"] == pytest.approx(math.sqrt(((outputs - y) * scale).square().mean()))
