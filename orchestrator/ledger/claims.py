"""Makes the trials that a driver trains known to other drivers, so that drivers that share a ledger train none twice.

Each driver has one object, `<out>/.claims/<driver>.json`: who it is and the trials that it claims. The driver writes it
anew every few seconds, so that others see that it lives, and whenever it claims trials. To claim some, it writes them
into its own object *first*, and *then* looks at all others. If a living driver claims one of them too, it withdraws
that one. This is sound: of two drivers that claim the same trial, the one that looks last looks after both have
written, so it sees the other's claim and withdraws, or the other has withdrawn already. Both may withdraw, then both
try again later; never do both keep it. It takes no lock and no conditional request, so folders and all stores that show
a written object at once work alike.

A driver that is silent (module `liveness`) is taken for dead: whoever notices writes `<driver>.void`, deletes its
object, and from then on its claims count no more. In a folder, where each driver also locks `<driver>.lock`, that of a
killed process is noticed at once. A driver that was merely stopped or cut off from the store finds `<driver>.void` and
ends: it looks for that before it records anything if its last beat is old. (Its object alone would not tell, since a
driver that is stopped in the midst of a beat writes the object anew when it continues.) What remains is a driver
that is stopped for long between that look and its commit: then a trial has two rows, and counts once.
"""

from __future__ import annotations

import copy
import json
import logging
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.errors import LedgerError
from orchestrator.ledger import liveness
from orchestrator.ledger.liveness import Watch, beating, holder_named, locked, open_lock, this_holder, this_machine
from orchestrator.ledger.storage import Storage

_FOLDER = ".claims"
_CLAIMS, _VOID, _LOCK = ".json", ".void", ".lock"
_FORGOTTEN_SECONDS = 7 * 86_400.0
"""After this time nobody waits for a silent driver to come back."""
_MOST_READS = 8
"""How often an object is read that is not whole, before it is taken for damaged."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """The driver that claims a trial, and who that is in words."""

    driver_id: str
    holder: str


class Claims:
    """The trials that one driver claims, while `held`; it sees the claims of all others. Thread-safe.

    Args:
        storage: Of the ledger that the drivers share.
        driver_id: The driver's name in files.

    Example:
        >>> from orchestrator import Ledger
        >>> mine, theirs = Ledger("results").claims, Ledger("results").claims
        >>> with mine.held(), theirs.held():
        ...     mine.claim({"0123456789abcdef"}), theirs.claim({"0123456789abcdef"})
        ({'0123456789abcdef'}, set())
    """

    def __init__(self, storage: Storage, driver_id: str) -> None:
        self._storage, self._driver_id = storage, driver_id
        self._beat_storage = copy.copy(storage)  # a beat that fails is repeated by the next one
        self._folder = f"{storage.path}/{_FOLDER}"
        self._own: set[str] = set()
        self._holder: dict[str, Any] = {}
        self._lock = threading.RLock()
        self._watch = Watch()
        self._is_held = self._is_lost = False
        self._num_writes = 0
        self._alive_at = 0.0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let this driver claim trials until the block ends; then nothing is claimed any more."""
        with ExitStack() as stack:
            is_locked = self._storage.is_local and self._lock_own(stack)
            self._holder = {**this_holder(), "machine": this_machine() if is_locked else None}
            self._alive_at, self._is_held = liveness.now(), True
            stack.callback(self._end)
            self._write(self._storage)
            self._forget()
            with beating(self._beat, "claims"):
                yield

    def claim(self, trial_ids: Collection[str]) -> set[str]:
        """Claim trials; returns those that no other driver claims, which are this driver's now.

        Raises `LedgerError` if this driver was taken for dead, or the store does not answer.
        """
        wanted = set(trial_ids)
        with self._lock:
            self._own |= wanted
            self._write(self._storage)
            taken = wanted & self._look().keys()
            self._raise_if_lost()
            if taken:
                self._own -= taken
                self._write(self._storage)
        return wanted - taken

    def release(self, trial_ids: Collection[str]) -> None:
        """Claim these trials no more, since they are recorded; others see it within a beat."""
        with self._lock:
            self._own.difference_update(trial_ids)

    def others(self) -> Mapping[str, Claim]:
        """The trials that other living drivers claim, by trial_id."""
        with self._lock:
            return self._look()

    def check(self) -> None:
        """Raise `LedgerError` if this driver was taken for dead, so that others may train its trials.

        Asks the store if the last beat is too old to know.
        """
        if not self._is_held:
            return
        if not self._is_lost and self._may_be_silent():
            with self._lock:
                self._write(self._storage)
        self._raise_if_lost()

    @property
    def is_lost(self) -> bool:
        """Whether it is known that this driver was taken for dead; takes no request."""
        return self._is_lost

    def _raise_if_lost(self) -> None:
        if self._is_lost:
            raise LedgerError(
                f"this launch could not write to {self._storage.root} for {liveness.SILENT_SECONDS:.0f} s, and another "
                "launch took over its trials: it records nothing more; the same command goes on with what is left"
            )

    def _lock_own(self, stack: ExitStack) -> bool:
        file = stack.enter_context(open_lock(self._lock_path(self._driver_id)))
        return locked(file)

    def _lock_path(self, driver_id: str) -> Path:
        return Path(f"{self._folder}/{driver_id}{_LOCK}")

    def _path(self, driver_id: str, ending: str) -> str:
        return f"{self._folder}/{driver_id}{ending}"

    def _beat(self) -> None:
        with self._lock:
            self._write(self._beat_storage)

    def _write(self, storage: Storage) -> None:
        """Write the own object, and find out whether this driver was taken for dead if that may be."""
        begun = liveness.now()
        self._num_writes += 1  # else two beats could be equal, and their times too on a coarse clock
        content = {**self._holder, "beat": self._num_writes, "trials": list(self._own)}
        storage.write(
            self._path(self._driver_id, _CLAIMS), pa.py_buffer(json.dumps(content).encode()), is_lasting=False
        )
        if self._may_be_silent() and storage.exists(self._path(self._driver_id, _VOID)):
            self._is_lost = True
        self._alive_at = begun

    def _may_be_silent(self) -> bool:
        return liveness.now() - self._alive_at > liveness.SILENT_SECONDS / 2

    def _look(self) -> dict[str, Claim]:
        """The trials that other living drivers claim; removes what dead ones have left."""
        names = {info.base_name for info in self._storage.infos(self._folder)}
        void = {name.removesuffix(_VOID) for name in names if name.endswith(_VOID)}
        self._is_lost |= self._driver_id in void
        drivers = {name.removesuffix(_CLAIMS) for name in names if name.endswith(_CLAIMS)} - {self._driver_id}
        read = {driver: self._read(driver) for driver in sorted(drivers)}
        contents = {driver: content for driver, content in read.items() if content is not None}
        silent = self._watch.silent(contents) | void
        claims: dict[str, Claim] = {}
        for driver, content in contents.items():
            if driver in silent:
                self._void(driver)
            elif not self._was_killed(driver, content):
                claim = Claim(driver, holder_named(content))
                claims.update(dict.fromkeys(_trials(content), claim))
        return claims

    def _read(self, driver_id: str) -> bytes | None:
        """Another driver's object, None if it has none.

        Of an object that is replaced by a longer one in the midst of a read, a store gives the beginning.
        """
        for _ in range(_MOST_READS):
            content = self._storage.read(self._path(driver_id, _CLAIMS))
            if content is None or _value(content, "trials") is not None:
                return content
        return content

    def _void(self, driver_id: str) -> None:
        """Let a silent driver's claims count no more; it finds out by the marker, however late it comes back."""
        self._storage.write(self._path(driver_id, _VOID), pa.py_buffer(b""))
        self._storage.delete(self._path(driver_id, _CLAIMS))

    def _was_killed(self, driver_id: str, content: bytes) -> bool:
        """Whether a driver of this machine ended without removing its object, which is then removed."""
        if not self._storage.is_local or _value(content, "machine") != (self._holder.get("machine") or ""):
            return False
        path = self._lock_path(driver_id)
        try:
            with path.open("rb") as file:
                if not locked(file):
                    return False
                self._storage.delete(self._path(driver_id, _CLAIMS))
                self._unlock(driver_id)
                return True
        except OSError:  # locked by the living driver, or removed by one that ended
            return False

    def _forget(self) -> None:
        """Delete what drivers that were taken for dead long ago have left."""
        for info in self._storage.infos(self._folder):
            is_old = info.mtime_ns is not None and time.time() - info.mtime_ns / 1e9 > _FORGOTTEN_SECONDS
            if is_old and info.base_name.endswith(_VOID):
                self._storage.delete(info.path)
                self._unlock(info.base_name.removesuffix(_VOID))

    def _end(self) -> None:
        """Remove what this driver has left in the folder, the marker last: it voids the object as long as that is."""
        self._is_held = False
        endings = (_CLAIMS, _VOID) if self._is_lost else (_CLAIMS,)
        with suppress(LedgerError):  # a store that is away: others find the object silent
            for ending in endings:
                self._beat_storage.delete(self._path(self._driver_id, ending))
        self._unlock(self._driver_id)

    def _unlock(self, driver_id: str) -> None:
        if self._storage.is_local:
            self._lock_path(driver_id).unlink(missing_ok=True)


def _trials(content: bytes) -> list[str]:
    return [str(trial_id) for trial_id in _value(content, "trials") or ()]


def _value(content: bytes, name: str) -> Any:
    try:
        return json.loads(content).get(name)
    except (ValueError, AttributeError):  # damaged, or no object of ours
        return None
