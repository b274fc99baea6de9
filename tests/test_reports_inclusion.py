"""The page of inclusion probabilities, from frames made by hand."""

import numpy as np
import pandas as pd
import pytest
from bayesprune.reports.records.frame import prepare
from bayesprune.reports.topics.inclusion import selections

TRUTH = [0.9, 0.1, 0.6]


def record(method="pip", seed=0, features=TRUTH, **more):
    reports = None if features is None else [{"uncertain": 0.1, "features": list(features)}, {"uncertain": 0.0}]
    return {
        "key": f"{method} {seed}", "status": "done", "method": method, "dataset": "diabetes", "architecture": "mlp",
        "units": "weights", "seed": seed, "when": "after", "sparsity_target": None, "sparsity_auto": True,
        "sparsity": 0.5, "likelihood": "gaussian", "rmse": 1.0, "nll": 1.0, "reports": reports,
    } | more  # fmt: skip


def drawings(records):
    from bayesprune.reports.figures import included
    from bayesprune.reports.records.frame import prepare

    return included(prepare(pd.DataFrame(records)))


def test_one_panel_per_method_with_mean_and_range_over_seeds():
    records = [
        record(),
        record(seed=1, features=[0.7, 0.3, 0.0]),
        record("pip-gates"),
        record("magnitude", features=None),
    ]
    (drawing,) = drawings(records)
    first, second = drawing.figure.axes
    np.testing.assert_allclose(first.lines[0].get_ydata(), [0.8, 0.2, 0.3])
    np.testing.assert_allclose(second.lines[0].get_ydata(), TRUTH)
    low, high = np.array([segment[:, 1] for segment in first.collections[0].get_segments()]).T
    np.testing.assert_allclose(low, [0.7, 0.1, 0.0])
    np.testing.assert_allclose(high, [0.9, 0.3, 0.6])
    assert "median probability model" in drawing.caption
    assert "1 to 2 seeds" in drawing.caption or "1–2 seeds" in drawing.caption
    drawing.figure.draw_without_rendering()


def test_of_thousands_of_features_the_most_probable_are_drawn():
    features = np.linspace(0, 0.4, 3000)
    features[[3, 2500]] = 0.9, 0.8
    (drawing,) = drawings([record(features=features), record(seed=1, features=features)])
    x, y = drawing.figure.axes[0].lines[0].get_data()
    assert len(x) == 1000
    assert x[0] == 4
    assert (np.diff(x) > 0).all()
    np.testing.assert_allclose(y, features[np.array(x) - 1])
    assert "the most probable 1,000 are drawn" in drawing.caption
    assert "are drawn" not in drawings([record()])[0].caption


def test_numbers_of_selected_features_and_their_stability():
    """Of M = 2 with frequencies 1, 0, 1, ½: s² = ½ / 4, k̄ / d = ⅝; 1 - ⅛ / (⅝ · ⅜)."""
    records = [
        record(features=[0.9, 0.1, 0.6, 0.7]),
        record(seed=1, features=[0.7, 0.3, 0.8, 0.5]),
        record("pip-gates", features=[0.9, 0.1, 0.6, 0.2]),
        record("pip-laplace", features=[0.1] * 4),
        record("pip-laplace", seed=1, features=[0.1] * 4),
        record("magnitude", features=None),
    ]
    table = selections(prepare(pd.DataFrame(records)))
    (section,) = table.sections
    assert [[cell.text for cell in cells] for cells in section.rows] == [
        ["pip", "4", "2.5 ± 0.7", "2", "3", f"{1 - 0.125 / (0.625 * 0.375):.2f}", "2"],
        ["pip-gates", "4", "2.0", "2", "2", "–", "1"],
        ["pip-laplace", "4", "0.0 ± 0.0", "0", "0", "–", "2"],
    ]
    assert not selections(prepare(pd.DataFrame([record(features=None)]))).rows


@pytest.mark.parametrize("records", [[record(features=None)], [record(features=[])], [record(status="failed")]])
def test_nothing_is_drawn_without_probabilities(records):
    assert drawings(records) == []
