"""What docstrings say for the documentation: complete for every method, about tests and papers that exist."""

import re
import subprocess
import sys
from pathlib import Path

import bayesprune
import pytest
import yaml
from bayesprune.architectures import registry as architectures
from bayesprune.bench.spec.shipped import shipped_matrices
from bayesprune.datasets import registry as datasets
from bayesprune.datasets.described import described
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.registry import Registry
from bayesprune.methods import registry as methods
from bayesprune.reports.commands.cite import cite
from bayesprune.reports.writing.bibliography import SUITE, references

ROOT = Path(__file__).parents[1]
REGISTRIES = {"methods": methods, "architectures": architectures, "datasets": datasets}
ALL = [(kind, e) for kind, r in REGISTRIES.items() for e in r.catalogue().values() if e.origin == "built-in"]
METHODS = [entry for kind, entry in ALL if kind == "methods"]
MEANINGS = yaml.safe_load((ROOT / "docs/options.yaml").read_text())


@pytest.mark.parametrize("entry", METHODS, ids=lambda e: e.name)
def test_every_method_says_what_its_page_shows(entry):
    says = described(entry)
    assert says.formula
    assert says.papers
    assert says.deviations
    assert says.prose


@pytest.mark.parametrize("entry", METHODS, ids=lambda e: e.name)
def test_the_oracles_of_every_method_are_tests_that_exist(entry):
    oracles = described(entry).oracles
    assert oracles
    for file, name in (oracle.split("::") for oracle in oracles):
        assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), f"{file} has no {name}"


@pytest.mark.parametrize(("kind", "entry"), ALL, ids=lambda v: getattr(v, "name", v))
def test_every_option_has_a_meaning(kind, entry):
    known = MEANINGS[kind]["shared"] | MEANINGS[kind].get(entry.name, {})
    assert [option for option in entry.options if option not in known] == []


def test_no_meaning_is_of_an_option_that_is_gone():
    for kind, registry in REGISTRIES.items():
        catalogue = registry.catalogue()
        taken = {option for entry in catalogue.values() for option in entry.options}
        for name, meanings in MEANINGS[kind].items():
            assert set(meanings) <= (taken if name == "shared" else set(catalogue[name].options)), name


def test_papers_and_references_are_the_same():
    named = {key for _, entry in ALL for key in described(entry).papers}
    assert named | {SUITE} == set(references())


def test_references_are_bibtex():
    parse_string = pytest.importorskip("pybtex.database").parse_string
    entries = parse_string("\n\n".join(references().values()), "bibtex").entries
    assert entries.keys() == references().keys()
    assert all({"title", "year"} <= entry.fields.keys() and entry.persons["author"] for entry in entries.values())


# ---------------------------------------------------------------------- citing


def keys(text):
    return re.findall(r"^@\w+\{(\S+),", text, re.MULTILINE)


def test_methods_are_cited_once_each_with_the_criterion_in_their_names():
    assert keys(cite(["spam-snip", "opd"])) == [SUITE, "dhahri2024shaving", "immer2021scalable", "lee2019snip"]


def test_a_matrix_cites_networks_data_and_methods_that_options_name(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(
        "datasets: [{name: mnist, subset: 9}]\narchitectures: [lenet5, vit]\nmethods: [{name: random, like: lamp}]\n"
    )
    cited = keys(cite([str(file)]))
    assert cited[0] == SUITE
    expected = {"lecun1998gradient", "dosovitskiy2021image", "frankle2021pruning", "lee2021layer"}
    assert set(cited[1:]) == expected


@pytest.mark.parametrize("matrix", shipped_matrices())
def test_every_shipped_matrix_can_be_cited(matrix):
    assert SUITE in keys(cite([matrix]))


def test_nothing_heavy_is_imported():
    code = "import sys; from bayesprune.bench.cli import main; main(['cite', 'smoke'], standalone_mode=False)"
    code += "; sys.exit(bool({'torch', 'pandas', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "@" in done.stdout


@pytest.mark.parametrize("name", ["opt", "no/such.yaml"])
def test_what_cannot_be_cited_is_refused(name):
    with pytest.raises(UsageError, match=r"unknown method or matrix 'opt'; did you mean 'opd'|does not exist"):
        cite([name])


def test_a_plug_in_brings_its_own_references(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        '"""Mine.\n\nPaper: me2026"""\n'
        "import bayesprune as bp\n\n\n@bp.register('mine')\ndef mine():\n"
        "    '''My method.'''\n    return bp.Pruner(bp.MAP, lambda state: state.units.gather(state.weights()))\n"
    )
    methods.load_plugin(plugin)
    with pytest.raises(UsageError, match=r"names the paper 'me2026', which is in no references\.bib"):
        cite(["mine"])
    (tmp_path / "references.bib").write_text("@misc{me2026,\n  title = {Mine},\n}\n")
    assert keys(cite(["mine"])) == [SUITE, "me2026"]


def test_the_citation_file_is_of_this_version():
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert found["version"] == bayesprune.__version__
    assert {"cff-version", "message", "title", "authors"} <= found.keys()
    assert f"version {bayesprune.__version__}" in references()[SUITE]


# ---------------------------------------------------------------------- reading


def test_sections_of_a_builder_go_before_those_of_its_module(tmp_path, monkeypatch):
    package = tmp_path / "shelf"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text(
        '"""Title.\n\nProse of\n  the module.\n\nPaper: a, b\nFormula: x = y,\n    z\n"""\n\n\n@register("n")\ndef n():\n'
        '    """Summary.\n\n    Prose.\n\n    Paper: c\n    """\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    says = described(Registry("thing", "shelf").catalogue()["n"])
    assert says.prose == ("Prose.", "Prose of\n  the module.")
    assert says.papers == ("c",)
    assert says.formula == "x = y, z"
    assert says.deviations == ""
    assert says.oracles == ()
