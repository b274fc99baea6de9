"""What a selection of features found: probabilities, the selection, its stability over seeds, and a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...datasets.errors import UsageError, unknown
from ..evaluation.auroc import auroc
from .stability import stability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 20  # features in a summary


@dataclass(frozen=True)
class Selected:
    """Selected features of a table.

    Attributes:
        method: that selected.
        names: of the features.
        scores: of every feature in each training, larger is better, shape (seeds, F): log odds of its inclusion if...
        probabilistic: ...the method gives any.
        rule: from scores (F,) to what is selected, boolean (F,).
    """

    method: str
    names: tuple[str, ...]
    scores: Tensor
    probabilistic: bool
    rule: Callable[[Tensor], Tensor]

    @cached_property
    def probability(self) -> Tensor:
        """Probability of inclusion, the mean over seeds, (F,); raises UsageError for a control that has none."""
        if not self.probabilistic:
            raise UsageError(f"method {self.method!r} gives scores, no probabilities; its `score` ranks the features")
        return self.scores.sigmoid().mean(0)

    @cached_property
    def score(self) -> Tensor:
        """What features are ranked by, (F,): log odds of `probability`, or the mean score of a control."""
        if not self.probabilistic:
            return self.scores.mean(0)
        inside, outside = (torch.nn.functional.logsigmoid(sign * self.scores).logsumexp(0) for sign in (1, -1))
        return inside - outside

    @cached_property
    def mask(self) -> Tensor:
        """Which features are selected, boolean (F,)."""
        return self.rule(self.score)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the selected features, best first."""
        order = self.score.argsort(descending=True, stable=True).tolist()
        return tuple(self.names[i] for i in order if self.mask[i])

    @cached_property
    def selections(self) -> Tensor:
        """Which features each of the trainings selects on its own, boolean (seeds, F)."""
        return torch.stack([self.rule(scores) for scores in self.scores])

    @cached_property
    def frequency(self) -> Tensor:
        """Share of the trainings that select each feature on their own, (F,)."""
        return self.selections.double().mean(0)

    @property
    def stability(self) -> float:
        """Agreement of the trainings, corrected for chance, 1 at best (Nogueira et al. 2018); see `stability`."""
        return stability(self.selections.numpy())

    def rates(self, relevant: Sequence[bool] | Tensor) -> dict[str, float]:
        """False negative and false positive rate of the selection, and the area under the ROC curve of the ranking.

        Args:
            relevant: the truth, (F,), some of it true and some false.

        Raises UsageError unless `relevant` are booleans, one per feature, some true and some false.
        """
        truth = torch.as_tensor(relevant, dtype=torch.bool)
        if truth.shape != self.mask.shape or truth.all() or not truth.any():
            raise UsageError(f"relevant must be {len(self.names)} booleans, some true and some false")
        return {"fnr": (~self.mask[truth]).double().mean().item(), "fpr": self.mask[~truth].double().mean().item(),
                "auc": auroc(self.score[truth], self.score[~truth])}  # fmt: skip

    def summary(self) -> str:
        """The best features with their probabilities (or scores) and how often they were selected, as text."""
        order = self.score.argsort(descending=True, stable=True).tolist()[:SHOWN]
        head = f"{self.method}: {int(self.mask.sum())} of {len(self.names)} features, stability {self.stability:.2f}"
        value = self.probability if self.probabilistic else self.score
        rows = [f"{'*' if self.mask[i] else ' '} {self.names[i]:<24} {value[i]:8.3f} {self.frequency[i]:5.0%}"
                for i in order]  # fmt: skip
        return "\n".join([head, *rows])

    def plot(self, path: str | Path | None = None, most: int = 200) -> Figure:
        """Probabilities (or scores) of the features in their order, the selected ones filled.

        Args:
            path: the figure is written there, if given.
            most: of more features than these the best are shown.

        Raises UsageError for a number of features below 1.
        """
        from matplotlib.figure import Figure

        if most < 1:
            raise unknown("number of features to show", most, ["1", "2", "..."])
        shown = self.score.argsort(descending=True, stable=True)[:most].sort().values
        value = (self.probability if self.probabilistic else self.score)[shown]
        figure = Figure(figsize=(max(4.0, min(12.0, 0.16 * len(shown))), 2.6), layout="constrained")
        axes = figure.subplots()
        for chosen, face in ((True, "#0072B2"), (False, "none")):
            here = (self.mask[shown] == chosen).nonzero().flatten()
            axes.vlines(here, value.min().clamp_max(0).item(), value[here], color="#bbbbbb", linewidth=0.8)
            axes.scatter(here, value[here], s=18, facecolors=face, edgecolors="#0072B2")
        every = max(1, len(shown) // 40)
        axes.set_xticks(range(0, len(shown), every), [self.names[i] for i in shown.tolist()][::every], rotation=90)
        axes.set_ylabel("inclusion probability" if self.probabilistic else "score")
        if path is not None:
            figure.savefig(path)
        return figure
