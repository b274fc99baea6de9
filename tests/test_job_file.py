"""The file that asks a batch system for workers: read, checked, and made into a script."""

import pytest
from bayesprune.datasets.errors import UsageError

pytest.importorskip("dask_jobqueue")
from bayesprune.bench.harness.executors.job_file import ENGINES, read_job_file
from bayesprune.bench.harness.executors.job_queue import JobQueue
from bayesprune.bench.harness.executors.walltime import lifetime_within, seconds_of


def read(tmp_path, text):
    path = tmp_path / "jobs.yaml"
    path.write_text(text)
    return read_job_file(path, tmp_path / "out")


def complete(engine="slurm", more=""):
    return f"engine: {engine}\njobs: 3\nmemory: 8GB\n{more}"


SLURM = """\
engine: slurm
adapt: {minimum: 1, maximum: 20}
memory: 16GB
processes: 4
job_cpu: 8
walltime: "04:00:00"
queue: gpu
account: me
job_extra_directives: [--gres=gpu:4]
job_script_prologue: [module load cuda]
"""


def test_a_script_says_what_the_file_does_and_nothing_is_written(tmp_path):
    queue = JobQueue(read(tmp_path, SLURM))
    script = queue.script()
    for line in ("#SBATCH -p gpu", "#SBATCH -A me", "#SBATCH --cpus-per-task=8", "#SBATCH -t 04:00:00", "#SBATCH --gres=gpu:4",
                 "module load cuda", f"#SBATCH -e {tmp_path}/out/logs/dask-worker-%J.err"):  # fmt: skip
        assert line in script.splitlines()
    for option in ("--nthreads 1", "--nworkers 4", "--lifetime 13800s", "--lifetime-stagger 300s", "--nanny"):
        assert option in script
    assert queue.plan(1000) == (80, "1 to 20 slurm jobs of 4 workers")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_has_a_script_of_one_thread_and_a_lifetime(tmp_path, engine):
    more = "disk: 1GB\n" if engine == "htcondor" else ""
    script = JobQueue(read(tmp_path, complete(engine, more))).script()
    assert "--nthreads 1" in script
    assert ("--lifetime 1620s" in script) == (engine != "htcondor")  # of the default walltime, half an hour


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("engine: slrum\njobs: 1\nmemory: 1GB\n", r"jobs.yaml:1: unknown engine 'slrum'; did you mean 'slurm'"),
        ("jobs: 1\n", r"unknown engine None"),
        ("- slurm\n", r"a mapping with the keys engine"),
        (complete(more="wall_time: '1:00:00'\n"), r"jobs.yaml:4: unknown key for slurm 'wall_time'; did you mean 'walltime'"),
        (complete("pbs", "account: me\nqos: high\n"), r"jobs.yaml:5: unknown key for pbs 'qos'"),
        (complete(more="nthreads: 2\n"), r"unknown key for slurm 'nthreads'"),
        ("engine: slurm\njobs: 1\n", r"'memory' is missing"),
        ("engine: slurm\nmemory: 1GB\n", r"either jobs: 20, or adapt"),
        (complete(more="adapt: {maximum: 3}\n"), r"either jobs: 20, or adapt"),
        ("engine: slurm\nadapt: {most: 3, maximum: 3}\nmemory: 1GB\n", r"jobs.yaml:2: unknown key 'most'"),
        ("engine: slurm\nadapt: {minimum: 4, maximum: 3}\nmemory: 1GB\n", r"the minimum is larger"),
        ("engine: slurm\nadapt: {maximum: 0}\nmemory: 1GB\n", r"maximum: a whole number"),
        ("engine: slurm\njobs: 0\nmemory: 1GB\n", r"jobs.yaml:2: jobs: a whole number above 0"),
        ("engine: slurm\njobs: 2\nmemory: lots\n", r"memory: 'lots' is no amount"),
        (complete(more="cores: 8\nprocesses: 2\n"), r"jobs.yaml:4: cores: 8 with processes: 2 makes workers of several threads"),
        (complete(more="walltime: '1 day'\n"), r"jobs.yaml:4: walltime: '1 day' is not valid"),
        (complete(more="walltime: '01:00:00'\nlifetime: 2h\n"), r"lifetime: 2h must be below the walltime"),
        (complete(more="walltime: 10:00:00\n"), r"can be read in two ways.*in quotes"),
        (complete(more="job_script_prologue: module load\n"), r"a list of texts"),
    ],
)  # fmt: skip
def test_what_no_engine_knows_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("engine", "walltime", "seconds"),
    [
        # sbatch(1), -t: minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes, ...:seconds
        ("slurm", "90", 5400), ("slurm", "90:30", 5430), ("slurm", "01:02:03", 3723), ("slurm", "2-3", 183600),
        ("slurm", "2-03:04", 183840), ("slurm", "1-00:00:01", 86401),
        ("lsf", "1:30", 5400), ("lsf", "45", 2700),  # bsub(1), -W [hour:]minute
        ("pbs", "02:00:00", 7200), ("pbs", "3600", 3600), ("sge", "00:30:00", 1800), ("oar", "1:0:0", 3600),
    ],
)  # fmt: skip
def test_walltimes_are_read_as_their_batch_systems_read_them(engine, walltime, seconds):
    assert seconds_of(engine, walltime) == seconds
    lifetime, stagger = lifetime_within(seconds)
    assert 0 < lifetime + stagger < seconds


@pytest.mark.parametrize(("engine", "walltime"), [("pbs", "1-00:00:00"), ("lsf", "1:00:00"), ("slurm", "-1"), ("slurm", "1:2:3:4"), ("sge", "x")])  # fmt: skip
def test_walltimes_that_a_batch_system_would_not_read(engine, walltime):
    with pytest.raises(ValueError, match=r"write|knows|takes"):
        seconds_of(engine, walltime)
