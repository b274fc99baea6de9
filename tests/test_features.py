"""Feature selection: every estimator on a table whose relevant features are known, and what is refused."""

import dataclasses
import math

import bayesprune as bp
import numpy as np
import pytest
import torch
from bayesprune.bench.features.select_features import _ESTIMATORS
from bayesprune.bench.features.selected import Selected
from bayesprune.bench.features.stability import stability
from bayesprune.bench.spec.settings import Training
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.load import load
from bayesprune.datasets.sparse_function import design

QUICK = {"seeds": 2, "widths": (6,), "training": Training(epochs=60, batch_size=64, lr=0.01), "progress": False}


def linear_table(n=240, features=6, seed=0):
    """y = 2 x1 - x2 + noise."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, features))
    return x, 2 * x[:, 0] - x[:, 1] + 0.3 * rng.standard_normal(n)


@pytest.mark.parametrize("method", _ESTIMATORS)
def test_every_estimator_finds_the_relevant_features(method):
    x, y = linear_table()
    found = bp.select_features(x, y, method, k=2, **QUICK)
    assert set(found.features) == {"x1", "x2"}
    assert found.rates([True, True] + [False] * 4) == {"fnr": 0.0, "fpr": 0.0, "auc": 1.0}
    assert found.frequency.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert found.stability == pytest.approx(1.0)
    assert found.summary().splitlines()[1].startswith("* x1")


@pytest.mark.parametrize("method", ["pip", "pip-gates", "pip-laplace"])
def test_probabilities_decide_by_themselves(method):
    x, y = linear_table()
    found = bp.select_features(torch.from_numpy(x), torch.from_numpy(y), method, names=list("abcdef"), **QUICK)
    assert ((found.probability >= 0) & (found.probability <= 1)).all()
    assert {"a", "b"} <= set(found.features)
    assert torch.equal(found.mask, found.probability > 0.5)
    strict = bp.select_features(x, y, method, select="fdr", rate=0.01, **QUICK)
    assert strict.mask.sum() <= found.mask.sum()


def test_labels_and_equal_seeds_give_equal_results():
    x, y = linear_table()
    labels = np.where(y > 0, "high", "low")
    first, second = (bp.select_features(x, labels, "pip-gates", **QUICK) for _ in range(2))
    assert torch.equal(first.scores, second.scores)
    assert first.score[:2].min() > first.score[2:].max()


def test_of_a_data_set_the_training_examples_are_read(tmp_path):
    x, y = linear_table()
    np.savez(tmp_path / "linear.npz", x=x, y=y)
    data = dataclasses.replace(load(f"npz:{tmp_path / 'linear.npz'}"), features=tuple("abcdef"))
    found = bp.select_features(data, method="pip-laplace", **QUICK)
    split = bp.select_features(data.train, method="pip-laplace", **QUICK)
    arrays = bp.select_features(data.train.x.numpy(), data.train.y.numpy(), "pip-laplace", **QUICK)
    assert {"a", "b"} <= set(found.features)
    assert split.names == arrays.names == ("x1", "x2", "x3", "x4", "x5", "x6")
    assert torch.equal(found.scores, split.scores)
    assert torch.equal(found.scores, arrays.scores)
    assert bp.select_features(data, names=list("uvwxyz"), **QUICK).names == tuple("uvwxyz")
    with pytest.raises(UsageError, match="brings its own targets"):
        bp.select_features(data, y, **QUICK)
    with pytest.raises(UsageError, match="x must be a table"):
        bp.select_features(load("digits", subset=50), **QUICK)


def test_a_picture(tmp_path):
    scores = torch.linspace(-3, 3, 30, dtype=torch.float64).expand(2, 30)
    found = Selected("pip", tuple(f"gene {i}" for i in range(30)), scores, True, lambda s: s > 0)
    figure = found.plot(tmp_path / "features.svg", most=10)
    assert (tmp_path / "features.svg").stat().st_size > 1000
    assert figure.axes[0].get_ylabel() == "inclusion probability"
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == [f"gene {i}" for i in range(20, 30)]


def test_stability_of_known_selections():
    """By hand: frequencies 1, ½, ½, 0 of M = 2; s² = 0, ½, ½, 0; 1 - ¼ / (½ · ½)."""
    assert stability(np.array([[1, 1, 0, 0], [1, 0, 1, 0]], bool)) == pytest.approx(0.0)
    assert stability(np.array([[1, 1, 0, 0], [0, 0, 1, 1]], bool)) == pytest.approx(-1.0)
    assert stability(np.array([[1, 0, 0]] * 3, bool)) == 1.0
    for all_alike in (np.zeros, np.ones):
        assert math.isnan(stability(all_alike((3, 5), bool)))


def test_stability_is_corrected_for_chance(generator):
    names = tuple(map(str, range(400)))
    random = torch.randn(40, 400, dtype=torch.float64, generator=generator)
    assert abs(Selected("pip", names, random, True, lambda s: s > 0).stability) < 0.05
    assert math.isnan(Selected("pip", names, random[:1], True, lambda s: s > 0).stability)
    assert math.isnan(Selected("pip", names, random, True, lambda s: s > 100).stability)


def test_the_probability_is_the_mean_and_its_log_odds_never_saturate():
    scores = torch.tensor([[2.0, 800.0, -900.0], [-1.0, 900.0, -800.0]], dtype=torch.float64)
    found = Selected("pip", ("a", "b", "c"), scores, True, lambda s: s > 0)
    torch.testing.assert_close(found.score[:1].sigmoid(), found.probability[:1])
    assert torch.isfinite(found.score).all()
    assert found.score.argsort().tolist() == [2, 0, 1]


def test_controls_have_no_probability():
    found = Selected("magnitude", ("a", "b"), torch.zeros(1, 2), False, lambda s: s > 0)
    with pytest.raises(UsageError, match="no probabilities"):
        _ = found.probability
    with pytest.raises(UsageError, match="relevant must be 2 booleans"):
        found.rates([True, True])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": lambda x: np.where(np.arange(6) == 2, 1.0, x)}, "constant features tell nothing: remove x3"),
        ({"x": lambda x: np.where(x > 2, np.nan, x)}, r"NaN in x at example \d+, column \d \(x\d\)"),
        ({"x": lambda x: x[:8], "y": lambda y: y[:8]}, "8 rows, too few"),
        ({"x": lambda x: x[:, 0]}, r"x must be a table .* got shape \(240,\)"),
        ({"y": lambda y: y[:100]}, "as many targets as inputs"),
        ({"y": lambda y: np.zeros(240, int)}, "one class only"),
        ({"y": lambda y: np.full(240, 0.5)}, "target 0 has one value only"),
        ({"names": ["a"]}, "1 names are given for 6 features"),
        ({"method": "pips"}, "did you mean 'pip'"),
        ({"method": "magnitude"}, "say how many features to select"),
        ({"method": "snr", "k": 2, "inclusion": 0.1}, "unknown option of method 'mean-field'"),
        ({"inclusion": 0.0}, "inclusion must be a probability"),
        ({"inclusion": 1.0}, "inclusion must be a probability"),
        ({"method": "pip-gates", "inclusion": 1.0}, "inclusion must be a probability"),
        ({"method": "pip-laplace", "inclusion": 0.0}, "inclusion must be a probability"),
        ({"inclusions": 0.1}, "did you mean 'inclusion'"),
        ({"method": "pip-laplace", "precision": "tuned"}, "give a number instead of 'tuned'"),
        ({"rounds": 3}, "rounds says how units leave a network"),
        ({"method": "pip-gates", "when": "during"}, "when says how units leave a network"),
        ({"method": "magnitude", "k": 2, "allocation": "lamp"}, "allocation says how units leave"),
        ({"y": None}, "y is missing"),
        ({"names": list("abcdea")}, "feature name 'a' is given twice"),
        ({"select": "all"}, "unknown rule of selection"),
        ({"rate": 0.0}, "rate must be"),
        ({"k": 7}, "from 1 to 6"),
        ({"seeds": 0}, "seeds must be"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_is_refused_before_any_work(change, message, monkeypatch):
    monkeypatch.setattr("bayesprune.bench.features.select_features.train", lambda *_: pytest.fail("training began"))
    x, y = linear_table()
    arguments = {"x": x, "y": y, "method": "pip", **QUICK, **change}
    for name, value in (("x", x), ("y", y)):
        if callable(arguments[name]):
            arguments[name] = arguments[name](value)
    with pytest.raises(UsageError, match=message):
        bp.select_features(**arguments)


# ---------------------------------------------------------------------- designs whose truth is known


def test_the_designs_are_the_published_functions():
    plain, correlated = design(4000), design(4000, correlated=True)
    assert plain.relevant.nonzero()[0].tolist() == [0, 1, 2, 3, 4]
    assert abs(plain.x).max() <= 1
    pairs = np.corrcoef(correlated.x[:, :20].T)[np.triu_indices(20, 1)]
    assert pairs.mean() == pytest.approx(0.5, abs=0.05)
    exact = design(50, noise=0.0)
    x = exact.x
    expected = 7 * x[:, 1] / (1 + x[:, 0] ** 2) + 5 * np.sin(x[:, 2] * x[:, 3]) + 2 * x[:, 4]
    np.testing.assert_allclose(exact.y, expected)
    np.testing.assert_array_equal(design(50, seed=3).y, design(50, seed=3).y)
    assert not np.array_equal(design(50, seed=3).y, design(50, seed=4).y)
    with pytest.raises(UsageError, match="give at least that many, got 4"):
        design(p=4)


def test_the_design_is_a_data_set():
    data = load("sparse-function", n=100, features=12)
    assert data.likelihood == "gaussian"
    assert data.train.x.shape == (60, 12)
