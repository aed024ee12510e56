"""Tells which packs make no progress: a worker that hangs says nothing, and would be waited for without end."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection

_LONGEST_STEP = 5.0


class PackClock:
    """Seconds since each pack in flight was heard of. Thread-safe.

    Only time in which `stalled` is called at least every few seconds counts: if the launch was frozen, as with its
    whole container, so were its workers.
    """

    def __init__(self, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._lock = threading.Lock()
        self._heard: dict[str, float] = {}
        self._now, self._looked_at = 0.0, time.monotonic()

    def heard(self, pack_ids: Collection[str]) -> None:
        """Take note that these packs have begun, or have reported."""
        with self._lock:
            self._heard.update(dict.fromkeys(pack_ids, self._now))

    def ended(self, pack_id: str) -> None:
        """Forget a pack."""
        with self._lock:
            self._heard.pop(pack_id, None)

    def stalled(self) -> list[str]:
        """The packs that have not been heard of for too long; each is named once."""
        with self._lock:
            now = time.monotonic()
            self._now += min(now - self._looked_at, _LONGEST_STEP)
            self._looked_at = now
            late = [pack_id for pack_id, at in self._heard.items() if self._now - at > self._stall_seconds]
            for pack_id in late:
                del self._heard[pack_id]
            return late
