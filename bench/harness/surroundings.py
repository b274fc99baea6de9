"""What a worker must find where it is, before it is trusted with a cell: the folder, the code, the device.

All of it was there when the run was planned. Where a worker lacks it the machine is at fault, and no method.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from ... import __version__
from ...datasets.errors import UsageError
from ...methods import registry as methods
from ..results.lock import token_of
from ..results.store import MachineFault, Store
from ..results.visibility import seen
from ..spec.run import Run, sources_of
from .provenance import machine, resolved_device
from .tasks import Setting

_found: set[tuple] = set()  # what has been looked for in this process, and was there


def surroundings(setting: Setting, runs: Sequence[Run]) -> tuple[Store, torch.device]:
    """The store and the device for these cells, with their plug-ins loaded.

    Raises MachineFault, naming this machine, if it does not see the run's folder or has not the code or the device.
    """
    _same_version(setting)
    with at_fault():
        _same_folder(setting)
        for path, source in setting.plugins:
            methods.load_plugin(path, source)
        for r in runs:
            _same_sources(r)
        device = resolved_device(setting.device)
        return Store(setting.folder, create=False, origin=machine(device)), device


@contextmanager
def at_fault() -> Iterator[None]:
    """What the user could mend, and was in order when the run was planned, is the fault of this machine."""
    try:
        yield
    except MachineFault:
        raise
    except UsageError as error:
        raise MachineFault(f"on {socket.gethostname()}: {error}") from error


def _same_version(setting: Setting) -> None:
    if setting.version not in (None, __version__):
        raise MachineFault(
            f"{socket.gethostname()} has bayesprune {__version__}, this run was begun with {setting.version}: install "
            "the same version on every machine"
        )


def _same_folder(setting: Setting) -> None:
    """A folder of the same name on a disk of its own would take the results, and nobody would see them."""
    if setting.lease is None or (sight := (setting.folder, setting.lease)) in _found:
        return
    name, token = setting.lease
    if not seen(lambda: token_of(setting.folder / "lock" / name) == token, _nearest(setting.folder / "lock")):
        raise MachineFault(
            f"{socket.gethostname()} does not see the results folder {setting.folder} of this run: choose an --out on "
            "a file system that all machines share"
        )
    _found.add(sight)


def _nearest(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _same_sources(r: Run) -> None:
    """The code that the cell is made of, beside the package itself, is what its key says."""
    names = (r.dataset.name, r.architecture.name, r.method.name, str(r.method.options.get("like")))
    if (sight := (*names, *sorted(r.sources.items()))) in _found:
        return
    here = {kind: digest for kind, digest in sources_of(r).items() if kind != "dataset"}  # data have their own check
    expected = {kind: digest for kind, digest in r.sources.items() if kind != "dataset"}
    if wrong := [kind for kind in here | expected if here.get(kind) != expected.get(kind)]:
        name = {"architecture": r.architecture.name, "method": r.method.name}.get(wrong[0], names[-1])
        raise MachineFault(
            f"on {socket.gethostname()} the source of {name} is not that which this run was begun with: put the same "
            "file on every machine, or give it as --plugin FILE"
        )
    _found.add(sight)
