"""Checks a saved state before a trial resumes from it: what cannot be this trial's state must not become its numbers.

A fault costs time only, since the trial starts anew. A digest in each saved state finds whatever changed in storage;
the checks here find what was wrong when it was saved, and states of earlier versions, which have no digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from trainables.contract import State

DIGEST = "digest"
"""Name of the array that a saved state has in addition to the trial's own."""


def with_digest(state: State) -> State:
    """The state and its digest."""
    return {**state, DIGEST: np.array(_digest(state))}


def without_digest(saved: State) -> State:
    """Inverse of `with_digest`; raises `KeyError` or `ValueError` if the state is not the one that was saved."""
    state = {name: array for name, array in saved.items() if name != DIGEST}
    if int(saved[DIGEST]) != _digest(state):
        raise ValueError("its arrays are not those that were saved")
    return state


def check_progress(state: State, num_epochs: int, num_fields: int) -> None:
    """Raise `ValueError` unless a trial of that length can have the epoch, time and trace (rows of `num_fields`)."""
    epoch = _scalar(state, "epoch", np.integer)
    if not 0 <= epoch <= num_epochs:
        raise ValueError(f"epoch {epoch} is not one of the trial's {num_epochs}")
    if not 0 <= _scalar(state, "train_seconds", np.floating) < np.inf:
        raise ValueError(f"{state['train_seconds']} seconds of training")
    trace = state["trace"]
    if trace.dtype != np.float64 or (trace.shape[1:] != (num_fields,) and trace.size):
        raise ValueError(f"a trace of shape {trace.shape}, and a point has {num_fields} numbers")
    measured = trace[:, 0] if trace.size else trace
    if trace.size and (measured[0] != 0 or measured[-1] > epoch or not (np.diff(measured) > 0).all()):
        raise ValueError(f"a trace of the epochs {measured.tolist()} in epoch {epoch}")


def check_restored(state: State, restored: State) -> None:
    """Raise `ValueError` unless saving the resumed trial at once would give the state that it resumed from."""
    if state.keys() != restored.keys():
        raise ValueError(f"it differs in the arrays {sorted(state.keys() ^ restored.keys())}")
    for name, array in restored.items():
        given = state[name]
        if given.dtype != array.dtype or given.shape != array.shape:
            raise ValueError(f"{name} is {_kind(given)}, and the trial's is {_kind(array)}")
        if given.tobytes() != array.tobytes():
            raise ValueError(f"{name} cannot be restored")


def check_like(state: State, names: Iterable[str], shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
    """Raise `ValueError` unless these arrays have that shape and type."""
    for name in names:
        if state[name].shape != shape or state[name].dtype != dtype:
            raise ValueError(f"{name} is {_kind(state[name])}, and the trial's is {np.dtype(dtype)} of shape {shape}")


def _scalar(state: State, name: str, kind: type[np.integer[Any]] | type[np.floating[Any]]) -> Any:
    value = state[name]
    if value.shape != () or not np.issubdtype(value.dtype, kind):
        raise ValueError(f"{name} is {_kind(value)}")
    return value[()]


def _kind(array: npt.NDArray[Any]) -> str:
    return f"{array.dtype} of shape {array.shape}"


def _digest(state: Mapping[str, npt.NDArray[Any]]) -> int:
    check = 0
    for name in sorted(state):
        array = np.asarray(state[name])
        check = crc32(f"{name} {array.dtype.str} {array.shape}".encode(), check)
        check = crc32(np.ascontiguousarray(array).data.cast("B") if array.size else b"", check)
    return check
