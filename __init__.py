"""bayesprune: a comparative benchmark of Bayesian pruning methods for neural networks.

>>> import bayesprune as bp
>>> sorted(bp.__all__)  # doctest: +ELLIPSIS
['Pruned', 'Pruner', 'State', 'check', 'load', 'prune', 'register', 'results', 'run', 'select_features']
"""

from importlib import import_module as _import_module
from typing import Any as _Any

__version__ = "0.1.0"

# Attributes load on first use, so that `import bayesprune` and the command line never wait for torch.
_HOMES = {
    "Pruned": "bench.api",
    "Pruner": "methods.pruner",
    "State": "methods.pruner",
    "check": "bench.check",
    "load": "bench.api",
    "prune": "bench.api",
    "register": "methods.pruner",
    "results": "bench.store",
    "run": "bench.harness",
    "select_features": "bench.features",
}
__all__ = ["Pruned", "Pruner", "State", "check", "load", "prune", "register", "results", "run", "select_features"]


def __getattr__(name: str) -> _Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bayesprune' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(_import_module(f"bayesprune.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
