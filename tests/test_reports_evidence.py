"""Report pages for priors learned by the evidence: figures, table and page from frames made by hand."""

import math
import re
from itertools import product

import numpy as np
import pandas as pd
import pytest
from bayesprune.reports.records.frame import prepare

PRIORS = ("scalar", "layerwise", "unitwise", "parameterwise")
EVIDENCES = dict(zip(PRIORS, (-2342.0, -2284.0, -1973.0, -1335.0), strict=True))
LAYERS = tuple(f"layers.{i}.{part}" for i in (0, 2, 4) for part in ("weight", "bias"))
SPARSITIES = (0.5, 0.9)


def learned(prior="parameterwise", seed=0, epochs=20, curvature="diag", layers=LAYERS, **more):
    """What a fit learned; deterministic in its arguments."""
    rng = np.random.default_rng([seed, len(prior), len(layers)])
    final = EVIDENCES[prior] + 20 * rng.standard_normal()
    steps = [[e, final - 8000 * math.exp(-e / 8), 200 + 900 * math.exp(-e / 20)] for e in range(5, 5 * epochs + 1, 5)]
    spread = {"scalar": 0.0, "layerwise": 0.0, "unitwise": 1.0, "parameterwise": 4.0}[prior]
    levels = dict(zip(layers, 2 + (prior != "scalar") * rng.standard_normal(len(layers)), strict=True))
    precisions = {n: list(10.0 ** (m + spread * np.array([-1.0, -0.4, 0.1, 0.5, 1.1]))) for n, m in levels.items()}
    value = {
        "log_evidence": final, "effective_parameters": steps[-1][2] if steps else 300.0, "parameters": 17610,
        "prior": prior, "curvature": curvature, "trace": steps, "precisions": precisions,
    }  # fmt: skip
    return value | more


def inference_of(prior, kind="ggn"):
    return f"SpaM(prior={prior}, kind={kind}, frequency=5, burn_in=0, temperature=1.0)"


def record(method, criterion, seed, sparsity, fit=None, inference="MAP(precision=1.0)", **more):
    """One record of a pruned network, after MAP training without a `fit`."""
    rng = np.random.default_rng([seed, int(1000 * sparsity), len(method), fit is not None])
    quality = 0.97 - (0.02 if fit else 0.06) * math.log2(1 / (1 - sparsity)) + 0.01 * rng.standard_normal()
    return {
        "key": f"{method} {seed} {sparsity} {inference} {more.get('dataset')}", "status": "done", "method": method,
        "dataset": "digits", "architecture": "mlp", "units": "weights", "seed": seed, "when": "after",
        "sparsity_target": sparsity, "sparsity_auto": False, "sparsity": sparsity, "accuracy": quality,
        "dense_accuracy": 0.97, "likelihood": "categorical", "criterion": criterion, "inference": inference,
        "learned": fit,
    } | more  # fmt: skip


def pair(criterion, seed, sparsity, priors, kind="ggn", **more):
    """The same criterion after MAP training and after training under each prior."""
    rows = [record(criterion, criterion, seed, sparsity, **more)]
    for prior in priors:
        name = f"spam-{criterion}(prior={prior})"
        rows.append(record(name, criterion, seed, sparsity, learned(prior, seed), inference_of(prior, kind), **more))
    return rows


def records(criteria=("opd", "magnitude"), priors=PRIORS, seeds=(0, 1), sparsities=(0.5, 0.9), **more):
    """Criteria on networks trained by MAP and by the evidence."""
    cells = product(criteria, seeds, sparsities)
    return pd.DataFrame([row for c, s, p in cells for row in pair(c, s, p, priors, **more)])


def relearned(frame, change):
    """The frame with `change` applied to each learned value."""
    return frame.assign(learned=[change(value) if isinstance(value, dict) else None for value in frame["learned"]])


def prepared(frame):
    from bayesprune.reports.records.frame import prepare

    return prepare(frame)


def evidence_drawings(frame):
    from bayesprune.reports.figures import learned as drawings

    return {drawing.name: drawing for drawing in drawings(prepare(prepared(frame)))}


pytestmark = pytest.mark.usefixtures("coarse")


@pytest.fixture
def unsaved(monkeypatch):
    """Figures are drawn, not rendered."""
    from bayesprune.reports import build

    monkeypatch.setattr(build, "save", lambda drawing, folder: b"")


def rendered(frame):
    """The names of the evidence's figures, each laid out as for a file."""
    from bayesprune.reports.drawing.style import sheet

    with sheet():
        found = evidence_drawings(frame)
        for drawing in found.values():
            drawing.figure.draw_without_rendering()
    return set(found)


def titled(figure):
    """Axes by their title, line breaks as blanks."""
    return {axis.get_title().replace("\n", " "): axis for axis in figure.axes}


def marked(axis, marker):
    (line,) = [line for line in axis.lines if line.get_marker() == marker and len(line.get_xdata())]
    return line


ALL = {"evidence-pruning", "evidence-training", "evidence-priors", "evidence-relation"}
MARKERS = {"scalar": "o", "layerwise": "s", "unitwise": "^", "parameterwise": "D"}


# ---------------------------------------------------------------------- the page


def test_the_page_shows_figures_and_the_table(tmp_path, unsaved):
    from bayesprune.reports.build import report

    page = report(records(), tmp_path).read_text(encoding="utf-8")
    for name in ALL:
        assert f'id="figure-{name}"' in page
    assert 'id="table-evidence"' in page
    assert "effective parameters Σ h / (h + δ)" in page
    assert (tmp_path / "tables" / "evidence.tex").is_file()
    assert not re.search(r"\bnan\b|\binf\b", page[page.index("<body>") :])


@pytest.mark.parametrize("columns", [["learned"], ["criterion"], ["learned", "criterion"]])
def test_old_frames_lack_the_columns_and_show_nothing_of_what_needs_them(columns, tmp_path, unsaved):
    from bayesprune.reports.build import report

    old = records(seeds=(0,)).drop(columns=columns)
    needs_criterion = {"evidence-pruning", "evidence-relation"}
    assert set(evidence_drawings(old)) == (ALL - needs_criterion if columns == ["criterion"] else set())
    page = report(old, tmp_path).read_text(encoding="utf-8")
    assert ('id="table-evidence"' in page) == (columns == ["criterion"])


def test_the_same_frame_gives_the_same_bytes_in_any_order_of_rows(tmp_path):
    from bayesprune.reports.drawing.panels import save

    frame = records(criteria=("opd",), sparsities=(0.9, 0.95))
    contents = []
    for name, rows in (("a", frame), ("b", frame.sample(frac=1, random_state=1))):
        (tmp_path / name).mkdir()
        contents.append({n: save(drawing, tmp_path / name) for n, drawing in evidence_drawings(rows).items()})
    assert set(contents[0]) == ALL
    assert contents[0] == contents[1]


def test_preparing_twice_changes_nothing():
    once = prepared(records())
    pd.testing.assert_frame_equal(prepared(once), once)


# ---------------------------------------------------------------------- during training


def test_evidence_and_effective_share_are_means_over_seeds():
    steps = [[[5, -300.0, 50.0], [10, -100.0, 40.0]], [[5, -200.0, 30.0], [10, -80.0, 20.0]]]
    frame = records(("opd",), ("scalar",), (0, 1), (0.9,))
    seeds = iter(frame.loc[frame["learned"].notna(), "seed"])
    frame = relearned(frame, lambda value: value | {"trace": steps[next(seeds)], "parameters": 200})
    evidence, share = evidence_drawings(frame)["evidence-training"].figure.axes
    np.testing.assert_allclose(marked(evidence, "o").get_xdata(), [5, 10])
    np.testing.assert_allclose(marked(evidence, "o").get_ydata(), [-250, -90])
    np.testing.assert_allclose(marked(share, "o").get_ydata(), [20, 15])


def test_missing_numbers_of_a_trace_leave_gaps():
    holes = [[5, math.nan, 40.0], [10, None, math.inf], [15, -90.0, 20.0], [20, -80.0, 10.0], "broken", [1, 2]]
    frame = relearned(records(("opd",), ("scalar",), (0,), (0.9,)), lambda value: value | {"trace": holes})
    assert rendered(frame) >= {"evidence-training", "evidence-priors"}
    evidence, share = evidence_drawings(frame)["evidence-training"].figure.axes
    np.testing.assert_allclose(marked(evidence, "o").get_ydata(), [math.nan, math.nan, -90, -80])
    assert np.isnan(marked(share, "o").get_ydata()[1])


NOTHING = ({"trace": []}, {"trace": None}, {"trace": [[5, math.nan, 1.0], [10, None, 1.0]]})


@pytest.mark.parametrize("change", NOTHING, ids=["empty", "none", "NaN"])
def test_a_fit_without_a_trace_still_shows_what_it_learned(change, tmp_path, unsaved):
    from bayesprune.reports.build import report

    frame = relearned(records(("opd",)), lambda value: value | change)
    assert rendered(frame) == ALL - {"evidence-training"}
    assert 'id="table-evidence"' in report(frame, tmp_path).read_text(encoding="utf-8")


def test_a_single_recorded_epoch_is_a_marker():
    frame = relearned(records(seeds=(0,)), lambda value: value | {"trace": value["trace"][-1:]})
    assert rendered(frame) == ALL
    axis = evidence_drawings(frame)["evidence-training"].figure.axes[0]
    assert len(marked(axis, "D").get_xdata()) == 1


def test_first_epochs_do_not_flatten_the_rest():
    steps = [[1, -1e7, 1.0], [10, -2000.0, 1.0], [15, -1100.0, 1.0], [20, -1000.0, 1.0]]
    frame = relearned(records(("opd",), ("scalar",), (0,), (0.9,)), lambda value: value | {"trace": steps})
    low, high = evidence_drawings(frame)["evidence-training"].figure.axes[0].get_ylim()
    assert -2500 < low < -1000 < high < -900


# ---------------------------------------------------------------------- prior precisions


def test_medians_and_bars_of_each_tensor_stand_in_network_order():
    frame = records(("opd",), ("unitwise",), (0, 1), (0.9,))
    quantiles = {"z.weight": [1, 10, 100, 1000, 10000], "a.weight": [0.1, 0.1, 0.1, 0.1, 0.1]}
    (axis,) = evidence_drawings(relearned(frame, lambda v: v | {"precisions": quantiles}))[
        "evidence-priors"
    ].figure.axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["z", "a"]
    np.testing.assert_allclose(marked(axis, "^").get_ydata(), [100, 0.1])
    wide, narrow = (collection.get_segments() for collection in axis.collections)
    np.testing.assert_allclose([segment[:, 1] for segment in wide], [[1, 10000], [0.1, 0.1]])
    np.testing.assert_allclose([segment[:, 1] for segment in narrow], [[10, 1000], [0.1, 0.1]])
    assert axis.get_yscale() == "log"


def test_precisions_of_seeds_are_averaged_on_the_log_scale():
    frame = records(("opd",), ("unitwise",), (0, 1), (0.9,))
    seeds = iter(frame.loc[frame["learned"].notna(), "seed"])
    frame = relearned(frame, lambda value: value | {"precisions": {"w": [10.0 ** (2 * next(seeds))] * 5}})
    (axis,) = evidence_drawings(frame)["evidence-priors"].figure.axes
    np.testing.assert_allclose(marked(axis, "^").get_ydata(), [10])


def test_awkward_precisions_leave_gaps():
    quantiles = {
        "zero": [0.0] * 5,
        "nan": [math.nan, None, 1.0, 2.0, 3.0],
        "short": [1.0],
        "good": [1e-9, 1, 2, 3, 1e12],
    }
    frame = relearned(records(("opd",), seeds=(0,)), lambda value: value | {"precisions": quantiles})
    assert rendered(frame) == ALL
    (axis,) = evidence_drawings(frame)["evidence-priors"].figure.axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["nan", "good"]
    for nothing in (None, {"zero": [0.0] * 5}):
        empty = relearned(records(("opd",), seeds=(0,)), lambda value, given=nothing: value | {"precisions": given})
        assert rendered(empty) == ALL - {"evidence-priors"}


def test_names_are_read_neither_as_mathematics_nor_as_markup(tmp_path):
    from bayesprune.reports.build import report

    layers = ("$\\nonsense{$.weight", "<script>alert('x')</script>--", "a_b^{c}&%#|")
    odd = {"dataset": "<b>$\\frac$</b>", "architecture": "net--$_1"}
    frame = relearned(records(("$opd$",), seeds=(0,), **odd), lambda value: value | learned(layers=layers))
    page = report(frame, tmp_path).read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<b>$" not in page
    assert "net--$_1" in page
    assert r"\$\textbackslash{}frac\$" in (tmp_path / "tables/evidence.tex").read_text()


def test_sixty_tensors_have_room_for_their_names():
    from bayesprune.reports.drawing.style import sheet

    names = [
        f"blocks.{b}.{part}.{kind}"
        for b in range(10)
        for part in ("norm", "qkv", "proj")
        for kind in ("weight", "bias")
    ]
    frame = relearned(records(seeds=(0,)), lambda value: value | learned(value["prior"], layers=names))
    with sheet():
        figure = evidence_drawings(frame)["evidence-priors"].figure
        figure.draw_without_rendering()
    (axis,) = figure.axes
    labels = axis.get_xticklabels()
    assert 25 <= len(labels) <= 45
    across = [label.get_window_extent().x1 for label in labels]
    height = labels[0].get_fontsize() * figure.dpi / 72
    assert min(np.diff(across)) > height  # slanted texts do not overlap
    whole = figure.bbox
    assert all(whole.x0 - 1 <= label.get_window_extent().x0 for label in labels)
    assert all(whole.y0 - 1 <= label.get_window_extent().y0 for label in labels)


@pytest.mark.parametrize(("value", "text"), [(1e-3, "10⁻³"), (1.0, "10⁰"), (1e12, "10¹²"), (50.0, "50"), (0.0, "0")])
def test_powers_of_ten_need_no_mathematics(value, text):
    from bayesprune.reports.drawing.axes import power

    assert power(value) == text


# ---------------------------------------------------------------------- with and without


def test_each_criterion_stands_solid_and_dashed_with_its_own_unpruned_network():
    frame = records(("opd", "magnitude"), ("scalar", "parameterwise"), (0, 1), (0.5, 0.75))
    frame["dense_accuracy"] = np.where(frame["learned"].notna(), 0.95, 0.98)
    axes = titled(evidence_drawings(frame)["evidence-pruning"].figure)
    assert set(axes) == {"digits · mlp magnitude · diag", "digits · mlp opd · diag"}
    own = frame[frame["method"] == "spam-opd(prior=parameterwise)"].groupby("sparsity")["accuracy"].mean()
    line = marked(axes["digits · mlp opd · diag"], "D")
    np.testing.assert_allclose(line.get_xdata(), [1, 2])  # halvings
    np.testing.assert_allclose(line.get_ydata(), 100 * own)
    assert line.get_linestyle() == "-"
    dashes = [line.get_linestyle() for line in axes["digits · mlp opd · diag"].lines]
    assert dashes.count("-") == 2
    flat = {
        round(float(y[0]), 6) for line in axes["digits · mlp opd · diag"].lines if len(set(y := line.get_ydata())) == 1
    }
    assert flat == {95.0, 98.0}


def test_a_criterion_without_a_partner_is_left_out():
    frame = records(("opd", "magnitude"))
    alone = frame[(frame["criterion"] != "opd") | frame["learned"].notna()]
    assert set(titled(evidence_drawings(alone)["evidence-pruning"].figure)) == {"digits · mlp magnitude · diag"}
    assert "evidence-pruning" not in evidence_drawings(frame[frame["learned"].notna()])
    assert not evidence_drawings(frame[frame["learned"].isna()])
    other = frame.assign(inference=frame["inference"].str.replace("MAP", "Ensemble"))
    assert "evidence-pruning" not in evidence_drawings(other)


def test_each_evidence_stands_beside_the_same_map_networks():
    fisher = records(("opd",), kind="ef")
    frame = pd.concat([records(("opd",)), fisher[fisher["learned"].notna()]])
    axes = titled(evidence_drawings(frame)["evidence-pruning"].figure)
    assert set(axes) == {"digits · mlp opd · diag, kind=ef", "digits · mlp opd · diag, kind=ggn"}
    for axis in axes.values():
        drawn = [line for line in axis.lines if line.get_marker() != "None"]
        assert len(drawn) == 1 + len(PRIORS)
        assert [line.get_linestyle() for line in drawn].count("--") == 1


def test_pruning_at_another_moment_is_no_partner():
    frame = records(("opd",))
    early = frame.assign(when=np.where(frame["learned"].isna(), "before", "after"))
    assert "evidence-pruning" not in evidence_drawings(early)
    assert not evidence_drawings(frame.assign(when="during"))


def test_several_map_trainings_keep_their_own_lines():
    tuned = [
        record("opd(precision=tuned)", "opd", s, p, inference=f"MAP(precision={10**s})")
        for s, p in product((0, 1), SPARSITIES)
    ]
    frame = pd.concat([records(("opd",), ("scalar",)), pd.DataFrame(tuned)])
    figure = evidence_drawings(frame)["evidence-pruning"].figure
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[:3] == ["MAP", "MAP, precision=tuned", "scalar"]
    assert len(marked(figure.axes[0], "s").get_xdata()) == len(SPARSITIES)  # one line, whatever precision was chosen


def test_regression_shows_the_error():
    frame = records().assign(likelihood="gaussian", rmse=lambda f: 1.5 - f["accuracy"], accuracy=np.nan, dense_rmse=0.5)
    found = evidence_drawings(frame)
    assert set(found) == ALL
    assert found["evidence-pruning"].figure.axes[0].get_ylabel() == "root mean squared error"
    assert found["evidence-relation"].figure.axes[0].get_ylabel().startswith("root mean squared error")


def test_a_second_way_to_apply_a_criterion_is_a_line_and_a_panel_of_its_own():
    smooth = records(("opd",))
    smooth = smooth[smooth["learned"].notna()]
    smooth = smooth.assign(method=smooth["method"].str.replace("spam-opd", "spam-opd-kfac"), accuracy=0.5)
    shuffled = smooth.assign(method="random(like=spam-opd)")
    found = evidence_drawings(pd.concat([records(("opd",)), smooth, shuffled]))
    names = [text.get_text() for text in found["evidence-pruning"].figure.legends[0].get_texts()]
    assert names[1:3] == ["scalar, spam-opd", "scalar, spam-opd-kfac"]
    assert not any("random" in name for name in names)
    (axis,) = found["evidence-pruning"].figure.axes
    looks = {(line.get_color(), line.get_marker()) for line in axis.lines if line.get_marker() != "None"}
    assert len(looks) == 9
    assert set(titled(found["evidence-relation"].figure)) == {
        "digits · mlp opd, spam-opd · diag", "digits · mlp opd, spam-opd-kfac · diag",
    }  # fmt: skip


# ---------------------------------------------------------------------- the relation


def rho_of(frame):
    axes = titled(evidence_drawings(frame)["evidence-relation"].figure)
    return {title: axis.texts[0].get_text() for title, axis in axes.items()}


def related(values, sparsity=0.9, priors=("scalar", "layerwise")):
    """Two priors and two seeds whose accuracy at 90 % is given, evidence rising with the place in the list."""
    fits = list(product(priors, (0, 1)))
    return pd.DataFrame(
        [
            record(f"spam-opd(prior={p})", "opd", s, sparsity, learned(p, s, log_evidence=100.0 * i), inference_of(p))
            | {"accuracy": values[i]}
            for i, (p, s) in enumerate(fits)
        ]
    )


def test_rank_correlation_by_hand():
    assert rho_of(related([0.1, 0.2, 0.3, 0.9])) == {"digits · mlp opd · diag": "ρ = 1.00, n = 4 fits"}
    assert rho_of(related([0.9, 0.3, 0.2, 0.1])) == {"digits · mlp opd · diag": "ρ = −1.00, n = 4 fits"}
    # d² = 1 + 1 + 0 + 0: 1 - 6 · 2 / (4 · 15)
    assert rho_of(related([0.2, 0.1, 0.3, 0.4])) == {"digits · mlp opd · diag": "ρ = 0.80, n = 4 fits"}
    assert rho_of(related([0.5] * 4)) == {"digits · mlp opd · diag": "ρ = –, n = 4 fits"}


def test_too_few_fits_or_priors_give_no_relation():
    assert "evidence-relation" not in evidence_drawings(related([0.1, 0.2, 0.3, 0.9]).iloc[:3])
    assert "evidence-relation" not in evidence_drawings(records(priors=("scalar",), seeds=range(6)))
    lost = relearned(related([0.1, 0.2, 0.3, 0.9]), lambda v: v | {"log_evidence": v["log_evidence"] or math.nan})
    assert "evidence-relation" not in evidence_drawings(lost)


def test_the_sparsity_nearest_to_ninety_per_cent_is_taken():
    frame = pd.concat([related([0.9, 0.3, 0.2, 0.1], 0.5), related([0.1, 0.2, 0.3, 0.9], 0.88)])
    assert set(rho_of(frame).values()) == {"ρ = 1.00, n = 4 fits"}
    assert "at 88 % pruned" in evidence_drawings(frame)["evidence-relation"].figure.axes[0].get_ylabel()


def test_evidences_of_different_curvatures_never_share_a_panel():
    other = relearned(records(kind="ggn"), lambda value: value | {"curvature": "kron"})
    other = other.assign(inference=other["inference"].str.replace("kind=ggn", "curvature=kron, kind=ggn"))
    frame = pd.concat([records(("opd",)), other[other["criterion"] == "opd"]])
    assert set(rho_of(frame)) == {"digits · mlp opd · diag", "digits · mlp opd · kron"}
    fisher = pd.concat([records(("opd",)), records(("opd",), kind="ef")])
    assert set(rho_of(fisher)) == {"digits · mlp opd · diag, kind=ggn", "digits · mlp opd · diag, kind=ef"}


def test_how_the_evidence_was_raised_does_not_part_it():
    slow = records(("opd",))
    slow = slow.assign(inference=slow["inference"].str.replace("frequency=5", "frequency=1"))
    both = pd.concat([records(("opd",)), slow])
    assert rho_of(both).keys() == {"digits · mlp opd · diag"}
    assert next(iter(rho_of(both).values())).endswith("n = 16 fits")


# ---------------------------------------------------------------------- the table


def test_the_table_by_hand():
    from bayesprune.reports.topics.evidence import evidence

    values = {0: -100.0, 1: -104.0}
    frame = records(("opd", "magnitude"), ("scalar",), (0, 1))
    seeds = iter(frame.loc[frame["learned"].notna(), "seed"])
    frame = relearned(
        frame, lambda v: v | {"log_evidence": values[next(seeds)], "effective_parameters": 50.0, "parameters": 200}
    )
    table = evidence(prepare(frame))
    assert [section.heading for section in table.sections] == ["digits · mlp"]
    texts = [[cell.text for cell in cells] for cells in table.rows]
    assert texts == [["scalar", "diag", "-102.0 ± 2.8", "50.0 ± 0.0", "25.00 ± 0.00", "2"]]


def test_the_table_has_dashes_for_what_is_not_known():
    from bayesprune.reports.topics.evidence import evidence

    frame = relearned(records(seeds=(0,)), lambda value: {"prior": value["prior"], "log_evidence": math.nan})
    assert {tuple(cell.text for cell in cells[1:]) for cells in evidence(prepare(frame)).rows} == {
        ("–", "–", "–", "–", "1")
    }
    assert evidence(prepare(pd.DataFrame())).rows == []
