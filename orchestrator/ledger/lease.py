"""Lets one driver at a time run a sweep: by a lock if results are in a folder, by a lease on an object store.

A lock ends with its process, however that ends. An object store has no locks. There each driver writes its own object,
`<out>/.leases/SWEEP/<driver>`, again every few seconds. A driver that finds another's object watches it. If the object
is written again, the other driver is alive and this one gives up; if not, the other driver was killed, and this one
deletes its object. All drivers write before they look, so of two that start at the same moment at most one continues,
perhaps none. A driver that could not reach the store for `SILENT_SECONDS` is not stopped when another takes over: both
then train the same trials, and the ledger counts each trial once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
from filelock import FileLock, Timeout

from orchestrator.errors import LedgerError, SweepError
from orchestrator.ledger.ledger import new_driver_id
from orchestrator.ledger.storage import Storage

BEAT_SECONDS = 3.0
SILENT_SECONDS = 20.0

_FOLDER = ".leases"
_logger = logging.getLogger(__name__)


@contextmanager
def lease(out: str, sweep: str) -> Iterator[None]:
    """Hold the sweep in an output folder or URI; raises `SweepError` if another driver holds it."""
    storage = Storage(out)
    with _locked(storage, sweep) if storage.is_local else _kept_alive(storage, sweep):
        yield


@contextmanager
def _locked(storage: Storage, sweep: str) -> Iterator[None]:
    folder = Path(storage.path) / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{sweep}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise _taken(storage, sweep) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _kept_alive(storage: Storage, sweep: str) -> Iterator[None]:
    folder = f"{storage.path}/{_FOLDER}/{sweep}"
    own = f"{folder}/{new_driver_id()}"
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(storage, own, ended), name="lease", daemon=True)
    _write(storage, own)
    heart.start()
    try:
        _outlast(storage, folder, own, sweep)
        yield
    finally:
        ended.set()
        heart.join()
        with suppress(OSError):
            storage.files.delete_file(own)


def _beat(storage: Storage, own: str, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with suppress(LedgerError):  # the store may answer the next request
            _write(storage, own)


def _write(storage: Storage, own: str) -> None:
    storage.write(own, pa.py_buffer(b"alive"))


def _outlast(storage: Storage, folder: str, own: str, sweep: str) -> None:
    """Return once no other driver has written its object for `SILENT_SECONDS`, by the store's modification times.

    Objects that appear later belong to drivers that see this driver's object, and give up.
    """
    others = _written(storage, folder)
    others.pop(own, None)
    if others:
        _logger.warning(
            "%s: found another driver of %s; waiting up to %.0f s to see whether it is alive",
            storage.root,
            sweep,
            SILENT_SECONDS,
        )
    deadline = time.monotonic() + SILENT_SECONDS
    while others and time.monotonic() < deadline:
        time.sleep(BEAT_SECONDS / 3)
        now = _written(storage, folder)
        others = {path: written for path, written in others.items() if path in now}
        if any(now[path] != written for path, written in others.items()):
            raise _taken(storage, sweep)
    for path in others:
        with suppress(OSError):
            storage.files.delete_file(path)


def _written(storage: Storage, folder: str) -> dict[str, int | None]:
    """When each driver's object was last written."""
    return {info.path: info.mtime_ns for info in storage.infos(folder)}


def _taken(storage: Storage, sweep: str) -> SweepError:
    return SweepError(
        f"sweep {sweep!r} is being run into {storage.root!r} by another process: wait for it, or give another --out"
    )
