"""Recurrent networks' own speed: the cell with noise on its structures, and what the compact LSTM is worth.

A compact LSTM that is at least 3 times faster at 80 % of its neurons removed; the written-out cell, against the fused
one that cannot take factors of every sequence, is reported.
"""

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.compaction.compact import compact
from bayesprune.architectures.discovery.units_of import group_units, weight_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.evaluation.flops import flops
from bayesprune.bench.evaluation.latency import speedups
from bayesprune.datasets.data import Split
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.structured_dropout.lstm_noise import written_out
from torch import nn

REMOVED, FASTER = 0.8, 3.0
VOCABULARY, LENGTH, BATCH = 5000, 50, 64
HIDDEN = [100, 256, 512]
CELL_ROUNDS, STEP_ROUNDS = 31, 15


def sentences(n: int) -> torch.Tensor:
    return torch.randint(1, VOCABULARY, (n, LENGTH), generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------------------------- compact networks


@pytest.mark.parametrize("hidden", HIDDEN)
def test_a_compact_lstm_is_three_times_faster(note, benchmark, hidden):
    """Words and dimensions stay. Gates that are constant save nothing more: they are rows of zeros."""
    dense = build("lstm", (LENGTH, VOCABULARY), 2, seed=0, hidden=hidden, words=True).eval()
    x = sentences(BATCH)
    owner = group_units(dense)
    generator = torch.Generator().manual_seed(0)
    kept = torch.ones(owner.n, dtype=torch.bool)
    neurons = owner.split(kept)[-1]
    neurons[torch.randperm(hidden, generator=generator)[: round(REMOVED * hidden)]] = False
    small = compact(dense, Mask(owner, kept))
    (found,) = benchmark.pedantic(lambda: speedups(dense, {"compact": small}, x, (BATCH,), 5)["compact"], rounds=1)
    saved = flops(dense, x)["flops_dense"] / flops(small, x)["flops_dense"]
    text = f"{found.ratio:.2f} (interval {found.low:.2f} to {found.high:.2f}) for {saved:.1f} times fewer operations"
    note(f"speed-up of a compact LSTM, {hidden} neurons, batch {BATCH}: {text}", speedup=found.ratio, flops=saved)
    assert found.ratio >= FASTER, text


# ---------------------------------------------------------------------------------- training


@pytest.mark.benchmark(group="the noisy cell")
@pytest.mark.parametrize("hidden", HIDDEN[:2])
def test_the_cell_with_factors_against_the_fused_one(contender, compare, hidden):
    """Forward and backward pass of one layer; reported, without a bound."""
    layer = nn.LSTM(64, hidden, batch_first=True)
    x = torch.randn(BATCH, LENGTH, 64, requires_grad=True)
    z = [torch.ones(BATCH, k * hidden).requires_grad_() for k in (4, 1)]
    ours = contender(lambda _: written_out(layer, x, *z).sum().backward())
    theirs = contender(lambda _: layer(x)[0].sum().backward())
    compare(f"cell with factors / nn.LSTM, forward and backward, {hidden} neurons", ours, theirs, CELL_ROUNDS)


@pytest.mark.benchmark(group="a variational training step")
@pytest.mark.parametrize("name", ["lstm-w", "lstm-wn", "lstm-wgn"])
def test_a_training_step_against_map(contender, compare, name):
    """Reported, without a bound."""
    x, y = sentences(BATCH), torch.arange(BATCH) % 2
    steps = [_step(method, x, y) for method in (name, "magnitude")]
    ours, theirs = (contender(lambda _, step=step: step()) for step in steps)
    compare(f"training step {name} / MAP, 100 neurons, {VOCABULARY} words", ours, theirs, STEP_ROUNDS)


def _step(method: str, x: torch.Tensor, y: torch.Tensor):
    network = build("lstm", (LENGTH, VOCABULARY), 2, seed=0, hidden=100, words=True)
    inference = build_pruner(method).inference()
    inference.attach(network, weight_units(network), Split(x, y))
    inference.update(network, Split(x, y), 1000)  # after the warm-up
    parameters = [p for p in (*network.parameters(), *inference.parameters()) if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, fused=True)
    penalise = inference.penalizer(network, 1 / len(x))

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        penalise()
        optimizer.step()

    return step
