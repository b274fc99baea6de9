"""A matrix through dask-jobqueue on a real SLURM, which the test unpacks and starts; one job is requeued on the way."""

import subprocess
import time

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
