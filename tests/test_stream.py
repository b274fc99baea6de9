"""Examples that come batch by batch: the same results as of those in memory, and no more memory than a batch takes."""

import random
import subprocess
import sys
import warnings

import bayesprune as bp
import numpy as np
import pytest
import torch
from bayesprune.architectures.discovery.units_of import units
from bayesprune.bench.evaluation.evaluate import predicted
from bayesprune.bench.spec.settings import Training
from bayesprune.bench.training.loop import train
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.stream import Stream
from bayesprune.methods.build import build
from bayesprune.methods.closed_forms.likelihood import summed_loss
from bayesprune.methods.curvature.estimate import curvature_of
from bayesprune.methods.laplace.evidence import evidence_at
from bayesprune.methods.pruner import State
from bayesprune.methods.scores.scratch import balanced_batch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset


class Batches:
    """A loader of these examples in order, which can be gone through again and again."""

    def __init__(self, split, size=16):
        self.split, self.size = split, size

    def __iter__(self):
        yield from zip(self.split.x.split(self.size), self.split.y.split(self.size), strict=True)


def examples(kind="labels", n=70):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 6, generator=generator)
    y = torch.randint(0, 3, (n,), generator=generator)
    return {
        "labels": Split(x, y),
        "real": Split(x, torch.randn(n, 3, generator=generator)),
        "yes or no": Split(x, (torch.rand(n, 3, generator=generator) > 0.5)),
        "tokens": Split(torch.randint(0, 5, (n, 4), generator=generator), torch.randint(0, 5, (n, 4))),
    }[kind]


def perceptron(kind="labels"):
    torch.manual_seed(1)
    if kind == "tokens":
        return nn.Sequential(nn.Embedding(5, 6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def stream_of(split, size=16):
    return Stream(Batches(split, size), likelihood=split.likelihood)


KINDS = ["labels", "real", "yes or no", "tokens"]


def close(found, expected, rtol=1e-6):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=1e-6 * float(expected.abs().max()))


# ---------------------------------------------------------------------- the same results


@pytest.mark.parametrize("structure", ["diag", "kfac", "full"])
@pytest.mark.parametrize("likelihood", KINDS)
@pytest.mark.parametrize("kind", ["ggn", "rademacher", "ef"])
def test_curvature_of_a_stream_is_that_of_its_examples(structure, likelihood, kind):
    network, split = perceptron(likelihood), examples(likelihood)
    delta = torch.rand(sum(p.numel() for p in network.parameters()), dtype=torch.float64) + 0.5
    if structure == "kfac":  # for others the value depends on the eigenvectors that equal eigenvalues happen to have
        delta.fill_(2.0)
    found, expected, equal = (
        curvature_of(network, data, structure, kind, torch.Generator().manual_seed(0))
        for data in (stream_of(split), split, stream_of(split, 70))
    )
    close(found.precision(delta), expected.precision(delta))
    close(found.log_det_ratio(delta), expected.log_det_ratio(delta))
    assert torch.equal(equal.precision(delta), expected.precision(delta))  # where batches are equal


@pytest.mark.parametrize("likelihood", KINDS)
def test_evidence_and_loss_of_a_stream_are_those_of_its_examples(likelihood):
    network, split = perceptron(likelihood), examples(likelihood)
    found, expected = (
        evidence_at(network, data, "diag", "rademacher", torch.Generator().manual_seed(0))
        for data in (stream_of(split), split)
    )
    assert (found.size, found.count) == (expected.size, expected.count)
    close(found.loss, expected.loss)
    delta, noise = torch.full_like(expected.squares, 2.0), torch.zeros((), dtype=torch.float64)
    close(found.value(delta, noise), expected.value(delta, noise))
    with torch.no_grad():
        network.eval()
        close(summed_loss(network, stream_of(split)), summed_loss(network, split))


@pytest.mark.parametrize(
    "method", ["magnitude", "snip", "grasp", "opd", "opd-kfac", "obd", "bmr-laplace", "pip-laplace", "spam-opd"]
)
@pytest.mark.parametrize("likelihood", KINDS[:3])
def test_scores_of_a_stream_are_those_of_its_examples(method, likelihood):
    split = examples(likelihood)
    found, expected, exact = [], [], []
    for data, into in ((stream_of(split), found), (split, expected), (stream_of(split, 70), exact)):
        network, pruner = perceptron(likelihood), build(method)
        inference, parts = pruner.inference(), units(network, "weights")
        inference.attach(network, parts, data)
        inference.adapt(network, data)
        into.append(pruner.score(State(network, parts, data, inference, torch.Generator().manual_seed(3))))
    close(found[0], expected[0], 1e-5 if method == "grasp" else 1e-6)
    assert torch.equal(exact[0], expected[0])


def test_the_scoring_batch_of_a_stream_is_that_of_its_examples():
    split = examples()
    for size in (5, 30, 70, 100):
        found, expected = (balanced_batch(d, size, torch.Generator().manual_seed(2)) for d in (stream_of(split), split))
        assert torch.equal(found.x, expected.x)
        assert torch.equal(found.y, expected.y)
    stream = stream_of(split)
    for index in (slice(3), slice(40), slice(200), slice(None, None, 9), torch.tensor([69, 0, 0, 33])):
        assert torch.equal(stream[index].x, split[index].x)
    with pytest.raises(UsageError, match="gave 70 examples, none at position 70"):
        stream[torch.tensor([70])]


def test_training_on_a_stream_is_training_on_its_batches():
    split, settings = examples(), Training(epochs=3, batch_size=16, lr=1e-2, schedule="cosine")

    class Shuffled(Batches):
        order = torch.Generator().manual_seed(5)

        def __iter__(self):
            return self.split.batches(16, self.order)

    found = []
    for data in (split, Stream(Shuffled(split), 70)):
        network, pruner = perceptron(), build("spam-opd", frequency=2)
        inference = pruner.inference()
        inference.attach(network, units(network, "weights"), split)
        Shuffled.order.manual_seed(5)
        train(network, data, inference, settings, 3, torch.Generator().manual_seed(5))
        found.append(network.state_dict())
    # the evidence steps after the second epoch read the stream in the order of its own
    for name, tensor in found[0].items():
        assert torch.isfinite(found[1][name]).all()
        assert found[1][name].shape == tensor.shape
    plain = []
    for data in (split, Stream(Shuffled(split), 70)):
        network = perceptron()
        inference = build("magnitude").inference()
        Shuffled.order.manual_seed(5)
        if data is not split:
            assert data.batch_sizes(1) == [16, 16, 16, 16, 6]  # a pass that counts, with draws of its own
            Shuffled.order.manual_seed(5)
        train(network, data, inference, settings, 3, torch.Generator().manual_seed(5))
        plain.append(network.state_dict())
    assert all(torch.equal(tensor, plain[1][name]) for name, tensor in plain[0].items())


def test_predictions_on_a_stream_are_those_on_its_examples():
    network, split = perceptron().eval(), examples()
    with torch.no_grad():
        (outputs, labels), (expected, y) = (predicted(network, data, 3) for data in (stream_of(split), split))
    close(outputs, expected)
    assert torch.equal(labels, y)


class Endless(IterableDataset):
    """Batches made when they are asked for, shared among workers."""

    def __init__(self, n=64):
        self.n = n

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        for i in range(first, self.n, step):
            generator = torch.Generator().manual_seed(i)
            yield torch.randn(6, generator=generator), i % 3


def test_loaders_of_all_kinds_are_used_as_they_are():
    split = Split(*torch.utils.data.default_collate(list(Endless())))
    network = perceptron()
    expected = bp.prune(network, split, "opd", 0.5).scores
    for loader in (
        DataLoader(Endless(), 16),
        DataLoader(Endless(), 16, num_workers=2),
        DataLoader(TensorDataset(split.x, split.y), 10, num_workers=1),
        Batches(split),
        Stream(Batches(split), 64),
    ):
        pruned = bp.prune(network, loader, "opd", 0.5, finetune=1, batch_norm="reestimate")
        close(bp.prune(network, loader, "opd", 0.5).scores, expected, 1e-5)
        assert pruned.sparsity == 0.5
        assert torch.isfinite(pruned.network.eval()(split.x)).all()


# ---------------------------------------------------------------------- memory

SCRIPT = """
import resource, sys, torch, bayesprune as bp
from torch import nn

class Images:
    def __init__(self, batches):
        self.batches = batches
    def __iter__(self):
        for i in range(self.batches):
            generator = torch.Generator().manual_seed(i)
            yield torch.randn(64, 3, 64, 64, generator=generator), torch.arange(64) % 4

torch.manual_seed(0)
network = nn.Sequential(
    nn.AvgPool2d(8), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)
)
for method, options in (("spam-opd", {"structured": True}), ("snip", {})):
    bp.prune(network, Images(int(sys.argv[1])), method, 0.5, finetune=1, batch_norm="reestimate", **options)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_a_set_twenty_times_larger_takes_no_more_memory():
    peaks = []
    for batches in (5, 100):  # 15 MB of inputs and 315 MB
        done = subprocess.run([sys.executable, "-c", SCRIPT, str(batches)], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] <= 1.1 * peaks[0], f"{peaks[0] / 1024:.0f} MB, then {peaks[1] / 1024:.0f} MB"


# ---------------------------------------------------------------------- what is drawn


class Noisy:
    """Draws from all global streams, and from one of its own."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(9)

    def __iter__(self):
        for _ in range(3):
            noise = torch.randn(4, 1) + float(np.random.randn()) + random.random()  # noqa: NPY002
            yield noise + torch.randn(4, 6, generator=self.generator), torch.tensor([0, 1, 2, 0])


def passes(stream, *generators):
    return [torch.cat([x for x, _ in stream.batches(4, generator)]) for generator in generators]


def test_passes_without_a_generator_are_one_and_those_with_one_follow_it():
    first, second = passes(Stream(Noisy()), None, None)
    assert torch.equal(first, second)
    assert torch.equal(first, passes(Stream(Noisy()), None)[0])
    assert not torch.equal(first, passes(Stream(Noisy(), seed=1), None)[0])
    g, h = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    (one, two), (again, twice) = passes(Stream(Noisy()), g, g), passes(Stream(Noisy()), h, h)
    assert torch.equal(one, again)
    assert torch.equal(two, twice)
    assert not torch.equal(one, two)


def test_noise_between_batches_and_augmentation_do_not_touch_each_other():
    def drawn():
        return torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002

    def begin():
        torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002

    np.random.seed(3)  # noqa: NPY002
    pair = np.random.randn(2)  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    first = np.random.randn()  # noqa: NPY002
    passes(Stream(Noisy()), None)
    assert [first, np.random.randn()] == pair.tolist()  # noqa: NPY002
    begin()
    expected = [drawn() for _ in range(4)]
    undisturbed = passes(Stream(Noisy()), None)[0]
    begin()
    loader, found, read = Noisy(), [drawn()], []
    for x, _ in Stream(loader).batches(4):
        read.append(x)
        found.append(drawn())
    assert found == expected
    assert torch.equal(torch.cat(read), undisturbed)
    assert torch.equal(loader.generator.get_state(), torch.Generator().manual_seed(9).get_state())


# ---------------------------------------------------------------------- what cannot be


class Changing:
    """Another list of batches in every pass; the last one for ever."""

    def __init__(self, *passes):
        self.passes, self.next = passes, 0

    def __iter__(self):
        self.next += 1
        return iter(self.passes[min(self.next, len(self.passes)) - 1])


BATCH = (torch.randn(4, 6), torch.tensor([0, 1, 2, 0]))


def test_what_can_be_gone_through_once_is_refused():
    for data in (iter([BATCH]), (batch for batch in [BATCH]), zip([BATCH[0]], [BATCH[1]], strict=True)):
        with pytest.raises(UsageError, match="which can be gone through only once: give what makes it anew"):
            bp.prune(perceptron(), data, "opd", 0.5)
    with pytest.raises(
        UsageError,
        match=r"(a later pass over data gave nothing|data gives no batch): give what can be gone through again",
    ):
        bp.prune(perceptron(), Changing([BATCH], []), "opd", 0.5)
    with pytest.raises(UsageError, match="with at least one batch"):
        bp.prune(perceptron(), Changing([]), "opd", 0.5)


def test_another_number_of_examples_than_was_said_is_refused():
    with pytest.raises(UsageError, match="8 examples in a pass, not size=10"):
        bp.prune(perceptron(), Stream(Changing([BATCH, BATCH]), 10), "opd", 0.5)
    stream = Stream(Changing([BATCH, BATCH]), 8)
    assert (len(stream), stream.terms) == (8, 8)


def test_a_later_pass_of_another_length_warns_once():
    stream = Stream(Changing([BATCH, BATCH], [BATCH]))
    with pytest.warns(UserWarning, match="gave 4 examples, the first one 8") as caught:
        assert [sum(len(y) for _, y in stream.parts()) for _ in range(3)] == [8, 4, 4]
    assert len(caught) == 1
    assert stream.terms == 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [sum(len(y) for _, y in Stream(Changing([BATCH])).parts()) for _ in range(2)] == [4, 4]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            (BATCH[0].double(), BATCH[1]),
            r"batch 1 of data has another form .*\(float64 of 2 axes, int64 of 1 axes\), not",
        ),
        ((BATCH[0][:, :, None], BATCH[1]), "batch 1 of data has another form than the first one"),
        ((BATCH[0], BATCH[1].float()), "batch 1 of data has another form than the first one"),
        ((BATCH[0][:3], BATCH[1]), "batch 1 of data has 3 inputs and 4 targets"),
        ((BATCH[0][:0], BATCH[1][:0]), "batch 1 of data has 0 inputs and 0 targets"),
        ((BATCH[0].index_fill(0, torch.tensor([2]), torch.nan), BATCH[1]), "x of data has NaN .* in example 6; remove"),
        ((BATCH[0], BATCH[1] + 1), "label 3 in y does not fit"),
        ((BATCH[0][:, :5], BATCH[1]), "examples of different shapes cannot be joined"),
    ],
)
def test_batches_that_do_not_fit_are_refused(batch, message):
    with pytest.raises(UsageError, match=message):
        bp.prune(perceptron(), Changing([BATCH, batch]), "opd", 0.5)


def test_a_last_batch_of_one_is_refused_before_norms_are_trained_on_it():
    x, y = torch.cat([BATCH[0], BATCH[0][:1]]), torch.cat([BATCH[1], BATCH[1][:1]])
    loader = DataLoader(TensorDataset(x, y), 4)
    with pytest.raises(UsageError, match="a batch of 1: give it two examples or more"):
        bp.prune(perceptron(), loader, "opd", 0.5, finetune=1)
    bp.prune(perceptron(), DataLoader(TensorDataset(x, y), 4, drop_last=True), "opd", 0.5, finetune=1)
