"""Shared by all tests: one thread, so that sums are added in one order, and no user's data folder."""

import os
import re
import sys

# Before torch reads it, and for the processes that tests start: threads that wait in turn cost more than they save.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
# On a busy machine examples are slow to come, which says nothing of the code under test.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def forget_plugins():
    """What a test registers is gone after it."""
    from bayesprune import architectures, datasets, methods

    registries = [part.registry for part in (methods, architectures, datasets)]
    before, modules = [set(registry._builders) for registry in registries], set(sys.modules)
    yield
    for registry, names in zip(registries, before, strict=True):
        registry._builders = {
            n: b for n, b in registry._builders.items() if n in names or b.__module__.startswith("bayesprune.")
        }
    for name in set(sys.modules) - modules:
        if name.startswith("bayesprune_plugin_"):
            del sys.modules[name]


@pytest.fixture
def coarse(monkeypatch, tmp_path):
    """Coarse pictures in one format: these tests read texts and lines, not pixels."""
    from bayesprune.reports.drawing import panels as layout
    from bayesprune.reports.drawing import style

    sheet = tmp_path / "coarse.mplstyle"
    sheet.write_text(re.sub(r"savefig.dpi: .*", "savefig.dpi: 20", style.SHEET.read_text()))
    monkeypatch.setattr(style, "SHEET", sheet)
    monkeypatch.setattr(layout, "FORMATS", {"svg": {"Date": None}})
