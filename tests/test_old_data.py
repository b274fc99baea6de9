"""What was written before the files of the package moved is read unchanged: results, fits, a bundle, a plug-in."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import bayesprune as bp
import pytest
import torch
from bayesprune.bench.cli import main
from bayesprune.bench.spec.run import Run
from bayesprune.methods import registry as methods
from click.testing import CliRunner
from safetensors.torch import load_file

OLD = Path(__file__).parent / "data" / "before_the_move"


def call(*arguments):
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def results(tmp_path):
    return Path(shutil.copytree(OLD / "results", tmp_path / "results"))


def record(folder, key):
    return json.loads((folder / "cells" / f"{key}.json").read_text())["record"]


def test_a_matrix_finds_all_of_its_cells_under_their_old_keys(results):
    """But those of `bmr`, whose training has been revised since: they are computed anew, and the old ones put away."""
    before = {path.name: path.read_bytes() for path in (results / "cells").iterdir()}
    revised = {name for name in before if record(results, name.removesuffix(".json"))["method"] == "bmr"}
    call("run", OLD / "matrix.yaml", "--plugin", OLD / "plugin.py", "--out", results, "--jobs", 1)
    after = {path.name: path.read_bytes() for path in (results / "cells").iterdir()}
    assert {n: t for n, t in before.items() if n not in revised}.items() <= after.items()
    new = [record(results, name.removesuffix(".json")) for name in after.keys() - before.keys()]
    assert len(new) == len(revised) > 0
    assert {(r["method"], r["revisions"]["inference"]["NonCentred"]) for r in new} == {("bmr", 2)}
    assert {path.name for path in (results / "superseded").rglob("*.json")} >= revised
    assert not (results / "set-aside").exists()


def test_a_lost_record_comes_from_the_old_fit(results):
    """Its key, and so the fit, hangs on names of methods and inferences; the fit is not trained again."""
    fits = {path.name: path.read_bytes() for path in (results / "fits").iterdir()}
    lost = next(r for p in (results / "cells").iterdir() if (r := record(results, p.stem))["method"] == "my-evidence")
    (results / "cells" / f"{lost['key']}.json").unlink()
    matrix = results.parent / "matrix.yaml"
    matrix.write_text((OLD / "matrix.yaml").read_text().replace(", bmr,", ","))
    call("run", matrix, "--plugin", OLD / "plugin.py", "--out", results, "--jobs", 1)
    again = record(results, lost["key"])
    assert {path.name: path.read_bytes() for path in (results / "fits").iterdir()} == fits
    same = ("status", "dataset", "architecture", "method", "units", "inference", "criterion", "kept", "total")
    assert {name: again[name] for name in same} == {name: lost[name] for name in same}
    assert Run(**again["run"]) == Run(**lost["run"])  # which may have been given further fields since
    assert again["accuracy"] == pytest.approx(lost["accuracy"], abs=0.02)


def test_a_report_is_made_of_the_old_records(results, tmp_path, coarse):
    call("report", results, "--out", tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    for method in ("magnitude", "opd", "bmr", "my-evidence"):
        assert method in page


def test_a_bundle_gives_the_network_that_was_saved():
    known = load_file(OLD / "outputs.safetensors")
    network = bp.load(OLD / "small.safetensors")
    torch.testing.assert_close(network(known["x"]), known["outputs"], rtol=1e-5, atol=1e-6)


def test_a_plug_in_may_use_former_names_of_modules(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "bayesprune.methods.gaussian", raising=False)  # it warns when it is imported
    file = tmp_path / "old_names.py"
    file.write_text(
        "from bayesprune.methods.gaussian import MAP, TUNING_GRID\n"
        "from bayesprune.methods.pruner import Pruner, register\n"
        "from bayesprune.methods.posteriors import Gaussian\n"
        "from bayesprune.methods.scoring import mean_loss, scratch\n"
        "from bayesprune.methods.curvature import CurvatureKind, diagonal, trainable\n"
        "from bayesprune.methods.laplace import curvature_of\n"
        "from bayesprune.architectures.units import Units, group_units, prunable\n"
        "from bayesprune.architectures.groups import left_out, parallel\n"
        "from bayesprune.datasets.registry import NotApplicable, UsageError\n"
        "def score(state):\n"
        "    return state.units.gather({n: w.abs() for n, w in prunable(state.network).items()})\n"
        "@register('old-names')\n"
        "def build():\n"
        "    return Pruner(MAP, score)\n"
    )
    with pytest.warns(DeprecationWarning, match=r"bayesprune\.methods\.laplace\.map now"):
        module = methods.load_plugin(file)
    assert module.MAP is bp.MAP
    assert module.diagonal is bp.curvature.diagonal
    assert module.UsageError is bp.UsageError
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sys.modules["bayesprune.methods.gaussian"].nothing


STAY = {
    "methods.pruner": ("Pruner", "Inference", "State", "register"),
    "methods.bmrs": ("delta_f_lognormal", "delta_f_loguniform"),
    "methods.bmr": ("delta_f", "delta_f_multivariate"),
    "methods.spam": ("log_evidence",),
    "methods.variational_dropout": ("kl",),
    "methods.curvature": ("diagonal",),
}
# Each path is the first of the package that its process imports; torch they have in common, which takes the time.
FORKS = """
import os, sys, warnings
import torch
for line in sys.argv[1:]:
    with warnings.catch_warnings(action="ignore"):  # of threads that a process which forks might have
        child = os.fork()
    if child == 0:
        exec(line)
        sys.stdout.flush()
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        sys.exit(f"failed: {line}")
"""


def test_paths_that_stay():
    lines = [
        f"from bayesprune.{module} import {', '.join(names)}; print(callable({names[0]}))"
        for module, names in STAY.items()
    ]
    done = subprocess.run([sys.executable, "-W", "error", "-c", FORKS, *lines], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True\n" * len(STAY)
