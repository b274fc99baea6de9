"""The report in a real browser: what it computes is what Python computes, and what it offers can be used by all."""

import json
import math
import random
import time
from urllib.parse import urlencode
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from bayesprune.bench.spec.run import Run
from bayesprune.reports.leaderboard.standings import leaderboard
from bayesprune.reports.records.blocks import field
from bayesprune.reports.records.division import divided
from bayesprune.reports.records.frame import DENSE, Records, prepare
from bayesprune.reports.records.ranking import rankings
from browsers import browser, complaints, lacking, requests, shown, violations
from pages import LEVELS, cell, language, regressions, results

pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking() or "a browser is there")

HOSTILE = "</script><img src=x onerror=\"globalThis.broken=1;document.title='broken'\">"
EXACT = {"rel_tol": 1e-9, "abs_tol": 1e-9}
FIGURES = {"svg": {"Date": None}}


def everything():
    """Six methods in eight blocks, one under a hostile name; gaps, a failure, sparsities of a method's own choice."""
    (frame, scores), (other, more) = results(), regressions()
    alone, its = results(("single",), ("mlp",), ("magnitude", "random", "opd", "snip"), seeds=(0,), units=("weights",))
    rows = [row for f in (frame, other, language(), alone) for row in f.to_dict("records")]
    # a method that lacks more than half of a block leaves it
    rows = [
        r for r in rows
        if (r["method"], r["dataset"], r["architecture"], r["units"]) != ("snip", "letters", "mlp", "groups")
        or (r["seed"], r["sparsity_target"]) in [(1, 0.5), (2, 0.5), (2, 0.9), (2, 0.95)]
    ]  # fmt: skip
    for row in rows:
        if row["method"] == "synflow":
            row["method"] = HOSTILE
    gone = next(r for r in rows if r["method"] == "snip" and r["dataset"] == "letters")
    rows.remove(gone)
    rows = [
        r for r in rows if (r["method"], r["architecture"], r["sparsity_target"]) != ("random", "vit(depth=1)", 0.95)
    ]
    rows = [
        r
        for r in rows
        if (r["method"], r["dataset"], r["architecture"], r["units"]) != ("lamp", "letters", "mlp", "weights")
    ]
    for row in rows:  # results without a value: one here and there, and a whole seed of the language models
        lacks = (row["method"], row["seed"], row["sparsity_target"]) == ("lamp", 1, 0.9) and row["units"] == "groups"
        row["accuracy"] = None if lacks else row.get("accuracy")
    rows += [
        cell(m, "characters", "lstm", "weights", 3, level, None, bpc=None)
        for m in ("magnitude", "opd")
        for level in LEVELS
    ]
    rows += [cell("opd", "digits", "mlp", "weights", s, None, 0.9 - 0.01 * s) for s in (0, 1, 2)]
    reason = {"reason": HOSTILE, "traceback": f"ValueError: {HOSTILE}", "accuracy": None, "nll": None, "ece": None}
    rows.append({**gone, "status": "failed", **reason})
    return pd.DataFrame(rows), scores | more | its


@pytest.fixture(scope="module")
def records():
    frame, scores = everything()
    return divided(prepare(frame))[0].ranked, scores


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    from bayesprune.reports.build import report
    from bayesprune.reports.drawing import panels

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panels, "FORMATS", FIGURES)
        frame, scores = everything()
        return report(frame, tmp_path_factory.mktemp("report"), title="A & B", scores=scores)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def driver(downloads):
    with browser(downloads) as found:
        yield found


def address(units="weights", **lists):
    said = [("units", units)] + [(name, value) for name, values in lists.items() for value in values]
    return f"#compare?{urlencode(said)}"


COMPUTED = """
const plain = (value) => JSON.stringify(value, (_, v) =>
  ArrayBuffer.isView(v) ? [...v] : typeof v === "number" && !Number.isFinite(v) ? null : v);
const { ranking, board } = bayesprune.computed(arguments[0]);
const labels = bayesprune.page.labels;
return plain({
  ranking: ranking && { ...ranking, standings: ranking.standings.map((s) => ({ ...s, method: labels[s.method] })) },
  board: board && { ...board, standings: board.standings.map((s) => ({ ...s, entrant: labels[s.entrant] })) },
});
"""


def computed(driver, hash_):
    return json.loads(driver.execute_script(COMPUTED, hash_))


def chosen(records, units, **lists):
    """The records of a choice, with the dense networks of its seeds."""
    columns = {"dataset": "dataset", "architecture": "architecture", "seed": "seed"}
    keep = pd.Series(data=True, index=records.index)
    for name, column in columns.items():
        keep &= records[column].isin(lists.get(name, set(records[column])))
    own = (records["units"] == units) & records["label"].isin(lists.get("method", set(records["label"])))
    return Records(records[keep & (own | (records["method"] == DENSE))].reset_index(drop=True))


def same(ours, theirs):
    if ours is None or (isinstance(ours, float) and math.isnan(ours)):
        return theirs is None
    return theirs is not None and math.isclose(ours, theirs, **EXACT)


def subsets(count):
    pick = random.Random(3)
    lists = {"dataset": ["digits", "letters", "diabetes", "characters"], "seed": [0, 1, 2],
             "architecture": ["mlp", "vit(depth=1)", "lstm"],
             "method": ["magnitude", "random", "opd", "snip", "lamp", HOSTILE]}  # fmt: skip
    least = {"method": 2, "seed": 2}
    for _ in range(count):
        yield (
            pick.choice(["weights", "groups"]),
            {
                name: pick.sample(values, pick.randint(least.get(name, 1), len(values)))
                for name, values in lists.items()
            },
        )


SEVERAL = ["digits", "letters", "diabetes", "characters"]
CHOICES = [("weights", {}), ("weights", {"dataset": SEVERAL}), ("weights", {"dataset": ["digits", "single"]}),
           ("weights", {"dataset": ["single"]}), ("groups", {}), ("weights", {"seed": [1]}), ("weights", {"method": ["opd"]}), *subsets(12),
           ("weights", {"method": ["magnitude", "opd", "snip"]}), ("weights", {"dataset": ["characters"]}),
           ("weights", {"dataset": ["diabetes", "characters"], "method": ["random", "opd"]})]  # fmt: skip


@pytest.mark.parametrize(("units", "lists"), CHOICES)
def test_ranks_and_intervals_are_those_of_python(driver, page, records, units, lists):
    if not driver.current_url.startswith(page.as_uri()):
        shown(driver, page)
    ours = next((r for r in rankings(chosen(records[0], units, **lists)) if r.units == units), None)
    theirs = computed(driver, address(units, **lists))["ranking"]
    if ours is None:
        assert theirs is None
        return
    assert [s.label for s in ours.standings] == [s["method"] for s in theirs["standings"]]
    for one, other in zip(ours.standings, theirs["standings"], strict=True):
        for name in ("rank", "area", "iqm", "improvement"):
            interval = getattr(one, name)
            if interval is None:
                assert other[name] is None
                continue
            for end in ("value", "low", "high"):
                assert same(getattr(interval, end), other[name][end]), (one.label, name, end)
    c = ours.comparison
    assert same(c.p_value, theirs["p"])
    assert same(c.statistic, theirs["statistic"])
    assert same(c.critical_difference, theirs["criticalDifference"])


@pytest.mark.parametrize(("units", "lists"), CHOICES)
def test_places_groups_and_tests_are_those_of_the_leaderboard(driver, page, records, units, lists):
    if not driver.current_url.startswith(page.as_uri()):
        shown(driver, page)
    found = field(chosen(records[0], units, **lists), records[1], units)
    theirs = computed(driver, address(units, **lists))["board"]
    if found is None:
        assert theirs is None
        return
    ours = leaderboard(found.blocks)
    assert list(ours.entrants) == [s["entrant"] for s in theirs["standings"]]
    for one, other in zip(ours.standings, theirs["standings"], strict=True):
        assert (one.place, one.best, one.worst, one.group) == tuple(
            other[n] for n in ("place", "best", "worst", "group")
        )
        pairs = [(one.score, other["score"]), (one.mean_rank, other["meanRank"]), (one.moved, other["moved"])]
        assert [a for a in [*pairs, *zip(one.lead, other["lead"], strict=True)] if not same(*a)] == []
    assert np.allclose(ours.tests.p, theirs["tests"]["p"], rtol=0, atol=1e-9)
    assert np.allclose(ours.tests.errors, np.nan_to_num(np.array(theirs["tests"]["errors"], float)), rtol=0, atol=1e-9)
    assert same(ours.halves.agreement, theirs["agreement"])


def test_the_choices_meet_what_matters(driver, page, records):
    """Both ways of pairing, gaps, blocks left out, several sizes: else the tests above would say little."""
    shown(driver, page)
    columns = driver.execute_script("return bayesprune.page.sums.map((block) => block.columns)")
    assert set(columns) == {1, 3}
    boards = [field(chosen(records[0], units, **lists), records[1], units) for units, lists in CHOICES]
    assert None in boards
    boards = [found for found in boards if found]
    metrics = {frozenset(r.metrics) for units, lists in CHOICES for r in rankings(chosen(records[0], units, **lists))}
    assert {name for found in metrics for name in found} == {"accuracy", "rmse", "bpc"}
    assert {block.is_crossed for found in boards for block in found.blocks} == {True, False}
    assert len({(len(found.blocks), len(found.blocks[0].entrants)) for found in boards}) > 6
    assert any(found.left_out for found in boards)
    groups = {s.group for found in boards for s in leaderboard(found.blocks).standings}
    assert len(groups) > 3


def test_distributions_are_those_of_scipy(driver, page):
    from scipy import stats

    shown(driver, page)
    ask = "return arguments[1].map((given) => bayesprune[arguments[0]](...given))"
    tails = [(t, df) for t in (1e-6, 0.3, 2.1, 17.0, 400.0) for df in (1, 2.5, 7, 60, 4000)]
    assert np.allclose(
        driver.execute_script(ask, "twoSidedP", tails), [2 * stats.t.sf(*x) for x in tails], rtol=1e-10, atol=0
    )
    ends = [(df, level) for df in (1, 1.7, 5, 40, 4000) for level in (0.5, 0.95, 0.999)]
    expected = [stats.t.ppf((1 + level) / 2, df) for df, level in ends]
    assert np.allclose(driver.execute_script(ask, "tQuantile", ends), expected, rtol=1e-10, atol=0)
    squares = [(x, df) for x in (0.01, 1.0, 8.3, 55.0) for df in (2, 3, 9, 40)]
    expected = [stats.chi2.sf(*x) for x in squares]
    assert np.allclose(driver.execute_script(ask, "chiSquaredTail", squares), expected, rtol=1e-10, atol=0)


# ---------------------------------------------------------------------- the page in use


def rows(driver, table):
    """Texts of a table's rows."""
    script = "return [...document.querySelectorAll(arguments[0] + ' tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    return driver.execute_script(script, table)


def drawn(driver, table):
    """The same of a table that is drawn when its block is opened, which the browser tells a little later."""
    eventually(lambda: rows(driver, table))
    return rows(driver, table)


def press(driver, selector):
    from selenium.webdriver.common.by import By

    one = driver.find_element(By.CSS_SELECTOR, selector)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", one)
    one.click()
    return one


def test_every_figure_is_there_and_nothing_complains_or_leaves_the_file(driver, page):
    requests(driver), complaints(driver)
    shown(driver, page)
    names = sorted(path.stem for path in (page.parent / "figures").glob("*.svg"))
    images = driver.execute_script("""
        document.querySelectorAll("img").forEach((image) => (image.loading = "eager"));
        await Promise.all([...document.images].map((image) => image.decode()));
        return [...document.images].map((i) => [i.dataset.name, i.naturalWidth > 0, i.alt.length > 20]);""")
    assert sorted(images) == [[name, True, True] for name in names]
    assert driver.execute_script("return [...document.querySelectorAll('#compare svg[role=img]')].length") == 2
    assert driver.execute_script("return document.querySelectorAll('#compare svg[role=img][aria-label]').length") == 2
    press(driver, "#choice input[value=opd]")
    assert complaints(driver) == []
    assert requests(driver) == [page.as_uri()]


def test_a_request_would_have_been_seen_and_is_refused(driver, page):
    """The policy of the page stops what a script would ask for; the test above can fail."""
    shown(driver, page)
    requests(driver), complaints(driver)
    assert (
        driver.execute_script("return fetch('http://127.0.0.1:9/').then(() => 'asked', () => 'refused')") == "refused"
    )
    assert any("Content Security Policy" in text for text in complaints(driver))
    driver.execute_script("document.body.insertAdjacentHTML('beforeend', '<img src=\"./beside.png\">')")
    eventually(lambda: any("beside.png" in text for text in [*requests(driver), *complaints(driver)]))


def test_hostile_names_are_text(driver, page):
    shown(driver, page)
    assert driver.title == "A & B"
    assert driver.execute_script("return globalThis.broken") is None
    assert driver.execute_script("return document.querySelectorAll('img[src=x]').length") == 0
    assert any(row[0] == HOSTILE for row in rows(driver, "#standing"))
    script = "[...document.querySelectorAll('#choice input')].find((i) => i.value === arguments[0]).click()"
    driver.execute_script(script, HOSTILE)
    assert all(row[0] != HOSTILE for row in rows(driver, "#standing"))


def test_filters_change_ranks_as_python_says(driver, page, records):
    shown(driver, page)
    press(driver, "#choice input[value=groups]")
    press(driver, "#choice input[name=dataset][value=letters]")
    press(driver, "#choice input[name=method][value=random]")
    press(driver, "#choice input[name=seed][value='2']")
    labels = sorted(set(records[0]["label"]) - {"random", DENSE})
    own = chosen(records[0], "groups", dataset=["digits"], method=labels, seed=[0, 1])
    ranking, board = rankings(own)[0], leaderboard(field(own, records[1], "groups").blocks)
    found = rows(driver, "#ranks")
    assert [row[0] for row in found] == [s.label for s in ranking.standings]
    assert [row[1].split()[0] for row in found] == [f"{s.rank.value:.2f}" for s in ranking.standings]
    assert [row[2].split()[0] for row in found] == [f"{100 * s.area.value:.1f}" for s in ranking.standings]
    standing = rows(driver, "#standing")
    assert [(r[0], r[1], r[3]) for r in standing] == [(s.entrant, f"{s.place:g}", s.group) for s in board.standings]


def test_a_link_restores_the_choice(driver, page):
    shown(driver, page)
    press(driver, "#choice input[name=architecture][value=mlp]")
    press(driver, "#choice input[name=method][value=lamp]")
    press(driver, "#choice button[data-all=seed-none]")
    press(driver, "#choice input[name=seed][value='1']")
    link, before = driver.execute_script("return location.hash"), rows(driver, "#ranks")
    boxes = "return [...document.querySelectorAll('#choice input')].map((i) => [i.value, i.checked])"
    ticked = driver.execute_script(boxes)
    shown(driver, page, link)
    assert rows(driver, "#ranks") == before
    assert driver.execute_script(boxes) == ticked
    assert [value for value, on in ticked if not on] == ["groups", "mlp", "lamp", "0", "2", "3"]
    driver.execute_script("location.hash = '#compare?method=opd&method=nobody&units=nonsense'")
    eventually(lambda: len(rows(driver, "#ranks")) == 1)
    assert rows(driver, "#ranks")[0][0] == "opd"
    press(driver, "#choice button[data-all=reset]")
    assert len(rows(driver, "#ranks")) == 4
    assert driver.execute_script("return location.hash") == "#compare?"


def eventually(holds, seconds=10):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_nothing_chosen_is_said_and_breaks_nothing(driver, page):
    shown(driver, page, "#compare?method=")
    complaints(driver)
    assert "Nothing can be ranked" in driver.execute_script("return document.getElementById('chosen').textContent")
    assert rows(driver, "#ranks") == rows(driver, "#standing") == []
    assert complaints(driver) == []


def test_tables_are_sorted_by_keys_alone(driver, page):
    from selenium.webdriver.common.keys import Keys

    shown(driver, page)
    for table, column in (("#standing", 6), ("#ranks", 1), ("#tables", 1)):
        button = driver.execute_script(
            "return document.querySelectorAll(arguments[0] + ' table')[0].tHead.rows[0].cells[arguments[1]].firstChild",
            table, column,
        )  # fmt: skip
        driver.execute_script("arguments[0].focus()", button)
        for _ in range(2):
            button.send_keys(Keys.ENTER)
            head = driver.execute_script("return arguments[0].parentElement.getAttribute('aria-sort')", button)
            first = driver.execute_script(
                "return [...arguments[0].closest('table').tBodies[0].rows].map((r) => parseFloat(r.cells[arguments[1]].textContent))",
                button, column,
            )  # fmt: skip
            assert first == sorted(first, reverse=head == "descending")
            assert len(set(first)) > 1
        assert driver.execute_script("return document.activeElement === arguments[0]", button)
    press(driver, "#choice input[name=method][value=lamp]")
    assert driver.execute_script("return document.querySelector('#standing th[aria-sort]').cellIndex") == 6


def test_a_cell_says_its_numbers_its_records_its_command_and_shows_its_figure(driver, page, records):
    from selenium.webdriver.common.keys import Keys

    shown(driver, page)
    name = "opd"
    place = [row[0] for row in drawn(driver, "#blocks details[open]")].index(name) + 1
    press(driver, f"#blocks details[open] tbody tr:nth-child({place}) button.cell")
    dialog = driver.execute_script("return document.querySelector('dialog[open]').textContent")
    assert name in dialog
    assert "bayesprune run cell.yaml" in dialog
    assert all(f"Seed {seed}: done" in dialog for seed in (0, 1, 2))
    own = records[0][(records[0]["label"] == name) & (records[0]["units"] == "weights")]
    cell_ = own[(own["dataset"] == "digits") & (own["architecture"] == "mlp") & (own["target"] == 0.5)]
    assert set(cell_["key"].str[:16]) <= set(dialog.replace("key", " ").replace("status", " ").split())
    assert driver.execute_script("return document.querySelectorAll('dialog svg[role=img] path').length") > 10
    link = driver.execute_script("return location.hash")
    driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert driver.execute_script("return document.querySelector('dialog[open]')") is None
    eventually(lambda: "record" not in driver.execute_script("return location.hash"))
    shown(driver, page, link)
    assert name in driver.execute_script("return document.querySelector('dialog[open] h2').textContent")
    driver.execute_script("document.querySelector('dialog').close(); document.querySelector('button.cell').focus()")
    eventually(lambda: driver.execute_script("return !document.getElementById('hover').hidden"))
    hover = driver.execute_script("const h = document.getElementById('hover'); return [h.hidden, h.textContent]")
    assert hover[0] is False
    assert "seed 2:" in hover[1]
    driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert driver.execute_script("return document.getElementById('hover').hidden")


def test_the_command_recomputes_the_very_cell(driver, page, records, tmp_path):
    from bayesprune.bench.spec.matrix import load_matrix

    shown(driver, page)
    own = records[0]
    row = own[(own["method"] == "opd") & (own["dataset"] == "digits") & (own["architecture"] == "vit(depth=1)")].iloc[0]
    command = driver.execute_script("return bayesprune.commandOf(arguments[0])", row["key"][:16])
    _, text, rest = command.split("END")
    (tmp_path / "cell.yaml").write_text(text.strip("'\n"))
    assert rest.strip() == "bayesprune run cell.yaml --out recomputed"
    (run,) = load_matrix(tmp_path / "cell.yaml").cells()
    assert run == Run.model_validate(row["run"])
    assert run.training.lr == 1e-05


def test_figures_are_saved_as_svg_that_stands_alone(driver, page, downloads):
    shown(driver, page, address(dataset=["digits"]))
    names = set()
    for place in ("#ranks", "#blocks", "#figures"):
        press(driver, f"{place} button.save")
        eventually(lambda: {p.name for p in downloads.glob("*.svg")} - names)
        (name,) = {p.name for p in downloads.glob("*.svg")} - names
        names.add(name)
        root = ElementTree.fromstring((downloads / name).read_text(encoding="utf-8"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 3
    texts = ["".join(ElementTree.parse(path).getroot().itertext()) for path in downloads.glob("*mlp.svg")]
    assert all(name in text for text in texts for name in ("magnitude", "snip", HOSTILE[:15]))


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_serious(driver, page, dark):
    shown(driver, page, dark=dark)
    assert violations(driver) == []
    press(driver, "#blocks tbody button.cell")
    assert violations(driver, "document.querySelector('dialog')") == []


def test_a_small_screen_scrolls_down_alone(driver, page):
    shown(driver, page, width=400, height=800)
    driver.execute_script("document.querySelectorAll('details').forEach((fold) => (fold.open = true))")
    assert driver.execute_script("return document.documentElement.scrollWidth") == 400


def test_paper_has_no_controls_and_all_tables(driver, page):
    shown(driver, page, media="print")
    seen = "return [...document.querySelectorAll(arguments[0])].filter((e) => e.offsetParent !== null).length"
    assert driver.execute_script(seen, "#choice, .save, nav") == 0
    assert driver.execute_script(seen, "#standing table, #ranks table, #ranks .drawing svg") == 3


def test_methods_are_told_apart_without_colour(driver, page):
    """Every line of a figure ends at a name, and no two names lie on one another."""
    shown(driver, page, address(dataset=["digits"]))
    texts = driver.execute_script("""
        const svg = document.querySelector("#blocks details[open] svg[role=img]");
        return [...svg.querySelectorAll("g > text")].map((t) => [t.textContent, t.getBoundingClientRect().toJSON()]);""")
    methods = [row[0] for row in drawn(driver, "#blocks details[open]") if row[0] != "grasp"]
    assert len(texts) == len(methods) > 4
    tops = sorted(box["top"] for _, box in texts)
    assert min(np.diff(tops)) > 10
    assert max(box["right"] for _, box in texts) < driver.execute_script(
        "return document.querySelector('#blocks details[open] svg[role=img]').getBoundingClientRect().right"
    )


def test_without_scripts_the_page_is_as_before(driver, page):
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        shown(driver, page)
        from selenium.webdriver.common.by import By

        assert not driver.find_element(By.ID, "compare").is_displayed()
        assert driver.find_element(By.ID, "table-ranking-weights").is_displayed()
        assert not driver.find_element(By.ID, "to-compare").is_displayed()
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
