"""Variational dropout of LSTMs: against cells written out by hand, closed moments, and the counts of published logs."""

import copy
import itertools
import math

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.compaction.certificate import certify
from bayesprune.architectures.compaction.compact import compact
from bayesprune.architectures.discovery.units_of import group_units, weight_units
from bayesprune.architectures.lstm import LSTM
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.spec.settings import Training
from bayesprune.bench.training.loop import leave, train
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import NotApplicable, UsageError
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.pruner import State
from bayesprune.methods.structured_dropout.factored import START
from bayesprune.methods.structured_dropout.lstm import RecurrentDropout
from bayesprune.methods.structured_dropout.lstm_account import compression, remaining
from bayesprune.methods.structured_dropout.lstm_noise import _Recurrence, folded, written_out
from bayesprune.methods.structured_dropout.lstm_structures import structures
from bayesprune.methods.structured_dropout.worth import propagated
from bayesprune.methods.variational.weight_dropout import kl
from torch import nn

VOCABULARY, LENGTH, HIDDEN, WIDTH, CLASSES = 11, 6, 5, 4, 3
ALL = ("input", "neuron", "gate")
METHODS = ("lstm-w", "lstm-wn", "lstm-wgn")


def network_of(outputs=CLASSES, **options) -> LSTM:
    options = {"hidden": HIDDEN, "embedding": WIDTH, "words": True} | options
    network = build("lstm", (LENGTH, VOCABULARY), outputs, seed=0, **options).double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not name.endswith("bias_hh_l0"):
                parameter.normal_()
    assert isinstance(network, LSTM)
    return network


def sentences(n=12, generator=None) -> torch.Tensor:
    """Padded on the left, of 1 to 6 words."""
    x = torch.randint(1, VOCABULARY, (n, LENGTH), generator=generator)
    return x.masked_fill(torch.arange(LENGTH) < (torch.arange(n) % LENGTH).view(-1, 1), 0)


def attached(network, x=None, **options) -> RecurrentDropout:
    inference = RecurrentDropout(**{"kinds": ALL, "warm_up": (0, 1)} | options)
    x = sentences() if x is None else x
    inference.attach(network, weight_units(network), Split(x, torch.zeros(len(x), dtype=torch.int64)))
    return inference


def set_factors(inference, **means):
    """Means of the factors of some kinds."""
    with torch.no_grad():
        for structure, part in zip(inference.noisy, inference.steps[0].split(inference.sizes), strict=True):
            if structure.kind in means:
                part.copy_((torch.as_tensor(means[structure.kind]) - 1) / inference.lr_factor)


def random_factors(inference, generator, share=0.6) -> dict[str, torch.Tensor]:
    """Means of which some are 0, by kind; of every structure at least one is not."""
    found = {}
    for structure in inference.noisy:
        z = torch.randn(structure.size, generator=generator).double()
        z[1:] *= torch.rand(structure.size - 1, generator=generator) < share
        found[structure.kind] = z
    set_factors(inference, **found)
    return found


def by_hand(network, x, z) -> torch.Tensor:
    """Outputs of the network with factors z, one sentence and one step at a time; words of padding are skipped."""
    layer, outputs = network.recurrent[0], []
    hidden = layer.hidden_size
    ones = {"word": VOCABULARY, "input": layer.input_size, "neuron": hidden, "gate": 4 * hidden}
    z = {kind: z.get(kind, torch.ones(size).double()) for kind, size in ones.items()}
    for sentence in x:
        h, c = torch.zeros(hidden).double(), torch.zeros(hidden).double()
        for word in sentence[sentence != 0].tolist():
            vector = z["word"][word] * network.inputs.weight[word]
            sums = layer.weight_ih_l0 @ (vector * z["input"]) + layer.weight_hh_l0 @ h
            i, f, g, o = (sums * z["gate"] + layer.bias_ih_l0).chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh() * z["neuron"]
        outputs.append(network.readout.weight @ h + network.readout.bias)
    return torch.stack(outputs).detach()


def assert_equal(one, two, tolerance=1e-12):
    torch.testing.assert_close(one, two, rtol=0, atol=tolerance)


# ---------------------------------------------------------------------------------- the cell


def layer_and_input():
    return nn.LSTM(WIDTH, HIDDEN, batch_first=True).double(), torch.randn(7, LENGTH, WIDTH).double()


def test_the_cell_written_out_is_an_lstm_where_factors_are_1():
    layer, x = layer_and_input()
    ones = torch.ones(1, 4 * HIDDEN).double(), torch.ones(1, HIDDEN).double()
    for compute in (written_out, folded):
        assert_equal(compute(layer, x, *ones), layer(x)[0])


def test_factors_fold_into_weights():
    layer, x = layer_and_input()
    z = torch.randn(1, 4 * HIDDEN).double(), torch.randn(1, HIDDEN).double()
    assert_equal(written_out(layer, x, *z), folded(layer, x, *z))


@pytest.mark.parametrize("rows", [(3, 3), (1, 3), (3, 1)])
def test_gradients_of_the_cell(rows):
    def leaf(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    values = leaf(LENGTH, 3, 8), leaf(8, 2), leaf(8), leaf(rows[0], 8), leaf(rows[1], 2)
    assert torch.autograd.gradcheck(_Recurrence.apply, values)


def test_each_sequence_has_its_own_factors_at_all_of_its_steps():
    """Of a batch what each sequence gives alone, with the factors that it has drawn."""
    network = network_of()
    inference = attached(network)
    torch.manual_seed(0)
    drawn = inference.by_structure(inference.draw(4, training=True))
    layer, x = network.recurrent[0], torch.randn(4, LENGTH, WIDTH).double()
    z = [drawn[f"recurrent.0 {name}"] for name in ("gates", "neurons")]
    together = written_out(layer, x, *z)
    for i, own in enumerate(together):
        assert_equal(own, folded(layer, x[i : i + 1], z[0][i : i + 1], z[1][i : i + 1])[0])


# ---------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("seed", range(20))
def test_the_masked_network_with_factors_is_the_compact_lstm(seed):
    """Words, inputs, neurons and gates out at random: attached, detached, masked and compacted compute the same."""
    generator = torch.Generator().manual_seed(seed)
    network, x = network_of(), sentences(12, generator)
    inference = attached(network)
    z = random_factors(inference, generator)
    expected = by_hand(network, x, z)
    network.eval()
    assert_equal(network(x), expected)
    inference.detach(network)
    assert_equal(network(x), expected)
    units = group_units(network)
    kept = torch.cat([z["word"], z["input"], z["neuron"]]) != 0
    mask = Mask(units, kept)
    mask.apply_(network)
    small = compact(network, mask, x)
    assert_equal(small(x), expected)
    assert isinstance(small, LSTM)
    assert type(small.recurrent[0]) is nn.LSTM
    assert small.recurrent[0].hidden_size == int((z["neuron"] != 0).sum())
    assert len(small.inputs.present) == int((z["word"] != 0).sum())
    assert certify(network, small, x).difference <= 1e-12


@pytest.mark.parametrize("options", [{"layers": 2}, {"embedding": 0}, {"outputs": VOCABULARY}])
def test_evaluation_before_and_after_folding(options, generator):
    network = network_of(**options)
    x = torch.randint(0 if "outputs" not in options else 1, VOCABULARY, (5, LENGTH), generator=generator)
    inference = attached(network, words=True)
    random_factors(inference, generator)
    network.eval()
    before = network(x)
    assert not torch.equal(before, network_of(**options)(x))
    inference.detach(network)
    assert_equal(network(x), before)


def test_rows_of_images_have_factors_on_columns(generator):
    network = build("lstm", (1, 6, 4), CLASSES, seed=0, hidden=HIDDEN).double()
    x = torch.randn(5, 1, 6, 4, generator=generator).double()
    inference = RecurrentDropout(kinds=ALL, warm_up=(0, 1))
    inference.attach(network, weight_units(network), Split(x, torch.zeros(5, dtype=torch.int64)))
    assert [s.kind for s in inference.noisy] == ["input", "gate", "neuron"]
    assert network(x).shape == (5, CLASSES)
    columns = random_factors(inference, generator)["input"]
    network.eval()
    before = network(x)
    inference.detach(network)
    assert_equal(network(x), before)
    assert bool(((network.recurrent[0].weight_ih_l0 != 0).any(0) == (columns != 0)).all())


def test_a_gate_without_weights_is_its_bias_whatever_is_behind_it(generator):
    network, x = network_of(), sentences()
    inference = attached(network)
    random_factors(inference, generator, share=1)
    gates = torch.ones(4 * HIDDEN).double()
    forget = HIDDEN + 2  # of neuron 2
    gates[forget] = 0
    set_factors(inference, gate=gates)
    network.eval()
    before = network(x)
    with torch.no_grad():
        network.recurrent[0].weight_ih_l0[forget] = torch.randn(WIDTH, generator=generator).double()
        network.recurrent[0].weight_hh_l0[forget] = torch.randn(HIDDEN, generator=generator).double()
    assert torch.equal(network(x), before)
    inference.detach(network)
    layer = network.recurrent[0]
    assert not layer.weight_ih_l0[forget].any()
    assert not layer.weight_hh_l0[forget].any()
    assert layer.bias_ih_l0[forget] != 0


def test_a_neuron_with_four_constant_gates_is_not_zero(generator):
    """It is a sequence that depends on nothing: taking it away changes what the network computes."""
    network, x = network_of(), torch.randint(1, VOCABULARY, (8, LENGTH), generator=generator)
    inference = attached(network)
    gates = torch.ones(4, HIDDEN).double()
    gates[:, 1] = 0
    set_factors(inference, gate=gates.flatten())
    inference.detach(network)
    states = network._states(x)[:, :, 1]
    assert_equal(states, states[:1].expand_as(states))
    assert states[0].unique().numel() == LENGTH
    kept = torch.ones(group_units(network).n, dtype=torch.bool)
    kept[VOCABULARY + WIDTH + 1] = False
    without = copy.deepcopy(network)
    Mask(group_units(network), kept).apply_(without)
    assert (without(x) - network(x)).abs().max() > 1e-3


def test_a_neuron_without_its_factor_is_zero():
    network, x = network_of(), sentences()
    inference = attached(network)
    z = torch.ones(HIDDEN).double()
    z[3] = 0
    set_factors(inference, neuron=z)
    network.eval()
    seen = []
    network.readout.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(x)
    assert not seen[0][:, 3].any()
    assert seen[0][:, 2].any()


def test_noise_is_tied_over_the_sequence(generator):
    """z ~ N(0.8, 0.3²) read four times: E[z⁴] = 0.7795, and not E[z]⁴ = 0.4096."""
    torch.manual_seed(0)
    network = network_of(embedding=1)
    with torch.no_grad():
        network.inputs.weight.fill_(1.0)
    inference = attached(network, kinds=("input",), words=False)
    set_factors(inference, input=0.8)
    inference.steps.data[1] = math.log(0.3) - START[1]
    inference.log_sigma.data.fill_(-30.0)
    seen = []
    network.recurrent[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    network(torch.ones(200_000, 4, dtype=torch.int64))
    values = seen[0][..., 0].detach()
    assert torch.equal(values, values[:, :1].expand_as(values))
    assert values.prod(1).mean().item() == pytest.approx(0.7795, abs=0.008)
    apart = [values[torch.randperm(len(values), generator=generator), t] for t in range(4)]
    assert torch.stack(apart).prod(0).mean().item() == pytest.approx(0.4096, abs=0.004)


def test_weights_have_one_draw_for_the_minibatch():
    """Without noise on structures equal sentences have equal outputs, but for the read-out's local noise."""
    torch.manual_seed(0)
    network = network_of()
    inference = attached(network, kinds=(), words=False)
    assert inference.noisy == ()
    seen = []
    network.readout.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.ones(3, LENGTH, dtype=torch.int64)
    first, again = network(x), network(x)
    assert_equal(seen[0], seen[0][:1].expand_as(seen[0]))
    assert (seen[0] - seen[1]).abs().max() > 1e-3
    assert (first[0] - first[1]).abs().max() > 1e-3
    assert again.shape == first.shape


@pytest.mark.parametrize("ties", ["example", "minibatch"])
def test_what_shares_a_draw(ties):
    network = network_of()
    inference = attached(network, ties=ties, words=False)
    inference.log_sigma.data.fill_(-30.0)
    outputs = network(torch.ones(3, LENGTH, dtype=torch.int64))
    assert bool((outputs[0] - outputs[1]).abs().max() > 1e-3) == (ties == "example")


def test_a_copy_takes_the_noise_along_and_reads_its_own_weights():
    network, x = network_of(), sentences()
    inference = attached(network)
    set_factors(inference, gate=0.5)
    replica = copy.deepcopy(network).eval()
    network.eval()
    assert_equal(replica(x), network(x))
    with torch.no_grad():
        replica.recurrent[0].weight_hh_l0.zero_()
    assert (replica(x) - network(x)).abs().max() > 1e-3
    inference.detach(network)
    assert "forward" not in vars(network.recurrent[0])


# ---------------------------------------------------------------------------------- the divergence


@pytest.mark.parametrize(("method", "words", "factors"), [
    ("lstm-w", False, 0), ("lstm-w", True, VOCABULARY), ("lstm-wn", None, VOCABULARY + WIDTH + HIDDEN),
    ("lstm-wgn", None, VOCABULARY + WIDTH + 5 * HIDDEN), ("lstm-wgn", False, WIDTH + 5 * HIDDEN),
])  # fmt: skip
def test_the_divergence_has_a_term_for_every_weight_and_factor(method, words, factors):
    network = network_of()
    inference = build_pruner(method, words=words).inference()
    inference.attach(network, weight_units(network), Split(sentences(), torch.zeros(12, dtype=torch.int64)))
    weights = VOCABULARY * WIDTH + 4 * HIDDEN * (WIDTH + HIDDEN) + CLASSES * HIDDEN
    assert inference.terms == weights + factors
    every = torch.cat([p.detach().flatten() for n, p in network.named_parameters() if "weight" in n])
    rates = torch.cat([-6 - every.square().log(), torch.full((factors,), -6.0)])
    assert_equal(inference.divergence(network), kl(rates.clamp(max=8)).sum(), 1e-9)
    assert inference.learned(network)["terms"] == weights + factors


def test_one_hot_words_have_factors_if_asked():
    for words, expected in ((None, ["gate", "neuron"]), (True, ["word", "gate", "neuron"])):
        assert [s.kind for s in attached(network_of(embedding=0), words=words).noisy] == expected


@pytest.mark.parametrize(("form", "lr_factor"), [("exact", 1), ("exact", 4), ("molchanov", 1)])
def test_the_penalty_is_counted_once(form, lr_factor):
    network = network_of()
    inference = attached(network, form=form, lr_factor=lr_factor)
    inference.update(network, Split(sentences(), torch.zeros(12)), 3)
    parameters = [p for p in (*network.parameters(), *inference.parameters()) if p.requires_grad]
    expected = torch.autograd.grad(0.3 * inference.penalty(network), parameters, allow_unused=True)
    torch.manual_seed(0)
    network(sentences()).sum().backward()
    before = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
    inference.penalizer(network, 0.3)()
    for parameter, old, new in zip(parameters, before, expected, strict=True):
        if new is not None:
            assert parameter.grad is not None
            assert_equal(parameter.grad - old, new, 1e-10)


def test_what_has_left_has_no_noise_and_no_divergence():
    network, x = network_of(), sentences()
    inference = attached(network)
    units = weight_units(network)
    tensors = {g.name: torch.ones(g.slices[0].shape, dtype=torch.bool) for g in units.groups}
    tensors["readout.weight"][:, 2] = False
    tensors["recurrent.0.weight_hh_l0"][:, 2] = False
    before = inference.divergence_of_factors()
    leave(network, inference, Mask(units, torch.cat([t.flatten() for t in tensors.values()])))
    assert_equal(inference.divergence_of_factors(), before - kl(torch.tensor(-6.0).double()), 1e-9)
    drawn = inference.by_structure(inference.draw(50, training=True))["recurrent.0 neurons"]
    assert drawn[:, 2].eq(1).all()
    assert drawn[:, 1].std() > 0
    again = network_of()
    other = attached(again)
    again.load_state_dict(network.state_dict())
    other.load_tensors(inference.tensors())
    assert_equal(other.divergence(again), inference.divergence(network))
    assert torch.equal(again.eval()(x), network.eval()(x))


# ---------------------------------------------------------------------------------- what stays


def rates_at(inference, network, generator):
    """Random log σ: about half of all weights and factors beyond the threshold."""
    inference.log_sigma.data = 1.5 + 2 * torch.randn(inference.log_sigma.shape, generator=generator).double()
    inference.steps.data[1] = 4.0 + torch.randn(inference.steps.shape[1], generator=generator).double()
    return State(network, weight_units(network), Split(sentences(), torch.zeros(12)), inference)


def test_a_weight_stays_with_all_that_own_it(generator):
    """The published rule, unit by unit: own log α, those of the factors that scale it, and somebody that reads it."""
    network = network_of()
    inference = attached(network)
    state = rates_at(inference, network, generator)
    pruner = build_pruner("lstm-wgn")
    kept = Mask(state.units, pruner.score(state) > -3).tensors
    sigma = inference.sigma()
    own = {n: 2 * sigma[n].log() - p.detach().square().log() < 3 for n, p in network.named_parameters() if n in sigma}
    rates = 2 * inference.factors[1] - inference.factors[0].square().log()
    word, dimension, gate, neuron = (part < 3 for part in rates.split(inference.sizes))
    e, w_x, w_h, v = (own[n] for n in kept)
    words = [bool(word[i] and e[i].any()) for i in range(VOCABULARY)]
    inputs = [bool(dimension[i] and w_x[:, i].any()) for i in range(WIDTH)]
    neurons = [bool(neuron[j] and (w_h[:, j].any() or v[:, j].any())) for j in range(HIDDEN)]
    assert not all(words)
    assert not all(neurons)
    for i, j in itertools.product(range(VOCABULARY), range(WIDTH)):
        assert kept["inputs.weight"][i, j] == (e[i, j] and words[i] and inputs[j])
    for r in range(4 * HIDDEN):
        row = bool(gate[r]) and neurons[r % HIDDEN]
        for i in range(WIDTH):
            assert kept["recurrent.0.weight_ih_l0"][r, i] == (w_x[r, i] and row and inputs[i])
        for j in range(HIDDEN):
            assert kept["recurrent.0.weight_hh_l0"][r, j] == (w_h[r, j] and row and neurons[j])
    for k, j in itertools.product(range(CLASSES), range(HIDDEN)):
        assert kept["readout.weight"][k, j] == (v[k, j] and neurons[j])
    report = pruner.report(state) if pruner.report else {}
    entries = sum(int(mask.sum()) for mask in kept.values())
    assert report["weights"] == [entries, state.units.n]
    assert report["compression"] == state.units.n / entries
    assert report["compression_published"] < report["compression"]
    assert report["alive"]["recurrent.0 neurons"] == [sum(neurons), HIDDEN]
    constant = ~(kept["recurrent.0.weight_ih_l0"].any(1) | kept["recurrent.0.weight_hh_l0"].any(1))
    assert list(report["gates"]["recurrent.0 gates"].values()) == [int((~part).sum()) for part in constant.chunk(4)]
    groups = pruner.score(State(network, group_units(network), state.train, inference)) > -3
    assert groups[VOCABULARY:].tolist() == inputs + neurons


def test_pruning_by_the_rule_and_folding_agree(generator):
    """What leaves by single weights, masked, computes what the cell with pruned factors at zero computes."""
    network, x = network_of(), sentences()
    inference = attached(network)
    state = rates_at(inference, network, generator)
    mask = Mask(state.units, build_pruner("lstm-wgn").score(state) > -3)
    rates = 2 * inference.factors[1] - inference.factors[0].square().log()
    leave(network, inference, mask)
    kinds = [s.kind for s in inference.noisy]
    z = {k: (part < 3).double() for k, part in zip(kinds, rates.split(inference.sizes), strict=True)}
    expected = by_hand(network, x, z)
    inference.detach(network)
    assert_equal(network.eval()(x), expected)


def logged(words, inputs, neurons, gates, entries, factors=(), behind=0):
    """Masks of an IMDB network (20 003 words, 300 inputs, 128 neurons, one output) with such counts.

    One entry of E for each word, one of V for each neuron, the other `entries` in W_x and W_h over `gates` gates, and
    `behind` more behind factors of gates that are out.
    """
    network = build("lstm", (200, 20_003), 1, seed=0, hidden=128, embedding=300, words=True)
    assert isinstance(network, LSTM)
    own = {n: torch.zeros(p.shape) for n, p in network.named_parameters() if "weight" in n}
    e, w_x, w_h, v = own.values()
    e[torch.arange(words), torch.arange(words) % inputs] = 1
    e[: 2 * words, inputs] = 1  # an input that nothing reads
    v[0, :neurons] = 1
    rows = [gate * 128 + j for j in range(neurons) for gate in range(4)]
    live, out = rows[:gates], rows[gates : gates + behind]
    turns = [(w_x, r, (i + k) % inputs) for i in range(inputs) for k, r in enumerate(live)]
    places = turns + [(w_h, r, j) for j in range(neurons) for r in live]
    for tensor, r, i in [*places[:entries], *((w_x, r, 0) for r in out)]:
        tensor[r, i] = 1
    w_h[3 * 128 + 100, 0] = 1  # of a neuron that nothing reads
    found = {}
    for s in structures(network):
        if s.kind in factors:
            found[s.name] = torch.ones(s.size)
            if s.kind == "gate":
                found[s.name][out] = 0
            if s.kind == "word":
                found[s.name][words:] = 0
    return remaining(boolean(propagated(own, found, structures(network))), structures(network))


def boolean(worth):
    parts = ({n: v > 0 for n, v in part.items()} for part in (worth.weights, worth.published, worth.units))
    return type(worth)(*parts)


@pytest.mark.parametrize(("variant", "expected"), [
    ({"words": 5054, "inputs": 7, "neurons": 9, "gates": 20, "entries": 84}, 1208.50),
    ({"words": 316, "inputs": 1, "neurons": 7, "gates": 19, "entries": 50, "factors": ("word", "input", "neuron")},
     16676.04),
    ({"words": 307, "inputs": 1, "neurons": 7, "gates": 8, "entries": 17, "behind": 6,
      "factors": ("word", "input", "neuron", "gate")}, 18457.46),
])  # fmt: skip
def test_the_counts_of_the_published_imdb_logs(variant, expected):
    """Chirkova et al. print 1208.50, 16676.04 and 18457.46, the last without what leaves behind gates."""
    found = logged(**variant)
    assert found["compression_published"] == pytest.approx(expected, abs=0.005)
    behind = variant.get("behind", 0)
    total, alive = 6_220_164, round(6_220_164 / expected)
    assert found["weights"] == [alive - behind, total]
    assert found["compression"] == total / (alive - behind)
    counts = {name: count for name, (count, _) in found["alive"].items()}
    assert counts["inputs words"] == variant["words"]
    assert counts["inputs dimensions"] == variant["inputs"]
    assert counts["recurrent.0 neurons"] == variant["neurons"]
    assert counts["recurrent.0 gates"] == sum(found["gates"]["recurrent.0 gates"].values()) == variant["gates"]


def test_nothing_left_has_no_compression():
    assert compression({"w": torch.zeros(2, 3, dtype=torch.bool)}) is None


# ---------------------------------------------------------------------------------- the methods


def test_a_draw_for_the_minibatch_is_one_of_the_read_out_too():
    """Equal sentences then have equal outputs."""
    for draws, equal in (("local", False), ("minibatch", True)):
        network = network_of()
        attached(network, kinds=(), words=False, draws=draws)
        outputs = network(torch.ones(2, LENGTH, dtype=torch.int64))
        assert torch.allclose(outputs[0], outputs[1], rtol=0, atol=1e-9) == equal


def test_factors_move_lr_factor_times_as_far():
    for lr_factor in (1, 4):
        inference = attached(network_of(), lr_factor=lr_factor)
        inference.steps.data[1] = 0.5
        assert_equal(inference.factors[1], torch.full_like(inference.factors[1], -3 + 0.5 * lr_factor))
    with pytest.raises(UsageError, match="lr_factor must be positive, got 0"):
        build_pruner("lstm-wn", lr_factor=0)


@pytest.mark.parametrize("method", METHODS)
def test_other_networks_are_refused(method):
    network = build("mlp", (4,), 2, seed=0)
    inference = build_pruner(method).inference()
    with pytest.raises(NotApplicable, match="'lstm'"):
        inference.attach(network, weight_units(network), Split(torch.zeros(4, 4), torch.zeros(4, dtype=torch.int64)))


def test_training_keeps_what_matters(generator):
    """Sentences whose label is whether word 3 occurs: the other words leave, and the network still knows."""
    x = torch.randint(4, VOCABULARY, (600, LENGTH), generator=generator)
    x[::2, 0] = 3
    x = x.gather(1, torch.rand(x.shape, generator=generator).argsort(1))
    y = (x == 3).any(1).long()
    split = Split(x, y)
    network = build("lstm", (LENGTH, VOCABULARY), 2, seed=0, hidden=12, embedding=6, words=True)
    pruner = build_pruner("lstm-wgn", warm_up=(2, 8))
    inference = pruner.inference()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inference.attach(network, weight_units(network), split)
        train(network, split, inference, Training(lr=0.01, batch_size=20), 25, generator)
    state = State(network, weight_units(network), split, inference)
    mask = Mask(state.units, pruner.score(state) > -3)
    report = pruner.report(state) if pruner.report else {}
    leave(network, inference, mask)
    inference.detach(network)
    predicted = network.eval()(x).argmax(1)
    assert (predicted == y).double().mean() > 0.98
    assert mask.sparsity > 0.9
    assert report["alive"]["inputs words"][0] <= 6
