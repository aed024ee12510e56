"""Lets one driver at a time run a sweep: by a lock if results are in a folder, else by a lease.

A lock ends with its process, however that ends. An object store has no locks, nor have some network file systems. There
each driver writes its own file, `<out>/.leases/SWEEP/<driver>`, again every few seconds. A driver that finds another's
watches it. If the file is written again, the other driver is alive and this one gives up; if not, the other driver was
killed, and this one deletes its file. All drivers write before they look, so of two that start at the same moment at
most one continues, perhaps none. A driver that could not reach the store for `SILENT_SECONDS` is not stopped when
another takes over: both then train the same trials, and the ledger counts each trial once.

Locks and leases contain who holds them, for the message to the others.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pwd
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from orchestrator.errors import LedgerError, SweepError
from orchestrator.ledger.ledger import new_driver_id
from orchestrator.ledger.storage import Storage, reason

BEAT_SECONDS = 3.0
SILENT_SECONDS = 20.0

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
    with _lock_file(Path(storage.path) / _FOLDER / f"{sweep}.lock") as file:
        if _locked(file, storage, sweep):
            yield
        else:
            with _kept_alive(storage, sweep):
                yield


def _lock_file(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab+")
    except FileExistsError:
        raise LedgerError(f"{path.parent} is a file where a folder belongs; move it away") from None
    except OSError as error:
        raise LedgerError(
            f"cannot open the lock {path} ({reason(error)}); move away what is there, or choose another output folder"
        ) from None


def _locked(file: BinaryIO, storage: Storage, sweep: str) -> bool:
    """Lock the file until it is closed; False if its file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        raise _taken(storage, sweep, file.name, file.read()) from None
    except OSError:
        return False
    with suppress(OSError):  # on a full disk nobody can read who holds it
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), _this_holder())
    return True


@contextmanager
def _kept_alive(storage: Storage, sweep: str) -> Iterator[None]:
    folder = f"{storage.path}/{_FOLDER}/{sweep}"
    own = f"{folder}/{new_driver_id()}"
    holder = _this_holder()
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(storage, own, holder, ended), name="lease", daemon=True)
    _write(storage, own, holder)
    heart.start()
    try:
        _outlast(storage, folder, own, sweep)
        yield
    finally:
        ended.set()
        heart.join()
        with suppress(OSError):
            storage.files.delete_file(own)


def _beat(storage: Storage, own: str, holder: bytes, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with suppress(LedgerError):  # the store may answer the next request
            _write(storage, own, holder)


def _write(storage: Storage, own: str, holder: bytes) -> None:
    storage.write(own, pa.py_buffer(holder))


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
        with storage.files.open_input_stream(path) as file:
            return bytes(file.read())
    except OSError:
        return b""


def _this_holder() -> bytes:
    """Who holds what this process locks or leases, as JSON."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user may have no name
        user = str(os.getuid())
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    return json.dumps({"pid": os.getpid(), "user": user, "host": socket.gethostname(), "since": since}).encode()


def _taken(storage: Storage, sweep: str, file: str, content: bytes) -> SweepError:
    try:
        who = "process {pid} of {user} on {host} since {since}".format_map(json.loads(content))
    except (ValueError, KeyError, TypeError):  # of an earlier version, or not written yet
        who = "another process"
    return SweepError(
        f"sweep {sweep!r} is being run into {storage.root!r} by {who}: wait for it, stop it, or give another --out "
        f"(it holds {file}; delete that only if no such process runs any more)"
    )
