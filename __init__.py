"""bayesprune: a comparative benchmark of Bayesian pruning methods for neural networks.

>>> import bayesprune as bp
>>> bp.Pruner(bp.MAP, score=lambda state: state.units.gather(state.weights())).when
'after'

Everything that scripts and plug-ins need is an attribute of this module; where it lives may change.
"""

from importlib import import_module as _import_module
from typing import Any as _Any

__version__ = "0.1.0"

# Attributes load on first use, so that `import bayesprune` and the command line never wait for torch. After a colon:
# the name at home, where it is another one, or nothing for the module itself.
_HOMES = {
    # one's own network
    "AttachedMethod": "bench.face.attached",
    "HubNetwork": "bench.face.hub",
    "LightningPruning": "bench.integrations.lightning",
    "Pruned": "bench.face.pruned",
    "Split": "datasets.split",
    "Stream": "datasets.stream",
    "Training": "bench.spec.settings",
    "TrainerPruning": "bench.integrations.transformers",
    "attach": "bench.face.attach",
    "fit": "bench.face.fit",
    "integrations": "bench.integrations:",
    "left_out": "architectures.discovery.units_of",
    "load": "bench.face.prune",
    "prune": "bench.face.prune",
    "select_features": "bench.features.select_features",
    "units": "architectures.discovery.units_of",
    # the benchmark
    "check": "bench.contract",
    "doctor": "bench.doctor.diagnosis:diagnose",
    "load_dataset": "datasets.load:load",
    "results": "bench.results.frames",
    "run": "bench.harness.run_matrix",
    # new methods
    "Adjusted": "methods.pruner",
    "Conjugate": "methods.closed_forms.posteriors",
    "Gaussian": "methods.closed_forms.posteriors",
    "Inference": "methods.pruner",
    "Laplace": "methods.closed_forms.posteriors",
    "MAP": "methods.laplace.map",
    "NotApplicable": "datasets.errors",
    "Pruner": "methods.pruner",
    "State": "methods.pruner",
    "UsageError": "datasets.errors",
    "curvature": "methods.curvature:",
    "register": "methods.pruner",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> _Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bayesprune' has no attribute {name!r}; it offers {', '.join(__all__)}")
    home, colon, at_home = _HOMES[name].partition(":")
    module = _import_module(f"bayesprune.{home}")
    return module if colon and not at_home else getattr(module, at_home or name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
