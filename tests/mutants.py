"""One-line mutations of the package's arithmetic, each planted in a process of its own, and whether golden cells notice.

    python tests/mutants.py

The source on disk is never touched: a mutant is what a module is when it is imported. Processes are forked from one that
has imported torch already, two at a time.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Mutant(NamedTuple):
    """A line of a module, and what stands in its place."""

    module: str
    line: str
    mutated: str


MUTANTS = (
    # scores
    Mutant("methods.scores.moments", "weight.abs() for", "weight for"),
    Mutant("methods.opd", "mean[name].square().mul_(h).mul_(0.5)", "mean[name].square().mul_(h).mul_(0.25)"),
    Mutant("methods.snip", "(w * g).detach().abs()", "(w + g).detach().abs()"),
    Mutant("methods.grasp", "n: (w * hg).detach()", "n: (-w * hg).detach()"),
    Mutant("methods.lamp", "ratios = torch.where(tails == 0, 0.0, squares / tails)",
           "ratios = torch.where(tails == 0, 0.0, squares / tails.flip(0))"),
    Mutant("methods.wanda", "h.clamp_min(0).sqrt()", "h.clamp_min(0)"),
    Mutant("methods.l2_group", "return squares.sqrt()", "return squares"),
    Mutant("methods.synflow", "(w * g).detach() for", "(w.abs() * g * g).detach() for"),
    # closed forms
    Mutant("methods.closed_forms.model_reduction", "addcmul_(squares, pi, value=-1)", "addcmul_(squares, pi, value=1)"),
    Mutant("methods.closed_forms.spike_slab", "(kept + slab_divergence) + (-log_odds).sigmoid() * removed",
           "(kept + slab_divergence) - (-log_odds).sigmoid() * removed"),
    Mutant("methods.closed_forms.truncated_lognormal", "(b - mu.double()) / s", "(b + mu.double()) / s"),
    Mutant("methods.closed_forms.conditioning", "return Conditional(moved.flatten(), zeroing, zeroing - 0.5 * (b * d)",
           "return Conditional(moved.flatten(), zeroing, zeroing - (b * d)"),
    Mutant("methods.bmrs", "share = log_mass((low - mu.double()) / s, (high - mu.double()) / s)",
           "share = log_mass((low - mu.double()) / s, (b - mu.double()) / s)"),
    # inferences
    Mutant("methods.laplace.map", "penalised, alpha=weight)", "penalised, alpha=2 * weight)"),
    Mutant("methods.mean_field", "part.add_(variance, alpha=factor)", "part.add_(variance, alpha=-factor)"),
    Mutant("methods.ivon", "0.5 * rate**2 * (h - seen).square() / precise", "0.5 * rate * (h - seen).square() / precise"),
    Mutant("methods.variational.weight_dropout", "return 2 * log_sigma - (mean.square() + TINY).log()",
           "return log_sigma - (mean.square() + TINY).log()"),
    Mutant("bench.training.loop", "loss = mean_loss(outputs, y, split.likelihood)",
           "loss = mean_loss(outputs, y, split.likelihood) * len(y) / (len(y) - 1)"),
    Mutant("methods.vib", "0.5 * torch.log1p(mu.square() * (-2 * log_sigma).exp())",
           "torch.log1p(mu.square() * (-2 * log_sigma).exp())"),
    Mutant("methods.closed_forms.hard_concrete", "return (log_alpha + SHIFT).sigmoid()",
           "return (log_alpha - SHIFT).sigmoid()"),
    # selection and metrics
    Mutant("bench.pruning.gradual", "1 - ((end - epoch) / (end - start + 1)) ** 3",
           "1 - ((end - epoch) / (end - start + 1)) ** 2"),
    Mutant("bench.pruning.ranking", "(1 - sparsity) * n + 0.5 + 1e-9", "(1 - sparsity) * n + 1.5 + 1e-9"),
    Mutant("bench.evaluation.metrics", "return (probabilities - truth).square().sum(1).mean().item()",
           "return (probabilities - truth).square().sum(0).mean().item()"),
    Mutant("bench.evaluation.auroc", "/ (2 * pairs)", "/ pairs"),
    Mutant("bench.evaluation.binary_metrics", "return (recall.diff() * held / count).sum()",
           "return (recall.diff() * held / (count + 1)).sum()"),
)  # fmt: skip


class Planted(importlib.abc.MetaPathFinder):
    """Finds one module of the package as its mutant."""

    def __init__(self, mutant: Mutant):
        self.name, self.mutant = f"bayesprune.{mutant.module}", mutant

    def find_spec(self, name, path=None, target=None):
        """The module's own place, with a loader that changes its text."""
        if name != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Loader(name, spec.origin, self.mutant)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, mutant: Mutant):
        super().__init__(name, path)
        self.mutant = mutant

    def get_code(self, fullname):
        return compile(mutated(Path(self.path).read_text(), self.mutant), self.path, "exec")


def mutated(text: str, mutant: Mutant) -> str:
    """The text with its one line changed; raises ValueError unless the line is there once."""
    if text.count(mutant.line) != 1:
        raise ValueError(f"{mutant.module}: {mutant.line!r} is there {text.count(mutant.line)} times")
    return text.replace(mutant.line, mutant.mutated)


def planted(mutant: Mutant) -> str:
    """The source of the mutant's module; raises ValueError unless the line is there once."""
    return mutated((ROOT / f"{mutant.module.replace('.', '/')}.py").read_text(), mutant)


def noticed(mutant: Mutant | None) -> str:
    """The first golden cell that has moved, or fails; empty where none does. Imports the package: call it once."""
    if mutant is not None:
        sys.meta_path.insert(0, Planted(mutant))
    import golden

    old = golden.stored()
    for subject in golden.subjects():
        try:
            _, moved = golden.compared(old, subject)
        except Exception as error:
            return f"{subject.name} raised {type(error).__name__}: {error}"
        if moved:
            return f"{moved.name}: {moved.what}"
    return ""


def main(mutants: tuple[Mutant | None, ...], at_once: int = 2) -> dict[Mutant | None, str]:
    """What is noticed of each mutant; None is the package as it is."""
    import sklearn.datasets  # noqa: F401  (once for all)
    import torch

    assert not any(name.split(".")[0] == "bayesprune" for name in sys.modules)
    for mutant in filter(None, mutants):
        planted(mutant)
    torch.set_num_threads(1)
    found: dict[Mutant | None, str] = {}
    running: dict[int, tuple[Mutant | None, int]] = {}
    todo = list(mutants)
    while todo or running:
        while todo and len(running) < at_once:
            mutant = todo.pop(0)
            read, write = os.pipe()
            if (child := os.fork()) == 0:
                os.close(read)
                _child(mutant, write)
            os.close(write)
            running[child] = (mutant, read)
        child, status = os.wait()
        mutant, read = running.pop(child)
        with os.fdopen(read) as pipe:
            found[mutant] = pipe.read() if status == 0 else f"the process ended with {status}"
    return {mutant: found[mutant] for mutant in mutants}


def _child(mutant: Mutant | None, write: int) -> None:
    logging.disable(logging.WARNING)
    status = 0
    try:
        with os.fdopen(write, "w") as pipe:
            pipe.write(noticed(mutant)[:500])
    except BaseException:
        traceback.print_exc()
        status = 1
    os._exit(status)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    outcome = main((None, *MUTANTS))
    for mutant, said in outcome.items():
        name = f"{mutant.module}: {mutant.line[:60]}" if mutant else "unchanged"
        print(f"{'noticed' if said else 'NOT NOTICED' if mutant else 'silent'}  {name}\n         {said}")
    caught = sum(bool(outcome[mutant]) for mutant in MUTANTS)
    print(f"{caught} of {len(MUTANTS)} mutants noticed")
    sys.exit(caught < len(MUTANTS) or bool(outcome[None]))
