"""A folder on the real disk whose writer dies, or finds the disk full, at a chosen file operation.

Python tells an audit hook of each file that it opens, renames or removes. The hook raises at the chosen operation. A
dead writer changes nothing more, as after SIGKILL: its `finally` blocks fail as well. A write that is cut is cut by the
kernel, at the chosen number of bytes.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENOSPC
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pyarrow import fs

_EVENTS = frozenset({"open", "os.mkdir", "os.rename", "os.remove"})


class DiedError(BaseException):
    """The writer is dead; no handler of errors takes it for a fault of the disk."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """At operation number `at` (from 0) the writer dies or the disk is full; a write is cut after `cut` bytes."""

    at: int
    cut: int
    is_death: bool


@dataclass
class _Armed:
    folder: str
    trouble: Trouble
    num_operations: int = 0
    is_dead: bool = False


class MortalFolder(fs.LocalFileSystem):  # type: ignore[misc]  # pyarrow's stubs lack it
    """The local file system; pyarrow deletes files without telling Python's audit hook."""

    armed: ClassVar[_Armed | None] = None

    def delete_file(self, path: str) -> None:
        _operation(path)
        super().delete_file(path)


@contextmanager
def trouble_in(folder: Path, trouble: Trouble | None) -> Iterator[None]:
    """Let that happen to whoever changes the folder within the block."""
    _install()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    MortalFolder.armed = None if trouble is None else _Armed(f"{folder}/", trouble)
    try:
        yield
    finally:
        MortalFolder.armed = None
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@cache
def _install() -> None:
    sys.addaudithook(_heard)


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if MortalFolder.armed is None or event not in _EVENTS:
        return
    _operation(str(arguments[0]))
    if event == "open" and arguments[1] == "w":
        _write()


def _operation(path: str) -> None:
    armed = MortalFolder.armed
    if armed is None or not path.startswith(armed.folder):
        return
    if armed.is_dead:
        raise DiedError
    if armed.num_operations == armed.trouble.at:
        armed.is_dead = armed.trouble.is_death
        raise DiedError if armed.is_dead else OSError(ENOSPC, "No space left on device")
    armed.num_operations += 1


def _write() -> None:
    """The write into the file that is being opened, an operation of its own."""
    armed = MortalFolder.armed
    assert armed is not None
    if armed.num_operations == armed.trouble.at:
        armed.is_dead = armed.trouble.is_death
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (armed.trouble.cut, hard))
    armed.num_operations += 1
