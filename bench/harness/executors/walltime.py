"""How long a job may take, in the words of each batch system."""

from __future__ import annotations

import re

# From the last part on; LSF counts hours and minutes, all others end with seconds.
_SIZES = {"lsf": (60, 3600)}
_DEFAULT = (1, 60, 3600, 86400)


def seconds_of(engine: str, walltime: str) -> int:
    """Seconds of a walltime such as 04:00:00; raises ValueError for what the batch system would not understand.

    SLURM takes days before a dash, minutes alone, and what follows days as hours; LSF hours and minutes; HTCondor and
    others plain seconds, or hours, minutes and seconds.
    """
    days, dash, rest = walltime.rpartition("-")
    parts = rest.split(":")
    if not all(re.fullmatch(r"\d+", part) for part in (*parts, *([days] if dash else []))) or len(parts) > 3:
        raise ValueError("write hours:minutes:seconds in quotes, such as '04:00:00'")
    numbers = [int(part) for part in parts]
    if dash:
        if engine != "slurm":
            raise ValueError(f"{engine} knows no days before a dash")
        hours, minutes, seconds = [*numbers, 0, 0][:3]
        return 86400 * int(days) + 3600 * hours + 60 * minutes + seconds
    if engine == "slurm" and len(numbers) == 1:
        return 60 * numbers[0]
    sizes = _SIZES.get(engine, _DEFAULT)
    if len(numbers) > len(sizes):
        raise ValueError(f"{engine} takes hours:minutes")
    return sum(number * size for number, size in zip(reversed(numbers), sizes, strict=False))


def lifetime_within(walltime: int) -> tuple[int, int]:
    """Seconds after which a worker leaves, and how far workers differ in that, so that not all leave at once.

    A tenth of the walltime is left for that, but no more than ten minutes.
    """
    margin = min(600, max(1, walltime // 10))
    return walltime - margin, margin // 2
