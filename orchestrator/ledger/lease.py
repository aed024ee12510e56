"""One driver at a time for a sweep: a lock where results lie in a folder, a lease on an object store.

A lock ends with its process, however that ends. An object store has no locks; there each driver has an object of its
own, `<out>/.leases/SWEEP/<driver>`, and writes it again every few seconds. One that finds another's object watches it:
if it is written again, the other is alive and this one gives up; if not, the other was killed, and its object goes.
All write before they look, so of two that start at the same moment at most one goes on, perhaps none. A driver that
the store did not hear of for `SILENT_SECONDS` is not stopped when another takes over: the two then do the same work,
and the ledger counts each trial once.
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
    """Keep other drivers from a sweep in an output folder or URI; raises `SweepError` while one has it."""
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
        with suppress(LedgerError):  # the store may answer the next time
            _write(storage, own)


def _write(storage: Storage, own: str) -> None:
    storage.write(own, pa.py_buffer(b"alive"))


def _outlast(storage: Storage, folder: str, own: str, sweep: str) -> None:
    """Return when no other driver's object was written for a while, as far as the store's own clock tells.

    Objects that come later are of drivers that see this one's, and give up.
    """
    others = _written(storage, folder)
    others.pop(own, None)
    if others:
        _logger.warning("%s: was another driver of %s killed? %.0f s will tell", storage.root, sweep, SILENT_SECONDS)
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
