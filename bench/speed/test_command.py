"""`bayesprune --help` and `bayesprune list`: less than a second of CPU each."""

import resource
import statistics
import subprocess
import sys

import pytest

BOUND = 1.0
ROUNDS = 7


def cpu_seconds(command: list[str]) -> float:
    """User and system seconds of a child process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


@pytest.mark.benchmark(group="command line")
@pytest.mark.parametrize("argument", ["--help", "list"])
def test_starts_within_a_second(benchmark, note, argument):
    python: list[float] = []
    ours: list[float] = []
    command = [sys.executable, "-m", "bayesprune.bench.cli", argument]

    def setup() -> None:
        python.append(cpu_seconds([sys.executable, "-c", "pass"]))

    benchmark.pedantic(lambda: ours.append(cpu_seconds(command)), setup=setup, rounds=ROUNDS, warmup_rounds=1)
    seconds, interpreter = statistics.median(ours[-ROUNDS:]), statistics.median(python[-ROUNDS:])
    ratio = seconds / interpreter
    note(
        f"bayesprune {argument}: {seconds:.3f} s of CPU (median of {ROUNDS}), {ratio:.1f} times the bare interpreter",
        cpu_seconds=seconds, ratio=ratio,
    )  # fmt: skip
    assert seconds < BOUND, f"`bayesprune {argument}` takes {seconds:.2f} s of CPU, less than {BOUND} s wanted"


@pytest.mark.parametrize("argument", ["--help", "list"])
def test_torch_is_not_imported(argument):
    command = [sys.executable, "-X", "importtime", "-m", "bayesprune.bench.cli", argument]
    imports = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    loaded = {line.rpartition("|")[2].strip() for line in imports.splitlines()}
    assert not loaded & {"torch", "pandas", "matplotlib", "sklearn", "timm", "scipy"}
