"""Says of every file of a results folder whether it is sound, damaged, foreign or not used; changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import pyarrow.fs as pafs

from orchestrator.errors import LedgerError, StoreError
from orchestrator.ledger.part_files import WORKLOAD_FOLDER
from orchestrator.ledger.parts import read_or_name
from orchestrator.ledger.schema import ASKS, TableName, fault_of_marker
from orchestrator.ledger.sealed_parquet import SealedParquet
from orchestrator.ledger.storage import STORE_REMEDY, Storage, reason
from trainables.packs.state_store import StateStore

STATES = "states"
_SEARCH_FOLDER = "search="
_DELETED = "it was deleted while it was read"


class Verdict(StrEnum):
    """What a file is to the readers of a results folder."""

    SOUND = "sound"
    UNSEALED = "sound without checksums"
    """Of an earlier version: it can be read, but changed numbers would not be noticed."""
    UNUSED = "unused"
    FOREIGN = "foreign"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Finding:
    """A file, what it is, and why if it is not sound."""

    path: str
    verdict: Verdict
    why: str = ""


def inspect(storage: Storage) -> Iterator[Finding]:
    """Read every part, ask and state under the folder or URI, and check it; the files of each kind in their order.

    Raises `StoreError` if the store does not answer: that says nothing of a file.
    """
    for table in (*TableName, ASKS):
        for path in _files(storage, table):
            why = _why_unused(storage, table, path)
            yield Finding(path, Verdict.UNUSED, why) if why else _part(storage, table, path)
    store = StateStore(f"{storage.root}/{STATES}")
    for path in _files(storage, STATES):
        if not path.endswith(".npz"):
            yield Finding(path, Verdict.UNUSED, "no saved state has this name")
            continue
        yield _state(store, path)


def unused(storage: Storage) -> list[Finding]:
    """The files that look like trials or traces, by a place or a name close to a part's, but that no reader reads."""
    found = []
    for table in TableName:
        for path in _files(storage, table):
            if not path.rpartition("/")[2].startswith((".", "_")) and (why := _why_unused(storage, table, path)):
                found.append(Finding(path, Verdict.UNUSED, why))
    return found


def _files(storage: Storage, folder: str) -> list[str]:
    infos = storage.infos(f"{storage.path}/{folder}", recursive=True)
    return sorted(info.path for info in infos if info.type == pafs.FileType.File)


def _why_unused(storage: Storage, table: str, path: str) -> str:
    """Why no reader of a table or of asks reads a file in its folder; empty if they do."""
    owner = _SEARCH_FOLDER if table == ASKS else WORKLOAD_FOLDER
    *folders, name = path.removeprefix(f"{storage.path}/{table}/").split("/")
    if name.startswith((".", "_")):
        return "hidden: a writer that was killed, or another program, left it"
    named = folders[0].removeprefix(owner) if len(folders) == 1 and folders[0].startswith(owner) else ""
    if not named.isidentifier() and (table != ASKS or not named):
        return f"parts lie in folders {table}/{owner}NAME/"
    return "" if name.endswith(".parquet") else "names of parts end in .parquet"


def _state(store: StateStore, path: str) -> Finding:
    try:
        fault = store.fault_of(path)
    except FileNotFoundError:
        return Finding(path, Verdict.UNUSED, _DELETED)
    except OSError as error:
        raise StoreError(f"cannot read {path} ({reason(error)}); {STORE_REMEDY}") from None
    return Finding(path, Verdict.DAMAGED, fault) if fault else Finding(path, Verdict.SOUND)


def _part(storage: Storage, table: str, path: str) -> Finding:
    def seal_and_marker(file: SealedParquet) -> tuple[bool, str | None]:
        foreign = fault_of_marker(file.schema.metadata, table)
        if foreign is None:
            file.read()
        return file.is_sealed, foreign

    try:
        is_sealed, foreign = read_or_name(storage, path, seal_and_marker)
    except FileNotFoundError:
        return Finding(path, Verdict.UNUSED, _DELETED)
    except StoreError:
        raise
    except LedgerError as error:
        return Finding(path, Verdict.DAMAGED, str(error).removeprefix(f"{path} "))
    if foreign:
        return Finding(path, Verdict.FOREIGN, foreign)
    return Finding(path, Verdict.SOUND if is_sealed else Verdict.UNSEALED)
