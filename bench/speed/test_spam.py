"""What learning a prior by the evidence costs: hyper steps, training at K = 5, scoring from a posterior."""

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import weight_units
from bayesprune.bench.spec.settings import Training
from bayesprune.bench.training.loop import train
from bayesprune.datasets.data import Split
from bayesprune.methods.closed_forms.curvature_matrix import Diagonal
from bayesprune.methods.closed_forms.posteriors import Laplace
from bayesprune.methods.laplace.evidence import Evidence
from bayesprune.methods.laplace.hyperparameters import Hyperparameters
from bayesprune.methods.laplace.map import MAP
from bayesprune.methods.opd import opd
from bayesprune.methods.pruner import State
from bayesprune.methods.spam import SpaM

PARAMETERS = 8_000_000  # more than a cache holds
STEPS = 10
PASSES_BOUND = 12.0
TRAINING_BOUND = 1.6
MILLISECONDS_PER_MILLION = 5.0
FASHION = (1, 28, 28)


def evidence_of(size: int) -> Evidence:
    generator = torch.Generator().manual_seed(0)
    h, squares = (torch.rand(size, generator=generator, dtype=torch.float64) for _ in range(2))
    return Evidence(Diagonal(h), squares, torch.tensor(1.0, dtype=torch.float64), 1000, None, 1.0)


@pytest.mark.benchmark(group="hyper steps")
def test_a_hyper_step_takes_at_most_12_passes_over_the_parameters(contender, compare):
    """A pass reads one number per parameter and writes one to another place, in float64."""
    evidence = evidence_of(PARAMETERS)
    hyper = Hyperparameters("parameterwise", {"w": torch.empty(PARAMETERS)})
    vector, other = torch.rand(2, PARAMETERS, dtype=torch.float64)
    ours = contender(lambda _: hyper.ascend(evidence, STEPS))
    theirs = contender(lambda _: [other.copy_(vector) for _ in range(STEPS)])
    ratio = compare(f"hyper step / pass over {PARAMETERS:,} parameters", ours, theirs, rounds=9)
    assert ratio.median <= PASSES_BOUND, f"a hyper step takes {ratio} passes, at most {PASSES_BOUND}"


@pytest.mark.benchmark(group="SpaM training")
def test_spam_training_takes_at_most_1_6_times_as_long_as_map_training(contender, compare):
    """LeNet-5 on images of Fashion-MNIST's size, a fit of the evidence every five epochs."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(4096, *FASHION, generator=generator), torch.randint(0, 10, (4096,), generator=generator)
    split = Split(x, y)

    def trained(inference) -> None:
        network = build("lenet5", FASHION, 10, seed=0)
        inference.attach(network, weight_units(network), split)
        train(network, split, inference, Training(batch_size=128), 5, torch.Generator().manual_seed(0))

    ours, theirs = contender(lambda _: trained(SpaM(frequency=5))), contender(lambda _: trained(MAP(1.0)))
    ratio = compare("SpaM training, K = 5 / MAP training, LeNet-5 at 28 x 28", ours, theirs, rounds=9)
    assert ratio.median <= TRAINING_BOUND, f"SpaM training takes {ratio} times MAP's, at most {TRAINING_BOUND}"


@pytest.mark.benchmark(group="scoring")
def test_opd_takes_at_most_5_ms_per_million_weights(benchmark, note):
    """From a fitted posterior; an absolute bound, on a machine of this kind, with slack for a busy one."""
    network = build("mlp", (64,), 10, seed=0, widths=(1000, 925))  # 998,250 weights
    parameters = dict(network.named_parameters())
    size = sum(p.numel() for p in parameters.values())
    posterior = Laplace.at(parameters, Diagonal(torch.rand(size, dtype=torch.float64)), torch.ones(size).double())
    state = State(network, weight_units(network), Split(torch.zeros(1, 64), torch.zeros(1).long()), MAP(1.0))
    state.__dict__["posterior"] = posterior
    benchmark.pedantic(opd, args=(state,), rounds=51, warmup_rounds=3)
    milliseconds = 1e3 * benchmark.stats.stats.median / (state.units.n / 1e6)
    note(f"OPD from a posterior: {milliseconds:.2f} ms per million weights", milliseconds=milliseconds)
    assert milliseconds <= MILLISECONDS_PER_MILLION
