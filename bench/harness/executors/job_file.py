"""The file that says how a batch system is to be asked for workers.

    engine: slurm            # or pbs, lsf, sge, htcondor, oar
    jobs: 20                 # or adapt: {minimum: 0, maximum: 20}
    memory: 8GB
    walltime: "04:00:00"
    job_extra_directives: [--gres=gpu:1]

Beside `engine`, `jobs`, `adapt` and `lifetime`, the keys are those of dask-jobqueue's cluster for that engine.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask_jobqueue
import yaml
from dask import config
from dask.utils import parse_bytes, parse_timedelta
from dask_jobqueue.core import Job, JobQueueCluster

from ....datasets.errors import UsageError, one_line, unknown
from ...spec.yaml_places import line_of
from ...spec.yaml_text import parsed, text_of
from .walltime import lifetime_within, seconds_of

engines: Any = dask_jobqueue
ENGINES: dict[str, Any] = {
    "slurm": engines.SLURMCluster, "pbs": engines.PBSCluster, "lsf": engines.LSFCluster, "sge": engines.SGECluster,
    "htcondor": engines.HTCondorCluster, "oar": engines.OARCluster,
}  # fmt: skip
OURS = ("engine", "jobs", "adapt", "lifetime")
# What the harness decides, what makes no sense in a file, and what dask-jobqueue itself calls deprecated.
_NOT_OFFERED = {
    "self", "scheduler", "name", "job_cls", "loop", "asynchronous", "scheduler_cls", "n_workers", "silence_logs",
    "extra", "job_extra", "env_extra", "header_skip", "dashboard_address", "host", "security", "base_class_kwargs",
    "job_kwargs", "kwargs", "cluster_kwargs", "worker_command",
}  # fmt: skip
_COUNTS = ("jobs", "cores", "processes", "job_cpu", "ncpus", "minimum", "maximum")
_LISTS = ("job_script_prologue", "worker_extra_args", "job_directives_skip")


@dataclass(frozen=True)
class JobFile:
    """A checked file.

    Attributes:
        engine: the batch system.
        minimum, maximum: jobs; the same, unless workers come and go with the work.
        processes: workers in each job.
        options: what dask-jobqueue is given.
    """

    engine: str
    minimum: int
    maximum: int
    processes: int
    options: Mapping[str, Any]

    @property
    def cluster(self) -> Any:
        """dask-jobqueue's class for the batch system."""
        return ENGINES[self.engine]


def read_job_file(path: Path, out: Path) -> JobFile:
    """Read and check a file, for a run into `out`, below which jobs have their logs.

    Raises UsageError, with file and line, for what no engine, or not this one, knows.
    """
    if not path.is_file():
        raise UsageError(f"executor file {path} does not exist; write one, or choose local or dask")
    node, content = parsed(text_of(path), str(path))
    reader = _Reader(path, node)
    if not isinstance(content, Mapping):
        raise reader.wrong((), f"an executor file is a mapping with the keys {', '.join(OURS)} and those of the engine")
    return reader.read(dict(content), out)


@dataclass(frozen=True)
class _Reader:
    path: Path
    node: yaml.Node | None

    def wrong(self, place: tuple[str, ...], text: str) -> UsageError:
        return UsageError(f"{self.path}:{line_of(self.node, place)}: {text}")

    def read(self, content: dict[str, Any], out: Path) -> JobFile:
        engine = content.get("engine")
        if engine not in ENGINES:
            raise self.wrong(("engine",), str(unknown("engine", engine, ENGINES)))
        offered = _options(ENGINES[engine])
        for key, value in content.items():
            if key not in (*OURS, *offered):
                raise self.wrong((key,), str(unknown(f"key for {engine}", key, (*OURS, *offered))))
            self._check(key, value)
        if "memory" not in content:
            raise self.wrong((), "the key 'memory' is missing: say how much each job may use, such as memory: 8GB")
        minimum, maximum = self._size(content)
        processes = content.get("processes", content.get("cores", 1))
        if content.get("cores", processes) != processes:
            cores = content["cores"]
            raise self.wrong(
                ("cores",), f"cores: {cores} with processes: {processes} makes workers of several threads, among which "
                "torch's settings cannot be kept apart: make them equal (cores that a cell's own threads need beside "
                "are asked for by job_cpu)",
            )  # fmt: skip
        options = {k: v for k, v in content.items() if k not in OURS}
        options |= {"cores": processes, "processes": processes}
        options.setdefault("log_directory", str((out / "logs").absolute()))
        options["worker_extra_args"] = [*options.get("worker_extra_args", []), *self._lifetime(engine, content)]
        return JobFile(engine, minimum, maximum, processes, options)

    def _size(self, content: Mapping[str, Any]) -> tuple[int, int]:
        if ("jobs" in content) == ("adapt" in content):
            raise self.wrong((), "say how many jobs: either jobs: 20, or adapt: {minimum: 0, maximum: 20}")
        if "jobs" in content:
            return content["jobs"], content["jobs"]
        adapt = content["adapt"]
        known = ("minimum", "maximum")
        if not isinstance(adapt, Mapping) or "maximum" not in adapt:
            raise self.wrong(("adapt",), "adapt is a mapping, such as {minimum: 0, maximum: 20}")
        for key, value in adapt.items():
            if key not in known:
                raise self.wrong(("adapt", key), str(unknown("key", key, known)))
            if not (type(value) is int and value >= (key == "maximum")):
                raise self.wrong(("adapt", key), f"{key}: a whole number of jobs is needed (got {value!r})")
        if adapt.get("minimum", 0) > adapt["maximum"]:
            raise self.wrong(("adapt",), "adapt: the minimum is larger than the maximum")
        return adapt.get("minimum", 0), adapt["maximum"]

    def _lifetime(self, engine: str, content: Mapping[str, Any]) -> list[str]:
        """Workers leave before their job is ended, so that their tasks go to others without a fault."""
        walltime = content.get("walltime", config.get(f"jobqueue.{engine}.walltime", None))
        if walltime is None and "lifetime" not in content:
            return []
        try:
            most = None if walltime is None else seconds_of(engine, str(walltime))
            if "lifetime" not in content:
                assert most is not None
                lifetime, stagger = lifetime_within(most)
            else:
                lifetime, stagger = int(parse_timedelta(content["lifetime"])), 0
        except (ValueError, TypeError, KeyError) as error:
            key = "lifetime" if "lifetime" in content else "walltime"
            raise self.wrong((key,), f"{key}: {content.get(key)!r} is not valid: {one_line(error)}") from error
        if most is not None and lifetime >= most:
            raise self.wrong(("lifetime",), f"lifetime: {content['lifetime']} must be below the walltime, {walltime}")
        return ["--lifetime", f"{lifetime}s", *(["--lifetime-stagger", f"{stagger}s"] if stagger else [])]

    def _check(self, key: str, value: Any) -> None:
        if key in _COUNTS and not (type(value) is int and value > 0):
            raise self.wrong((key,), f"{key}: a whole number above 0 is needed (got {value!r})")
        if key in _LISTS and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            raise self.wrong((key,), f"{key}: a list of texts is needed (got {value!r})")
        if key in ("memory", "job_mem"):
            try:
                parse_bytes(value if isinstance(value, str) else float("nan"))
            except (ValueError, TypeError) as error:
                raise self.wrong((key,), f"{key}: {value!r} is no amount of memory; write 8GB or 500MB") from error


def _options(cluster: Any) -> list[str]:
    """What dask-jobqueue's cluster can be told."""
    makers = (Job.__init__, cluster.job_cls.__init__, JobQueueCluster.__init__, cluster.__init__)
    names = (name for make in makers for name in inspect.signature(make).parameters)
    return sorted(set(names) - _NOT_OFFERED - set(OURS))
