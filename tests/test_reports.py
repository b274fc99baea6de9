"""Reports from synthetic records: every figure, table and page, and the frames that could break them."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bayesprune.reports.drawing.panels import FORMATS as ALL_FORMATS
from bayesprune.reports.records.frame import prepare
from bayesprune.reports.records.ranking import rankings

SPARSITIES = (0.5, 0.75, 0.9, 0.95, 0.98, 0.99)
METHODS = ("magnitude", "random", "opd", "grasp", "snip", "synflow", "lamp", "random(like=opd)")
LAYERS = {
    "mlp": ["layers.0.weight", "layers.2.weight", "layers.4.weight"],
    "resnet": [
        "stem.weight",
        *(f"stages.{s}.{b}.conv{c}.weight" for s in range(3) for b in range(1) for c in (1, 2)),
        "head.weight",
    ],
    "vit": [f"blocks.{b}.{part}" for b in range(4) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    + ["patch_embed", "head"],
}
CELL = ("method", "architecture", "dataset", "seed", "sparsity_target")
SLOPE = {"magnitude": 0.6, "random": 3.0, "opd": 0.45, "grasp": 1.1, "snip": 0.9, "synflow": 1.0, "lamp": 0.55}


def record(
    method, architecture, dataset, seed, sparsity, units="weights", status="done", gaussian=False, auto=False, **more
):
    """One plausible record; deterministic in its arguments."""
    words = (method, architecture, dataset, seed, sparsity, units)
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:8], "big"))
    row = {
        "key": hashlib.sha256(repr(words).encode()).hexdigest(), "status": status, "reason": "", "traceback": "",
        "method": method, "architecture": architecture, "dataset": dataset, "units": units, "seed": seed,
        "sparsity_target": np.nan if auto else sparsity, "sparsity_auto": auto,
        "when": "before" if method in ("grasp", "snip", "synflow") else "after", "inference": "MAP(precision=1.0)",
        "likelihood": "gaussian" if gaussian else "categorical", "predictive": "plug-in",
        "started": f"2026-01-0{1 + seed % 9}T00:00:00+00:00", "device": "cpu",
        "version_bayesprune": "0.1.0", "version_torch": "2.9.9",
        "version_python": "3.11.2", "git_revision": "0123abc", "host_cpu": "Example CPU @ 2.4 GHz",
    }  # fmt: skip
    return row | (_result(rng, row, sparsity, gaussian) if status == "done" else {}) | more


def _result(rng, row, sparsity, gaussian):
    slope = SLOPE.get(row["method"].partition("(")[0], 0.8)
    loss = slope * 0.03 * (np.log2(1 / (1 - sparsity)) ** 1.7) * (1 + 0.1 * rng.standard_normal())
    dense = 0.97 + 0.004 * np.random.default_rng(row["seed"]).standard_normal()
    accuracy = float(np.clip(dense - 0.3 * loss + 0.004 * rng.standard_normal(), 0.1, 1))
    ece, names = 0.02 + 0.05 * loss + 0.004 * rng.random(), LAYERS[row["architecture"].partition("(")[0]]
    density = dict(zip(names, np.clip((1 - sparsity) * rng.lognormal(0, 0.8, len(names)), 0, 1), strict=True))
    collapsed = [names[0]] if sparsity >= 0.98 and slope > 2 else []
    if collapsed:
        density[names[0]] = 0.0
    total = 5000
    shift = {f"{kind}/{s}": {"accuracy": accuracy - 0.04 * s - 0.01 * i, "ece": ece + 0.02 * s}
             for i, kind in enumerate(("noise", "blur", "rotation")) for s in range(1, 6)}  # fmt: skip
    quality = {"accuracy": accuracy, "accuracy_top5": min(1.0, accuracy + 0.02), "nll": 0.1 + 2.2 * loss,
               "brier": 1 - accuracy, "ece": ece, "nll_scaled": 0.1 + 2 * loss, "ece_scaled": 0.6 * ece,
               "temperature": 1.3, "rmse": np.nan, "ood_auroc": 0.9 - 0.2 * loss,
               "shift_accuracy": accuracy - 0.1, "shift_ece": ece + 0.1, "shift": shift,
               "dense_accuracy": dense, "dense_nll": 0.1, "dense_ece": 0.02, "dense_rmse": np.nan}  # fmt: skip
    if gaussian:
        quality = {"rmse": 0.7 + 0.4 * loss, "nll": 1.0 + loss, "dense_rmse": 0.68, "dense_nll": 0.98}
    seconds = {
        "seconds_train": 12 + rng.random(),
        "seconds_score": 0.2 + slope * rng.random(),
        "seconds_finetune": 3 + rng.random(),
    }
    return quality | seconds | {
        "sparsity": sparsity, "kept": round(total * (1 - sparsity)), "total": total,
        "compression": 1 / max(1 - sparsity, 1e-9),
        "layer_density": density, "collapsed": collapsed, "flops_dense": 1e6, "flops_nonzero": 1e6 * (1 - sparsity),
        "flops_ratio": 1 - sparsity, "passes_train": 30000, "passes_score": 1000, "passes_finetune": 5000,
        "peak_bytes_train": 3e8, "peak_bytes_score": 4e8, "peak_bytes_finetune": 3e8,
    }  # fmt: skip


def records(datasets=("digits", "fashion-mnist"), architectures=("mlp", "resnet(depth=8)"), methods=METHODS,
            sparsities=SPARSITIES, seeds=(0, 1, 2), units=("weights",), dense=True, **more):  # fmt: skip
    """A complete matrix of done records."""
    rows = [record(m, a, d, s, p, u, **more) for d in datasets for a in architectures for u in units for m in methods
            for p in sparsities for s in seeds]  # fmt: skip
    if dense:
        rows += [record("dense", a, d, s, 0.0, **more) for d in datasets for a in architectures for s in seeds]
    return rows


def full():
    """Everything at once: failures, skipped cells, self-chosen sparsities, regression, both kinds of units."""
    at = (0.5, 0.9, 0.98, 0.99)
    rows = records(("digits",), ("mlp", "vit"), METHODS[:5], at)
    rows += records(("digits",), ("mlp",), methods=METHODS[:3], sparsities=at, units=("groups",), dense=False)
    rows += records(("diabetes",), ("mlp",), methods=METHODS[:3], sparsities=at, gaussian=True)
    rows += [record("opd", a, "digits", s, 0.84 + 0.02 * s, auto=True) for a in ("mlp", "vit") for s in range(3)]
    broken = [("grasp", "vit", "digits", s, 0.99) for s in range(3)] + [("snip", "mlp", "digits", 1, 0.98)]
    rows = [r for r in rows if tuple(r[c] for c in CELL) not in broken]
    nan = {"reason": "the loss became NaN at step 57", "traceback": "Traceback:\n  line 1\nValueError: NaN"}
    rows += [record(*cell, status="failed", **nan) for cell in broken]
    reason = "grasp needs a categorical likelihood"
    rows += [record("grasp", "mlp", "diabetes", s, 0.9, status="skipped", reason=reason) for s in range(3)]
    return pd.DataFrame(rows)


SMALL = {"datasets": ("digits",), "architectures": ("mlp",), "methods": ("magnitude", "opd"), "sparsities": (0.5, 0.9)}


def coarsen(patch, folder, formats=("svg",)):
    """Coarse pictures, and few formats: these tests read texts, not pixels."""
    from bayesprune.reports.drawing import panels as layout
    from bayesprune.reports.drawing import style

    sheet = folder / "coarse.mplstyle"
    text = re.sub(r"savefig.dpi: .*", "savefig.dpi: 20", style.SHEET.read_text())
    sheet.write_text(text.replace("fonttype: path", "fonttype: none").replace("fonttype: 42", "fonttype: 3"))
    patch.setattr(style, "SHEET", sheet)
    patch.setattr(layout, "FORMATS", {name: layout.FORMATS[name] for name in formats})


@pytest.fixture(autouse=True)
def coarse(monkeypatch, tmp_path):
    coarsen(monkeypatch, tmp_path)


@pytest.fixture
def unsaved(monkeypatch):
    """Figures are drawn, not rendered."""
    from bayesprune.reports import build

    monkeypatch.setattr(build, "save", lambda drawing, folder: b"")


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """One full report in all formats: its folder."""
    from bayesprune.reports.build import report

    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        coarsen(patch, folder.parent, ("svg", "pdf", "png"))
        return report(full(), folder, title="A & B").parent


def html_of(frame, folder):
    from bayesprune.reports.build import report

    return report(frame, folder).read_text(encoding="utf-8")


def frame_of(**changes):
    return pd.DataFrame(records(**(SMALL | changes)))


# ---------------------------------------------------------------------- the page


def test_writes_every_file_and_the_page_links_to_all_of_them(everything):
    page = (everything / "index.html").read_text()
    files = sorted(p.relative_to(everything).as_posix() for p in everything.rglob("*") if p.is_file())
    linked = set(re.findall(r'href="([^"#]+)"', page))
    assert linked | {"index.html"} == set(files)
    names = {Path(f).stem for f in files if f.startswith("figures/")}
    for name in ("accuracy-sparsity", "nll-sparsity", "ece-sparsity", "rmse-sparsity", "ood-auroc-sparsity", "cost",
                 "density", "calibration", "shift", "ranks-weights", "ranks-groups"):  # fmt: skip
        assert name in names
        assert {f"figures/{name}.{suffix}" for suffix in ("pdf", "svg", "png")} <= set(files)
    assert page.count("<img ") == len(names)
    assert not list(everything.rglob("*.part"))


def test_page_needs_nothing_from_outside(everything):
    page = (everything / "index.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#|figures/|tables/|results\.csv)', page)
    assert not re.search(r"@import|url\(|https?://|<script[^>]* src", page)
    assert re.findall(r"<script[^>]*>", page) == [
        '<script type="application/json" id="records">',
        '<script type="module">',
    ]


def test_page_states_what_ran_the_finding_and_its_n(everything):
    page = (everything / "index.html").read_text()
    for text in ("4 failed, 3 skipped", "plug-in", "Example CPU @ 2.4 GHz", "torch 2.9.9", "0123abc",
                 "opd has the best mean rank", "n = 3 seeds", "95 % interval over seeds", "Friedman&#39;s test",
                 "about 75 % of the time", "A &amp; B"):  # fmt: skip
        assert text in page, text


def test_failed_and_skipped_cells_stay_visible_with_their_reasons(everything):
    page = (everything / "index.html").read_text()
    assert "the loss became NaN at step 57" in page
    assert "grasp needs a categorical likelihood" in page
    assert "ValueError: NaN" in page
    for name in ("failures.md", "failures.tex"):
        assert "the loss became NaN at step 57" in (everything / "tables" / name).read_text()
    table = (everything / "tables/accuracy.md").read_text()
    grasp = re.findall(r"^\| grasp .*$", table, re.MULTILINE)
    assert any("failed" in line for line in grasp)
    snip = re.findall(r"^\| snip .*$", table, re.MULTILINE)
    assert any("(2)" in line for line in snip)


def test_ranking_names_what_it_left_out(everything):
    text = (everything / "tables/ranking-weights.md").read_text()
    assert "digits · mlp · weights: left out because of missing results: sparsities 98 %" in text
    assert "Blocks not compared, because a method has no result there: diabetes" in text


def test_results_csv_holds_every_record(everything):
    assert len(pd.read_csv(everything / "results.csv")) == len(full())


def test_the_same_frame_gives_the_same_bytes(tmp_path):
    frame = pd.DataFrame(
        [
            *records(**SMALL | {"methods": ("magnitude",), "seeds": (0,)}),
            record("opd", "mlp", "digits", 0, 0.8, auto=True),
        ]
    )
    contents = []
    for name in ("a", "b"):
        html_of(frame, tmp_path / name)
        contents.append(
            {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}
        )
    assert len(contents[0]) > 20
    assert contents[0] == contents[1]


def test_all_formats_of_a_figure_have_the_same_bytes_every_time(monkeypatch, tmp_path):
    from bayesprune.reports.drawing import panels as layout
    from bayesprune.reports.topics.curves import curves

    monkeypatch.setattr(layout, "FORMATS", ALL_FORMATS)
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        layout.save(layout.Drawing("x", "", "", curves(prepare(frame_of()), "accuracy")), tmp_path / name)
        contents.append([(tmp_path / name / f"x.{suffix}").read_bytes() for suffix in ("svg", "pdf", "png")])
    assert contents[0] == contents[1]


def test_order_of_rows_changes_no_table_and_no_text(tmp_path, unsaved):
    frame = frame_of(sparsities=(0.9,))
    html_of(frame, tmp_path / "a")
    html_of(frame.sample(frac=1, random_state=1), tmp_path / "b")
    for name in ("index.html", "tables/accuracy.md", "tables/ranking.tex"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_second_report_replaces_the_first(tmp_path):
    first = html_of(failures_only(), tmp_path)
    assert html_of(pd.DataFrame(), tmp_path) != first
    assert "The results are empty" in (tmp_path / "index.html").read_text()


def test_a_file_in_the_way_is_a_usage_error(tmp_path):
    from bayesprune.datasets.errors import UsageError
    from bayesprune.reports.build import report

    (tmp_path / "taken").write_text("x")
    with pytest.raises(UsageError, match=r"taken.*choose another folder"):
        report(pd.DataFrame(), tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "x"


def test_index_is_never_half_written(tmp_path, monkeypatch):
    from bayesprune.reports import build

    before = html_of(failures_only(), tmp_path)
    monkeypatch.setattr(build, "page", lambda *_: (_ for _ in ()).throw(RuntimeError("stopped")))
    with pytest.raises(RuntimeError, match="stopped"):
        build.report(pd.DataFrame(), tmp_path)
    assert (tmp_path / "index.html").read_text() == before


def test_reports_never_import_torch(tmp_path):
    code = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "laplace"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
import pandas as pd
from pathlib import Path
from bayesprune.reports import build, figures, summary, tables
from bayesprune.reports.drawing import panels
panels.FORMATS.pop("pdf")
build.report(pd.read_pickle(sys.argv[1]), Path(sys.argv[2]))
assert "matplotlib.pyplot" not in sys.modules
"""
    frame_of(methods=("opd",), sparsities=(0.9,), seeds=(0,)).to_pickle(tmp_path / "frame.pkl")
    command = [sys.executable, "-c", code, str(tmp_path / "frame.pkl"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


def test_sentences_about_missing_records_stand_on_top(tmp_path, unsaved):
    from bayesprune.reports.build import report

    frame = frame_of(sparsities=(0.9,), seeds=(0, 1, 2))
    assert "None: every cell that was asked for has a result." in html_of(frame, tmp_path / "a")
    lines = ["2 records are damaged & were set aside.", "1 cell was never run."]
    page = report(frame, tmp_path / "b", missing=lines).read_text(encoding="utf-8")
    care = page[page.index("Read with care") :].partition("</ul>")[0]
    assert re.findall(r"<li>(.*?)</li>", care)[:2] == [lines[0].replace("&", "&amp;"), lines[1]]
    assert "every cell that was asked for" not in page
    assert "None among the records that are here" in page


def test_nothing_on_the_page_is_wider_than_a_small_screen(everything):
    page = (everything / "index.html").read_text()
    nav = re.search(r"^nav \{(.*?)\}", page, re.MULTILINE)
    assert nav
    assert "display: flex" in nav[1]
    assert "flex-wrap: wrap" in nav[1]
    assert "gap:" in nav[1]
    boxed = re.findall(r'<div class="scroll" tabindex="0" role="group" aria-label="[^"]+"><table>', page)
    assert page.count("<table>") == len(boxed) > 5
    assert re.search(r"^\.scroll \{[^}]*overflow-x: auto", page, re.MULTILINE)


def test_latex_tables_are_small_and_never_wider_than_the_text(everything):
    files = list((everything / "tables").glob("*.tex"))
    assert len(files) > 5
    for text in (file.read_text() for file in files):
        head, _, rest = text.partition("\\begin{tabular}")
        assert r"\usepackage{booktabs}" in head.splitlines()[0]
        assert r"\usepackage{graphicx}" in head.splitlines()[0]
        assert head.index("\\caption") < head.index("\\footnotesize") < head.index(r"\setlength{\tabcolsep}{3pt}")
        assert head.endswith("\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n")
        assert rest.endswith("\\end{tabular}%\n}\n\\end{table}\n")


# ---------------------------------------------------------------------- the headline


def headline_of(frame):
    from bayesprune.reports.records.frame import prepare
    from bayesprune.reports.records.ranking import rankings
    from bayesprune.reports.summary import headlines

    prepared = prepare(frame)
    (text,) = headlines(prepare(prepared), rankings(prepare(prepared)))
    return text


def blocks_of(accuracies, blocks, seeds=2):
    """The same accuracies {method: value} in each of several blocks, so that the order is always the same."""
    rows = [
        record(m, "mlp", f"data-{b}", s, 0.9) | {"accuracy": accuracy, "dense_accuracy": 0.9}
        for m, accuracy in accuracies.items()
        for b in range(blocks)
        for s in range(seeds)
    ]
    return pd.DataFrame(rows)


def test_five_blocks_of_two_methods_show_no_difference():
    text = headline_of(blocks_of({"magnitude": 0.8, "random": 0.7}, 5))
    assert "magnitude has the best mean rank, 1.00 [1.00, 1.00] of 2 methods (n = 2 seeds, 95 % interval" in text
    assert "Exact two-sided sign test over blocks finds no difference between the methods (p = 0.062)." in text
    assert "Nemenyi" not in text
    assert "differs" not in text


def test_six_blocks_of_two_methods_show_one():
    text = headline_of(blocks_of({"magnitude": 0.8, "random": 0.7}, 6))
    assert text.endswith("Exact two-sided sign test over blocks finds a difference (p = 0.031).")


def test_nemenyi_speaks_only_after_a_significant_friedman_test():
    three = {"magnitude": 0.8, "opd": 0.7, "random": 0.6}
    few, many, most = (headline_of(blocks_of(three, blocks)) for blocks in (2, 6, 12))
    assert few.endswith("Friedman's test over blocks finds no difference between the methods (p = 0.14).")
    assert "Friedman's test over blocks finds a difference (p = 0.0025); by Nemenyi's critical difference" in many
    assert many.endswith("magnitude cannot be told apart from opd.")
    assert most.endswith("magnitude differs from every other method ranked.")
    assert "All methods tie in every block." in headline_of(blocks_of(dict.fromkeys(three, 0.8), 6))


def test_headline_names_the_methods_without_a_rank():
    rows = blocks_of({"magnitude": 0.8, "random": 0.7}, 3)
    lamp = pd.DataFrame([record("lamp", "mlp", "data-0", s, 0.9) for s in range(2)])
    own = pd.DataFrame([record("opd", "mlp", "data-0", s, 0.8, auto=True) for s in range(2)])
    text = headline_of(pd.concat([rows, lamp, own]))
    assert text.endswith("Left out of the ranking, for lack of comparable results: lamp, opd.")
    assert "Left out" not in headline_of(rows)


def test_one_seed_has_no_interval_over_seeds(tmp_path, unsaved):
    frame = blocks_of({"magnitude": 0.8, "random": 0.7}, 2, seeds=1)
    text = headline_of(frame)
    assert "1.00 of 2 methods (n = 1 seed): magnitude keeps" in text
    page = html_of(frame, tmp_path)
    assert "n = 1 seeds" not in page
    assert "95 % bootstrap interval of that mean" not in page


def test_every_sentence_of_the_headline_begins_with_a_capital():
    frames = [frame_of(), frame_of(seeds=(0,)), frame_of(methods=("opd",)), frame_of(methods=METHODS[:4]), full(),
              blocks_of({"magnitude": 0.8, "random": 0.7}, 5), blocks_of({"a": 0.8, "b": 0.7, "c": 0.6}, 12)]  # fmt: skip
    from bayesprune.reports.records.frame import prepare
    from bayesprune.reports.records.ranking import rankings
    from bayesprune.reports.summary import headlines

    for frame in map(prepare, frames):
        for text in headlines(prepare(frame), rankings(prepare(frame))):
            assert all(sentence[0].isupper() for sentence in re.split(r"(?<=\.) ", text)), text


# ---------------------------------------------------------------------- frames that could break it


def failures_only():
    cells = {"status": "failed", "reason": "out of memory", "traceback": "Traceback: boom"}
    return pd.DataFrame([record("opd", "mlp", "digits", s, 0.9, **cells) for s in range(2)])


def without_numbers():
    return frame_of().assign(accuracy=np.nan, nll=np.inf, ece=np.nan, ood_auroc=None, shift=None, layer_density=None)


def chosen(sparsity):
    return pd.DataFrame([record("opd", "mlp", "digits", s, sparsity, auto=True) for s in range(3)])


def ten_long_names():
    return frame_of(methods=tuple(f"method-{i}_{'x' * 60}" for i in range(10)), sparsities=(0.9,), seeds=(0, 1))


def few_columns():
    named = ["status", "method", "architecture", "dataset", "units", "seed", "sparsity_target", "sparsity", "accuracy"]
    return frame_of()[named]


EDGES = {
    "empty": (pd.DataFrame, "The results are empty"),
    "no rows": (lambda: frame_of().iloc[:0], "The results are empty"),
    "only failures": (failures_only, "Every cell failed or was skipped"),
    "one seed": (lambda: frame_of(seeds=(0,)), "no interval can be given"),
    "two seeds": (lambda: frame_of(seeds=(0, 1)), "only about 50 % of the time"),
    "one sparsity": (lambda: frame_of(sparsities=(0.9,)), "at 90 % pruned, opd has the best mean rank"),
    "one method": (lambda: frame_of(methods=("opd",)), "Only one method has comparable results"),
    "only dense": (lambda: frame_of(methods=()), "There are no results of pruned networks yet"),
    "only self-chosen": (lambda: chosen(0.8), "No two results can be compared"),
    "self-chosen nothing": (lambda: chosen(0.0), "No two results can be compared"),
    "no numbers": (without_numbers, "15 of 15 done cells have no finite accuracy"),
    "gaussian": (lambda: frame_of(gaussian=True), "dense RMSE / RMSE"),
    "no dense": (lambda: frame_of(dense=False).assign(dense_accuracy=np.nan, dense_nll=np.nan, dense_ece=np.nan),
                 "for lack of a dense reference"),
    "ten methods": (ten_long_names, "method-7"),
    "twins": (lambda: pd.concat([frame_of(), frame_of()]), "15 results repeat a cell"),
    "missing columns": (few_columns, "best mean rank"),
    "one shared value": (lambda: frame_of(methods=("magnitude", "opd", "random")).assign(accuracy=0.5),
                         "magnitude, opd, random share the best mean rank"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDGES)
def test_odd_frames_give_a_sensible_page(name, tmp_path, unsaved):
    make, expected = EDGES[name]
    page = html_of(make(), tmp_path)
    assert expected in page
    assert page.rstrip().endswith("</html>")
    assert not re.search(r"\bnan\b|\binf\b|None|Traceback \(most", page[page.index("<body>") :].replace("None:", ""))


@pytest.mark.parametrize(
    "name", ["one seed", "only self-chosen", "self-chosen nothing", "one shared value", "no numbers"]
)
def test_figures_of_odd_frames_can_be_rendered(name):
    from bayesprune.reports.drawing.style import sheet
    from bayesprune.reports.figures import drawings

    with sheet():
        for drawing in drawings(prepare(EDGES[name][0]()), rankings(prepare(EDGES[name][0]()))):
            drawing.figure.draw_without_rendering()


def test_hostile_and_awkward_names_are_escaped(tmp_path, unsaved):
    hostile = "<script>alert('x')</script>"
    frame = frame_of(methods=("magnitude", hostile, "a_b%{c}&d#|e", "[f]"), datasets=("data_1",), sparsities=(0.9,))
    page = html_of(frame, tmp_path)
    assert hostile not in page
    assert "&lt;script&gt;" in page
    latex = (tmp_path / "tables/accuracy.tex").read_text()
    assert r"a\_b\%\{c\}\&d\#\textbar{}e" in latex
    assert r"data\_1" in latex
    assert "{[}f{]}" in latex
    markdown = (tmp_path / "tables/accuracy.md").read_text()
    assert r"a\_b%\{c\}&amp;d\#\|e" in markdown
    assert "<script>" not in markdown
    assert len({line.replace(r"\|", "").count("|") for line in markdown.splitlines() if line.startswith("|")}) == 1


def test_mathematics_in_a_name_is_not_read_as_mathematics(tmp_path):
    from bayesprune.reports.drawing.panels import Drawing, save
    from bayesprune.reports.topics.curves import curves

    frame = frame_of(methods=("$\\nonsense{$", "$"), datasets=("$\\frac$",), seeds=(0,))
    assert save(Drawing("x", "", "", curves(prepare(frame))), tmp_path).startswith(b"<?xml")


# ---------------------------------------------------------------------- figures


def axes_of(figure):
    return [axis for axis in figure.axes if axis.get_title()]


def test_curves_show_the_mean_at_each_realised_sparsity_and_the_dense_line():
    from bayesprune.reports.topics.curves import curves

    frame = frame_of(methods=("magnitude",), sparsities=(0.5, 0.75))
    (axis,) = axes_of(curves(prepare(frame), "accuracy"))
    line = next(line for line in axis.lines if len(line.get_xdata()) == 2 and line.get_marker() == "o")
    own = frame[frame["method"] == "magnitude"].groupby("sparsity")["accuracy"].mean()
    np.testing.assert_allclose(line.get_xdata(), [1, 2])  # halvings of the network
    np.testing.assert_allclose(line.get_ydata(), 100 * own.to_numpy())
    dense = 100 * frame.loc[frame["method"] == "dense", "accuracy"].mean()
    assert any(np.allclose(line.get_ydata(), dense) for line in axis.lines)
    assert [label.get_text() for label in axis.get_xticklabels()] == ["50", "75"]


def test_collapsed_points_are_open_and_chosen_ones_are_stars():
    from bayesprune.reports.topics.curves import curves

    rows = [
        *records(("digits",), ("mlp",), ("random",), (0.5, 0.99)),
        record("opd", "mlp", "digits", 0, 0.8, auto=True),
    ]
    (axis,) = axes_of(curves(prepare(pd.DataFrame(rows)), "accuracy"))
    opened = [line for line in axis.lines if line.get_markerfacecolor() == "white" and line.get_marker() == "p"]
    np.testing.assert_allclose(opened[0].get_xdata(), -np.log2(1 - 0.99))
    star = next(line for line in axis.lines if line.get_marker() == "*")
    np.testing.assert_allclose(star.get_xdata(), -np.log2(1 - 0.8))


def test_many_panels_fill_several_pages_without_loss():
    from bayesprune.reports.drawing.panels import pages
    from bayesprune.reports.records.frame import Panel

    panels = [Panel(f"d{i}", "mlp", "weights") for i in range(20)]
    split = pages(panels)
    assert [len(page) for page in split] == [7, 6, 7]
    assert [panel for page in split for panel in page] == panels
    assert pages([]) == []


def test_legend_stands_below_all_axes_and_text_stays_inside_the_figure():
    from bayesprune.reports.drawing.style import sheet
    from bayesprune.reports.topics.curves import curves

    with sheet():
        figure = curves(
            prepare(frame_of(methods=tuple(f"method-{i}-with-a-long-name-{'y' * 30}" for i in range(9)), seeds=(0,))),
            "accuracy",
        )
        figure.draw_without_rendering()
        legend = figure.legends[0].get_window_extent()
        assert all(legend.y1 <= axis.get_tightbbox().y0 for axis in figure.axes)
        whole = figure.bbox
        for box in (legend, *(axis.get_tightbbox() for axis in figure.axes)):
            assert box.x0 >= whole.x0 - 1
            assert box.x1 <= whole.x1 + 1
            assert box.y0 >= whole.y0 - 1
            assert box.y1 <= whole.y1 + 1


def test_every_method_has_a_look_of_its_own():
    from bayesprune.methods import registry
    from bayesprune.methods.build import build
    from bayesprune.methods.laplace.map import MAP
    from bayesprune.reports.drawing.style import BUILT_IN, fixed

    names = [name for name, entry in registry.catalogue().items() if entry.origin == "built-in"]
    plain = [name for name in names if "<" not in name]
    assert set(BUILT_IN) == {"dense", *plain}
    criteria = [name for name in plain if isinstance(build(name).inference(), MAP)]
    looks = [fixed(name) for name in (*BUILT_IN, *(f"spam-{name}" for name in criteria))]
    assert None not in looks
    assert len({(look.color, look.marker) for look in looks}) == len(looks)


def test_styles_are_fixed_distinct_and_the_same_in_any_company():
    from bayesprune.reports.drawing.style import BUILT_IN, styles

    pairs = [(style.color, style.marker) for style in BUILT_IN.values()]
    assert len(set(pairs)) == len(pairs)
    names = [
        "magnitude",
        "opd",
        "grasp(absolute=True)",
        "random(like=opd)",
        "random(like=snr)",
        *(f"new-{i}" for i in range(40)),
    ]
    look = styles(names)
    assert look["opd"] == BUILT_IN["opd"] == styles(["opd"])["opd"]
    assert len({(style.color, style.marker) for style in look.values()}) == len(names)
    assert look["random(like=opd)"].marker == BUILT_IN["opd"].marker
    assert look["random(like=opd)"].color == BUILT_IN["random"].color
    assert look["grasp(absolute=True)"] == styles(["grasp(absolute=True)"])["grasp(absolute=True)"]
    assert styles(reversed(names)) == look


def test_layer_names_and_densities_stay_short():
    from bayesprune.reports.drawing.axes import short_names
    from bayesprune.reports.topics.densities import density_text

    assert short_names(["layers.0.weight", "head.weight"]) == ["layers.0", "head"]
    long = short_names([f"backbone.encoder.stage.{i}.convolution.weight" for i in range(3)])
    assert long == ["0", "1", "2"]
    assert [density_text(x) for x in (0, 1e-6, 0.004, 0.0312, 0.0999, 0.5, 1)] == [
        "0",
        "<.01",
        ".40",
        "3.1",
        "10",
        "50",
        "100",
    ]


def test_layers_keep_their_order_and_sorted_ones_are_ordered_by_number():
    from bayesprune.reports.drawing.axes import in_order
    from bayesprune.reports.topics.densities import layer_densities

    assert in_order(["stem", "b.10", "b.2", "head"]) == ["stem", "b.10", "b.2", "head"]
    assert in_order(["b.1.w", "b.10.w", "b.2.w", "head"]) == ["b.1.w", "b.2.w", "b.10.w", "head"]
    rows = pd.DataFrame(
        {"label": ["x", "x"], "layer_density": [{"stem": 0.5, "head": 0.1}, {"stem": 0.7, "head": 0.3}]}
    )
    table = layer_densities(rows)
    assert list(table.columns) == ["stem", "head"]
    np.testing.assert_allclose(table.to_numpy(), [[0.6, 0.2]])


def test_tick_labels_are_thinned_but_keep_the_largest():
    from bayesprune.reports.drawing.panels import thinned

    kept = thinned([0.5, 0.9, 0.95, 0.96, 0.97, 0.98, 0.99], gap=0.1)
    assert kept[-1] == 0.99
    assert len(kept) < 7


# ---------------------------------------------------------------------- frame, ranking, tables


def test_one_name_with_two_inferences_becomes_two_methods():
    from bayesprune.reports.records.frame import labels, prepare

    other = frame_of(dense=False).assign(inference="SpaM")
    assert labels(prepare(pd.concat([frame_of(), other])))[:2] == ["magnitude [MAP(precision=1.0)]", "magnitude [SpaM]"]
    assert labels(prepare(frame_of())) == ["magnitude", "opd"]


def test_preparing_twice_changes_nothing():
    from bayesprune.reports.records.frame import prepare

    once = prepare(full())
    pd.testing.assert_frame_equal(prepare(once), once)


def exact(values, metric="accuracy", **more):
    """A frame with given values {(method, sparsity): [one per seed]}."""
    rows = [
        record(m, "mlp", "digits", s, p, **more) | {metric: v}
        for (m, p), vs in values.items()
        for s, v in enumerate(vs)
    ]
    return pd.DataFrame(rows).assign(dense_accuracy=0.8, dense_rmse=0.8)


def test_areas_ranks_and_improvement_by_hand():
    from bayesprune.reports.records.frame import prepare
    from bayesprune.reports.records.ranking import rankings

    frame = exact({("magnitude", 0.5): [0.6, 0.7], ("magnitude", 0.875): [0.4, 0.5], ("opd", 0.5): [0.8, 0.8],
                   ("opd", 0.875): [0.4, 0.2]})  # fmt: skip
    (ranking,) = rankings(prepare(frame))
    best, second = ranking.standings
    # areas over two halvings: magnitude 0.5 and 0.6, opd 0.6 and 0.5; ties in the mean share the rank
    assert (best.rank.value, second.rank.value) == (1.5, 1.5)
    np.testing.assert_allclose([best.area.value, second.area.value], 0.55 / 0.8)
    opd = next(s for s in ranking.standings if s.label == "opd")
    assert opd.improvement is not None
    np.testing.assert_allclose(opd.improvement.value, (0.5 + 1 + 0 + 0.5) / 4)


def test_improvement_compares_the_areas_relative_to_dense_that_stand_beside_it():
    from bayesprune.reports.records.frame import prepare
    from bayesprune.reports.records.ranking import rankings

    frame = exact({("magnitude", 0.5): [0.6, 0.69], ("opd", 0.5): [0.5, 0.5]})
    frame["dense_accuracy"] = frame["seed"].map({0: 0.6, 1: 0.9})
    (ranking,) = rankings(prepare(frame))
    opd = next(s for s in ranking.standings if s.label == "opd")
    # relative areas: magnitude 1 and 0.77, opd 0.83 and 0.56; of the raw areas opd's are never larger
    assert opd.improvement is not None
    np.testing.assert_allclose(opd.improvement.value, 1 / 4)


def test_areas_weigh_halvings_alike():
    from bayesprune.reports.records.ranking import area

    np.testing.assert_allclose(area(np.array([1.0, 0.5, 0.0]), [0.5, 0.75, 0.9375]), (0.75 * 1 + 0.25 * 2) / 3)
    np.testing.assert_allclose(area(np.array([0.3]), [0.9]), 0.3)


def test_lower_rmse_ranks_first():
    from bayesprune.reports.records.frame import prepare
    from bayesprune.reports.records.ranking import rankings

    frame = exact({("magnitude", 0.5): [1.6, 1.6], ("opd", 0.5): [1.0, 1.0]}, metric="rmse", gaussian=True)
    (ranking,) = rankings(prepare(frame))
    assert [s.label for s in ranking.standings] == ["opd", "magnitude"]
    np.testing.assert_allclose([s.area.value for s in ranking.standings], [0.8, 0.5])


def test_complete_part_gives_up_a_sparsity_before_a_method():
    from bayesprune.reports.records.ranking import complete_part

    there = np.ones((4, 3, 6), dtype=bool)
    there[2, 1, 5] = False
    assert complete_part(there) == ([0, 1, 2, 3], [0, 1, 2], [0, 1, 2, 3, 4])
    there[3] = False
    assert complete_part(there)[0] == [0, 1, 2]
    assert complete_part(np.array([[[True, False]], [[False, True]]])) == ([1], [0], [1])


def test_methods_are_compared_on_common_blocks_only():
    from bayesprune.reports.records.frame import prepare
    from bayesprune.reports.records.ranking import rankings

    rows = records(("a", "b", "c"), ("mlp",), ("magnitude", "opd"), (0.9,)) + records(
        ("a",), ("mlp",), ("lamp",), (0.9,)
    )
    (ranking,) = rankings(prepare(pd.DataFrame(rows)))
    assert {s.label for s in ranking.standings} == {"magnitude", "opd"}
    assert ranking.comparison.blocks == 3
    assert ranking.left_out == ("lamp",)


def test_operating_points_are_paired_with_magnitude_interpolated():
    from bayesprune.reports.records.frame import prepare
    from bayesprune.reports.topics.operating import operating_points

    frame = exact({("magnitude", 0.5): [0.8, 0.9], ("magnitude", 0.875): [0.6, 0.7]})
    chosen = [record("opd", "mlp", "digits", s, p, auto=True) | {"accuracy": 0.9} for s, p in enumerate((0.75, 0.99))]
    (point,) = operating_points(prepare(pd.concat([frame, pd.DataFrame(chosen)])))
    np.testing.assert_allclose(point.baseline, [0.7, np.nan])  # 0.75 lies midway in halvings; 0.99 is not extrapolated
    np.testing.assert_allclose(point.difference.value, 0.2)
    assert point.difference.n == 1


def test_bold_marks_the_best_and_what_cannot_be_told_from_it():
    from bayesprune.reports.topics.results import results

    frame = exact(
        {("magnitude", 0.9): [0.90, 0.91, 0.92], ("opd", 0.9): [0.91, 0.92, 0.93], ("random", 0.9): [0.5, 0.51, 0.52]}
    )
    bold = {cells[0].text: cells[1].bold for cells in results(prepare(frame)).rows}
    assert bold == {"magnitude": True, "opd": True, "random": False}
    texts = {cells[0].text: cells[1].text for cells in results(prepare(frame)).rows}
    assert texts["magnitude"] == "91.0 ± 1.0"
    single = results(prepare(frame[frame["seed"] == 0])).rows
    assert not any(cell.bold for cells in single for cell in cells)


def test_cost_counts_every_part_and_the_flops_of_the_mask():
    from bayesprune.reports.topics.cost import cost_table

    frame = frame_of(methods=("opd",), sparsities=(0.95,), seeds=(0,), dense=False)
    frame = frame.assign(seconds_train=10.0, seconds_score=2.0, seconds_finetune=1.0)
    texts = [cell.text for cell in cost_table(prepare(frame)).rows[0]]
    assert texts == ["opd", "10.00", "2.00", "1.00", "13.00", "30.0", "1.0", "5.0", "400.0", "5.0", "1"]


def test_missing_controls_are_named():
    from bayesprune.reports.records.frame import prepare
    from bayesprune.reports.summary import missing_controls

    frame = frame_of(methods=("opd", "grasp", "random(like=opd)"), dense=False).assign(dense_accuracy=np.nan)
    missing = missing_controls(prepare(frame))
    assert missing[:3] == ["dense", "random", "magnitude"]
    assert missing[3].endswith("for: grasp")
    assert missing_controls(prepare(frame_of(methods=("magnitude", "random", "random(like=magnitude)")))) == []


def test_records_from_several_machines_are_flagged():
    from bayesprune.reports.records.frame import prepare
    from bayesprune.reports.summary import doubts

    frame = frame_of()
    frame.loc[0, "device"] = "cuda"
    assert any("several devices" in text for text in doubts(prepare(frame), []))
