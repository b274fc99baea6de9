"""What a page holds for its scripts: compact, exact where it counts, harmless, and the same bytes for the same records."""

import base64
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from bayesprune.bench.results.scores import Scores, all_scores
from bayesprune.reports.interactive import embedding
from bayesprune.reports.interactive.blocks import sums
from bayesprune.reports.interactive.columns import columns
from bayesprune.reports.interactive.looks import looks
from bayesprune.reports.interactive.payload import payload, safe
from bayesprune.reports.records.division import divided
from bayesprune.reports.records.frame import prepare
from pages import cell, results, written
from scipy.integrate import trapezoid

SMALL = {"datasets": ("digits",), "architectures": ("mlp",), "methods": ("magnitude", "opd", "snip"), "examples": 40}


def part(frame):
    return divided(prepare(frame))[0]


def numbers(text):
    return np.frombuffer(base64.b64decode(text), "<f8")


def test_text_can_end_no_element_and_comes_back_whole():
    hostile = {"a</script><!--&\u2028\u2029": ["\U0001f600", "<b>", 'quote"\\']}
    text = safe(hostile)
    assert not set("<>&") & set(text)
    assert text.isascii()
    assert json.loads(text) == hostile


def test_numbers_that_are_none_are_left_out():
    frame, scores = results(**SMALL)
    frame.loc[3, ["nll", "ece"]] = np.inf
    text = payload(part(frame), scores, [])
    assert "NaN" not in text
    assert "Infinity" not in text
    found = json.loads(text)["records"]
    assert found["nll"].count(None) == found["ece"].count(None) == 1
    assert "rmse" not in found


def test_columns_say_each_text_once_and_each_number_to_seven_digits():
    frame, _ = results(**SMALL)
    frame.loc[0, "accuracy"] = 1 / 3
    found = columns(prepare(frame))
    assert found["accuracy"][0] == 0.3333333
    names = found["label"]
    assert names["values"] == ["dense", "magnitude", "opd", "snip"]
    assert [names["values"][code] for code in names["codes"]] == list(frame["method"])


def test_the_same_records_in_another_order_are_the_same_text():
    frame, scores = results(**SMALL)
    text = payload(part(frame), scores, [])
    assert payload(part(frame.sample(frac=1, random_state=1)), scores, []) == text
    assert payload(part(frame), dict(reversed(scores.items())), []) == text


def test_sums_are_those_of_the_examples():
    frame, scores = results(**SMALL)
    (weights, _) = sums(part(frame).ranked, scores)
    assert weights["columns"] == 1
    assert weights["examples"] == [40, 40, 40]
    assert weights["tests"] == [0, 0, 0]
    at = -np.log2(1 - np.array(weights["sparsities"]))
    by_name = frame[frame["units"] == "weights"].set_index(["method", "seed", "sparsity_target"])["key"]
    cube = np.array([
        [trapezoid([scores[by_name[m, s, level]].values.astype(float) for level in weights["sparsities"]], at, axis=0)
         / (at[-1] - at[0]) for m in weights["entrants"]] for s in (0, 1, 2)
    ])  # fmt: skip
    assert np.allclose(numbers(weights["means"]).reshape(3, 3), cube.mean(axis=2))
    assert np.allclose(numbers(weights["halves"]).reshape(3, 2, 3)[:, 1], cube[:, :, 1::2].mean(axis=2))
    flat = (cube - cube.mean(axis=2, keepdims=True)).reshape(9, -1)
    whole, expected = flat @ flat.T, []
    for s in range(3):
        for t in range(s, 3):
            own = whole[3 * s : 3 * s + 3, 3 * t : 3 * t + 3]
            expected += list(own[np.triu_indices(3)] if s == t else own.ravel())
    assert np.allclose(numbers(weights["products"]), expected)


def test_sums_stay_within_their_room_and_gaps_go_first():
    frame, scores = results(**SMALL, units=("weights",))
    gone = frame[(frame["method"] == "snip") & (frame["sparsity_target"] == 0.95)].index[0]
    ranked = part(frame.drop(gone)).ranked
    (resolved,) = sums(ranked, scores)
    (plain,) = sums(ranked, scores, largest=4 * 9**2)
    assert (resolved["columns"], resolved["sparsities"]) == (3, [0.5, 0.9, 0.95])
    assert (plain["columns"], plain["sparsities"]) == (1, [0.5, 0.9])
    assert sums(ranked, scores, largest=4 * 9**2 - 1) == []


def test_results_of_other_test_examples_are_not_paired():
    frame, scores = results(**SMALL, units=("weights",))
    key = frame[frame["method"] == "opd"]["key"].iloc[0]
    assert sums(part(frame).ranked, scores | {key: Scores("other data", scores[key].values)}) == []


def test_nothing_pruned_means_nothing_to_choose():
    assert payload(part(pd.DataFrame([cell("dense", "digits", "mlp", "weights", 0, 0.0, 0.9)])), {}, []) == ""
    assert payload(part(pd.DataFrame()), {}, []) == ""


def test_every_fixed_look_has_a_marker_of_its_own_outline():
    from bayesprune.reports.drawing.style import BUILT_IN

    found = looks(BUILT_IN)
    assert all(look["marker"].startswith("M") for look in found.values())
    outlines = {look["marker"] for look in found.values()}
    assert len(outlines) == len({style.marker for style in BUILT_IN.values()})
    assert found["magnitude"]["color"] == BUILT_IN["magnitude"].color


def test_a_script_that_could_end_its_element_is_refused(monkeypatch, tmp_path):
    (tmp_path / "a.js").write_text("const text = '</script>';")
    monkeypatch.setattr(embedding, "SCRIPTS", ("a",))
    monkeypatch.setattr(embedding, "__file__", str(tmp_path / "embedding.py"))
    with pytest.raises(ValueError, match="cannot stand in a page"):
        embedding._script.__wrapped__()


def test_every_script_is_in_the_page_once():
    folder = embedding.Path(embedding.__file__).parent
    assert sorted(path.stem for path in folder.glob("*.js")) == sorted(embedding.SCRIPTS)


@pytest.fixture
def folder(tmp_path):
    frame, scores = results(**SMALL, units=("weights",))
    return written(tmp_path / "results", frame.replace({np.nan: None}), scores), scores


def test_scores_of_folders_are_those_of_their_outputs(folder):
    found = all_scores(folder[0], folder[0])
    assert found.keys() == folder[1].keys()
    assert all((found[key].values == scores.values).all() for key, scores in folder[1].items())

    assert len({scores.test for scores in found.values()}) == 1


def test_the_command_puts_the_tests_into_the_page_and_needs_no_torch(folder, tmp_path):
    code = (
        "import sys; from bayesprune.bench.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, "report", str(folder[0]), "--out", str(tmp_path / "report")]
    subprocess.run(command, check=True, capture_output=True)
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    data = json.loads(page.partition('id="records">')[2].partition("</script>")[0])
    assert [block["entrants"] for block in data["sums"]] == [["magnitude", "opd", "snip"]]
    assert json.loads(data["records"]["run_settings"]["values"][0])["training"]["lr"] == 1e-05
