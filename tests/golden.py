"""Golden cells: small results of everything that is registered, by which a change of arithmetic is noticed.

    make golden          (python tests/golden.py --write)

writes `golden.json` anew, and refuses to where a value has moved beyond rounding without a new revision of anything
that it is made of. Compared are values, not bits, so that other processors and versions of torch agree; the digest says
where bits are the same.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from bayesprune.architectures import registry as architectures
from bayesprune.architectures.build import build as build_network
from bayesprune.architectures.discovery.units_of import units
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.evaluation.evaluate import validated
from bayesprune.bench.evaluation.risk_bound import Centre
from bayesprune.bench.harness.workbench import Workbench
from bayesprune.bench.results.store import Store
from bayesprune.bench.spec.metrics import registry as metrics
from bayesprune.bench.spec.run import Choice, Run
from bayesprune.bench.spec.settings import Finetune, Training
from bayesprune.bench.training.fits import fit_key, inference_of
from bayesprune.datasets import registry as datasets
from bayesprune.datasets.data import Data
from bayesprune.datasets.load import load
from bayesprune.datasets.registry import BUILT_IN
from bayesprune.methods import registry as methods
from bayesprune.methods.closed_forms.posteriors import Gaussian, Laplace
from bayesprune.methods.laplace.map import MAP
from torch import Tensor

FILE = Path(__file__).with_name("golden.json")
# Of scores and networks before anything is removed; and after, where another rounding may have chosen another unit.
BEFORE, AFTER = 1e-3, 5e-2

Values = dict[str, Any]


class Subject(NamedTuple):
    """Something registered, and how its small result is made: revisions of what it is made of, and values.

    `options` are those of its builder as they are written, with types and defaults, which decide results, too.
    """

    name: str
    make: Callable[[], tuple[Mapping[str, Any], Values]]
    options: Mapping[str, str] = {}


def subjects() -> Iterator[Subject]:
    """Everything that is registered, the cheap first."""
    yield from _metrics()
    yield from _datasets()
    yield from _architectures()
    yield from _methods()


# ---------------------------------------------------------------- values


def summary(values: Tensor | np.ndarray) -> list[float]:
    """Mean, standard deviation, the mean product with a fixed cosine, which knows places and signs; and how many."""
    x = torch.as_tensor(values).detach().double().cpu().flatten()
    wave = torch.cos(1.7 * torch.arange(len(x), dtype=torch.float64) + 1)
    if not len(x):
        return [0.0] * 4
    return [x.mean().item(), x.std(correction=0).item(), (x * wave).mean().item(), float(len(x))]


def numbers(value: Any) -> Values:
    """Numbers in nested JSON by path; lists of them as their summary."""
    found: Values = {}
    for name, part in value.items() if isinstance(value, Mapping) else ():
        if isinstance(part, Mapping):
            found |= {f"{name}.{rest}": v for rest, v in numbers(part).items()}
        elif isinstance(part, int | float) and not isinstance(part, bool):
            found[name] = float(part)
        elif isinstance(part, list | tuple) and part and all(isinstance(v, int | float) for v in part):
            found[name] = summary(np.array(part, float))
    return found


def rounded(value: Any) -> Any:
    """Numbers with seven digits."""
    if isinstance(value, Mapping):
        return {name: rounded(part) for name, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list) else float(f"{value:.7g}")


def digest(values: Values) -> str:
    """Of the values to the last bit."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def difference(old: Values, new: Values) -> str:
    """The first value that has moved beyond rounding, in words; empty if none has. What is said anew moves nothing."""
    for name in sorted(old):
        if name not in new:
            return f"{name} is gone"
        if not _agree(old[name], new[name], AFTER if name.startswith("after") else BEFORE):
            return f"{name} moved from {old[name]} to {rounded(new[name])}"
    return ""


def _agree(old: Any, new: Any, tolerance: float) -> bool:
    a, b = np.atleast_1d(np.array(old, float)), np.atleast_1d(np.array(new, float))
    if a.shape != b.shape:
        return False
    scale = np.abs(a)
    if len(a) == 4:  # a summary: means of random numbers vary by their deviation over the root of how many they are
        spread = a[1] / max(a[3], 1) ** 0.5
        scale = np.array([abs(a[0]) + spread, a[1], abs(a[2]) + spread, 0])
    return bool(np.all((np.abs(a - b) <= tolerance * scale + 1e-7) | (a == b) | (np.isnan(a) & np.isnan(b))))


# ---------------------------------------------------------------- metrics


def _metrics() -> Iterator[Subject]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(90, 7, generator=generator, dtype=torch.float64) * 2
    y = torch.randint(7, (90,), generator=generator)
    foreign = torch.randn(60, 7, generator=generator, dtype=torch.float64) * 1.3
    labels = (torch.rand(90, 7, generator=generator) < 0.4).double()
    real = torch.randn(90, 2, generator=generator, dtype=torch.float64)
    network = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    network[0].weight.data[:, :2] = 0
    drawn_from = build_network("mlp", (1, 8, 8), 10, seed=0, widths=[12])

    calls: dict[str, Callable[..., Any]] = {
        "accuracy": lambda f: [f(logits, y, 1), f(logits, y, 5)],
        "nll": lambda f: f(logits, y),
        "brier": lambda f: f(logits.softmax(1), y),
        "ece": lambda f: f(logits.softmax(1), y),
        "temperature": lambda f: f(logits, y),
        "ood_auroc": lambda f: f(logits, foreign),
        "gaussian": lambda f: f(real[:, :1], real[:, 1:], torch.tensor([0.7]).double(), torch.tensor([2.5]).double()),
        "language_model": lambda f: f(1.3),
        "bernoulli": lambda f: f(logits, labels),
        "bernoulli_nll": lambda f: f(logits, labels),
        "bernoulli_ece": lambda f: f(logits[:, 0].sigmoid(), labels[:, 0]).item(),
        "average_precision": lambda f: f(logits[:, 0], labels[:, 0]).item(),
        "flops": lambda f: f(network, torch.ones(1, 6)),
        "bits": lambda f: f(drawn_from, *_certified(drawn_from)[:3]),
        "laplace_evidence": lambda f: f(drawn_from, _laplace(drawn_from), _certified(drawn_from)[1], _data().train),
        "risk_bound": lambda f: f(drawn_from, *_certified(drawn_from), torch.Generator().manual_seed(1), draws=3),
        "monte_carlo": lambda f: f(drawn_from, _Spread(), _data(), torch.Generator().manual_seed(1), draws=3),
    }
    for name, entry in metrics.catalogue().items():

        def make(name: str = name, revision: int = entry.revision) -> tuple[Mapping[str, Any], Values]:
            found = calls[name](metrics.resolve(name)[0])
            values = numbers(found) if isinstance(found, Mapping) else {"value": found}
            return {"metric": {name: revision}} if revision != 1 else {}, values

        yield Subject(f"metric/{name}", make)


def _laplace(network: torch.nn.Module) -> Laplace:
    """At the weights as they are."""
    return MAP(precision=2.0).posterior(network, _data().train)


class _Spread:
    """The posterior of weights that are known to a tenth."""

    def sample(self, network: torch.nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
        """One draw."""
        return {n: p + 0.1 * torch.randn(p.shape, generator=generator) for n, p in network.named_parameters()}


def _certified(network: torch.nn.Module) -> tuple[Gaussian, Mask, Data, Centre]:
    """A posterior around the weights, which are known to a tenth, and a prior around 0."""
    weights = {n: p.detach().double() for n, p in network.named_parameters()}
    whole = units(network, "weights")
    mask = Mask(whole, torch.arange(whole.n) % 3 > 0)
    centre = Centre({n: torch.zeros_like(w) for n, w in weights.items()}, _data().train)
    return Gaussian(weights, {n: torch.full_like(w, 100.0) for n, w in weights.items()}), mask, _data(), centre


# ---------------------------------------------------------------- data sets

# Of these every byte is made here or comes with scikit-learn; the others need real data, or files of the user.
DATASETS = (
    "breast-cancer", "diabetes", "digits", "sparse-function", "sparse-teacher", "two-moons", "wine", "npz:<path>",
    "sentences:<path>", "text:<path>",
)  # fmt: skip
_WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "and",
    "runs",
    "far",
    "away",
    "from",
    "all",
    "of",
    "them",
]


def _datasets() -> Iterator[Subject]:
    for name in DATASETS:

        def make(name: str = name) -> tuple[Mapping[str, Any], Values]:
            with tempfile.TemporaryDirectory() as folder:
                data = load(name.replace("<path>", _file(name, Path(folder))), 0)
                splits = {part: getattr(data, part) for part in ("train", "validation", "test")}
                values = {f"{part}.{v}": summary(getattr(s, v)) for part, s in splits.items() for v in ("x", "y")}
                values |= {f"{part}.n": float(len(s)) for part, s in splits.items()}
                if data.likelihood != "gaussian":
                    values["ood"] = summary(data.ood.x)
                values |= {f"shift.{kind}": summary(data.shifted(kind, 3).x) for kind in data.shifts}
                revised = datasets.revisions(name.replace("<path>", "x"))
            return {"dataset": revised} if revised else {}, values

        yield Subject(f"dataset/{name}", make, datasets.catalogue()[name].options)


def _file(name: str, folder: Path) -> str:
    rng = np.random.default_rng(5)
    if name.startswith("npz"):
        np.savez(folder / "d.npz", x=rng.normal(size=(60, 4)).astype("float32"), y=np.arange(60) % 3)
        return str(folder / "d.npz")
    words = [str(rng.choice(_WORDS)) for _ in range(3000)]
    if name.startswith("text"):
        (folder / "d.txt").write_text(" ".join(words))
        return str(folder / "d.txt")
    lines = [f"{' '.join(words[20 * i : 20 * i + 9])}\t{i % 2}" for i in range(120)]
    (folder / "d.tsv").write_text("\n".join(lines))
    return str(folder / "d.tsv")


# ---------------------------------------------------------------- architectures

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "lenet-300-100": ("lenet-300-100", {}),
    "lenet5": ("lenet5", {}),
    "lstm": ("lstm", {"hidden": 6}),
    "mixer": ("mixer", {"dim": 16, "depth": 2}),
    "mlp": ("mlp", {"widths": [9, 7]}),
    "resnet": ("resnet", {"depth": 8, "width": 4}),
    "resnet of another norm": ("resnet", {"depth": 8, "width": 4, "norm": "fixup"}),
    "vit": ("vit", {"dim": 16, "depth": 2}),
    "torchvision/<model>": ("torchvision/squeezenet1_1", {}),
}


def _architectures() -> Iterator[Subject]:
    for label, (name, options) in ARCHITECTURES.items():

        def make(name: str = name, options: dict[str, Any] = options) -> tuple[Mapping[str, Any], Values]:
            shape = (3, 32, 32) if "/" in name else (1, 8, 8)
            network = build_network(name, shape, 5, seed=0, **options).eval()
            generator = torch.Generator().manual_seed(1)
            x = torch.randn(4, *shape, generator=generator)
            with torch.no_grad():
                values = {"outputs": summary(network(x))}
            weights = torch.cat([p.detach().flatten() for p in network.parameters()])
            values |= {"weights": summary(weights), "parameters": float(len(weights))}
            if "/" not in name:
                groups = units(network, "groups", x[:2])
                values["groups"] = summary(np.array(groups.layer_sizes, float))
            revised = architectures.revisions(name)
            return {"architecture": revised} if revised else {}, values

        entry = name if "/" not in name else f"{name.partition('/')[0]}/<model>"
        yield Subject(f"architecture/{label}", make, architectures.catalogue()[entry].options)


# ---------------------------------------------------------------- methods and inferences

STRUCTURED = (
    "bmrs-n", "bmrs-n-exact", "bmrs-n-mid", "bmrs-u", "compression-ghs", "compression-gnj", "group-variational-dropout", "l0", "l2-group", "noise-mean", "snr",
    "vib",
)  # fmt: skip
VARIANTS = (
    ("magnitude", {"when": "during"}),
    ("magnitude", {"rounds": 3, "allocation": "erk"}),
    ("magnitude", {"allocation": "lamp", "curvature": "kfac", "adjust": "condition"}),
    ("opd", {"curvature": "lowrank"}),
    ("spam-opd", {"preset": "authors"}),
    ("random", {"like": "snip"}),
    ("mean-field", {"prior": "scalar", "start": -1.0}),
    ("mean-field", {"prior": "layerwise", "start": -1.0}),
    ("opd", {"units": "groups"}),
    ("pip-gates", {"level": "nodes", "units": "groups"}),
)
# So that priors count, noise grows and gates move within three epochs.
SHORT: dict[str, Any] = {"warm_up": [0, 1], "lr_factor": 20.0}
_folder = tempfile.TemporaryDirectory()


def workbench(method: str, **options: Any) -> Workbench:
    """A small cell of a method on digits; cells share their fits."""
    granularity = options.pop("units", "groups" if method in STRUCTURED else "weights")
    lstm = method.startswith("lstm")
    taken = methods.option_names(method)
    options = {name: value for name, value in SHORT.items() if name in taken} | options
    architecture = Choice(name="lstm", options={"hidden": 6}) if lstm else Choice(name="mlp", options={"widths": [12]})
    run = Run(
        dataset=Choice(name="digits", options={"subset": 120}), architecture=architecture, sparsity=0.5, seed=0,
        method=Choice(name=method, options=options), units=granularity, shift=False,
        training=Training(epochs=3, batch_size=30, lr=0.01), finetune=Finetune(epochs=1),
    )  # fmt: skip
    return Workbench(run, _data(), Store(_folder.name), torch.device("cpu"))


@cache
def _data() -> Data:
    return load("digits", 0, subset=120)


def _methods() -> Iterator[Subject]:
    seen: set[str] = set()
    own = [name for name, entry in methods.catalogue().items() if entry.origin == BUILT_IN]
    plain = [(name.replace("<criterion>", "opd"), {}) for name in own]
    for name, options in (*plain, *VARIANTS):
        bench = workbench(name, **options)
        label = Choice(name=name, options=options).label + (" of groups" if bench.run.units == "groups" else "")
        key = fit_key(bench.run, inference_of(bench.run))
        if key not in seen:
            seen.add(key)
            kind = type(inference_of(bench.run))
            yield Subject(f"inference/{kind.__name__} of {label}", lambda bench=bench: _trained(bench))
        entry = methods.catalogue()["spam-<criterion>" if name == "spam-opd" else name]
        written = {} if options else entry.options
        yield Subject(f"method/{label}", lambda bench=bench: _pruned(bench), written)


def _trained(bench: Workbench) -> tuple[Mapping[str, Any], Values]:
    """What training gave, before anything is removed."""
    fit = bench.fit
    network, inference = fit.restore(bench.data, bench.device)
    with torch.no_grad():
        penalty = inference.penalty(network).item()
    values: Values = {"penalty": penalty, "passes": float(fit.cost.passes), **numbers({"learned": fit.learned})}
    values |= {f"network.{name}": summary(t.float()) for name, t in fit.network_state.items()}
    values |= {f"inference.{name}": summary(t.double()) for name, t in fit.inference_state.items()}
    values |= {f"after.dense.{name}": value for name, value in fit.dense.items() if name == "nll"}
    revisions = {kind: found for kind, found in bench.run.revisions.items() if kind != "method"}
    identity = json.loads(json.dumps(inference_of(bench.run).identity()))  # another one is another fit
    return {**revisions, "fit": identity}, values


def _pruned(bench: Workbench) -> tuple[Mapping[str, Any], Values]:
    """Scores, decisions, and what is left."""
    engine = bench.engine
    values: Values = {"scores": summary(engine.first.scores), "passes": float(engine.first.cost.passes)}
    for i, report in enumerate(engine.first_report):
        values |= {f"report.{i}.{name}": value for name, value in numbers(report).items()}
    if engine.pruner.decides:
        kept = engine.mask(engine.first, None)
        values["after.decided"] = float(kept.count) / engine.units.n
    outcome = bench.prune(0.5)
    layers = [float(part.double().mean()) for part in engine.units.split(outcome.mask.kept)]
    values |= {"kept": float(outcome.mask.count), "after.layers": summary(np.array(layers))}
    values |= {"held": float(outcome.epochs_held)}
    for i, report in enumerate(outcome.adjustments):
        values |= {f"after.adjusted.{i}.{name}": value for name, value in numbers(report).items()}
    weights = torch.cat([p.detach().flatten() for p in outcome.network.parameters()])
    values |= {"after.network": summary(weights), "after.nll": validated(outcome.network, bench.data)["validation_nll"]}
    return bench.run.revisions, values


# ---------------------------------------------------------------- the file


def stored() -> dict[str, Any]:
    """The golden values as they were written last."""
    return json.loads(FILE.read_text()) if FILE.is_file() else {}


class Moved(NamedTuple):
    """A subject whose values are not those of the file, and whether a new revision explains it."""

    name: str
    what: str
    revised: bool


def compared(old: Mapping[str, Any], subject: Subject) -> tuple[dict[str, Any], Moved | None]:
    """The entry of a subject as it is now, and how it differs from the file."""
    revisions, values = subject.make()
    defaults = {name: text.rpartition(" = ")[2] for name, text in subject.options.items() if " = " in text}
    entry = {"revisions": dict(revisions), "digest": digest(values), "defaults": defaults, "values": rounded(values)}
    before = old.get(subject.name)
    if before is None:
        return entry, Moved(subject.name, "is not in the file", True)
    what = difference(before["values"], values) if before["digest"] != entry["digest"] else ""
    changed = [name for name, text in before["defaults"].items() if defaults.get(name, text) != text]
    what = what or (f"the default of {changed[0]} is another" if changed else "")
    revised = before["revisions"] != entry["revisions"]
    if what or revised:
        return entry, Moved(subject.name, what or "has another revision", revised)
    return entry, None


def write() -> int:
    """Write the file anew; says what has moved, and refuses where no revision was raised."""
    old, new, unexplained = stored(), {}, []
    for subject in subjects():
        entry, moved = compared(old, subject)
        # What has not moved keeps its values, so that rounding does not creep.
        before = old.get(subject.name, {}).get("values", {})
        same = None if moved or entry["values"].keys() != before.keys() else old[subject.name]["digest"]
        new[subject.name] = entry if same is None else entry | {"values": before, "digest": same}
        if moved:
            print(f"{moved.name}: {moved.what}" + ("" if moved.revised else " WITHOUT A NEW REVISION"))
            unexplained += [] if moved.revised else [moved.name]
    if unexplained:
        print(
            f"Nothing was written: {len(unexplained)} values moved without a new revision. Raise the revision of what "
            "has changed (@register(name, revision=2), or `revision` of an inference), or undo the change.",
            file=sys.stderr,
        )
        return 1
    FILE.write_text("{\n" + ",\n".join(f"{json.dumps(n)}: {json.dumps(e)}" for n, e in new.items()) + "\n}\n")
    print(f"{FILE.name}: {len(new)} golden cells, {len(set(old) - set(new))} gone")
    return 0


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/golden.py --write")
    torch.set_num_threads(1)
    sys.exit(write())
