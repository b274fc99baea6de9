"""The contract that every pruner keeps, tested on tiny networks of every family.

`bayesprune check NAME_OR_FILE` runs it for a method author, the test suite for every registered method.
"""

from __future__ import annotations

import itertools
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..datasets.errors import NotApplicable, UsageError
from ..datasets.load import load
from ..datasets.seal import TestSplitError, sealed
from ..methods import registry
from .harness.workbench import Workbench
from .isolation.attachments import left_on
from .isolation.isolated import LeftBehind, isolated
from .promises import adjusting, training
from .promises.broken import Broken
from .promises.examined import HALF, Examined
from .promises.promise import Promise
from .pruning.dynamic import check_dynamic
from .pruning.ranking import checked_scores, keep_count
from .pruning.select import OF_WEIGHTS
from .results.store import Store
from .spec.run import Choice, Run
from .spec.settings import Finetune, Training
from .training.fits import train_one
from .training.seeding import seeded

TINY = (
    Choice(name="mlp", options={"widths": [16, 12]}),
    Choice(name="lenet5"),
    Choice(name="resnet", options={"width": 8}),
    Choice(name="resnet", options={"width": 8, "norm": "group"}),
    Choice(name="resnet", options={"width": 8, "norm": "fixup"}),
    Choice(name="vit", options={"dim": 16, "depth": 1}),
    Choice(name="mixer", options={"dim": 16, "depth": 1}),
    Choice(name="lstm", options={"hidden": 8}),
)
MOST_TIES = 0.5


@dataclass(frozen=True)
class Verdict:
    """One promise on one network; `problem` is empty if it is kept, or if the method is not for such networks."""

    method: str
    architecture: str
    units: str
    promise: str
    problem: str = ""
    traceback: str = ""
    not_applicable: str = ""


def check(name_or_file: str | Path, **options: Any) -> list[Verdict]:
    """Test the contract on a registered method, or on every method that a plug-in file registers.

    Raises UsageError for an unknown name, a file that does not load or one that registers nothing.
    """
    return list(verdicts(name_or_file, **options))


def verdicts(name_or_file: str | Path, **options: Any) -> Iterator[Verdict]:
    """The verdicts of `check`, one by one as they are reached."""
    methods = _methods(name_or_file)
    with tempfile.TemporaryDirectory() as folder:
        for method, architecture, granularity in itertools.product(methods, TINY, ("weights", "groups")):
            yield from check_on(method, architecture, granularity, Store(folder), **options)


def check_on(
    method: str, architecture: Choice, granularity: str, store: Store | None = None, **options: Any
) -> list[Verdict]:
    """The verdicts for one method on one network; trained networks are taken from the `store`, and put there.

    The state of the process is looked at once, around all promises, and around each only where something was left
    behind, to say by which: looking takes longer than most promises.
    """
    with tempfile.TemporaryDirectory() as folder:
        examined = partial(_examined, method, architecture, granularity, options, store or Store(folder))
        bench = examined()
        with suppress(LeftBehind), isolated(bench.data):
            return [_verdict(bench, name, promise) for name, promise in PROMISES.items()]
        bench = examined()
        return [_verdict(bench, name, promise, alone=True) for name, promise in PROMISES.items()]


def _verdict(bench: Examined, name: str, promise: Promise, alone: bool = False) -> Verdict:
    place = (bench.run.method.label, bench.run.architecture.label, bench.run.units, name)
    try:
        _check_units(bench)
        if promise.concerns(bench):
            with isolated(bench.data) if alone else nullcontext(), sealed():
                promise.test(bench)
    except (Broken, LeftBehind) as problem:
        return Verdict(*place, str(problem))
    except NotApplicable as reason:
        return Verdict(*place, not_applicable=str(reason))
    except TestSplitError as problem:
        return Verdict(*place, f"{problem}; a method sees only state.train", traceback.format_exc())
    except (Exception, SystemExit) as problem:
        return Verdict(*place, f"raised {type(problem).__name__}: {problem}", traceback.format_exc())
    return Verdict(*place)


def _check_units(bench: Examined) -> None:
    """Raises NotApplicable for whole units where a method is for single weights."""
    pruner = bench.engine.pruner
    if pruner.when == "dynamic":
        check_dynamic(bench.engine)
    if bench.engine.units.removable and pruner.allocation in OF_WEIGHTS:
        raise NotApplicable(f"the {pruner.allocation} allocation is defined on weight tensors")


def _methods(name_or_file: str | Path) -> list[str]:
    path = Path(name_or_file)
    if path.suffix != ".py" and not path.is_file():
        registry.resolve(str(name_or_file))
        return [str(name_or_file)]
    module = registry.load_plugin(path).__name__
    found = [name for name, entry in registry.catalogue().items() if entry.module == module]
    if not found:
        raise UsageError(f"plug-in {path} registers no method; decorate a function with @register('name')")
    return found


def _examined(method: str, architecture: Choice, granularity: str, options: dict[str, Any], store: Store) -> Examined:
    run = Run(
        dataset=Choice(name="digits", options={"subset": 120}),
        architecture=architecture,
        method=Choice(name=method, options=options),
        sparsity=0.5,
        seed=0,
        units=granularity,  # pyright: ignore[reportArgumentType]
        training=Training(epochs=2, lr=3e-3),
        finetune=Finetune(epochs=1),
    )
    return Examined(run, load("digits", 0, subset=120), store, torch.device("cpu"))


# ---------------------------------------------------------------------- the promises


def scores_rank(bench: Examined) -> None:
    """Scores have shape (units.n,), are finite, and do not tie most units of a trained network.

    Not of an untrained one: where an initialisation has zeros (Fixup), gradients may vanish for good reason.
    """
    checked_scores(bench.engine.first.scores, bench.engine.units)
    scores = checked_scores(bench.trained.scores, bench.engine.units)
    ties = 1 - len(scores.unique()) / len(scores)
    if ties > MOST_TIES:
        raise Broken(f"{ties:.0%} of the scores equal another one; a score that saturates or is clamped cannot rank")


def scores_repeat(bench: Examined) -> None:
    """The same seed gives bit-identical scores, and the same choice where a method chooses by itself."""
    second = bench.second[0]
    if not torch.equal(bench.engine.first.scores, second.scores):
        raise Broken("two calls under one seed gave different scores; draw from state.generator")
    if bench.engine.pruner.reselect and not torch.equal(bench.halved.kept, bench.engine.mask(second, HALF).kept):
        raise Broken("two calls under one seed chose different units; draw from state.generator")


def fits_come_back(bench: Examined) -> None:
    """A stored and restored fit gives the scores of the network that was just trained.

    Every cell is scored on a restored fit, so what `tensors` forgets is lost.
    """
    network, inference, _ = train_one(bench.run, bench.data, bench.fit.inference, bench.device)
    fresh = checked_scores(bench.engine.score(network, inference).scores, bench.engine.units)
    if not torch.equal(fresh, bench.trained.scores):
        raise Broken(
            "the scores differ after the fit was stored and restored; tensors() must return all that was learned"
        )


def network_untouched(bench: Examined) -> None:
    """Scoring leaves the network bit-identical: tensors, modes, gradients, hooks."""
    if changed := bench.second[1]:
        raise Broken(f"scoring changed {', '.join(changed[:3])} of the network it was given; work on a copy")


def test_sealed(bench: Examined) -> None:
    """Nothing of a method reads the test split: not training, not scoring, nor what is asked for afterwards."""
    _ = bench.engine.first
    network, inference = bench.engine.start()
    inference.learned(network)
    inference.for_units(bench.run.units).identity()
    inference.candidates()
    inference.tensors()


def data_and_process_untouched(bench: Examined) -> None:
    """Scoring leaves the training data and the state of the process as they were, as all methods share them.

    Whoever tests a promise looks at them.
    """
    _ = bench.second
    bench.engine.report(bench.engine.first)


def noise_declared(bench: Examined) -> None:
    """An inference that draws noise in training mode says so by `stochastic`."""
    network, inference = bench.fit.restore(bench.data, bench.device)
    if inference.stochastic:
        return
    network.train()
    with torch.no_grad():
        first, second = (_outputs_under(bench, network, seed) for seed in range(2))
    if not torch.equal(first, second):
        raise Broken("two passes in training mode differ; set stochastic = True, so that BatchNorm is measured anew")


def _outputs_under(bench: Examined, network: nn.Module, seed: int) -> Tensor:
    with sealed(), seeded(seed, "noise"):
        return network(bench.data.train[:8].x)


def counts_exact(bench: Examined) -> None:
    """Every target sparsity keeps exactly the asked number of units, and masks have the parameters' shapes."""
    network, _ = bench.engine.start()
    for sparsity, mask in bench.masks.items():
        if mask.count != keep_count(bench.engine.units.n, sparsity):
            raise Broken(
                f"{mask.count} units kept at sparsity {sparsity}, expected {keep_count(bench.engine.units.n, sparsity)}"
            )
        for name, tensor in mask.tensors.items():
            if tensor.shape != network.get_parameter(name).shape:
                raise Broken(f"the mask of {name!r} has shape {tuple(tensor.shape)}")


def sparsity_monotone(bench: Examined) -> None:
    """What a higher sparsity keeps, a lower one keeps too (with one ranking; allocations, rounds, sets may differ)."""
    for lower, higher in itertools.pairwise(bench.masks.values()):
        if bool((higher.kept & ~lower.kept).any()):
            raise Broken("a unit kept at a higher sparsity was removed at a lower one")


def trains_to_the_end(bench: Examined) -> None:
    """A whole cell runs: the count is exact, removed weights are zero, outputs finite, no hooks remain."""
    outcome = bench.prune(0.6)
    outcome.inference.sample(outcome.network, torch.Generator().manual_seed(0))
    if outcome.mask.count != keep_count(bench.engine.units.n, 0.6):
        raise Broken(f"{outcome.mask.count} units kept at the end, expected {keep_count(bench.engine.units.n, 0.6)}")
    for name, mask in outcome.mask.tensors.items():
        if bool((outcome.network.get_parameter(name).detach()[~mask] != 0).any()):
            raise Broken(f"training revived removed weights of {name!r}")
    if not bool(torch.isfinite(outcome.network(bench.data.train[:8].x)).all()):
        raise Broken("the pruned network's outputs are not finite")
    if places := left_on(outcome.network, bench.untrained):
        raise Broken(f"hooks remain on {', '.join(places)} after training; remove them in detach")


def _ranks_once(bench: Workbench) -> bool:
    pruner = bench.engine.pruner
    layers_apart = pruner.allocation != "global"
    return not layers_apart and pruner.rounds == 1 and pruner.reselect is None


PROMISES: dict[str, Promise] = {
    "never reads the test split": Promise(test_sealed),
    "leaves data and process as they were": Promise(data_and_process_untouched),
    "scores are finite and rank": Promise(scores_rank),
    "deterministic under a seed": Promise(scores_repeat),
    "a stored fit gives the same scores": Promise(fits_come_back),
    "scoring leaves the network as it was": Promise(network_untouched),
    "noise in training is declared": Promise(noise_declared),
    "mask shapes and exact counts": Promise(counts_exact),
    "monotone in the sparsity": Promise(sparsity_monotone, _ranks_once),
    "runs from training to fine-tuning": Promise(trains_to_the_end),
    **adjusting.PROMISES,
    **training.PROMISES,
}
