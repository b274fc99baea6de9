"""Every command through its real entry point."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bayesprune.bench import contract
from bayesprune.bench.cli import main
from click.testing import CliRunner

MATRIX = """\
datasets: [{name: digits, subset: 120}]
architectures: [{name: mlp, widths: [8]}]
methods: [magnitude, biggest]
sparsity: [0.5, 0.9]
seeds: [0, 1]
training: {epochs: 2}
finetune: {epochs: 1}
"""

PLUGIN = """\
from functools import partial
from bayesprune.methods.gaussian import MAP
from bayesprune.methods.pruner import Pruner, State, register

@register("biggest")
def biggest(precision: float = 1.0) -> Pruner:
    '''Signal-to-noise ratio of a Laplace posterior.'''
    def snr(state: State):
        q = state.posterior
        return state.units.gather({n: q.mean[n].square() / q.variance[n] for n in q.mean})
    return Pruner(partial(MAP, precision), snr)
"""


def bayesprune(*arguments, cwd=None):
    program = Path(sys.executable).with_name("bayesprune")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=300,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip


def here(*arguments):
    """In this process, which has imported everything."""
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.yaml").write_text(MATRIX)
    (tmp_path / "mine.py").write_text(PLUGIN)
    return tmp_path


def test_a_ten_line_plugin_is_listed_checked_run_and_reported(folder, monkeypatch, coarse):
    monkeypatch.setattr(contract, "TINY", contract.TINY[::4])  # test_contract has all
    listed = bayesprune("list", "methods", "--plugin", "mine.py", cwd=folder)
    assert "Signal-to-noise ratio of a Laplace posterior." in listed.stdout
    checked = here("check", "mine.py")
    assert checked.exit_code == 0, checked.output
    assert "0 failed" in checked.stdout
    ran = bayesprune("run", "m.yaml", "--plugin", "mine.py", "--out", "r", "--jobs", 1, cwd=folder)
    assert ran.returncode == 0, ran.stderr
    assert "8 done, 0 failed, 0 skipped" in ran.stdout
    assert "8/8 cells" in ran.stderr  # plain lines where there is no terminal
    again = here("run", "m.yaml", "--plugin", "mine.py", "--out", "r")
    assert "Nothing to run" in again.stdout
    reported = here("report", "r", "--out", "page")
    assert reported.exit_code == 0, reported.output
    assert "biggest" in (folder / "page" / "index.html").read_text()


def test_a_plugin_that_reads_the_test_split_fails_its_check(folder, monkeypatch):
    monkeypatch.setattr(contract, "TINY", contract.TINY[:1])  # whatever the network, it reads
    peek = "from bayesprune.datasets.load import load; load('digits').test; q = state.posterior"
    cheat = PLUGIN.replace("q = state.posterior", peek)
    (folder / "cheat.py").write_text(cheat)
    checked = here("check", "cheat.py")
    assert checked.exit_code == 1
    assert "BROKEN  never reads the test split" in checked.stdout


def test_a_dry_run_tells_and_writes_nothing(folder):
    told = here("run", "m.yaml", "--plugin", "mine.py", "--dry-run")
    assert told.exit_code == 0, told.output
    assert "8 cells, 0 of them finished, 8 to run" in told.stdout
    assert "2 networks to train" in told.stdout
    assert "estimated time" in told.stdout
    assert not (folder / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "absent/m.yaml"], "does not exist"),
        (["run", "digit"], "did you mean 'digits'"),
        (["run", "m.yaml"], "unknown method 'biggest'"),
        (["run", "m.yaml", "--plugin", "broken.py"], "line 1: ZeroDivisionError"),
        (["run", "smoke", "--shard", "5"], "give I/N"),
        (["run", "smoke", "--shard", "5/4"], "shard 5/4 does not exist"),
        (["run", "smoke", "--device", "tpu"], "tpu"),
        (["run", "smoke", "--out", "."], "not a results folder"),
        (["report", "absent"], "not a results folder"),
        (["check", "magnitudo"], "did you mean 'magnitude'"),
        (["check", "absent.py"], "not a file"),
    ],
)
def test_mistakes_are_one_line_with_exit_code_2_and_write_nothing(folder, arguments, message):
    (folder / "broken.py").write_text("1 / 0\n")
    before = sorted(folder.rglob("*"))
    result = here(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("bayesprune: error: ")
    assert message in line
    assert sorted(folder.rglob("*")) == before


def test_one_broken_plugin_does_not_hide_the_others(folder):
    (folder / "broken.py").write_text("1 / 0\n")
    listed = here("list", "methods", "--plugin", "broken.py", "--plugin", "mine.py")
    assert listed.exit_code == 2
    assert "biggest" in listed.stdout
    assert "ZeroDivisionError" in listed.stderr


@pytest.mark.parametrize("command", ["", "run", "report", "list", "check"])
def test_help_teaches(command):
    result = bayesprune(*command.split(), "--help")
    assert result.returncode == 0
    assert len(result.stdout) > 300
