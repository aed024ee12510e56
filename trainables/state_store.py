"""Member states on disk: one file a save, indexed by trial_id, so that any later pack can go on from it.

Files are `.npz` archives without pickles, written under another name and renamed (one PUT on an object store): a kill
at any moment leaves whole files only.
"""

from __future__ import annotations

import io
import time
import zipfile
import zlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from pyarrow import fs

from trainables.workload import State

_SUFFIX = ".npz"
_UNFINISHED = ".tmp"
_ABANDONED_NS = 600 * 10**9


class StateStore:
    """States of half-done packs under one folder or URI, shared by the driver and all workers."""

    def __init__(self, root: str) -> None:
        self._files, self._root = fs.FileSystem.from_uri(root) if "://" in root else (fs.LocalFileSystem(), root)

    def save(self, pack_id: str, states: Mapping[str, State]) -> None:
        """Replace the pack's earlier saves by one file with these states."""
        earlier = self._paths(pack_id)
        if states:
            self._files.create_dir(self._root, recursive=True)
            path = f"{self._root}/{pack_id}.{time.time_ns()}{_SUFFIX}"
            buffer = io.BytesIO()
            np.savez(buffer, allow_pickle=False, **_flat(states))
            with self._files.open_output_stream(path + _UNFINISHED) as file:
                file.write(buffer.getbuffer())
            self._files.move(path + _UNFINISHED, path)
        for old in earlier:
            self._delete(old)

    def index(self, pack_id: str | None = None) -> dict[str, str]:
        """The file with the furthest state of each trial_id that has one, among all files or one pack's."""
        furthest: dict[str, tuple[int, str]] = {}
        for path in self._paths(pack_id):
            for trial_id, epoch in self._epochs(path).items():
                if trial_id not in furthest or furthest[trial_id][0] < epoch:
                    furthest[trial_id] = (epoch, path)
        return {trial_id: path for trial_id, (_, path) in furthest.items()}

    def load(self, path: str, trial_id: str) -> State | None:
        """One member's state; None, so that it starts anew, if the file has gone or is damaged."""
        try:
            with self._files.open_input_file(path) as file, np.load(file, allow_pickle=False) as arrays:
                prefix = f"{trial_id}/"
                state = {name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)}
                return state or None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
            return None

    def collect(self, recorded: Collection[str]) -> None:
        """Delete the files whose members are all recorded, and what a killed writer left behind."""
        for path in self._paths():
            if all(trial_id in recorded for trial_id in self._epochs(path)):
                self._delete(path)
        for info in self._listing():
            if info.path.endswith(_UNFINISHED) and time.time_ns() - (info.mtime_ns or 0) > _ABANDONED_NS:
                self._delete(info.path)

    def _paths(self, pack_id: str | None = None) -> list[str]:
        names = ((info.path, info.path.rpartition("/")[2]) for info in self._listing())
        start = "" if pack_id is None else f"{pack_id}."
        return sorted(path for path, name in names if name.endswith(_SUFFIX) and name.startswith(start))

    def _listing(self) -> list[fs.FileInfo]:
        return self._files.get_file_info(fs.FileSelector(self._root, allow_not_found=True))

    def _epochs(self, path: str) -> dict[str, int]:
        """Epoch of each trial in a file; empty if it vanished meanwhile or is not a whole archive."""
        try:
            with self._files.open_input_file(path) as file, np.load(file, allow_pickle=False) as arrays:
                names = [name for name in arrays.files if name.endswith("/epoch")]
                return {name.removesuffix("/epoch"): int(arrays[name]) for name in names}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
            return {}

    def _delete(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._files.delete_file(path)


def _flat(states: Mapping[str, State]) -> dict[str, Any]:
    """Arrays of all members under `trial_id/name`."""
    return {f"{tid}/{name}": array for tid, state in states.items() for name, array in state.items()}
