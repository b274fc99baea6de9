"""What a method does to the process, to the data or to itself is told of its cell alone: the others do not notice."""

import builtins
import gc
import logging
import os
import random
import re
import resource
import signal
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bayesprune.bench.harness import run_matrix as harness
from bayesprune.bench.isolation import attachments
from bayesprune.bench.isolation.isolated import LeftBehind, isolated
from bayesprune.bench.results.frames import results
from bayesprune.bench.spec.matrix import Matrix
from bayesprune.datasets.load import load
from torch import nn

# ---------------------------------------------------------------------------------- one kind of state at a time


def in_place(data):
    data.train.x.mul_(0.5)


def around_the_version_counter(data):
    data.train.x.data.add_(1)


def through_numpy(data):
    data.validation.y.numpy()[0] += 1


def flag_of_a_tensor(data):
    data.train.x.requires_grad_(True)


DATA = {
    in_place: "train.x", around_the_version_counter: "train.x", through_numpy: "validation.y",
    flag_of_a_tensor: "train.x",
}  # fmt: skip


@pytest.mark.parametrize("change", DATA, ids=lambda f: f.__name__)
def test_data_that_were_changed_in_place_are_named(change):
    data = load("digits", subset=50)

    def block():
        with isolated(data) as traces:
            kept.append(traces)
            change(data)

    kept = []
    with pytest.raises(LeftBehind, match=re.escape(DATA[change])):
        block()
    assert kept[0].data == [DATA[change]]
    assert not kept[0].restored


def _autocast():
    torch.autocast("cpu").__enter__()


def _class_method():
    nn.Linear.forward = lambda self, x: x


def _hidden_method():
    nn.Linear.__call__ = lambda self, x: x


def _function():
    F.linear = lambda *a: None


def _tensor_method():
    torch.Tensor.abs = lambda self: self


def _own_constant():
    from bayesprune.bench.evaluation import evaluate

    evaluate.EVALUATED = 3


def _own_function():
    from bayesprune.bench.evaluation import metrics

    metrics.categorical = lambda *a: {"accuracy": 1.0}


def _builtin():
    builtins.sum = lambda *a: 0


def _clock():
    time.perf_counter = lambda: 0.0


def _module():
    sys.modules["torch"] = None


def _global_hook():
    nn.modules.module.register_module_forward_hook(lambda *a: None)


def _optimiser_hook():
    from torch.optim.optimizer import register_optimizer_step_post_hook

    register_optimizer_step_post_hook(lambda *a: None)


def _timer():
    signal.setitimer(signal.ITIMER_REAL, 1000)


def _handler():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _mode():
    torch.utils.flop_counter.FlopCounterMode(display=False).__enter__()


STATE = {
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "grad mode": lambda: torch.set_grad_enabled(False),
    "autocast": _autocast,
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "backends": lambda: torch.set_float32_matmul_precision("medium"),
    "backend": lambda: torch.backends.mha.set_fastpath_enabled(not torch.backends.mha.get_fastpath_enabled()),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "denormal": lambda: torch.set_flush_denormal(True),
    "module hooks": _global_hook,
    "optimiser hooks": _optimiser_hook,
    "dispatch mode": _mode,
    "torch.nn.modules.linear.Linear.forward": _class_method,
    "torch.nn.modules.linear.Linear.__call__": _hidden_method,
    "torch.nn.functional.linear": _function,
    "Tensor.abs": _tensor_method,
    "evaluate.EVALUATED": _own_constant,
    "metrics.categorical": _own_function,
    "builtins.sum": _builtin,
    "time.perf_counter": _clock,
    "loaded modules": _module,
    "current folder": lambda: os.chdir("/"),
    "environment": lambda: os.environ.update(OMP_NUM_THREADS="77"),
    "warnings": lambda: warnings.simplefilter("ignore", UserWarning),
    "numpy": lambda: np.seterr(all="raise" if np.geterr()["over"] != "raise" else "ignore"),
    "recursion": lambda: sys.setrecursionlimit(777),
    "search path": lambda: sys.path.insert(0, "/nowhere"),
    "standard streams": lambda: setattr(sys, "stderr", None),
    "garbage": lambda: gc.disable(),
    "logging": lambda: logging.disable(50),
    "timers": _timer,
    "signal handlers": _handler,
    "mode mask": lambda: os.umask(0o777),
    "limits": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1])),
}


@pytest.mark.parametrize("name", STATE)
def test_state_that_was_left_behind_is_named_and_put_back(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def block():
        with isolated() as traces:
            kept.append(traces)
            STATE[name]()

    kept = []
    with pytest.raises(LeftBehind, match=re.escape(name)):
        block()
    assert not kept[0].lasting
    with isolated():  # nothing is left of it
        layer = nn.Linear(3, 2)
        nn.functional.linear(torch.ones(1, 3), layer.weight).sum().backward()
        assert layer.weight.dtype == torch.float32
    assert os.getcwd() == str(tmp_path)


def test_state_is_put_back_after_an_error_too_which_stays_the_reason():
    def block():
        with isolated() as traces:
            kept.append(traces)
            torch.set_default_dtype(torch.float64)
            raise KeyError("its own")

    kept = []
    with pytest.raises(KeyError):
        block()
    assert kept[0].restored == ["the default dtype"]
    assert torch.get_default_dtype() == torch.float32


def test_random_states_are_put_back_without_a_word():
    def numbers():
        return [*torch.rand(3).tolist(), random.random(), *np.random.rand(2)]  # noqa: NPY002

    before = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    with isolated():
        first = numbers()
    with isolated():
        assert numbers() == first
    assert torch.equal(before[0], torch.get_rng_state())


def test_what_nobody_can_undo_is_lasting(monkeypatch):
    from bayesprune.bench.isolation import isolated as module

    monkeypatch.setattr(module, "_spoiled", [])
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, daemon=True)

    def block():
        with isolated():
            thread.start()

    try:
        with pytest.raises(LeftBehind, match="thread"):
            block()
        assert "thread" in module.spoiled()
    finally:
        stop.set()
        thread.join()


def test_everything_that_can_be_fastened_to_a_network_is_seen():
    def network():
        return nn.Sequential(nn.Linear(2, 2), nn.ReLU())

    fastened = {
        "forward": lambda n: n[0].register_forward_hook(lambda *a: None),
        "forward pre": lambda n: n[1].register_forward_pre_hook(lambda *a: None),
        "backward": lambda n: n[0].register_full_backward_hook(lambda *a: None),
        "state dict": lambda n: n.register_state_dict_pre_hook(lambda *a: None),
        "parameter": lambda n: n[0].weight.register_hook(lambda g: g),
        "accumulation": lambda n: n[0].weight.register_post_accumulate_grad_hook(lambda p: None),
        "own forward": lambda n: setattr(n[0], "forward", lambda x: x),
        "class": lambda n: setattr(n[1], "__class__", nn.Tanh),
        "another module": lambda n: n.append(nn.Identity()),
        "parametrization": lambda n: nn.utils.parametrizations.weight_norm(n[0]),
    }
    assert not attachments.left_on(network(), network())
    for name, fasten in fastened.items():
        changed = network()
        fasten(changed)
        assert attachments.left_on(changed, network()), name


# ---------------------------------------------------------------------------------- whole runs

PLUGIN = '''
import atexit, os, sys, threading, time, warnings, signal
from dataclasses import dataclass
import numpy as np
import torch
from torch import nn
import bayesprune as bp


def magnitude(state):
    return state.units.gather({n: w.abs().double() for n, w in state.weights().items()})


def mischief(name, harm):
    """A score, as magnitude, that does harm first."""
    def score(state):
        harm(state)
        return magnitude(state)

    @bp.register(name)
    def builder():
        return bp.Pruner(bp.MAP, score)
    builder.__doc__ = name


def linear(*a):
    return torch.zeros(1)


def patch(state):
    nn.Linear.forward = linear


def thread(state):
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()


def leave_hook(state):
    nn.modules.module.register_module_forward_hook(lambda m, i, o: o * 1.01)


def interrupt(state):
    raise KeyboardInterrupt


class Odd(BaseException):
    pass


def odd(state):
    raise Odd("\\ud800 neither here nor there" + "x" * 100_000)


def autocast(state):
    torch.autocast("cpu").__enter__()


def thread_reads(state):
    import gc
    from bayesprune.datasets.data import Data
    data = next(o for o in gc.get_objects() if isinstance(o, Data))
    reader = threading.Thread(target=lambda: data.test)
    reader.start()
    reader.join()


mischief("halves-data", lambda state: state.train.x.mul_(0.5))
mischief("halves-data-behind-torch", lambda state: state.train.x.numpy().__imul__(0.5))
mischief("doubles", lambda state: torch.set_default_dtype(torch.float64))
mischief("no-grad", lambda state: torch.set_grad_enabled(False))
mischief("elsewhere", lambda state: torch.set_default_device("meta"))
mischief("casts", autocast)
mischief("hooks", leave_hook)
mischief("patches", patch)
mischief("walks-away", lambda state: os.chdir("/"))
mischief("starts-a-thread", thread)
mischief("reads-in-a-thread", thread_reads)
mischief("exits", lambda state: sys.exit(0))
mischief("interrupts", interrupt)
mischief("odd", odd)


def quiet():
    """Reads the test split wherever it is called, as far as it finds it."""
    import gc
    from bayesprune.datasets.data import Data
    for o in gc.get_objects():
        if isinstance(o, Data):
            try:
                o.test
            except RuntimeError:
                pass


def inference(method, harm):
    """MAP with harm done in one of its methods."""
    def harmful(self, *args, **kwargs):
        harm()
        return getattr(bp.MAP, method)(self, *args, **kwargs)

    kind = dataclass(type(f"Map_{method}_{harm.__name__}", (bp.MAP,), {method: harmful, "__module__": __name__}))

    @bp.register(f"{harm.__name__}-{method.replace('_', '-')}")
    def builder():
        return bp.Pruner(kind, magnitude)
    builder.__doc__ = method


def leaves():
    sys.exit(0)


METHODS = ["attach", "penalty", "penalizer", "posterior", "parameters", "update", "reduce", "detach", "sample",
           "tensors", "load_tensors", "learned", "candidates", "for_units", "identity"]
for method in METHODS:
    inference(method, leaves)
    inference(method, quiet)


def dies():
    os._exit(3)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


inference("update", dies)
inference("attach", killed)
'''

CELLS = {
    "halves-data": "train.x of the data in place", "halves-data-behind-torch": "train.x of the data in place",
    "doubles": "default dtype", "no-grad": "grad mode", "elsewhere": "default device", "casts": "autocast",
    "hooks": "global module hooks", "patches": "Linear.forward", "walks-away": "current folder",
    "starts-a-thread": "thread", "reads-in-a-thread": "TestSplitError", "exits": "SystemExit",
    "interrupts": "KeyboardInterrupt", "odd": "Odd",
}  # fmt: skip
# MAP's own penalizer never calls `penalty`, and magnitude asks for no posterior: nothing happens there.
METHODS = (
    "attach", "penalizer", "parameters", "update", "reduce", "detach", "sample", "tensors", "load-tensors", "learned",
    "candidates", "for-units", "identity",
)  # fmt: skip
INNOCENT = ["magnitude", "opd"]


def matrix_of(methods, **more):
    content = {
        "datasets": [{"name": "digits", "subset": 150}], "architectures": [{"name": "mlp", "widths": [8]}],
        "methods": methods, "sparsity": [0.5, 0.9], "seeds": [0], "training": {"epochs": 1},
        "finetune": {"epochs": 1}, "shift": False,
    }  # fmt: skip
    return Matrix(**content | more)


def timeless(frame, methods):
    chosen = frame[frame.method.isin(methods)].sort_values("key").reset_index(drop=True)
    seconds = ("seconds", "started", "peak", "speedup", "git_revision")
    return chosen[[c for c in chosen.columns if not c.startswith(seconds)]].to_csv()


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugin") / "mischief.py"
    path.write_text(PLUGIN)
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "r"
    harness.run(matrix_of(INNOCENT), folder, jobs=1)
    return timeless(results(folder), INNOCENT)


def around(guilty):
    """Innocent methods before, between and after the guilty ones."""
    return [INNOCENT[0], *guilty, INNOCENT[1]]


def check_run(frame, undisturbed, expected):
    assert timeless(frame, INNOCENT) == undisturbed
    for method, reason in expected.items():
        rows = frame[frame.method == method]
        assert len(rows) == 2, method
        assert set(rows.status) == {"failed"}, method
        assert rows.reason.str.contains(re.escape(reason)).all(), (method, list(rows.reason))
        assert (rows.reason.str.len() < 1000).all()
        assert (rows.traceback.str.len() < 30_000).all()


SOON = ("halves-data", "doubles", "hooks", "interrupts", "odd")


def test_what_some_scores_do_the_others_do_not_notice(plugin, undisturbed, tmp_path):
    folder = os.getcwd()
    harness.run(matrix_of(around(SOON)), tmp_path / "r", jobs=1, plugins=[plugin])
    check_run(results(tmp_path / "r"), undisturbed, {method: CELLS[method] for method in SOON})
    logits = {path.stem for path in (tmp_path / "r" / "logits").iterdir()}
    assert len(logits) == 4
    assert all(key in undisturbed for key in logits)
    assert os.getcwd() == folder


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_whatever_a_score_does_the_others_are_as_without_it(jobs, plugin, undisturbed, tmp_path):
    harness.run(matrix_of(around(CELLS)), tmp_path / "r", jobs=jobs, plugins=[plugin])
    check_run(results(tmp_path / "r"), undisturbed, CELLS)
    assert len(list((tmp_path / "r" / "logits").iterdir())) == 4


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_no_way_out_of_an_inference_is_a_way_out_of_the_run(jobs, plugin, undisturbed, tmp_path):
    expected = {f"leaves-{method}": "SystemExit" for method in METHODS}
    expected |= {"dies-update": "exit code 3", "killed-attach": "SIGKILL"}
    harness.run(matrix_of(around(expected)), tmp_path / "r", jobs=jobs, plugins=[plugin])
    check_run(results(tmp_path / "r"), undisturbed, expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of what the plug-in's search of the memory comes across
def test_every_method_of_an_inference_is_under_the_seal(plugin, undisturbed, tmp_path):
    expected = {f"quiet-{method}": "TestSplitError" for method in METHODS}
    harness.run(matrix_of(around(expected)), tmp_path / "r", jobs=1, plugins=[plugin])
    check_run(results(tmp_path / "r"), undisturbed, expected)


OWN = """
import sys, warnings
import numpy as np
import torch
sys.path.insert(0, "/nowhere/in/particular")

def data():
    np.seterr(all="ignore")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 4))
    return x, (x[:, 0] > 0).astype(int)

def network(input_shape, outputs):
    warnings.simplefilter("ignore")
    torch.backends.cudnn.benchmark = True
    return torch.nn.Sequential(torch.nn.Linear(*input_shape, 6), torch.nn.ReLU(), torch.nn.Linear(6, outputs))
"""


def test_no_method_is_blamed_for_the_data_or_the_network_of_the_user(tmp_path, monkeypatch):
    (tmp_path / "own_and_untidy.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    before = np.geterr(), list(warnings.filters), torch.backends.cudnn.benchmark
    own = {"datasets": ["own_and_untidy:data"], "architectures": ["own_and_untidy:network"]}
    harness.run(matrix_of(INNOCENT, **own), tmp_path / "r", jobs=1)
    assert set(results(tmp_path / "r")["status"]) == {"done"}
    assert before == (np.geterr(), list(warnings.filters), torch.backends.cudnn.benchmark)
    sys.modules.pop("own_and_untidy")
