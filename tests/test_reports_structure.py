"""Report pages for structured pruning: figures, table and doubts from frames made by hand."""

import math
import re
import subprocess
import sys
from itertools import pairwise, product

import numpy as np
import pandas as pd
import pytest
from bayesprune.reports.records.frame import prepare

METHODS = ("magnitude", "opd", "random")
SPARSITIES = (0.3, 0.5, 0.7)


def record(method="opd", seed=0, sparsity=0.5, speedup=1.5, **more):
    """One record of a network pruned by groups, half of the FLOPs and a quarter of the rest gone at 50 %."""
    speed = {f"speedup_compact{end}": speedup * factor for end, factor in (("", 1.0), ("_low", 0.9), ("_high", 1.2))}
    mask = {f"speedup_masked{end}": factor for end, factor in (("", 0.99), ("_low", 0.96), ("_high", 1.03))}
    return {
        "key": f"{method} {seed} {sparsity} {more.get('dataset')} {more.get('architecture')}", "status": "done",
        "method": method, "dataset": "digits", "architecture": "mlp", "units": "groups", "seed": seed, "when": "after",
        "sparsity_target": sparsity, "sparsity_auto": False, "sparsity": sparsity, "device": "cpu",
        "accuracy": 0.98 - 0.1 * sparsity - 0.01 * seed, "dense_accuracy": 0.97, "likelihood": "categorical",
        "inference": "MAP(precision=1.0)", "parameters": 1000, "parameters_masked": 800 * sparsity,
        "parameters_removed": 500 * sparsity, "flops_dense": 2e6, "flops_nonzero": 1e6,
        "flops_compact": 2e6 * (1 - sparsity), "bytes_dense": 4000, "bytes_compact": 4000 * (1 - sparsity / 2),
        "certificate": 1e-7 * (1 + seed), **speed, **mask,
        "latency": {kind: [{"batch": b, "seconds": 0.01} for b in (1, 16, 64)] for kind in ("masked", "compact")},
    } | more  # fmt: skip


def records(methods=METHODS, seeds=(0, 1, 2), sparsities=SPARSITIES, **more):
    return pd.DataFrame([record(m, s, p, **more) for m, s, p in product(methods, seeds, sparsities)])


def prepared(frame):
    from bayesprune.reports.records.frame import prepare

    return prepare(frame)


def drawn(frame):
    """The figures of structured pruning by name, each laid out as for a file."""
    from bayesprune.reports.drawing.style import sheet
    from bayesprune.reports.figures import removed

    with sheet():
        found = {drawing.name: drawing for drawing in removed(prepare(prepared(frame)))}
        for drawing in found.values():
            drawing.figure.draw_without_rendering()
    return found


def marked(axis, marker):
    """The points of all lines with a marker, shape (points, 2)."""
    lines = [np.column_stack(line.get_data()) for line in axis.lines if line.get_marker() == marker]
    return np.concatenate(lines) if lines else np.empty((0, 2))


def cells(frame):
    """The rows of the table as dictionaries from column to text."""
    from bayesprune.reports.topics.savings import structure

    table = structure(prepare(frame))
    return [dict(zip(table.columns, (cell.text for cell in cells), strict=True)) for cells in table.rows]


def doubts(frame):
    from bayesprune.reports.topics.savings import structure_doubts

    return structure_doubts(prepare(prepared(frame)))


pytestmark = pytest.mark.usefixtures("coarse")


OPD, MASK = "s", "o"  # markers; magnitude, which has the same marker as the masks, is left out where they count


# ---------------------------------------------------------------------- the page


def test_the_page_shows_figures_table_and_doubts_with_everything_escaped(tmp_path):
    from bayesprune.reports.build import report

    odd = {"dataset": "<b>$\\frac$</b>", "architecture": "net--$_1"}
    frame = records(("<i>$opd$",), **odd, speedup_compact_low=0.9)
    page = report(frame, tmp_path).read_text(encoding="utf-8")
    for text in ('id="figure-latency"', 'id="figure-structure"', 'id="table-structure"', "no faster at batch 64"):
        assert text in page, text
    assert "<b>$" not in page
    assert "<i>$" not in page
    assert r"\textless{}i\textgreater{}\$opd\$" in (tmp_path / "tables/structure.tex").read_text()
    assert r"<i>$opd$" not in (tmp_path / "tables/structure.md").read_text()


def test_the_same_records_in_any_order_give_the_same_bytes(tmp_path):
    from bayesprune.reports.build import report

    frame = records(("opd",), (0, 1), (0.5, 0.7))
    for name, rows in (("a", frame), ("b", frame), ("c", frame.iloc[::-1])):
        report(rows, tmp_path / name)
    for name in ("figures/latency.svg", "figures/structure.svg", "tables/structure.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    for name in ("index.html", "tables/structure.md", "tables/structure.tex"):
        text = (tmp_path / "a" / name).read_text()
        assert re.sub('base64,[^"]*', "", text) == re.sub('base64,[^"]*', "", (tmp_path / "c" / name).read_text())


def test_nothing_here_imports_torch():
    code = "import sys, bayesprune.reports.topics.savings_figures, bayesprune.reports.topics.savings; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


MEASURED = [name for name in record() if re.match("parameters|flops_c|bytes|certificate|speedup|latency", name)]


@pytest.mark.parametrize("frame", [
    pd.DataFrame(), records().assign(units="weights"), records().assign(status="failed"),
    records(("dense",)), records().drop(columns=MEASURED), records().assign(**dict.fromkeys(MEASURED, math.nan)),
], ids=["empty", "weights", "failed", "dense", "old", "NaN"])  # fmt: skip
def test_without_compact_networks_there_is_nothing(frame):
    assert drawn(frame) == {}
    assert cells(frame) == []


def test_weights_in_the_same_frame_stay_out():
    both = pd.concat([records(("opd",)), records(("snip",)).assign(units="weights", key="w")])
    assert [axis.get_title() for axis in drawn(both)["latency"].figure.axes] == ["digits · mlp"]
    assert {row["method"] for row in cells(both)} == {"opd"}
    legend = drawn(both)["structure"].figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["opd", "dense"]


# ---------------------------------------------------------------------- latency


def test_kinds_of_structures_are_told_apart():
    kinds = ("groups", "residual_out")
    frame = pd.concat([records(units=kind, key=f"{kind}") for kind in kinds])
    for drawing in drawn(frame.assign(key=range(len(frame)))).values():
        titles = [axis.get_title() for axis in drawing.figure.axes if axis.get_title()]
        assert all(any(kind in title for title in titles) for kind in kinds)


def test_points_bars_and_lines_by_hand():
    frame = records(("opd",), (0, 1), (0.5, 0.75))
    frame["speedup_compact"] = [1.0, 3.0, 1.4, 3.4]  # sparsity runs fastest
    (axis,) = drawn(frame)["latency"].figure.axes
    np.testing.assert_allclose(marked(axis, OPD), [[1, 1.2], [2, 3.2]])  # halvings, mean over seeds
    np.testing.assert_allclose(marked(axis, MASK), [[1, 0.99], [2, 0.99]])
    (bars,) = axis.collections
    np.testing.assert_allclose(bars.get_segments()[0], [[1, 1.35], [1, 1.8]])  # mean limits, as recorded
    lines = [line.get_xydata().tolist() for line in axis.lines if line.get_marker() == "None"]
    assert [[0.0, 1.0], [2.0, 4.0]] in lines  # half of the FLOPs: twice as fast
    assert any({y for _, y in line} == {1.0} for line in lines)
    assert [text.get_text() for text in axis.texts] == ["no faster"]
    assert (axis.get_yscale(), axis.get_xlabel()) == ("log", "FLOPs removed (%)")


def test_every_point_is_inside_the_axes():
    for speedups in ((0.05, 0.9, 40.0), (0.99, 1.0, 1.01), (2000.0, 3.0, 1.0)):
        frame = pd.DataFrame([record(sparsity=p, speedup=s) for p, s in zip((0.3, 0.9, 0.999), speedups, strict=True)])
        (axis,) = drawn(frame)["latency"].figure.axes
        low, high = axis.get_ylim()
        assert low < min(speedups) * 0.9
        assert max(speedups) * 1.2 <= high
        assert 3 <= len(axis.get_yticks()) <= 14
        assert low < 1 < high


def test_labels_of_the_share_axis_do_not_touch():
    for shares in ((0.3, 0.5, 0.7), (0.05,), (0.02, 0.9999), (0.0, 1.0)):
        for name in ("latency", "structure"):
            figure = drawn(pd.DataFrame([record(sparsity=p) for p in shares]))[name].figure
            boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
            assert figure.axes[0].get_xticklabels()[0].get_text() == "0"
            assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_missing_masks_leave_the_rest():
    drawing = drawn(records(("opd",), speedup_masked=math.nan))["latency"]
    assert not np.isfinite(marked(drawing.figure.axes[0], MASK)[:, 1]).any()
    assert "mask alone" not in [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert "Grey" not in drawing.caption
    assert "Grey" in drawn(records(("opd",)))["latency"].caption


@pytest.mark.parametrize("nothing", [math.nan, 0.0])
def test_networks_that_were_not_timed_are_left_out(nothing):
    frame = records(("opd",))
    frame.loc[frame["sparsity"] == 0.5, "speedup_compact"] = nothing
    np.testing.assert_allclose(marked(drawn(frame)["latency"].figure.axes[0], OPD)[:, 0], -np.log2([0.7, 0.3]))
    assert set(drawn(frame.assign(speedup_compact=nothing))) == {"structure"}


def test_captions_say_batch_seeds_and_interval():
    caption = drawn(records())["latency"].caption
    assert "batch 64" in caption
    assert "averaged over seeds, n = 3 seeds per point" in caption
    assert "averaged" not in drawn(records(seeds=(0,)))["latency"].caption
    assert "the largest batch timed" in drawn(records(latency=None))["latency"].caption
    assert "the largest batch timed" in drawn(records(latency={"compact": []}))["latency"].caption


# ---------------------------------------------------------------------- quality


def test_quality_against_both_shares_by_hand():
    frame = records(("opd",), (0, 1), (0.5, 0.75))
    left, right = drawn(frame)["structure"].figure.axes
    means = 100 * frame.groupby("sparsity")["accuracy"].mean()
    np.testing.assert_allclose(marked(left, OPD), np.column_stack([[1, 2], means]))
    np.testing.assert_allclose(marked(right, OPD), np.column_stack([-np.log2([0.75, 0.625]), means]))
    assert (left.get_xlabel(), right.get_xlabel()) == ("FLOPs removed (%)", "parameters removed (%)")
    for axis in (left, right):
        assert any(set(line.get_ydata()) == {97.0} for line in axis.lines)
        assert axis.get_ylabel() == "accuracy (%)"
    assert "band" in drawn(frame)["structure"].caption
    assert "band" not in drawn(records(seeds=(0,)))["structure"].caption


def test_one_share_alone_is_shown():
    left, right = drawn(records(("opd",), flops_compact=math.nan))["structure"].figure.axes
    assert len(marked(left, OPD)) == 0
    assert len(marked(right, OPD)) == len(SPARSITIES)


def test_a_sparsity_that_the_method_chose_is_a_star():
    auto = record("opd", 0, 0.75, sparsity_target=math.nan, sparsity_auto=True, key="auto")
    frame = pd.concat([records(("opd",), (0,)), pd.DataFrame([auto])])
    left, _ = drawn(frame)["structure"].figure.axes
    np.testing.assert_allclose(marked(left, "*"), [[2, 100 * auto["accuracy"]]])
    assert [row["asked for"] for row in cells(frame)] == ["30 %", "50 %", "70 %", "chosen"]
    assert len(marked(drawn(frame)["latency"].figure.axes[0], OPD)) == 4


def test_regression_shows_the_error():
    frame = records().assign(likelihood="gaussian", rmse=lambda f: 1.5 - f["accuracy"], accuracy=math.nan)
    assert drawn(frame)["structure"].figure.axes[0].get_ylabel() == "root mean squared error"


# ---------------------------------------------------------------------- the table


def test_the_table_by_hand():
    frame = records(("opd",), (0, 1), (0.5,), parameters_removed=None)
    frame["parameters_removed"], frame["speedup_compact"] = [200.0, 300.0], [1.4, 1.6]
    assert cells(frame) == [{
        "method": "opd", "asked for": "50 %", "groups removed (%)": "50.0 ± 0.0", "parameters masked (%)": "40.0 ± 0.0",
        "parameters removed (%)": "25.0 ± 7.1", "FLOPs left (%)": "50.0 ± 0.0", "bytes left (%)": "75.0 ± 0.0",
        "speed-up": "1.50 [1.35, 1.80]", "verdict": "faster", "certificate": "2.0e-07", "seeds": "2",
    }]  # fmt: skip


LIMITS = [(1.01, 1.2, "faster"), (0.9, 1.2, "no faster"), (1.0, 1.2, "no faster"), (0.8, 0.99, "slower"),
          (math.nan, math.nan, "–")]  # fmt: skip


@pytest.mark.parametrize(("low", "high", "expected"), LIMITS)
def test_verdicts_follow_from_the_interval(low, high, expected):
    frame = records(("opd",), (0,), (0.5,), speedup_compact_low=low, speedup_compact_high=high)
    (row,) = cells(frame)
    assert row["verdict"] == expected
    assert ("[" in row["speed-up"]) == math.isfinite(low)


def test_verdicts_are_those_of_the_measurement():
    from bayesprune.bench.evaluation.latency import Speedup
    from bayesprune.bench.evaluation.verdict import verdict

    for low, high, _ in LIMITS[:-1]:
        assert verdict(low, high) == Speedup(1, 1.0, 1.0, low, high).verdict


def test_one_missing_certificate_is_a_dash_and_one_missing_seed_is_left_out():
    frame = records(("opd",), (0, 1), (0.5,))
    frame["certificate"] = [math.nan, 1e-7]
    frame["flops_compact"] = [math.nan, 1e6]
    (row,) = cells(frame)
    assert (row["certificate"], row["FLOPs left (%)"], row["seeds"]) == ("–", "50.0", "2")


# ---------------------------------------------------------------------- doubts


def test_good_records_raise_no_doubt():
    assert doubts(records()) == []
    assert doubts(pd.DataFrame()) == []
    assert doubts(records(certificate=math.nan).assign(units="weights")) == []


def test_missing_certificates_are_counted():
    frame = records(("opd",), (0, 1), (0.5, 0.7))
    frame.loc[2, "certificate"] = math.nan
    (text,) = doubts(frame)
    assert text.startswith("1 of 4 networks pruned by structures has no certificate")
    (text,) = doubts(frame.drop(columns=MEASURED))
    assert text.startswith("4 of 4 networks pruned by structures have no certificate")


def test_a_method_that_is_no_faster_although_much_is_gone_is_named():
    slow = records(("opd",), speedup=1.05)  # interval from 0.945
    (text,) = doubts(pd.concat([records(("magnitude",)), slow]))
    assert text == (
        "digits · mlp: no faster at batch 64 although more than 30 % of the operations are gone: opd (at 50 %, 70 %)."
    )
    assert doubts(slow.assign(flops_compact=1.5e6)) == []  # a quarter is gone: none is expected
    assert doubts(slow.assign(speedup_compact_low=math.nan)) == []  # no interval, no verdict


def test_doubts_reach_the_summary():
    from bayesprune.reports.summary import doubts as all_doubts

    frame = prepared(records(("opd",), speedup=0.5))
    assert any("no faster at batch 64" in text for text in all_doubts(prepare(frame), []))
