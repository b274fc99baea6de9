"""A pruned copy of a network: what was kept, what that saves, and the smaller network itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import custom_from_mask

from ...architectures.compaction.certificate import Certificate
from ...architectures.running.forms import Form, adapt_, in_form, release_
from ...architectures.running.modes import evaluating, to_network
from ...architectures.running.plain import copied
from ...architectures.saved import bundle
from ...architectures.units.mask import Mask
from ...datasets.errors import UsageError
from ...datasets.trees import Inputs
from ...methods.laplace.laplace_torch import Structure, laplace_of
from ...methods.pruner import Inference
from ..evaluation.deployment import compacted, count
from ..evaluation.evaluate import DECISIONS
from ..evaluation.fastest import Fastest, fastest
from ..evaluation.flops import flops
from ..evaluation.latency import BATCHES, Speedup, speedups
from ..evaluation.monte_carlo import added, can_be_drawn, drawn
from ..training.seeding import stream
from .gathering import AnyData
from .readers import read

STARVED = 0.02  # of its units, under which the summary warns of a layer


@dataclass(frozen=True)
class Pruned:
    """A pruned copy of a network: its zeros are in place; `compact` cuts structures out.

    Attributes:
        network: the pruned copy.
        mask: what was kept.
        scores: the worth of every unit.
        inputs: real inputs, for the certificate and for timing.
        dense: the network that was given; a plain copy of one that was wrapped or reparametrised.
        form: how both are called with `inputs`, where they do not take and give one tensor.
        notes: how it came about: method, options, sparsity asked for, fine-tuning.
        inference: what the method learned beside the network; draws of the weights come from it.
    """

    network: nn.Module
    mask: Mask
    scores: Tensor
    inputs: Inputs
    dense: nn.Module
    notes: Mapping[str, Any]
    inference: Inference | None = None
    form: Form | None = None

    @property
    def sparsity(self) -> float:
        """Share of the units that was removed."""
        return self.mask.sparsity

    @cached_property
    def _small(self) -> tuple[nn.Module, Certificate]:
        with in_form(self.form, self.network):
            small, certificate = compacted(self.network, self.mask, self.inputs)
        return release_(small), certificate

    def deployable(self) -> nn.Module:
        """The compact network, or, of single weights, the masked one."""
        return self._small[0] if self.mask.units.removable else self.network

    def compact(self) -> nn.Module:
        """A physically smaller network, certified to compute the same; needs `structured=True`.

        Raises UsageError, with the layer's name, if its outputs differ from the masked network's by more than 1e-5.
        """
        return copied(self._small[0])

    @property
    def certificate(self) -> Certificate:
        """The largest difference between the outputs of the compact and the masked network on real inputs."""
        return self._small[1]

    @torch.no_grad()
    def predictions(self, x: Inputs, draws: int = 0, seed: int = 0) -> Tensor:
        """The pruned network's outputs for inputs `x`, (n, K), in evaluation mode.

        With `draws`, averaged over so many draws of the weights from the posterior that the method learned: log
        probabilities of classes, logits of the mean probabilities of labels that hold or not, means of real outputs.
        BatchNorm has statistics of its own in each draw. Raises UsageError where the method learned one point only.
        """
        if not draws:
            with evaluating(self.network), in_form(self.form, self.network):
                return self.network(to_network(x, self.network))
        if self.inference is None or not can_be_drawn(self.network, self.inference):
            raise UsageError(
                f"{self.notes['method']} has no distribution of the weights to draw from: use draws=0, or a method "
                "that learns one, such as mean-field or bmr, with bayesprune.fit"
            )
        of, generator = DECISIONS.get(self.notes["likelihood"]), stream(seed, "posterior draws")
        total: Tensor | None = None
        network = adapt_(copied(self.network), self.form)
        for replica in drawn(network, self.inference, generator, draws, [self.inputs]):
            outputs = replica(to_network(x, replica))
            if of is None:
                total = outputs if total is None else total + outputs
            else:
                total = added(of.log_probabilities(outputs.double()), total)
        assert total is not None
        return total / draws if of is None else of.logits_of(total - math.log(draws))

    def speedups(self, batches: tuple[int, ...] = BATCHES) -> list[Speedup]:
        """How much faster than the dense network the compact one is (or the masked one, of single weights)."""
        pruned = self.deployable()
        with in_form(self.form, self.dense, pruned):
            return speedups(self.dense, {"pruned": pruned}, self.inputs, batches)["pruned"]

    def fastest(self, batches: tuple[int, ...] = BATCHES) -> list[Fastest]:
        """The form in which the pruned network runs fastest here, for every batch size, against the best dense one.

        Eager, channels last, `torch.compile` and, where it is installed, ONNX Runtime are tried for both; `run` of a
        result is the form itself. It is called faster only beyond what the dense network shows against itself.
        """
        pruned = self.deployable()
        with in_form(self.form, self.dense, pruned):
            return fastest(self.dense, pruned, self.inputs, batches)

    def laplace(self, data: AnyData, structure: Structure = "kron", prior_precision: float = 1.0, seed: int = 0) -> Any:
        """A fitted `laplace.Laplace` of laplace-torch at the pruned network, with our curvature, to predict with.

        Of a structured pruning at the compact network; of single weights, "diag" or "full", at the masked one, whose
        zeros are certain. Raises UsageError for what laplace-torch has not, see `methods.laplace.laplace_torch`.
        """
        is_cut = self.mask.units.removable
        network = self.compact() if is_cut else copied(self.network)
        examples, form = read(network, data, seed, self.notes["likelihood"])
        if form is not None:
            raise UsageError("laplace-torch takes networks of one tensor to one tensor, and this is none")
        return laplace_of(network, examples, structure, prior_precision=prior_precision,
                          kept=None if is_cut else self.mask.tensors, seed=seed)  # fmt: skip

    def with_torch_masks(self) -> nn.Module:
        """A copy of the network whose zeros `torch.nn.utils.prune` holds, as masks of its own (`NAME_mask`)."""
        network = copied(self.network)
        for name, kept in self.mask.tensors.items():
            path, _, leaf = name.rpartition(".")
            custom_from_mask(network.get_submodule(path), leaf, kept.to(network.get_parameter(name).device))
        return network

    def save(self, path: str | Path, architecture: Mapping[str, Any] | None = None) -> Path:
        """Write the compact network (the masked one, of single weights) so that `bayesprune.load` gives it back.

        With an `architecture` (name, input_shape, outputs, options) the file rebuilds it alone; else `load` needs
        a network of the class that was pruned.
        """
        certificate = self.certificate if self.mask.units.removable else None
        bundle.save(path, self.deployable(), architecture, certificate, dense=self.dense, notes=dict(self.notes))
        return Path(path)

    def summary(self) -> str:
        """What was removed, layer by layer, and what that saves."""
        rows = [f"{name:<40} {density:8.2%} kept" for name, density in self.mask.layer_density().items()]
        head = f"kept {self.mask.count:,} of {self.mask.units.n:,} units (sparsity {self.sparsity:.4f})"
        saved = self._saved_by_cutting() if self.mask.units.removable else self._saved_at_best()
        if collapsed := self.mask.collapsed():
            saved.append(f"collapsed layers (nothing kept): {', '.join(collapsed)}")
        return "\n".join([head, *rows, *saved, *self._starved(), *self._said()])

    def _said(self) -> list[str]:
        """What was understood, or learned, without being asked for."""
        folded = ", ".join(f"{name} ({by})" for name, by in self.notes.get("folded", {}).items())
        learned = self.notes.get("learned") or {}
        found = [f"folded into plain weights: {folded}" if folded else None, self.notes.get("targets")]
        return [text for text in (*found, learned.get("said"), self.form and self.form.said) if text]

    def _starved(self) -> list[str]:
        """A warning where one ranking of all units left next to nothing of some layers."""
        most = min(STARVED, self.mask.density / 5)  # at high sparsities little is left of every layer
        few = {name: share for name, share in self.mask.layer_density().items() if 0 < share < most}
        if not few or self.notes.get("allocation") != "global":
            return []
        least = ", ".join(f"{name} ({share:.1%})" for name, share in sorted(few.items(), key=lambda item: item[1])[:3])
        return [
            f"{len(few)} of {len(self.mask.units.groups)} layers keep less than {most:.2g} of their units: {least}; "
            "one ranking of all layers does that where their scores differ in scale: allocation='layerwise' prunes all "
            "layers alike"
        ]

    def _saved_by_cutting(self) -> list[str]:
        small, certificate = self._small
        before, after = count(self.dense), count(small)
        with in_form(self.form, self.dense, small):
            work = [flops(n, self.inputs)["flops_dense"] for n in (self.dense, small)]
        return [
            f"compact: {after:,} of {before:,} parameters ({after / before:.1%}), "
            f"{work[1] / max(work[0], 1):.1%} of the operations",
            f"certified: {certificate}",
        ]

    def _saved_at_best(self) -> list[str]:
        with in_form(self.form, self.network):
            work = flops(self.network, self.inputs)
        return [f"operations with a non-zero weight: {work['flops_ratio']:.1%} of the dense network's"]
