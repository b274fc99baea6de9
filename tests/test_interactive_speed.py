"""Ten thousand records in the browser: how long the page takes to open, and to rank anew, as medians of twenty."""

import statistics

import numpy as np
import pytest
from browsers import browser, complaints, lacking, shown
from pages import results, written

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(lacking()), reason=lacking() or "a browser is there")]

ROUNDS = 20
METHODS = (
    "magnitude", "random", "opd", "snip", "lamp", "synflow", "grasp", "bmr", "pip", "horseshoe", "spam-opd", "obd",
    "bmrs-n", "bmrs-u", "snr", "mean-field", "l2-group", "noise-mean", "variational-dropout", "precision-only", "obs",
)  # fmt: skip
OPENED = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
RANKED = """
const box = document.querySelector(`#choice input[name=${arguments[0]}][value="${arguments[1]}"]`);
const before = performance.now();
box.click();
document.body.offsetHeight;
return performance.now() - before;
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report that the command makes of a folder: 10,300 records in 10 blocks of each kind of units."""
    from bayesprune.bench.cli import main
    from bayesprune.reports.drawing import panels
    from click.testing import CliRunner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        patch.setattr(panels, "FORMATS", {"svg": {"Date": None}})
        frame, scores = results(
            ("digits", "b", "c", "d", "e"), ("mlp", "vit(depth=1)"), METHODS, range(5),
            levels=(0.5, 0.75, 0.9, 0.95, 0.98), examples=360,
        )  # fmt: skip
        assert len(frame) > 10_000
        folder, out = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("report")
        written(folder / "results", frame.replace({np.nan: None}), scores)
        done = CliRunner().invoke(main, ["report", str(folder / "results"), "--out", str(out)], catch_exceptions=False)
        assert done.exit_code == 0
    return out / "index.html"


def test_opens_within_a_second_and_ranks_within_a_tenth(page, record_property, capsys):
    with browser() as driver:
        opened = [shown(driver, page).execute_script(OPENED) for _ in range(ROUNDS)]
        methods = [driver.execute_script(RANKED, "method", METHODS[k // 2]) for k in range(ROUNDS)]
        seeds = [driver.execute_script(RANKED, "seed", k // 2 % 5) for k in range(ROUNDS)]
        assert complaints(driver) == []
        size = len(page.read_bytes())
        data = driver.execute_script("return document.getElementById('records').textContent.length")
    found = {"opens": opened, "ranks anew, a method": methods, "ranks anew, a seed": seeds}
    medians = {name: statistics.median(times) for name, times in found.items()}
    for name, median in medians.items():
        record_property(name, median)
    with capsys.disabled():
        said = ", ".join(f"{name} in {median:.0f} ms" for name, median in medians.items())
        print(f"\n10,300 records, {size / 2**20:.1f} MiB, of which data {data / 2**20:.1f}: {said}")
    assert medians["opens"] <= 1000
    assert max(medians["ranks anew, a method"], medians["ranks anew, a seed"]) <= 100
