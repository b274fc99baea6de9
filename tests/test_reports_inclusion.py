"""The page of inclusion probabilities, from frames made by hand."""

import numpy as np
import pandas as pd
import pytest

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
    from bayesprune.reports.frame import prepare

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


@pytest.mark.parametrize("records", [[record(features=None)], [record(features=[])], [record(status="failed")]])
def test_nothing_is_drawn_without_probabilities(records):
    assert drawings(records) == []
