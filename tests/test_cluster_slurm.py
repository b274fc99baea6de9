"""A matrix through dask-jobqueue on a real SLURM, which the test unpacks and starts; one job is requeued on the way."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clusters import command, eventually, heed_interrupts, records, timeless, written  # isort: skip
from slurm import Slurm, Unavailable  # isort: skip

pytestmark = pytest.mark.slow
pytest.importorskip("dask_jobqueue")
FILE = """\
engine: slurm
jobs: {jobs}
memory: 500MB
walltime: "00:20:00"
queue: {queue}
interface: lo
job_directives_skip: [--mem]  # the node of the test says nothing of its memory
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    try:
        found = Slurm(tmp_path_factory.mktemp("slurm"))
    except (Unavailable, subprocess.SubprocessError, OSError) as reason:
        pytest.skip(f"SLURM cannot be had: {reason}")
    try:
        found.start()
    except Unavailable as reason:
        found.stop()
        pytest.skip(f"SLURM cannot be started: {reason}")
    yield found
    found.stop()


def started(slurm, *arguments):
    return subprocess.Popen(
        command(*arguments), env={**slurm.environment, "OMP_NUM_THREADS": "1"}, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True, preexec_fn=heed_interrupts,
    )  # fmt: skip


def executor(tmp_path, jobs=2, queue="test"):
    path = tmp_path / "slurm.yaml"
    path.write_text(FILE.format(jobs=jobs, queue=queue))
    return path


def test_a_matrix_on_slurm_with_a_job_that_is_requeued_has_the_bits_of_a_serial_run(tmp_path, slurm):
    path = written(tmp_path, seeds=[0, 1, 2, 3], finetune={"epochs": 200})
    serial = subprocess.run(command("run", path, "--out", tmp_path / "serial", "--jobs", 1), capture_output=True)
    assert serial.returncode == 0, serial.stderr
    process = started(slurm, "run", path, "--out", tmp_path / "slurm", "--executor", executor(tmp_path))
    assert eventually(lambda: records(tmp_path / "slurm") >= 2, 180), slurm.jobs()
    running = sorted(number for number, state in slurm.jobs().items() if state == "RUNNING")
    assert len(running) == 2
    slurm.call("scontrol", "requeue", running[0])
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert timeless(tmp_path / "slurm") == timeless(tmp_path / "serial")
    logs = (tmp_path / "slurm" / "logs").glob("*.err")
    assert any("DUE TO JOB REQUEUE" in log.read_text() for log in logs)
    assert eventually(lambda: not slurm.jobs())


def test_ctrl_c_cancels_the_jobs(tmp_path, slurm):
    path = written(tmp_path, training={"epochs": 5000})
    process = started(slurm, "run", path, "--out", tmp_path / "r", "--executor", executor(tmp_path))
    assert eventually(lambda: "RUNNING" in slurm.jobs().values(), 120)
    time.sleep(1)
    process.send_signal(2)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert eventually(lambda: not slurm.jobs()), slurm.jobs()


def test_what_slurm_refuses_is_said_in_one_line(tmp_path, slurm):
    file = executor(tmp_path, queue="nowhere")
    process = started(slurm, "run", written(tmp_path), "--out", tmp_path / "r", "--executor", file)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "invalid partition specified: nowhere" in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_jobs_end_when_their_scheduler_is_killed(tmp_path, slurm):
    path = written(tmp_path, training={"epochs": 5000})
    process = started(slurm, "run", path, "--out", tmp_path / "r", "--executor", executor(tmp_path))
    assert eventually(lambda: list((tmp_path / "r").glob("data/*.json")), 180), slurm.jobs()
    process.kill()
    process.communicate()
    assert eventually(lambda: not slurm.jobs(), 150), slurm.jobs()


PAGE = Path(__file__).parents[1] / "docs" / "cluster.md"


def block(language, begin):
    """The code block of the page that begins so."""
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return next(text for text in found if text.startswith(begin))


def test_the_files_of_the_page_are_complete(tmp_path, slurm):
    (tmp_path / "matrix.yaml").write_text(block("yaml", "datasets:"))
    (tmp_path / "slurm.yaml").write_text(block("yaml", "engine:"))
    told = subprocess.run(
        command("run", "matrix.yaml", "--out", "results", "--executor", "slurm.yaml", "--dry-run"), cwd=tmp_path,
        env=slurm.environment, capture_output=True, text=True,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "18 cells" in told.stdout
    assert "#SBATCH --gres=gpu:1" in told.stdout
    assert not (tmp_path / "results").exists()


def test_the_array_script_of_the_page_runs_every_part(tmp_path, slurm):
    (tmp_path / "matrix.yaml").write_text(block("yaml", "datasets:"))
    script = block("sh", "#!/bin/bash").replace("#SBATCH --mem=8G\n", "").replace("--array=1-10", "--array=1-2")
    (tmp_path / "array.sh").write_text(script)
    home = str(Path(sys.executable).parent)
    environment = {**slurm.environment, "PATH": f"{home}:{slurm.environment['PATH']}", "OMP_NUM_THREADS": "1"}
    subprocess.run(["sbatch", "array.sh"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert eventually(lambda: not slurm.jobs(), 300), slurm.jobs()
    said = "".join(path.read_text() for path in tmp_path.glob("shard-*.out"))
    assert records(tmp_path / "results") == 18, said
    serial = subprocess.run(command("run", tmp_path / "matrix.yaml", "--out", tmp_path / "serial", "--jobs", 1))
    assert serial.returncode == 0
    assert timeless(tmp_path / "results") == timeless(tmp_path / "serial")
