"""Tells whether another driver still lives: by a lock that ends with its process, or by a file that it rewrites.

A lock in a folder ends with its process, however that ends. An object store has no locks, nor have some network file
systems, and the lock of a driver on another machine may not be seen here. So each driver also rewrites a file of its
own every few seconds. A driver whose file has not changed for `SILENT_SECONDS` is taken for dead.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import socket
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.errors import LedgerError
from orchestrator.ledger.storage import reason

BEAT_SECONDS = 3.0
SILENT_SECONDS = 20.0

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds that also pass while the machine sleeps, since its drivers are silent for others then."""
    return time.clock_gettime(_CLOCK)


class Watch:
    """Finds out which drivers are silent, from one look at their files after the other.

    Between two looks at most `BEAT_SECONDS` count as silence: if this process was stopped or the store was away, other
    drivers could not be seen, and were perhaps no more able to write.
    """

    def __init__(self) -> None:
        self._looked_at = now()
        self._seen: dict[str, Hashable] = {}
        self._silence: dict[str, float] = {}

    def silent(self, files: Mapping[str, Hashable]) -> set[str]:
        """The drivers that are silent; `files` has for each driver something that changes when it writes."""
        looked_at = now()
        passed = min(looked_at - self._looked_at, BEAT_SECONDS)
        self._looked_at = looked_at
        self._silence = {
            driver: self._silence[driver] + passed if driver in self._seen and self._seen[driver] == mark else 0.0
            for driver, mark in files.items()
        }
        self._seen = dict(files)
        return {driver for driver, seconds in self._silence.items() if seconds >= SILENT_SECONDS}


@contextmanager
def beating(beat: Callable[[], None], name: str) -> Iterator[None]:
    """Call `beat` every few seconds, in a thread of that name, until the block ends."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(BEAT_SECONDS):
            with suppress(LedgerError):  # the store may answer the next request
                beat()

    heart = threading.Thread(target=run, name=name, daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()


def open_lock(path: Path) -> BinaryIO:
    """The file to be locked; raises `LedgerError` if something else is in its place."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab+")
    except FileExistsError:
        raise LedgerError(f"{path.parent} is a file where a folder belongs; move it away") from None
    except OSError as error:
        raise LedgerError(
            f"cannot open the lock {path} ({reason(error)}); move away what is there, or choose another output folder"
        ) from None


def locked(file: BinaryIO) -> bool:
    """Lock the file until it is closed; False if its file system has no locks.

    Raises BlockingIOError or PermissionError if another process has locked it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise
    except OSError:
        return False
    return True


def this_holder() -> dict[str, Any]:
    """Who holds what this process locks, leases or claims."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user may have no name
        user = str(os.getuid())
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    return {"pid": os.getpid(), "user": user, "host": socket.gethostname(), "since": since}


def holder_named(content: bytes) -> str:
    """The holder in the content of a file, in words."""
    try:
        return "process {pid} of {user} on {host} since {since}".format_map(json.loads(content))
    except (ValueError, KeyError, TypeError):  # of an earlier version, or not written yet
        return "another process"


def this_machine() -> str | None:
    """An id of the running kernel, which containers share: what is locked under one kernel is seen by all under it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
