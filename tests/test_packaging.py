"""What is shipped, what it says of itself, and how it installs."""

import ast
import doctest
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import bayesprune
import pytest
import torch
from bayesprune.bench.cli import main
from bayesprune.bench.contract import PROMISES, TINY, check_on
from bayesprune.bench.results import columns as record_columns
from bayesprune.bench.spec.matrix import Matrix, load_matrix
from bayesprune.methods import registry as methods
from click.testing import CliRunner
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = (ROOT / "README.md").read_text()
DOCS = {path.stem: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
HEAVY = ("torch", "pandas", "matplotlib", "scipy", "sklearn")
SHIPPED = (
    "*.py", "py.typed", "__init__.pyi", "references.bib", "matrices/*.yaml", "entries/*.yaml", "templates/*", "*.js", "*.mplstyle", "*.jsonl.xz",
)  # fmt: skip
RELATIVES = {"bmrs-n-exact", "bmrs-n-mid", "snr", "noise-mean", "precision-only"}  # "and relatives"
# Numbers beside units of measurement that are settings of the program.
SETTINGS = {"docs/cluster.md": ["15 seconds", "1 GB"], "docs/report.md": ["8 MiB"]}
WINGS = ("architectures", "bench", "datasets", "methods", "reports")
BUILD_PRODUCTS = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist", ".*")


def run(*command, cwd=ROOT, **environment):
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def folders():
    """Folders of the sub-packages, by import name."""
    names = PYPROJECT["tool"]["setuptools"]["packages"]
    return {name: ROOT.joinpath(*name.split(".")[1:]) for name in names}


def is_hidden(path):
    """Whether it lies in an environment, a cache or a build."""
    parts = path.relative_to(ROOT).parts
    return parts[0] in ("build", "dist") or any(part.startswith(".") for part in parts)


# ---------------------------------------------------------------------- layout


def test_the_root_holds_no_module_but_init():
    assert [p.name for p in ROOT.glob("*.py")] == ["__init__.py"]


def test_every_sub_package_is_declared():
    inside = [p.parent.relative_to(ROOT).parts for p in ROOT.rglob("__init__.py") if not is_hidden(p)]
    assert {".".join(("bayesprune", *parts)) for parts in inside} == set(folders())


def test_root_docstring():
    assert doctest.testmod(bayesprune).failed == 0


def test_the_face_has_every_name_it_promises():
    assert all(getattr(bayesprune, name) for name in bayesprune.__all__)
    assert callable(bayesprune.curvature.diagonal)
    assert callable(bayesprune.doctor)
    with pytest.raises(AttributeError, match="offers"):
        bayesprune.prone  # noqa: B018


# ---------------------------------------------------------------------- imports


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import bayesprune", (*HEAVY, "numpy", "click")),
        ("call(['--help'])", HEAVY),
        *((f"call(['list', '{kind}'])", HEAVY) for kind in ("methods", "architectures", "datasets", "matrices")),
        ("import bayesprune.reports.build", ("torch",)),
        ("call(['report', 'no such folder'])", ("torch",)),
    ],
)
def test_what_must_start_fast_imports_nothing_heavy(statement, unwanted, tmp_path):
    driver = f"""
import sys
def call(arguments):
    from bayesprune.bench.cli import main
    try:
        main(arguments)
    except SystemExit:
        pass
{statement}
print()
print([name for name in {unwanted!r} if name in sys.modules])
"""
    assert run(sys.executable, "-c", driver, cwd=tmp_path).splitlines()[-1] == "[]"


def linter():
    path = Path(sys.executable).with_name("lint-imports")
    if not path.exists():
        pytest.skip("import-linter is not installed")
    return path


def test_imports_go_down_only():
    assert "6 kept, 0 broken" in run(linter(), "--no-cache")


@pytest.mark.parametrize(
    ("file", "planted"),
    [
        ("methods/pruner.py", "from .laplace.map import MAP"),
        ("methods/closed_forms/flat.py", "from ..magnitude import magnitude"),
        ("architectures/units/vector.py", "from ..discovery.units_of import units"),
        ("bench/results/store.py", "from ..harness.cell import execute"),
        ("reports/records/metrics.py", "from .frame import Panel"),
        ("datasets/errors.py", "from .registry import Registry"),
    ],
)
def test_a_planted_circle_or_step_up_is_found_out(file, planted, tmp_path):
    copy = tmp_path / "bayesprune"
    copy.mkdir()
    for name in ("pyproject.toml", "__init__.py"):
        shutil.copy(ROOT / name, copy)
    for wing in WINGS:
        shutil.copytree(ROOT / wing, copy / wing, ignore=BUILD_PRODUCTS)
    with (copy / file).open("a") as source:
        source.write(f"\n{planted}\n")
    done = subprocess.run(
        [linter(), "--no-cache"],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout


# ---------------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel as `python -m build` makes it: from the source archive of a clean copy."""
    pytest.importorskip("build")
    source = tmp_path_factory.mktemp("wheel") / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "__init__.py", "__init__.pyi", "py.typed"):
        shutil.copy(ROOT / name, source)
    for folder in [*(ROOT / name for name in WINGS), ROOT / "tests"]:
        shutil.copytree(folder, source / folder.name, ignore=BUILD_PRODUCTS)
    run(sys.executable, "-m", "build", "--no-isolation", source, cwd=source.parent)
    return next((source / "dist").glob("*.whl"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        "/".join((*package.split("."), path.relative_to(folder).as_posix()))
        for package, folder in folders().items()
        for pattern in SHIPPED
        for path in folder.glob(pattern)
    }
    assert held == expected


def test_the_wheel_works_from_a_clean_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel)
    home = run(sys.executable, "-c", "import bayesprune; print(bayesprune.__file__)", cwd=empty, PYTHONPATH=str(site))
    assert Path(home.strip()) == site / "bayesprune" / "__init__.py"
    listing = run(sys.executable, "-m", "bayesprune.bench.cli", "list", cwd=empty, PYTHONPATH=str(site))
    for name in ("magnitude", "resnet", "digits", "smoke"):
        assert f"  {name} " in listing
    assert not list(empty.iterdir())


# ---------------------------------------------------------------------- the Makefile


@pytest.fixture
def make(tmp_path):
    """Calls make in a folder with the Makefile and a Python that only notes what it is asked to do."""
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    log = tmp_path / "log"
    noting = f'#!/bin/sh\necho "$(basename "$0") $*" >> {log}\n'
    python = tmp_path / "fake-python"
    copies = "".join(
        f"cp {tmp_path}/tool env/bin/{name}\n" for name in ("python", "pytest", "bayesprune", "sphinx-build")
    )
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\nmkdir -p env/bin\n{copies}')
    (tmp_path / "tool").write_text(noting)
    for script in ("fake-python", "tool"):
        (tmp_path / script).chmod(0o755)

    def call(*targets):
        log.write_text("")
        run("make", *targets, f"PYTHON={python}", "VENV=env", cwd=tmp_path, MAKEFLAGS="")
        return log.read_text().splitlines()

    return call


TEST = "pytest -n auto --dist loadfile"
INSTALL = "python -m pip install --constraint constraints.txt --editable .[dev]"


def test_make_installs_once_and_again_when_requirements_change(make, tmp_path):
    assert make("bench", "JOBS=2") == [
        INSTALL,
        "bayesprune run --out results --jobs 2",
        "bayesprune report results --out report",
    ]
    assert make("test") == [TEST]
    for name in ("pyproject.toml", "constraints.txt"):
        later = (tmp_path / "env" / ".installed").stat().st_mtime + 10
        os.utime(tmp_path / name, (later, later))
        assert make("test") == [INSTALL, TEST]
        os.utime(tmp_path / name, (0, 0))


def test_the_documentation_has_requirements_of_its_own(make):
    assert make("docs") == [
        INSTALL,
        INSTALL.replace("[dev]", "[dev,docs]"),
        "sphinx-build -W --keep-going -b html docs docs/_build/html",
    ]
    assert make("docs")[:-1] == []


def test_make_alone_explains_itself(make, tmp_path):
    listed = run("make", cwd=tmp_path, MAKEFLAGS="")
    assert all(
        f"make {target} " in listed
        for target in ("bench", "test", "docs", "pictures", "check", "speed", "constraints", "clean")
    )


def test_make_refuses_an_old_python(make, tmp_path):
    old = tmp_path / "old-python"
    old.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 9); exec(sys.argv[1])" "$2"\n'
    )
    old.chmod(0o755)
    with pytest.raises(AssertionError, match=r"needs Python 3\.11 or newer, but \S+ is 3\.9"):
        run("make", "test", f"PYTHON={old}", "VENV=env", cwd=tmp_path, MAKEFLAGS="")
    assert not (tmp_path / "env").exists()


def test_constraints_pin_every_direct_requirement():
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    project = PYPROJECT["project"]
    wanted = [
        *project["dependencies"],
        *(n for extra in ("dev", "docs") for n in project["optional-dependencies"][extra]),
    ]
    names = {re.split(r"[<>=!~\[; ]", requirement)[0].lower() for requirement in wanted}
    assert names <= {name.lower().replace("_", "-") for name in pinned}


def test_what_is_installed_runs_on_the_oldest_python_that_is_promised():
    oldest = PYPROJECT["project"]["requires-python"].removeprefix(">=") + ".0"
    wanted = {d.name: d.metadata.get("Requires-Python", "") for d in metadata.distributions()}
    assert not {name for name, pythons in wanted.items() if oldest not in SpecifierSet(pythons)}


# ---------------------------------------------------------------------- the texts


def tracked():
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard")
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


@pytest.mark.parametrize(
    "unwanted",
    [
        r"pypi\.org|pythonhosted|download\.pytorch|index-url|find-links",
        r"(?<![\w.])/(work|root|workspace|tmp/\w)/?\b",
        r"(?i)\bsessions?\b(?![\"'])|\bworkplaces?\b",
    ],
    ids=["registry host", "path of one machine", "how it was made"],
)
def test_no_file_names_what_belongs_to_one_place(unwanted):
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked()
        if path != Path(__file__) and (match := re.search(unwanted, path.read_text(errors="replace")))
    ]
    assert not found


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_the_readme_names_every_method():
    missing = [name for name in methods.catalogue() if f"`{name}`" not in README]
    assert set(missing) <= RELATIVES


def test_links_between_the_texts_lead_to_files():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert link.startswith("/") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_page_of_records_names_every_column():
    columns = (
        *record_columns.IDENTITY,
        *record_columns.RESULTS,
        *record_columns.SECONDS,
        *record_columns.COSTS,
        "traceback",
    )
    assert [c for c in columns if f"`{c}`" not in DOCS["records"]] == []


def test_the_page_of_matrices_explains_every_key():
    assert [key for key in Matrix.model_fields if f"`{key}`" not in DOCS["matrix"]] == []


# A number beside a unit in which results are measured; settings, definitions and shares of data have none of these.
MEASURED = (
    r"\d+\s*(?:percentage )?points?\b",
    r"\d+\s*(?:ms|µs|s|seconds|minutes|min|hours|h|GB|GiB|MiB)\b",
    r"±",
    r"\d(?:\.\d+)?\s*(?:x|×|times|-fold)\s+(?:as|faster|slower|smaller|larger|better|more|fewer)",
    r"\b(?:accuracy|error|nll|ece|brier|auroc|score)\w*\W+(?:of|is|was|=|at)?\W*\d",
    r"\d[\d.]*\s*%\s*(?:accura|of the accuracy|error)",
)


def typed(text):
    """Measured numbers in prose; what stands in blocks of code are settings and commands."""
    made = re.sub(r"<!-- (\w+) -->.*?<!-- end of \1 -->", "", text, flags=re.DOTALL)  # by a program, of records
    prose = re.sub(r"^(`{3,}).*?^\1$|`[^`\n]*`", "", made, flags=re.MULTILINE | re.DOTALL)
    return [match[0] for pattern in MEASURED for match in re.finditer(pattern, prose, re.IGNORECASE)]


def test_no_measured_number_is_typed_into_the_texts():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/extending").glob("*.md"))]
    pages += sorted((ROOT / "docs/templates").glob("*.md"))
    found = {page.relative_to(ROOT).as_posix(): typed(page.read_text()) for page in pages}
    for tutorial in sorted((ROOT / "docs/tutorials").glob("*.py")):
        text = tutorial.read_text()
        remarks = [line for line in text.splitlines() if line.startswith("# ")]
        assert typed("\n".join([ast.get_docstring(ast.parse(text)) or "", *remarks])) == [], tutorial.name
    assert {page: numbers for page, numbers in found.items() if numbers and page not in SETTINGS} == {}
    assert {page: numbers for page, numbers in found.items() if page in SETTINGS} == SETTINGS


@pytest.mark.parametrize(
    "sentence",
    [
        "SynFlow leads magnitude by 6 points.",
        "It reaches an accuracy of 97.3 there.",
        "Scoring takes 12 seconds.",
        "The compact network is 2.3 times faster.",
        "95.1 ± 0.2",
        "It keeps 97 % of the accuracy.",
    ],
)
def test_measured_numbers_would_be_found(sentence):
    assert typed(f"# Page\n\n{sentence}\n")


def texts():
    return "\n".join([README, *DOCS.values()])


def block(language, containing):
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", texts(), re.MULTILINE | re.DOTALL)
    return next(text for text in blocks if containing in text)


def test_the_matrix_of_the_documentation_is_valid(tmp_path):
    file = tmp_path / "matrix.yaml"
    file.write_text(block("yaml", "exclude:"))
    assert len(load_matrix(file).cells()) == 2 * 3 * 3 * 5 * 4  # architectures x units, less the excluded one


def test_the_readme_prunes_a_network_by_itself_and_in_a_loop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block("python", "bp.fit"), names)
    assert names["pruned"].sparsity == 0.5
    assert names["small"][0].out_features == 32
    exec(block("python", "bp.attach"), names)
    assert names["pruned"].sparsity == 0.5
    assert names["pruned"].compact()[0].out_features == 32


def test_the_vision_transformer_of_the_documentation_becomes_smaller(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block("python", "vit_tiny"), names)
    before, after = (sum(p.numel() for p in names[n].parameters()) for n in ("vit", "small"))
    assert after < 0.7 * before
    assert "certified: " in capsys.readouterr().out
    network, x = names["pruned"].network.eval(), names["x"][:4]
    torch.testing.assert_close(names["small"](x), network(x), rtol=1e-5, atol=1e-5)


@pytest.fixture
def plugin(tmp_path):
    """The plug-in of the README, loaded from a file for the time of a test."""
    file = tmp_path / "my_evidence.py"
    file.write_text(block("python", 'register("my-'))
    return file


def test_the_plug_in_of_the_readme_is_short(plugin):
    lines = [line for line in plugin.read_text().splitlines() if line.strip()]
    assert len(lines) < 10
    ast.parse(plugin.read_text())


@pytest.mark.parametrize("units", ["weights", "groups"])
def test_the_plug_in_of_the_readme_keeps_the_contract(plugin, units):
    methods.load_plugin(plugin)
    assert [v.problem for v in check_on("my-evidence", TINY[0], units)] == [""] * len(PROMISES)


def test_the_plug_in_of_the_readme_is_listed_and_runs(plugin, tmp_path):
    command = [sys.executable, "-m", "bayesprune.bench.cli"]
    assert "my-evidence" in run(*command, "list", "methods", "--plugin", plugin)
    matrix = tmp_path / "matrix.yaml"
    matrix.write_text(
        "datasets: [digits]\narchitectures: [{name: mlp, widths: [16]}]\nmethods: [my-evidence]\n"
        "sparsity: [0.5, auto]\nseeds: [0]\ntraining: {epochs: 2}\nfinetune: {epochs: 1}\n"
    )
    out = tmp_path / "results"
    done = CliRunner().invoke(main, ["run", str(matrix), "--plugin", str(plugin), "--out", str(out), "--jobs", "1"])
    assert done.exit_code == 0, done.output
    records = [json.loads(path.read_text())["record"] for path in (out / "cells").iterdir()]
    assert [r["status"] for r in records] == ["done", "done"]
    assert {r["sparsity_auto"] for r in records} == {True, False}
