"""`bayesprune doctor`: what it finds on real networks, and that no backend takes it down."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from trials import allocate, crash, hang

BACKENDS = ("bayesprune", "CurvlinopsGGN", "CurvlinopsEF", "BackPackGGN", "BackPackEF", "AsdlGGN", "AsdlEF")


def invoke(*arguments):
    from bayesprune.bench.cli import main

    return CliRunner().invoke(main, ["doctor", *arguments])


def problem(**options):
    from bayesprune.bench.doctor.probes import Problem

    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 1, 8, 8)).astype(np.float32)
    y = np.arange(6) % 3
    return Problem("mlp", {"widths": [5]} | options, (1, 8, 8), 3, x, y, "categorical")


# ---------------------------------------------------------------------- real runs


def test_mlp_on_digits_as_json():
    program = Path(sys.executable).with_name("bayesprune")
    command = [program, "doctor", "--architecture", "mlp", "--option", "widths=[12, 8]", "--batch", "32", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    found = json.loads(done.stdout)
    assert found["parameters"] == 64 * 12 + 12 + 12 * 8 + 8 + 8 * 10 + 10
    assert (found["outputs"], found["batch"], found["fallback"]) == (10, 32, [])
    rows = {(f["structure"], f["backend"], f["kind"]): f for f in found["findings"]}
    assert {backend for _, backend, _ in rows} == set(BACKENDS)
    assert len(found["findings"]) == 16
    for structure in ("diag", "kron"):
        for kind in ("ggn", "ef"):
            own = rows[structure, "bayesprune", kind]
            assert (own["result"], own["times_ours"]) == ("works", 1.0)
    fisher = rows["diag", "CurvlinopsEF", "ef"]
    assert fisher["result"] == "works"
    assert fisher["times_ours"] > 0
    assert fisher["difference"] < 1e-5
    assert rows["diag", "CurvlinopsGGN", "ggn"]["difference"] < 1e-5
    assert rows["kron", "BackPackEF", "ef"]["reason"] == "NotImplementedError: Unavailable through Backpack."


def test_backends_that_fail_on_a_vision_transformer_are_findings():
    result = invoke("--architecture", "timm/test_vit", "--resize", "32", "--batch", "2")
    assert result.exit_code == 0, result.output
    table = [line for line in result.output.splitlines() if line.startswith(("structure ", "diag ", "kron "))]
    assert len(table) == 17
    start = table[0].index("result")
    outcomes = {tuple(line.split()[:3]): line[start:].split()[0] for line in table[1:]}
    assert outcomes["diag", "bayesprune", "ggn"] == outcomes["kron", "bayesprune", "ef"] == "works"
    assert outcomes["diag", "BackPackGGN", "ggn"] == outcomes["kron", "CurvlinopsGGN", "ggn"] == "fails"
    assert max(map(len, table)) < 170
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--architecture", "resnett"), "did you mean 'resnet'?"),
        (("--architecture", "mlp", "--option", "depth=3"), "unknown option of architecture 'mlp' 'depth'"),
        (("--architecture", "mlp", "--option", "widths"), "give name=value"),
        (("--architecture", "mlp", "--option", "widths=[1"), "give name=value"),
        (("--architecture", "mlp", "--dataset", "digit"), "did you mean 'digits'?"),
        (("--architecture", "timm/vit_tiny_patch16_224"), "cannot take inputs of shape (1, 8, 8)"),
    ],
)
def test_what_cannot_be_built_is_a_usage_error(arguments, words):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert words in result.output
    assert len(result.output.strip().splitlines()) == 1


# ---------------------------------------------------------------------- the child process


def test_a_crash_a_hang_and_greed_for_memory_end_the_trial_and_no_more():
    from bayesprune.bench.doctor.probes import Lost, Prober, Trial

    with Prober(problem(), 10**9, 60) as prober:
        with pytest.raises(Lost, match="its process died: SIGSEGV"):
            prober.run(crash)
        prober.limit = 0.5
        with pytest.raises(Lost, match=r"no answer within 0\.5 s"):
            prober.run(hang)
        prober.limit = 60
        assert prober.run(allocate, 10**6) == 10**6
        assert "memory" in prober.run(allocate, 4 * 10**9)
        assert prober.attempt(Trial("diag", "ggn")).result == "works"


# ---------------------------------------------------------------------- answers


def test_an_absent_package_is_said_to_be_absent(monkeypatch):
    from bayesprune.bench.doctor.probes import Trial, attempt

    monkeypatch.setitem(sys.modules, "laplace.curvature.backpack", None)
    answer = attempt(problem(), Trial("diag", "ef", "BackPackEF"))
    assert answer.result == "not installed"
    assert "backpack" in answer.reason


def test_the_difference_is_relative_to_the_largest_entry_of_a_parameter():
    import torch
    from bayesprune.bench.doctor.probes import _difference
    from bayesprune.methods.curvature.diagonals import diagonal

    given = problem()
    ours = diagonal(given.network(), *given.examples())
    flat = torch.cat([h.flatten() for h in ours.values()])
    assert _difference(flat.float(), given, "ggn") < 1e-6
    first = next(iter(ours.values()))
    flat[3] += 0.25 * first.max()
    assert _difference(flat, given, "ggn") == pytest.approx(0.25)


def odd(input_shape, outputs):
    """A network with a parameter that no known operation consumes."""
    from torch import nn

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.scale = nn.Linear(64, outputs), nn.Parameter(nn.init.ones_(nn.Linear(1, outputs).bias))

        def forward(self, x):
            return self.head(x.flatten(1)) * self.scale.cosh()

    return Odd()


def test_parameters_with_a_slow_pass_are_named():
    from dataclasses import replace

    from bayesprune.bench.doctor.probes import expected

    names, size = expected(problem())
    assert names == []
    assert 12 * 343 < size < 10**9
    assert expected(replace(problem(), architecture=f"{__name__}:odd", options={}))[0] == ["scale"]


# ---------------------------------------------------------------------- memory


def test_predictions_by_hand():
    from bayesprune.bench.doctor.memory import predicted_bytes
    from bayesprune.bench.doctor.probes import Trial
    from bayesprune.methods.curvature import kronecker

    network = problem().network()
    count, factors = 64 * 5 + 5 + 5 * 3 + 3, kronecker.predicted_bytes(network)

    def bytes_of(*trial):
        return predicted_bytes(Trial(*trial), network, batch=6, outputs=3, diagonal=99)

    assert bytes_of("diag", "ggn") == 99
    assert bytes_of("diag", "ggn", "CurvlinopsGGN") == 4 * count + 20 * 18 * count
    assert bytes_of("diag", "ef", "CurvlinopsEF") == 4 * count + 12 * 6 * count
    assert bytes_of("diag", "ggn", "BackPackGGN") == 4 * count  # no convolution
    assert bytes_of("kron", "ef") == factors
    assert bytes_of("kron", "ef", "AsdlEF") == factors // 2


def test_what_needs_too_much_memory_is_never_started():
    from bayesprune.bench.doctor.diagnosis import _answer
    from bayesprune.bench.doctor.probes import Prober, Trial

    answer = _answer(Prober(problem(), 0, 0), Trial("diag", "ggn", "CurvlinopsGGN"), 14 * 10**9, 2 * 10**9)
    assert (answer.result, answer.reason) == ("skipped", "needs about 14 GB, 2 GB are free")


def test_free_memory_heeds_the_control_group(tmp_path):
    from bayesprune.bench.doctor.memory import _group_bytes, free_bytes

    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert _group_bytes(tmp_path) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert _group_bytes(tmp_path) == _group_bytes(tmp_path / "absent") == sys.maxsize
    assert 0 < free_bytes() < 2**50


# ---------------------------------------------------------------------- text


def test_text_is_aligned_and_reasons_take_one_short_line():
    from bayesprune.bench.doctor.diagnosis import Diagnosis, Finding, describe

    findings = (
        Finding("diag", "bayesprune", "ggn", "works", 0.5, 1.0, None, 100, ""),
        Finding("diag", "BackPackGGN", "ggn", "fails", None, None, None, 100, "Error: one\ntwo " + "x" * 200),
        Finding("kron", "AsdlEF", "ef", "not installed", None, None, None, 100, "No module named 'asdl'"),
    )
    text = describe(
        Diagnosis("net", "digits", (1, 8, 8), 10, 4, 1234567, 3, ("a.weight",), 10**7, 2 * 10**9, 10**10, findings)
    )
    assert "1,234,567 parameters in 3 tensors" in text
    assert "1 of 3 tensors need a slow pass for each example: a.weight" in text
    assert "diagonal about 10 MB, KFAC at most 2 GB; 10 GB are free" in text
    lines = text.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("structure"))
    table = lines[head : head + 4]
    at = table[0].index("reason")
    assert table[2][at:].startswith("Error: one two xxx")
    assert table[2].endswith("…")
    assert len(table[2]) == at + 80
    assert table[3][at:] == "No module named 'asdl'"
    assert not any(line.endswith(" ") for line in lines)


@pytest.mark.parametrize(("count", "text"), [(5, "5 B"), (1234, "1.23 kB"), (56e6, "56 MB"), (7.8e12, "7.8 TB")])
def test_sizes(count, text):
    from bayesprune.bench.doctor.diagnosis import size_text

    assert size_text(count) == text
