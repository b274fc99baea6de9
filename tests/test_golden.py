"""Golden cells: nothing that is registered moves beyond rounding without a new revision, and mutants are noticed."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import golden
import mutants
import pytest
import torch
from bayesprune.architectures import registry as architectures
from bayesprune.bench.spec.metrics import registry as metrics
from bayesprune.datasets import registry as datasets
from bayesprune.datasets.registry import BUILT_IN
from bayesprune.methods import registry as methods
from bayesprune.methods.laplace.map import MAP

SUBJECTS = {subject.name: subject for subject in golden.subjects()}
STORED = golden.stored()


@pytest.fixture(autouse=True)
def _quiet():
    """Short trainings are warned of, which is not the matter here."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", SUBJECTS)
def test_values_do_not_move_without_a_new_revision(name):
    moved = golden.compared(STORED, SUBJECTS[name])[1]
    assert moved is None, f"{moved.name}: {moved.what}. " + (
        "Run make golden." if moved.revised else "Raise its revision, then make golden."
    )


def test_everything_that_is_registered_has_a_golden_cell():
    """But for what is made of the user's own code, of data that must be fetched, and of timm's networks."""
    named = {name.partition("/")[2].partition(" of ")[0].partition("(")[0] for name in STORED}
    for registry in (methods, metrics):
        own = {name.replace("<criterion>", "opd") for name, e in registry.catalogue().items() if e.origin == BUILT_IN}
        assert own <= named
    assert set(architectures.catalogue()) - named == {"<module>:<function>", "timm/<model>"}
    fetched = {
        "cifar10", "cifar100", "docstrings", "fashion-mnist", "gene-expression/<name>", "imdb", "mnist", "mr-polarity",
        "sst2", "svhn", "tinyshakespeare", "uci/<name>",
    }  # fmt: skip
    assert set(datasets.catalogue()) - named == fetched | {"<module>:<function>", "folder:<path>"}
    assert set(SUBJECTS) == set(STORED), "run make golden"


def test_the_file_is_compact():
    assert golden.FILE.stat().st_size < 200_000


# ---------------------------------------------------------------- writing


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A file of two subjects, and its contents."""
    chosen = ("metric/brier", "method/magnitude")
    monkeypatch.setattr(golden, "FILE", tmp_path / "golden.json")
    monkeypatch.setattr(golden, "subjects", lambda: [SUBJECTS[name] for name in chosen])
    assert golden.write() == 0
    return lambda: json.loads(golden.FILE.read_text())


def test_writing_twice_changes_nothing(small):
    before = golden.FILE.read_bytes()
    assert golden.write() == 0
    assert golden.FILE.read_bytes() == before


def shrunk(self, network, scale):
    parameters = list(network.parameters())

    def add():
        torch._foreach_add_([p.grad for p in parameters], parameters, alpha=3 * scale * self._delta)

    return add


def test_a_value_that_moved_is_written_only_under_a_new_revision(small, monkeypatch, capsys):
    before = small()
    monkeypatch.setattr(golden, "_folder", golden.tempfile.TemporaryDirectory())
    monkeypatch.setattr(golden, "subjects", lambda: [s for s in _fresh() if s.name in before])
    monkeypatch.setattr(MAP, "penalizer", shrunk)
    assert golden.write() == 1
    assert "moved without a new revision" in capsys.readouterr().err
    assert small() == before
    monkeypatch.setattr(MAP, "revision", 2)
    assert golden.write() == 0
    assert small()["method/magnitude"]["revisions"] == {"inference": {"MAP": 2}}
    assert small()["method/magnitude"]["values"] != before["method/magnitude"]["values"]
    assert small()["metric/brier"] == before["metric/brier"]


def _fresh():
    return list(golden._metrics()) + list(golden._methods())


def test_a_default_that_changed_needs_a_revision(small):
    subject = SUBJECTS["method/magnitude"]
    other = subject._replace(options={**subject.options, "precision": "float = 2.0"})
    moved = golden.compared(small(), other)[1]
    assert (moved.what, moved.revised) == ("the default of precision is another", False)
    more = subject._replace(options={**subject.options, "another": "int = 1"})
    assert golden.compared(small(), more)[1] is None


def test_the_lines_of_mutants_are_there():
    assert len(mutants.MUTANTS) >= 20
    assert all(mutants.planted(mutant) for mutant in mutants.MUTANTS)


@pytest.mark.slow
def test_twenty_mutants_are_noticed_and_the_package_itself_is_not():
    done = subprocess.run(
        [sys.executable, str(Path(golden.__file__).with_name("mutants.py"))], capture_output=True, text=True, timeout=900,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\nnoticed") >= 20
    assert done.stdout.startswith("silent  unchanged")
