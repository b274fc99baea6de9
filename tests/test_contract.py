"""Every registered pruner keeps the contract on every tiny architecture; broken ones are found out."""

import pytest
from bayesprune.bench.contract import TINY, check, check_on
from bayesprune.datasets.errors import UsageError
from bayesprune.methods import registry

HEAD = """
from functools import partial
from bayesprune import MAP, Pruner, register
"""

# Every method, one of each kind for a name with a placeholder.
METHODS = [
    *((name, {}) for name in registry.catalogue() if "<" not in name),
    ("spam-opd", {"frequency": 1}),
    ("spam-opd", {"frequency": 1, "curvature": "kfac", "prior": "unitwise", "kind": "ggn"}),
    ("spam-grasp", {"frequency": 2, "prior": "layerwise", "update": "mackay"}),
]

# Methods that take some kinds of networks only.
RECURRENT = {"lstm-w", "lstm-wn", "lstm-wgn"}
STRUCTURE_NOISE = {"bmrs-n", "bmrs-n-exact", "bmrs-n-mid", "bmrs-u", "snr", "noise-mean", "group-variational-dropout"}


def applies(method, architecture):
    recurrent = architecture.name == "lstm"
    return recurrent if method in RECURRENT else not (recurrent and method in STRUCTURE_NOISE)


CHEATS = {
    "never reads the test split": """
def score(state):
    from bayesprune.datasets.load import load
    try:
        load("digits").test
    except RuntimeError:
        pass
    return state.units.gather({n: w.abs() for n, w in state.weights().items()})
""",
    "leaves data and process as they were": """
def score(state):
    state.train.x.mul_(0.5)
    return state.units.gather({n: w.abs() for n, w in state.weights().items()})
""",
    "deterministic under a seed": """
import itertools
calls = itertools.count()
def score(state):
    return state.units.gather({n: (w + next(calls)).abs() for n, w in state.weights().items()})
""",
    "scoring leaves the network as it was": """
def score(state):
    next(state.network.parameters()).data.mul_(0.5)
    return state.units.gather({n: w.abs() for n, w in state.weights().items()})
""",
    "noise in training is declared": """
from dataclasses import dataclass
import torch
@dataclass
class Noisy(MAP):
    def attach(self, network, units, train):
        blur = lambda m, _, out: out + torch.randn_like(out) if m.training else None
        self.hook = network.register_forward_hook(blur)
    def detach(self, network):
        self.hook.remove()
MAP = Noisy
def score(state):
    return state.units.gather({n: w.abs() for n, w in state.weights().items()})
""",
    "scores are finite and rank": """
def score(state):
    return state.units.gather({n: w.sign() for n, w in state.weights().items()})
""",
}


def verdict_of(text, promise, folder, name):
    file = folder / f"{name}.py"
    file.write_text(HEAD + text + f'\n@register("{name}")\ndef build():\n    return Pruner(partial(MAP, 1.0), score)\n')
    registry.load_plugin(file)
    return {v.promise: v for v in check_on(name, TINY[0], "weights")}[promise]


@pytest.mark.parametrize("architecture", TINY, ids=lambda choice: choice.label)
@pytest.mark.parametrize(("method", "options"), METHODS, ids=str)
def test_contract(method, options, architecture):
    for granularity in ("weights", "groups"):
        for verdict in check_on(method, architecture, granularity, **options):
            assert not verdict.problem, f"{verdict.promise}: {verdict.problem}\n{verdict.traceback}"
            assert bool(verdict.not_applicable) == (not applies(method, architecture)), verdict


@pytest.mark.parametrize("promise", CHEATS)
def test_a_pruner_that_breaks_a_promise_is_found_out(promise, tmp_path):
    name = f"cheat-{list(CHEATS).index(promise)}"
    verdict = verdict_of(CHEATS[promise], promise, tmp_path, name)
    assert verdict.problem, promise


@pytest.mark.parametrize("method", ["learned", "tensors", "detach", "identity", "for_units"])
def test_whatever_an_inference_is_asked_it_may_not_read_the_test_split(method, tmp_path):
    text = f"""
from dataclasses import dataclass
def read(self, *args):
    from bayesprune.datasets.load import load
    try:
        load("digits").test
    except RuntimeError:
        pass
    return getattr(Honest, {method!r})(self, *args)
Honest = MAP
MAP = dataclass(type("Curious", (MAP,), {{{method!r}: read, "__module__": __name__}}))
def score(state):
    return state.units.gather({{n: w.abs() for n, w in state.weights().items()}})
"""
    assert "test split" in verdict_of(text, "never reads the test split", tmp_path, f"curious-{method}").problem


@pytest.mark.parametrize(
    "schedule", [{"when": "during"}, {"when": "during", "every": 2}, {"rounds": 3}, {"when": "before", "rounds": 2}]
)
@pytest.mark.parametrize("allocation", ["global", "layerwise", "erk", "lamp"])
def test_every_schedule_and_allocation(schedule, allocation):
    for verdict in check_on("magnitude", TINY[0], "weights", allocation=allocation, **schedule):
        assert not verdict.problem, f"{verdict.promise}: {verdict.problem}\n{verdict.traceback}"


def test_a_plugin_without_methods_and_unknown_names_are_refused(tmp_path):
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(UsageError, match="registers no method"):
        check(tmp_path / "empty.py")
    with pytest.raises(UsageError, match="did you mean 'magnitude'"):
        check("magnitudes")
