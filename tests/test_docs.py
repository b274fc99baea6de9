"""What the documentation is made of: pages from registries, also of plug-ins; links that are followed; tutorials."""

import ast
import sys
from pathlib import Path

import pandas as pd
import pytest
from bayesprune.architectures import registry as architectures
from bayesprune.datasets import registry as datasets
from bayesprune.datasets.described import described
from bayesprune.methods import registry as methods

ROOT = Path(__file__).parents[1]
REGISTRIES = {"methods": methods, "architectures": architectures, "datasets": datasets}

if not (ROOT / "docs/generators").is_dir():
    pytest.skip("not a checkout", allow_module_level=True)
sys.path.insert(0, str(ROOT / "docs"))

from generators import commands, links, markdown, pages, pictures, reference  # noqa: E402


@pytest.fixture(autouse=True)
def no_results(monkeypatch):
    """Without reference results, as long as a test brings none."""
    monkeypatch.setattr(reference, "matrices", dict)
    monkeypatch.setattr(reference, "standings", lambda: ())


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_entry_of_the_registries_has_a_page_that_the_list_links_to(kind, tmp_path):
    pages.write(tmp_path)
    listed = (tmp_path / kind / "index.md").read_text()
    for name in REGISTRIES[kind].catalogue():
        page = (tmp_path / kind / f"{markdown.slug(name)}.md").read_text()
        assert page.startswith(f"# `{name}`\n")
        assert f"({markdown.slug(name)}.md)" in listed
        assert ("There are no reference results for it yet" in page) != bool(pages.USERS_OWN.search(name))


def test_the_page_of_a_method_says_all_that_its_docstrings_do(tmp_path):
    entry = methods.catalogue()["obd"]
    page, says = pages.page("methods", entry, tmp_path), described(entry)
    assert "s<sub>k</sub> = ½ c H<sub>kk</sub> θ<sub>k</sub>²" in page
    assert "@inproceedings{lecun1989optimal," in page
    assert all(f"`{oracle}`" in page for oracle in says.oracles)
    assert all(f"| `{option}` |" in page for option in entry.options)
    assert "back from layer to layer" in page


def test_a_plug_in_of_an_installed_package_has_its_page_too(tmp_path, monkeypatch, request):
    package = tmp_path / "theirs-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[bayesprune.pruners]\ntheirs = theirs\n")
    (tmp_path / "theirs.py").write_text(
        "import bayesprune as bp\n\n\n@bp.register('theirs')\ndef theirs(strength: float = 2.0):\n"
        "    '''Their method.\n\n    Formula: s = t\n    '''\n"
        "    return bp.Pruner(bp.MAP, lambda state: state.units.gather(state.weights()))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delattr(methods, "_entry_point_warnings", raising=False)
    request.addfinalizer(lambda: methods._builders.pop("theirs", None))
    out = tmp_path / "out"
    pages.write(out)
    page = (out / "methods" / "theirs.md").read_text()
    assert "From the installed plug-in `entry point theirs = theirs`" in page
    assert "s = t" in page
    assert "| `strength` | `float` | `2.0` |" in page
    assert "[`theirs`](theirs.md)" in (out / "methods" / "index.md").read_text()


# ---------------------------------------------------------------------- from results


@pytest.fixture
def results(monkeypatch):
    """Two methods and a baseline on two families of networks, as a matrix of reference results would have them."""
    from bayesprune.reports.records.frame import Records, prepare

    rows = [
        {
            "key": f"{method}{network}{target}{seed}", "status": "done", "dataset": "digits", "architecture": network,
            "method": method, "units": "weights", "sparsity_target": target, "sparsity": target, "seed": seed,
            "sparsity_auto": False, "accuracy": 0.9 - target / 5, "dense_accuracy": 0.95, "likelihood": "categorical",
        }
        for method in ("opd", "opd(rounds=5)", "magnitude")
        for network in ("mlp", "resnet(width=8)")
        for target in (0.5, 0.9)
        for seed in (0, 1)
    ]  # fmt: skip
    records = Records(prepare(pd.DataFrame(rows)))
    monkeypatch.setattr(reference, "matrices", lambda: {"here": None})
    monkeypatch.setattr(reference, "records", lambda matrix: records)


def test_a_method_with_results_has_a_chart_of_itself_and_the_baselines(results, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    monkeypatch.setattr(pages, "_meanings", lambda: {"methods": {"shared": {}}})
    page = pages.page("methods", methods.catalogue()["opd"], tmp_path)
    assert "```{figure} /charts/methods-opd.svg" in page
    drawn = (tmp_path / "charts/methods-opd.svg").read_text()
    assert drawn.count("<svg") == 1
    assert "no reference results" not in page
    assert "no reference results" in pages.page("methods", methods.catalogue()["snip"], tmp_path)


def test_the_picture_has_a_panel_for_each_family(results, tmp_path):
    shown = pictures._shown(pictures._references())
    assert [p.architecture for p in pictures._panels(shown)] == ["mlp", "resnet(width=8)"]
    assert set(shown["label"]) == {"opd", "magnitude"}
    assert pictures.write(tmp_path / "picture.svg").is_file()
    assert pictures.write(tmp_path / "again.svg").read_bytes() == (tmp_path / "picture.svg").read_bytes()
    assert "{figure}" in pictures.snippet(tmp_path)


def test_without_results_there_is_no_picture_and_the_page_says_so(tmp_path):
    assert pictures.write(tmp_path / "picture.svg") is None
    assert pictures.snippet(tmp_path) == "There are no reference results to show yet.\n"
    assert "no reference results yet" in pages.standings()


@pytest.mark.parametrize(
    ("kind", "label", "name"),
    [
        ("methods", "opd", "opd"),
        ("methods", "opd(rounds=5)", "opd"),
        ("methods", "spam-snip(prior=scalar)", "spam-<criterion>"),
        ("methods", "pip [x]", "pip"),
        ("methods", "of-a-plug-in(k=1)", "of-a-plug-in"),
        ("datasets", "uci/boston", "uci/<name>"),
        ("datasets", "gene-expression/colon_alon(subset=20)", "gene-expression/<name>"),
        ("architectures", "timm/resnet18", "timm/<model>"),
        ("architectures", "resnet(width=8)", "resnet"),
    ],
)
def test_variants_belong_to_the_page_of_their_name(kind, label, name):
    assert reference.base(label, pages.KINDS[kind][0]) == name


def test_pages_of_what_is_the_users_own_do_not_speak_of_reference_results(tmp_path):
    for kind, (registry, _) in pages.KINDS.items():
        for name, entry in registry.catalogue().items():
            if "<path>" in name or "<function>" in name:
                assert "eference results" not in pages.page(kind, entry, tmp_path)


# ---------------------------------------------------------------------- markup and links


def test_the_page_of_commands_has_the_help_of_each():
    page = commands.page()
    for name in ("run", "report", "fit", "cite", "compare"):
        assert f"\n## {name}\n" in page
        assert f"Usage: bayesprune {name} [OPTIONS]" in page


def test_what_is_indented_is_shown_as_it_stands_and_code_stays_code():
    assert markdown.prose("    a = b\n    c") == "```text\na = b\nc\n```"
    assert (
        markdown.prose("see `x_y|z`\nand |w_k|*2 of b_name")
        == r"see `x_y|z` and \|w<sub>k</sub>\|\*2 of b<sub>name</sub>"
    )


def test_values_are_shown_without_the_words_of_types():
    assert markdown.values("float | Literal['tuned'] | None") == "float or 'tuned' or None"


def test_links_that_lead_nowhere_are_named(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#here">1</a> <a href="https://elsewhere.org/x">2</a> <i id="up">')
    (tmp_path / "b.html").write_text(
        '<p id="here"><a href="a.html#gone">3</a> <a href="c.html">4</a> <a href="a.html#up">'
    )
    assert links.broken(tmp_path) == ["b.html: a.html#gone", "b.html: c.html"]


@pytest.mark.parametrize("file", sorted((ROOT / "docs/tutorials").glob("*.py")), ids=lambda p: p.stem)
def test_tutorials_use_what_the_package_offers(file):
    import bayesprune

    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree)
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and getattr(n.value, "id", None) == "bp"}
    assert used
    assert used <= set(bayesprune.__all__)
