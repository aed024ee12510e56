"""Lets one driver at a time run a sweep: by a lock if results are in a folder, else by a lease.

A lease is a file of the driver's own, `<out>/.leases/SWEEP/<driver>`, that it writes again every few seconds (module
`liveness`). A driver that finds another's watches it. If the file is written again, the other driver is alive and this
one gives up; if not, the other driver was killed, and this one deletes its file. All drivers write before they look, so
of two that start at the same moment at most one continues, perhaps none. A driver that could not reach the store for
`SILENT_SECONDS` is not stopped when another takes over: what it trains is kept from the other by its claims (module
`claims`), or it loses those, and stops.

Locks and leases contain who holds them, for the message to the others.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from orchestrator.errors import LedgerError, SweepError
from orchestrator.ledger import liveness
from orchestrator.ledger.ledger import new_driver_id
from orchestrator.ledger.liveness import Watch, beating, holder_named, locked, open_lock, this_holder
from orchestrator.ledger.storage import Storage

_FOLDER = ".leases"
_logger = logging.getLogger(__name__)


@contextmanager
def lease(out: str, sweep: str) -> Iterator[None]:
    """Hold the sweep in an output folder or URI; raises `SweepError` if another driver holds it.

    Raises `LedgerError` if something else is where the lock belongs.
    """
    storage = Storage(out)
    if not storage.is_local:
        with _kept_alive(storage, sweep):
            yield
        return
    with open_lock(Path(storage.path) / _FOLDER / f"{sweep}.lock") as file:
        if _locked(file, storage, sweep):
            yield
        else:
            with _kept_alive(storage, sweep):
                yield


def _locked(file: BinaryIO, storage: Storage, sweep: str) -> bool:
    """Lock the file until it is closed; False if its file system has no locks."""
    try:
        if not locked(file):
            return False
    except (BlockingIOError, PermissionError):
        file.seek(0)
        raise _taken(storage, sweep, file.name, file.read()) from None
    with suppress(OSError):  # on a full disk nobody can read who holds it
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), json.dumps(this_holder()).encode())
    return True


@contextmanager
def _kept_alive(storage: Storage, sweep: str) -> Iterator[None]:
    folder = f"{storage.path}/{_FOLDER}/{sweep}"
    own = f"{folder}/{new_driver_id()}"
    content = pa.py_buffer(json.dumps(this_holder()).encode())
    storage.write(own, content)
    try:
        with beating(lambda: storage.write(own, content), "lease"):
            _outlast(storage, folder, own, sweep)
            yield
    finally:
        with suppress(LedgerError):
            storage.delete(own)


def _outlast(storage: Storage, folder: str, own: str, sweep: str) -> None:
    """Return once all other drivers are silent, by the store's modification times.

    Objects that appear later belong to drivers that see this driver's object, and give up.
    """
    others = _written(storage, folder)
    others.pop(own, None)
    if others:
        _logger.warning(
            "%s: found another driver of %s; waiting up to %.0f s to see whether it is alive",
            storage.root,
            sweep,
            liveness.SILENT_SECONDS,
        )
    watch = Watch()
    while others.keys() - watch.silent(others):
        time.sleep(liveness.BEAT_SECONDS / 3)
        now = _written(storage, folder)
        others = {path: written for path, written in others.items() if path in now}
        alive = next((path for path, written in others.items() if now[path] != written), None)
        if alive is not None:
            raise _taken(storage, sweep, storage.root + alive.removeprefix(storage.path), _content(storage, alive))
    for path in others:
        with suppress(OSError):
            storage.files.delete_file(path)


def _written(storage: Storage, folder: str) -> dict[str, int | None]:
    """When each driver's file was last written; a hidden one is being written."""
    return {info.path: info.mtime_ns for info in storage.infos(folder) if not info.base_name.startswith(".")}


def _content(storage: Storage, path: str) -> bytes:
    try:
        return storage.read(path) or b""
    except LedgerError:
        return b""


def _taken(storage: Storage, sweep: str, file: str, content: bytes) -> SweepError:
    return SweepError(
        f"sweep {sweep!r} is being run into {storage.root!r} by {holder_named(content)}: wait for it, stop it, or give "
        f"another --out (it holds {file}; delete that only if no such process runs any more)"
    )
