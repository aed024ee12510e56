"""Saves members' states in a folder or an object store, one file for each save.

A file has its states by trial_id, so that any later pack can resume from them. Files are `.npz` archives without
pickles, and always complete: a kill at any moment leaves no partial file. The epochs of all members are the first
arrays in a file, so that `index` reads only its beginning and its end.
"""

from __future__ import annotations

import io
import logging
import time
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import fs

from trainables.atomic_files import is_abandoned, is_absent, open_root, write_whole
from trainables.contract import State
from trainables.errors import first_line
from trainables.packs.saved_states import DIGEST, with_digest, without_digest

_logger = logging.getLogger(__name__)
_SUFFIX = ".npz"
_EPOCH, _NUM_ARRAYS = "epoch", "num_arrays"
"""Names of the arrays that each trial has, and that a file begins with: a damaged directory may leave out some."""
_LONGEST_REASON = 200
_READ_AHEAD = 2**22
"""Bytes of one read request: an object store is slow to answer, and numpy reads little at a time."""


class StateStore:
    """States of unfinished packs under one folder or URI, which the driver and all workers share."""

    def __init__(self, root: str) -> None:
        self._files, self._root = open_root(root)

    def save(self, pack_id: str, states: Mapping[str, State]) -> None:
        """Replace all earlier files of the pack with one file of these states."""
        earlier = self._paths(pack_id)
        if states:
            buffer = io.BytesIO()
            np.savez(buffer, allow_pickle=False, **_flat(states))
            path = f"{self._root}/{pack_id}.{time.time_ns()}{_SUFFIX}"
            write_whole(self._files, path, pa.py_buffer(buffer.getbuffer()))
        for old in earlier:
            self._delete(old)

    def index(self, pack_id: str | None = None) -> dict[str, str]:
        """The file with the last saved state of each trial_id, among all files or those of one pack.

        A trial that did not resume from an earlier state, since it was damaged, has saved a state of an earlier epoch
        later: that is the one to resume from.
        """
        return _last_saved({path: self._epochs(path) for path in self._paths(pack_id)})

    def find(self, pack_id: str | None = None) -> dict[str, str]:
        """Like `index`, but empty if the store does not answer, since trials can be trained without a saved state."""
        try:
            return self.index(pack_id)
        except OSError as error:
            _logger.warning("states of %s could not be looked up: %s", pack_id or "any pack", error)
            return {}

    def sizes(self, trial_ids: Collection[str]) -> dict[str, int]:
        """Bytes of the files of single trials, which trials that stopped early have; takes one listing.

        Empty if the store does not answer.
        """
        sizes: Counter[str] = Counter()
        try:
            for info in self._listing():
                trial_id = info.base_name.partition(".")[0]
                if trial_id in trial_ids and info.base_name.endswith(_SUFFIX):
                    sizes[trial_id] += info.size
        except OSError as error:
            _logger.warning("saved states could not be listed: %s", error)
        return dict(sizes)

    def load(self, path: str, trial_id: str) -> State | None:
        """One member's state; None, so that it starts anew, if the file is missing or damaged.

        A file that is missing was perhaps replaced by a later one, if another launch still trains its trials.
        """
        try:
            return self._load(path, trial_id)
        except FileNotFoundError:
            latest = self.find().get(trial_id)
        with suppress(FileNotFoundError):
            return self._load(latest, trial_id) if latest is not None else None
        return None

    def _load(self, path: str, trial_id: str) -> State | None:
        """Like `load`; raises FileNotFoundError if the file is missing."""
        prefix = f"{trial_id}/"
        try:
            with self._open(path) as arrays:
                names = [name for name in arrays.files if name.startswith(prefix)]
                saved = {name.removeprefix(prefix): arrays[name] for name in names}
                return without_digest(saved) if DIGEST in saved or _NUM_ARRAYS in arrays.files else saved or None
        except Exception as error:  # zipfile and numpy raise almost anything for a damaged file
            if is_absent(error):
                raise FileNotFoundError(path) from None
            _logger.warning("trial %s starts anew, its state in %s cannot be read: %s", trial_id, path, _why(error))
            return None

    def fault_of(self, path: str) -> str | None:
        """Why a file cannot be resumed from, in one line; None if all its states are those that were saved.

        Raises FileNotFoundError if it has been deleted, `OSError` if the store does not answer.
        """
        try:
            with self._open(path) as arrays:
                names: list[str] = arrays.files
                for owner in {name.partition("/")[0] for name in names if "/" in name}:
                    saved = {n.removeprefix(f"{owner}/"): arrays[n] for n in names if n.startswith(f"{owner}/")}
                    if DIGEST in saved:
                        without_digest(saved)
            return None
        except Exception as error:  # as in `load`
            if is_absent(error):
                raise FileNotFoundError(path) from None
            if _is_of_store(error):
                raise OSError(_why(error)) from error
            return _why(error)

    def collect(self, recorded: Collection[str]) -> None:
        """Keep files with the last state of a trial that is not in `recorded`, and damaged ones; delete all others.

        This deletes, e.g., the last save of a pack whose members all stopped early afterwards, and what killed writers
        left behind. Does nothing if the store does not answer.
        """
        try:
            self._collect(recorded)
        except OSError as error:
            _logger.warning("old states could not be deleted: %s", error)

    def _collect(self, recorded: Collection[str]) -> None:
        epochs = {path: self._epochs(path) for path in self._paths()}  # files saved from here on are kept
        needed = {path for trial_id, path in _last_saved(epochs).items() if trial_id not in recorded}
        for path, held in epochs.items():
            if path not in needed and held is not None:
                self._delete(path)
        for info in self._listing():
            if is_abandoned(info):
                self._delete(info.path)

    def _paths(self, pack_id: str | None = None) -> list[str]:
        start = "" if pack_id is None else f"{pack_id}."
        names = ((info.path, info.base_name) for info in self._listing())
        return sorted(path for path, name in names if name.endswith(_SUFFIX) and name.startswith(start))

    def _listing(self) -> list[fs.FileInfo]:
        return self._files.get_file_info(fs.FileSelector(self._root, allow_not_found=True))

    def _epochs(self, path: str) -> dict[str, int] | None:
        """Epoch of each trial in a file; empty if the file was deleted meanwhile, None if it is damaged.

        Raises `OSError` if the store does not answer: then nothing is known of the file.
        """
        try:
            with self._open(path) as arrays:
                names = [name for name in arrays.files if name.endswith(f"/{_EPOCH}")]
                return {name.removesuffix(f"/{_EPOCH}"): int(arrays[name]) for name in names}
        except Exception as error:  # as in `load`
            if is_absent(error):
                return {}
            if _is_of_store(error):
                raise OSError(_why(error)) from error
            _logger.warning("the states in %s cannot be read, their trials start anew: %s", path, _why(error))
            return None

    @contextmanager
    def _open(self, path: str) -> Iterator[Any]:
        """A file's arrays by name; each is read when it is accessed."""
        with self._files.open_input_file(path) as file:
            raw: Any = file  # lacks a method that BufferedReader's type annotation demands, but not its code
            with io.BufferedReader(raw, _READ_AHEAD) as ahead, np.load(ahead, allow_pickle=False) as arrays:
                _check_plain(arrays)
                yield arrays

    def _delete(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._files.delete_file(path)


def _check_plain(arrays: Any) -> None:
    """Raise `ValueError` unless this is an archive as `save` writes it: one that unpacks to more could fill memory."""
    if not isinstance(arrays, np.lib.npyio.NpzFile) or arrays.zip is None:
        raise ValueError("is no archive of arrays")
    infos = arrays.zip.infolist()
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        raise ValueError("has compressed arrays")
    if _NUM_ARRAYS not in arrays.files:  # a file of an earlier version
        return
    names = [name for name in arrays.files if name != _NUM_ARRAYS]
    ends = Counter(name.partition("/")[2] for name in names)
    num_trials = len({name.partition("/")[0] for name in names})
    if len(names) != int(arrays[_NUM_ARRAYS]) or not ends[_EPOCH] == ends[DIGEST] == num_trials:
        raise ValueError(f"has {len(names)} arrays of {num_trials} trials, not those that were saved")


def _last_saved(files: Mapping[str, Mapping[str, int] | None]) -> dict[str, str]:
    """The file with the last saved state of each trial, given the epochs that each file has."""
    last: dict[str, tuple[str, int, str]] = {}
    for path, epochs in files.items():
        saved_at = path.removesuffix(_SUFFIX).rpartition(".")[2]
        for trial_id, epoch in (epochs or {}).items():
            last[trial_id] = max(last.get(trial_id, ("", -1, "")), (saved_at, epoch, path))
    return {trial_id: path for trial_id, (_, _, path) in last.items()}


def _is_of_store(error: BaseException) -> bool:
    """Whether reading failed for another reason than what is in the file; some stores raise no `OSError`."""
    is_arrows = isinstance(error, pa.ArrowException) and not isinstance(error, pa.ArrowInvalid)
    return is_arrows or isinstance(error, (OSError, MemoryError))


def _why(error: Exception) -> str:
    return first_line(error)[:_LONGEST_REASON]


def _flat(states: Mapping[str, State]) -> dict[str, Any]:
    """Arrays of all members under `trial_id/name`, each with its digest, epochs first."""
    arrays = {f"{tid}/{name}": array for tid, state in states.items() for name, array in with_digest(state).items()}
    ordered = dict(sorted(arrays.items(), key=lambda item: not item[0].endswith(f"/{_EPOCH}")))
    return {_NUM_ARRAYS: np.array(len(arrays)), **ordered}
