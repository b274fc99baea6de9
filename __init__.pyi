"""Types of the names that `bayesprune` offers; where they live is in `_HOMES` of `__init__.py`."""

from .architectures.discovery.units_of import left_out, units
from .bench import integrations
from .bench.contract import check
from .bench.doctor.diagnosis import diagnose as doctor
from .bench.face.attach import attach
from .bench.face.attached import AttachedMethod
from .bench.face.fit import fit
from .bench.face.hub import HubNetwork
from .bench.face.prune import load, prune
from .bench.face.pruned import Pruned
from .bench.features.select_features import select_features
from .bench.harness.run_matrix import run
from .bench.integrations.lightning import LightningPruning
from .bench.integrations.transformers import TrainerPruning
from .bench.results.frames import results
from .bench.spec.settings import Training
from .datasets.errors import NotApplicable, UsageError
from .datasets.load import load as load_dataset
from .datasets.split import Split
from .datasets.stream import Stream
from .methods import curvature
from .methods.closed_forms.posteriors import Conjugate, Gaussian, Laplace
from .methods.laplace.map import MAP
from .methods.pruner import Adjusted, Inference, Pruner, State, register

__version__: str
__all__ = [
    "MAP",
    "Adjusted",
    "AttachedMethod",
    "Conjugate",
    "Gaussian",
    "HubNetwork",
    "Inference",
    "Laplace",
    "LightningPruning",
    "NotApplicable",
    "Pruned",
    "Pruner",
    "Split",
    "State",
    "Stream",
    "TrainerPruning",
    "Training",
    "UsageError",
    "attach",
    "check",
    "curvature",
    "doctor",
    "fit",
    "integrations",
    "left_out",
    "load",
    "load_dataset",
    "prune",
    "register",
    "results",
    "run",
    "select_features",
    "units",
]
