"""Gives a launch a folder for the files of Ray and Tune, and deletes the folders of launches that were killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.errors import ClusterError
from orchestrator.process.reaper import ALIVE, delete, delete_unlocked

_MOST_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""Most bytes of a socket's path."""
_SOCKET = "abcdefgh/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""What follows a launch folder's prefix in the longest path of a socket, with the largest process id."""
_FREE_BYTES = 100_000_000
"""Ray's logs and sockets of a long launch; with less, it would stop in the middle."""


@contextmanager
def launch_folder(kept: Collection[str] = ()) -> Iterator[Path]:
    """A private folder with a path that is short enough for Ray's sockets.

    It is deleted afterwards unless the launch fails or has written a file with one of the `kept` names.

    Raises `ClusterError` if no temporary folder can be used.
    """
    prefix = f"atlas-{os.getuid()}-"
    parent = _usable_parent(prefix)
    _delete_left_behind(parent, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    with (folder / "new").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (folder / "new").rename(folder / ALIVE)  # locked from the moment that others can see it
        try:
            yield folder
        except KeyboardInterrupt:
            delete(folder)
            raise
        if not any(path.name in kept for path in folder.iterdir()):  # else, and after a failure: until the next launch
            delete(folder)


def _usable_parent(prefix: str) -> Path:
    """The temporary folder that the user named, or else one that systems have."""
    named = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR")
    faults = {}
    for place in dict.fromkeys([*([named] if named else []), "/tmp", "/var/tmp", "/dev/shm"]):
        fault = _fault(Path(place), prefix)
        if fault is None:
            return Path(place)
        faults[place] = fault
    found = ", ".join(f"{place} {fault}" for place, fault in faults.items())
    raise ClusterError(
        f"Ray finds no folder for its files ({found}): name one in RAY_TMPDIR, or run without Ray (--executor inline)"
    )


def _fault(place: Path, prefix: str) -> str | None:
    """Why Ray cannot use that temporary folder."""
    if not place.is_absolute():
        return "is not an absolute path"
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        return "is not a folder that can be written"
    if len(os.fsencode(place / f"{prefix}{_SOCKET}")) > _MOST_SOCKET_BYTES:
        return "has too long a path for sockets"
    free = shutil.disk_usage(place).free
    if free < _FREE_BYTES:
        return f"has {free // 1_000_000} MB free, of {_FREE_BYTES // 1_000_000} that Ray needs"
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:  # as of some network file systems
        return f"has no locks ({error.strerror})"
    return None


def _delete_left_behind(parent: Path, prefix: str) -> None:
    """Delete this user's folders whose launch has ended; one that runs holds its lock."""
    for folder in parent.glob(f"{prefix}*"):
        with suppress(OSError):
            if folder.lstat().st_uid == os.getuid() and not folder.is_symlink():
                delete_unlocked(folder)
