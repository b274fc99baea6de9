"""Former names of modules, under which plug-ins that were written before a move still import them."""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = __name__.partition(".")[0]

# Where the content of a module went, first what took its place.
HOMES: dict[str, tuple[str, ...]] = {
    "architectures.batch_norm": ("architectures.running.batch_norm",),
    "architectures.bundle": ("architectures.saved.bundle",),
    "architectures.certificate": ("architectures.compaction.certificate",),
    "architectures.compact": ("architectures.compaction.compact", "architectures.layers.resize"),
    "architectures.export": ("architectures.saved.export",),
    "architectures.groups": ("architectures.declared.groups", "architectures.discovery.units_of"),
    "architectures.mask": ("architectures.units.mask",),
    "architectures.modes": ("architectures.running.modes",),
    "architectures.residual": ("architectures.declared.residual", "architectures.discovery.units_of"),
    "architectures.slices": ("architectures.units.slices",),
    "architectures.words": ("architectures.layers.words",),
    "bench.api": ("bench.face.prune", "bench.face.pruned"),
    "bench.check": ("bench.contract",),
    "bench.evaluate": ("bench.evaluation.evaluate", "bench.evaluation.flops"),
    "bench.store": ("bench.results.store", "bench.results.frames", "bench.results.columns"),
    "bench.table": ("bench.features.table",),
    "methods.carriers": ("methods.noise.carriers", "methods.noise.carried", "architectures.layers.axes"),
    "methods.cost": ("architectures.running.cost",),
    "methods.dawson": ("methods.closed_forms.dawson",),
    "methods.dense": ("methods.curvature.whole", "methods.closed_forms.curvature_matrix"),
    "methods.evidence": ("methods.laplace.evidence",),
    "methods.feature_units": ("architectures.units.features",),
    "methods.flat": ("methods.closed_forms.flat",),
    "methods.gaussian": ("methods.laplace.map", "methods.pruner"),
    "methods.group_dropout": ("methods.group_variational_dropout",),
    "methods.hyperparameters": ("methods.laplace.hyperparameters",),
    "methods.inclusion": ("methods.scores.inclusion",),
    "methods.indicators": ("methods.variational.gates",),
    "methods.interception": ("methods.gradients.interception", "methods.gradients.uses"),
    "methods.joint_spike": ("methods.reduction.joint_spike",),
    "methods.kronecker": ("methods.curvature.kronecker",),
    "methods.kronecker_product": ("methods.closed_forms.kronecker_product",),
    "methods.lognormal": ("methods.closed_forms.lognormal",),
    "methods.marginal": ("methods.curvature.marginal_variance",),
    "methods.mixture_prior": ("methods.pip",),
    "methods.model_reduction": ("methods.closed_forms.model_reduction", "methods.closed_forms.arguments"),
    "methods.noncentred": ("methods.variational.noncentred",),
    "methods.one_by_one": ("methods.gradients.one_by_one", "architectures.running.modes"),
    "methods.output_vectors": ("methods.curvature.output_vectors",),
    "methods.posterior_curvature": ("methods.closed_forms.curvature_matrix",),
    "methods.posteriors": ("methods.closed_forms.posteriors",),
    "methods.priors": ("methods.laplace.prior_structure",),
    "methods.reduced_horseshoe": ("methods.reduction.hierarchical",),
    "methods.scoring": ("methods.scores.scratch", "methods.closed_forms.likelihood"),
    "methods.signal": ("methods.scores.signal_to_noise",),
    "methods.slab": ("methods.variational.spike_slab_training",),
    "methods.spike_slab": ("methods.closed_forms.spike_slab",),
    "methods.student": ("methods.variational.student",),
    "methods.truncated": ("methods.closed_forms.truncated_lognormal",),
    "methods.weight_noise": ("methods.variational.weight_noise",),
}
# Modules and packages that have the name of a module whose content, or a part of it, is elsewhere now.
INSIDE: dict[str, tuple[str, ...]] = {
    "datasets.registry": ("datasets.errors",),
    "methods.bmr": ("methods.reduction.decision",),
    "methods.variational_dropout": ("methods.variational.weight_dropout",),
    "architectures.units": (
        "architectures.units.vector", "architectures.units.prunable", "architectures.units.slices",
        "architectures.discovery.units_of",
    ),
    "bench.training": ("bench.spec.settings", "bench.training.loop"),
    "methods.curvature": ("methods.curvature.diagonals", "architectures.units.prunable"),
    "methods.laplace": ("methods.curvature.estimate",),
    "methods.noise": ("methods.noise.multiplicative",),
    "methods.variational": ("methods.variational.inference",),
}  # fmt: skip


class FormerName(ModuleType):
    """A module that looks its attributes up in those that hold them now."""

    homes: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        return _looked_up(self.__name__, self.homes, name)


class Finder:
    """Finds modules by their former names; asked only for what nobody else finds."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The specification of a former module; None for any other name."""
        homes = HOMES.get(name.removeprefix(f"{PACKAGE}."))
        return ModuleSpec(name, Finder) if homes and name.startswith(f"{PACKAGE}.") else None  # pyright: ignore

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        """The module that stands for those that took its place."""
        module = FormerName(spec.name)
        module.homes = HOMES[spec.name.removeprefix(f"{PACKAGE}.")]
        advice = f"{spec.name} is {PACKAGE}.{module.homes[0]} now; import what `{PACKAGE}` itself offers"
        warnings.warn(advice, DeprecationWarning, stacklevel=2)
        return module

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """Nothing: attributes are looked up when asked for."""


def find_former_modules() -> None:
    """Let modules that have moved be found by their former names from now on; imports nothing."""
    if Finder not in sys.meta_path:
        sys.meta_path.append(Finder)  # pyright: ignore[reportArgumentType]


def former(package: str, name: str) -> Any:
    """The attribute that a package had as the module that it was; AttributeError if it had none such."""
    return _looked_up(f"{PACKAGE}.{package}", INSIDE[package], name)


def allow_former_names() -> None:
    """Let modules be imported by their former names from now on, and packages have what they had as modules."""
    find_former_modules()
    for package, homes in INSIDE.items():
        module = importlib.import_module(f"{PACKAGE}.{package}")
        module.__class__ = FormerName
        module.homes = homes  # pyright: ignore[reportAttributeAccessIssue]


def _looked_up(former: str, homes: tuple[str, ...], name: str) -> Any:
    for home in homes:
        module = importlib.import_module(f"{PACKAGE}.{home}")
        if not name.startswith("__") and hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module {former!r} has no attribute {name!r}")
