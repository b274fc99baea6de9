"""Every registered pruner keeps the contract on every tiny architecture; broken ones are found out."""

import pytest
from bayesprune.bench.contract import PROMISES, TINY, check, check_on
from bayesprune.bench.results.store import Store
from bayesprune.datasets.errors import UsageError
from bayesprune.methods import registry

HEAD = """
from functools import partial
from bayesprune import MAP, Pruner, register
"""

# Fewer rounds, or passes, than a method has by default.
QUICKER = {"obs": {"rounds": 3}, "chita": {"rounds": 3}, "cbs": {"passes": 10}}

# Every method, one of each kind for a name with a placeholder.
METHODS = [
    *((name, QUICKER.get(name, {})) for name in registry.catalogue() if "<" not in name),
    ("spam-opd", {"frequency": 1}),
    ("spam-opd", {"frequency": 1, "curvature": "kfac", "prior": "unitwise", "kind": "mc"}),
    ("spam-obs", {"frequency": 1, "rounds": 2}),
    ("spam-grasp", {"frequency": 2, "prior": "layerwise", "update": "mackay", "preset": "authors"}),
]

# Methods that take some kinds of networks only.
RECURRENT = {"lstm-w", "lstm-wn", "lstm-wgn"}
STRUCTURE_NOISE = {
    "l0",
    "vib",
    "compression-gnj",
    "compression-ghs",
    "bmrs-n",
    "bmrs-n-exact",
    "bmrs-n-mid",
    "bmrs-u",
    "snr",
    "noise-mean",
    "group-variational-dropout",
}


SINGLE = {"set", "rigl", "ssvi", "wanda"}  # weights only


def applies(method, architecture, granularity):
    if method in SINGLE:
        return granularity == "weights"
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
    "a stored fit gives the same scores": """
from dataclasses import dataclass
import torch
@dataclass
class Forgetful(MAP):
    def attach(self, network, units, train):
        self.epochs = torch.zeros(1)
    def update(self, network, train, epoch):
        self.epochs += 1  # which `tensors` does not tell
MAP = Forgetful
def score(state):
    return state.units.gather({n: w.abs() + state.inference.epochs for n, w in state.weights().items()})
""",
    "mask shapes and exact counts": """
Pruner = partial(Pruner, allocation="2:4")  # keeps half of the weights, whatever it is asked for
def score(state):
    return state.units.gather({n: w.abs() for n, w in state.weights().items()})
""",
    "monotone in the sparsity": """
class Fickle(str):
    turn = 0
    def __eq__(self, other):
        if other != "global":
            return str(self) == other
        Fickle.turn += 1
        return bool(Fickle.turn % 2)
    def __ne__(self, other):
        return False
    __hash__ = str.__hash__
Pruner = partial(Pruner, allocation=Fickle("layerwise"))  # says it is global, and is every second time
def score(state):
    return state.units.gather({n: w.abs() for n, w in state.weights().items()})
""",
    "runs from training to fine-tuning": """
from dataclasses import dataclass
@dataclass
class Clinging(MAP):
    def attach(self, network, units, train):
        network.register_forward_hook(lambda *_: None)  # and never lets go
MAP = Clinging
def score(state):
    return state.units.gather({n: w.abs() for n, w in state.weights().items()})
""",
}

MOVING = """
from bayesprune.methods.pruner import Adjusted
def score(state):
    return state.units.gather({n: w.abs() for n, w in state.weights().items()})
def zeroed(state, mask):
    return {n: w * mask.tensors[n] for n, w in state.weights().items()}
"""

CHEATS |= {
    "adjusting leaves the network as it was": MOVING
    + """
def adjust(state, mask):
    mask.apply_(state.network)
    return Adjusted(zeroed(state, mask))
Pruner = partial(Pruner, adjust=adjust)
""",
    "adjusting revives nothing": MOVING
    + """
def adjust(state, mask):
    return Adjusted(state.weights())
Pruner = partial(Pruner, adjust=adjust)
""",
    "adjusting nothing moves nothing": MOVING
    + """
def adjust(state, mask):
    return Adjusted({n: 1.001 * w for n, w in zeroed(state, mask).items()})
Pruner = partial(Pruner, adjust=adjust)
""",
    "adjusting costs no more than zeroing": MOVING
    + """
from bayesprune.methods.conditioning.adjust import condition, singles
MAP = partial(MAP, curvature="kfac", precision=1e-3)
def adjust(state, mask):  # the papers' sum of single moves, under the name of the conditional mean
    mean, single = state.posterior.mean, singles(state, mask)
    h, zero = state.posterior.whole, condition(state, mask).report["zeroing"]
    d = {n: single.tensors[n].double() - m for n, m in mean.items()}
    cost = sum(0.5 * (d[n].flatten() * _times(h.blocks[n], d[n].flatten())).sum() for n in d)
    return Adjusted(single.tensors, {"zeroing": zero, "cost": float(cost)})
def _times(block, v):
    if not hasattr(block, "factors"):
        return block.h * v
    g, a = block.factors
    return (g @ v.view(block.h.shape) @ a).flatten()
Pruner = partial(Pruner, adjust=adjust)
""",
    "adjusting is deterministic under a seed": MOVING
    + """
import itertools
calls = itertools.count(1)
def adjust(state, mask):
    return Adjusted({n: w / next(calls) for n, w in zeroed(state, mask).items()})
Pruner = partial(Pruner, adjust=adjust)
""",
    "adjusted, compact is masked": MOVING
    + """
def adjust(state, mask):  # units that left go on computing, so that they cannot be cut out
    for kept in mask.tensors.values():
        kept.fill_(True)
    return Adjusted({n: p.detach() + 1 for n, p in state.network.named_parameters()})
Pruner = partial(Pruner, adjust=adjust)
""",
}
CHEATS |= {
    "exchanges keep the counts": """
import torch
from bayesprune.methods.magnitude import magnitude as score
def grow(state, mask):
    next(iter(state.weights().values())).fill_(1.0)
    return torch.rand(state.units.n, generator=state.generator, dtype=torch.float64)
Pruner = partial(Pruner, when="dynamic", grow=grow)
""",
    "steps keep zeros and means": """
from contextlib import contextmanager
from dataclasses import dataclass
import torch
@dataclass
class Adrift(MAP):
    stochastic = True
    @contextmanager
    def perturbed(self, network):
        with torch.no_grad():
            for p in network.parameters():
                p.add_(0.1)
        yield
        with torch.no_grad():
            for p in network.parameters():
                p.sub_(0.1)
MAP = Adrift
def score(state):
    return state.units.gather({n: w.abs() for n, w in state.weights().items()})
""",
}
GROUPS = {"adjusted, compact is masked"}  # promises about units that are cut out


def verdict_of(text, promise, folder, name):
    file = folder / f"{name}.py"
    file.write_text(HEAD + text + f'\n@register("{name}")\ndef build():\n    return Pruner(partial(MAP, 1.0), score)\n')
    registry.load_plugin(file)
    return {v.promise: v for v in check_on(name, TINY[0], "groups" if promise in GROUPS else "weights")}[promise]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Of trained networks, which methods of one inference share."""
    return Store(tmp_path_factory.mktemp("fits"))


@pytest.mark.parametrize("architecture", TINY, ids=lambda choice: choice.label)
@pytest.mark.parametrize(("method", "options"), METHODS, ids=str)
def test_contract(method, options, architecture, store):
    for granularity in ("weights", "groups"):
        for verdict in check_on(method, architecture, granularity, store, **options):
            assert not verdict.problem, f"{verdict.promise}: {verdict.problem}\n{verdict.traceback}"
            assert bool(verdict.not_applicable) == (not applies(method, architecture, granularity)), verdict


def test_every_promise_has_a_cheat():
    assert set(CHEATS) == set(PROMISES)


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
