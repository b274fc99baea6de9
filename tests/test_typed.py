"""A user's project sees the types of the package: pyright reads them through `py.typed`."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import bayesprune
import pytest

ROOT = Path(__file__).parents[1]

USER = """
import bayesprune as bp
from torch import Tensor, nn


@bp.register("mine")
def mine() -> bp.Pruner:
    return bp.Pruner(bp.MAP, score)


def score(state: bp.State) -> Tensor:
    return state.units.gather(state.weights())


def smaller(network: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
    pruned: bp.Pruned = bp.prune(network, (x, y), "opd", 0.5)
    sparsity: float = pruned.sparsity
    return pruned.compact() if sparsity else bp.fit(network, (x, y), "mine", epochs=1).network
"""
WRONG = """
import bayesprune as bp


def wrong(pruned: bp.Pruned) -> str:
    return pruned.sparsity


def absent(pruner: bp.Pruner) -> float:
    return pruner.treshold
"""


def errors(folder):
    pytest.importorskip("pyright")
    packages = folder / "packages"  # the folder in which this package lies, as site-packages would be
    if not packages.exists():
        packages.mkdir()
        packages.joinpath("bayesprune").symlink_to(ROOT)
    (folder / "pyproject.toml").write_text(
        f'[tool.pyright]\ninclude = ["*.py"]\nextraPaths = ["{packages}"]\nreportMissingTypeStubs = true\n'
    )
    command = [Path(sys.executable).with_name("pyright"), "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=dict(os.environ), timeout=300)
    return [d for d in json.loads(done.stdout)["generalDiagnostics"] if d["severity"] == "error"]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("node") and not Path.home().joinpath(".cache").exists(), reason="no Node.js")
def test_a_users_project_is_checked_against_the_types_of_the_package(tmp_path):
    (tmp_path / "user.py").write_text(USER)
    assert errors(tmp_path) == []
    (tmp_path / "user.py").unlink()
    (tmp_path / "wrong.py").write_text(WRONG)
    rules = {found["rule"] for found in errors(tmp_path)}
    assert rules == {"reportReturnType", "reportAttributeAccessIssue"}


def test_the_types_of_the_face_are_those_of_its_homes():
    tree = ast.parse((ROOT / "__init__.pyi").read_text())
    imported = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == {name: target(name, *home.partition(":")) for name, home in bayesprune._HOMES.items()}
    listed = next(node.value for node in tree.body if isinstance(node, ast.Assign))
    assert sorted(ast.literal_eval(listed)) == bayesprune.__all__


def target(name, home, colon, at_home):
    """The module of a name, and what it is called there; of a module, its parent and its own name."""
    parent, _, module = home.rpartition(".")
    return (parent, module) if colon and not at_home else (home, at_home or name)
