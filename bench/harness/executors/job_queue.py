"""Workers as jobs of a batch system, which dask-jobqueue submits."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from dask import config
from dask_jobqueue.core import JobQueueCluster
from distributed import Client

from ....datasets.errors import UsageError, one_line
from ...results.store import MachineFault
from .dask_clusters import CONNECT_SECONDS, SCHEDULER, Own
from .job_file import JobFile

TEND_SECONDS = 20.0


class JobQueue(Own):
    """Jobs as a file asks for them; those that end, by walltime or pre-emption, are replaced while there is work."""

    def __init__(self, file: JobFile):
        self._file = file
        self.name = f"of this run, with workers from {file.engine}"
        self._tended = 0.0

    def plan(self, cells: int) -> tuple[int, str]:
        """The jobs, and the script of each."""
        file = self._file
        jobs = f"{file.maximum}" if file.minimum == file.maximum else f"{file.minimum} to {file.maximum}"
        text = f"{jobs} {file.engine} jobs of {file.processes} workers; each job is submitted as\n\n{self._script()}"
        return min(file.maximum * file.processes, max(1, cells)), text

    def _script(self) -> str:
        """The script, for which nothing is written where the logs will be."""
        logs = self._file.options["log_directory"]
        with tempfile.TemporaryDirectory() as folder:
            try:
                job = self._file.cluster.job_cls(
                    scheduler="tcp://<scheduler>", name="<name>", **self._job_options() | {"log_directory": folder}
                )
                return job.job_script().replace(folder, logs)
            except Exception as error:
                raise UsageError(f"{self._file.engine} cannot be asked for such jobs: {one_line(error)}") from error

    def _job_options(self) -> dict[str, Any]:
        """What a job is told, without what is for the scheduler."""
        theirs = ("scheduler_options", "shared_temp_directory")
        return {k: v for k, v in self._file.options.items() if k not in theirs}

    def check(self, device: str) -> None:
        """Whether jobs can be submitted from here, and what they are to be is understood."""
        self._script()
        command = shlex.split(self._file.cluster.job_cls.submit_command)[0]
        if not shutil.which(command):
            raise UsageError(
                f"{command} is not on this machine: start the run where jobs can be submitted to {self._file.engine}"
            )

    def connect(self, cells: int) -> Client:
        """Start a scheduler here, and submit the jobs; raises MachineFault with what the batch system answers."""
        file = self._file
        with config.set(SCHEDULER):
            self._cluster = file.cluster(**file.options, silence_logs="error")
        client = Client(self._cluster, timeout=CONNECT_SECONDS, set_as_default=False)
        if file.minimum < file.maximum:
            self._jobs.adapt(minimum_jobs=file.minimum, maximum_jobs=file.maximum)
        self._submit(file.minimum)
        return client

    def tend(self) -> None:
        """Submit jobs in the place of those that have ended."""
        if time.monotonic() - self._tended >= TEND_SECONDS:
            adapted = self._file.minimum < self._file.maximum
            self._submit(len(self._jobs.worker_spec) if adapted else self._file.minimum)

    @property
    def _jobs(self) -> JobQueueCluster:
        assert isinstance(self._cluster, JobQueueCluster)
        return self._cluster

    def _submit(self, jobs: int) -> None:
        self._tended = time.monotonic()
        self._jobs.scale(jobs=jobs)
        try:
            self._jobs.sync(self._jobs._correct_state)  # else nobody hears of what the batch system refuses
        except RuntimeError as error:
            said = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
            raise MachineFault(f"{self._file.engine} refuses a job: {said}") from error

    def on_demand(self) -> int:
        """With `adapt`, workers come when tasks wait for them."""
        return self._file.maximum * self._file.processes if self._file.minimum < self._file.maximum else 0

    def advice(self) -> str:
        """The batch system's queue, and the logs of jobs that did not become workers."""
        queue = f"the jobs may still wait in the queue of {self._file.engine}"
        return f"{queue}, or have failed; their logs are in {self._logs()}"

    def log_of(self, worker: object) -> str:
        """The file that the job of a worker writes."""
        job = next((j for name, j in self._jobs.workers.items() if str(worker).startswith(str(name))), None)
        number = getattr(job, "job_id", None)
        found = sorted(self._logs().glob(f"*{number}*.err")) if number else []
        return f"; its log is {found[0]}" if found else f"; logs are in {self._logs()}"

    def _logs(self) -> Path:
        return Path(os.path.expandvars(self._file.options["log_directory"])).expanduser()
