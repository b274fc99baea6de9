"""Workers as jobs of a batch system, which dask-jobqueue submits."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distributed import SpecCluster

from ....datasets.errors import UsageError, one_line
from ...results.store import MachineFault
from .dask_clusters import Own
from .job_file import JobFile

TEND_SECONDS = 20.0


class JobQueue(Own):
    """Jobs as a file asks for them; those that end, by walltime or pre-emption, are replaced while there is work."""

    def __init__(self, file: JobFile):
        super().__init__()
        self._file = file
        self.name = f"of this run, with workers from {file.engine}"
        self._tended = 0.0

    def plan(self, cells: int) -> tuple[int, str]:
        """The jobs, and the workers in them."""
        file = self._file
        jobs = f"{file.maximum}" if file.minimum == file.maximum else f"{file.minimum} to {file.maximum}"
        workers = f"{file.processes} worker{'s' * (file.processes > 1)}"
        return min(file.maximum * file.processes, max(1, cells)), f"{jobs} {file.engine} jobs of {workers}"

    def script(self) -> str:
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

    def check(self) -> None:
        """Whether jobs can be submitted from here, and what they are to be is understood."""
        self.script()
        command = shlex.split(self._file.cluster.job_cls.submit_command)[0]
        if not shutil.which(command):
            raise UsageError(
                f"{command} is not on this machine: start the run where jobs can be submitted to {self._file.engine}"
            )

    def make(self, loop: Any) -> SpecCluster:
        """A scheduler that the nodes reach."""
        return self._file.cluster(**self._file.options, silence_logs="error", loop=loop)

    def populate(self, cells: int) -> None:
        """Submit the first jobs; raises MachineFault with what the batch system answers."""
        self._submit(self._number(cells))

    def _number(self, wanted: int) -> int:
        """Jobs for so many workers, within what the file allows."""
        return min(self._file.maximum, max(self._file.minimum, math.ceil(wanted / self._file.processes)))

    def tend(self, wanted: int, idle: Sequence[str]) -> None:
        """Submit jobs in the place of those that have ended, and end those that have nothing to do any more."""
        if time.monotonic() - self._tended < TEND_SECONDS:
            return
        number, spec = self._number(wanted), self._jobs.worker_spec
        for name in [name for name, job in spec.items() if set(_workers_of(name, job)) <= set(idle)]:
            if len(spec) > number:
                del spec[name]
        self._submit(number)

    @property
    def _jobs(self) -> Any:
        assert self._cluster is not None
        return self._cluster

    def _submit(self, jobs: int) -> None:
        self._tended = time.monotonic()
        try:
            self.scale(jobs)
        except RuntimeError as error:
            said = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
            raise MachineFault(f"{self._file.engine} refuses a job: {said}") from error

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


def _workers_of(name: object, job: Mapping[str, Any]) -> list[str]:
    """The names of the workers in a job."""
    return [f"{name}{suffix}" for suffix in job.get("group", ("",))]
