"""Files of the ledger: where they lie, how one is written whole or not at all, and what makes one unreadable."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from orchestrator import ledger_schema as rules
from orchestrator.errors import LedgerError
from orchestrator.ledger_schema import TableName
from trainables.file_systems import is_absent, open_root, write_whole

STORE_REMEDY = "the environment gives an object store's address and keys (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...)"

_STORE_ERROR = re.compile(r"AWS Error (?P<kind>\w+).*? operation:\s*(?P<text>.*?)(?: \(Request ID.*)?$")


class Storage:
    """The folder or object-store URI under a ledger; raises `LedgerError` for one that cannot be opened.

    `root` names it, `path` is where it lies in the file system `files`.
    """

    def __init__(self, root: str) -> None:
        self.root, self.files, self.path = _resolve(root)

    @property
    def is_local(self) -> bool:
        """Whether this is a folder, with locks and renames."""
        return isinstance(self.files, pafs.LocalFileSystem)

    def write(self, path: str, content: pa.Buffer) -> None:
        """Make or replace a file, whole or not at all; raises `LedgerError` in one line."""
        try:
            write_whole(self.files, path, content)
        except OSError as error:
            raise self._fault("write to", path.rpartition("/")[0], error) from None

    def exists(self, path: str) -> bool:
        """Whether a file is there; raises `LedgerError` in one line."""
        try:
            return bool(self.files.get_file_info(path).type != pafs.FileType.NotFound)
        except OSError as error:
            raise self._fault("read", path, error) from None

    def delete(self, path: str) -> None:
        """Delete a file; raises `LedgerError` in one line."""
        try:
            self.files.delete_file(path)
        except OSError as error:
            raise self._fault("delete", path, error) from None

    def infos(self, folder: str) -> list[pafs.FileInfo]:
        """What is in a folder; nothing if it is not there. Raises `LedgerError` for a bucket that is not there."""
        try:
            infos = self.files.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
            if not infos and self.files.type_name == "s3":
                self._check_bucket()
        except OSError as error:
            raise self._fault("list", folder, error) from None
        return infos

    def list(self, folder: str, file_type: pafs.FileType) -> list[str]:
        """Sorted paths in a folder, without hidden ones."""
        if self.is_local:
            way = [folder, folder.rpartition("/")[0], self.path]
            blocking = [i.path for i in self.files.get_file_info(way) if i.type == pafs.FileType.File]
            if blocking:
                raise LedgerError(f"{blocking[0]} is a file where a folder belongs; move it away")
        infos = self.infos(folder)
        return sorted(i.path for i in infos if i.type == file_type and not i.base_name.startswith((".", "_")))

    def _check_bucket(self) -> None:
        """A bucket that is not there lists as an empty one."""
        bucket = self.path.partition("/")[0]
        if self.files.get_file_info(bucket).type == pafs.FileType.NotFound:
            raise LedgerError(f"cannot list {self.root}: there is no bucket {bucket!r}")

    def _fault(self, action: str, folder: str, error: OSError) -> LedgerError:
        remedy = "choose another output folder" if self.is_local else STORE_REMEDY
        return LedgerError(f"cannot {action} {self.root}{folder.removeprefix(self.path)} ({reason(error)}); {remedy}")


def _resolve(root: str) -> tuple[str, pafs.FileSystem, str]:
    """A folder or URI as (absolute name, file system, path in it)."""
    if "://" not in root:
        root = str(Path(root).expanduser().absolute())
    try:
        _check_uri(root)
        files, path = open_root(root)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise LedgerError(f"cannot open {root} ({reason(error)}); give a folder or a URI as s3://bucket/path") from None
    path = path.rstrip("/")
    return path if isinstance(files, pafs.LocalFileSystem) else root.rstrip("/"), files, path


def _check_uri(root: str) -> None:
    """Results, states and figures lie under the URI, and it is printed: it names a place and nothing else."""
    if "://" not in root:
        return
    uri = urlsplit(root)
    if not uri.netloc and uri.scheme != "file":
        raise LedgerError(f"{root} names no bucket; give a folder or a URI as s3://bucket/path")
    if uri.password is not None:
        raise LedgerError(
            f"{uri.scheme}://{uri.hostname}{uri.path}: no passwords in a URI, which is shown; {STORE_REMEDY}"
        )
    if uri.query or uri.fragment:
        raise LedgerError(f"{root}: an output URI ends with its path; {STORE_REMEDY}")


def read_part(
    files: pafs.FileSystem, part: str, table: TableName, schema: pa.Schema, trial_ids: Sequence[str] | None
) -> pa.Table:
    """The rows of a part that is ours, in `schema`: absent columns are null, unknown ones are left out.

    Raises `LedgerError` for one that cannot be read, FileNotFoundError for one that is not there.
    """
    try:
        with pq.ParquetFile(part, filesystem=files) as file:
            fault = rules.fault_of_marker(file.schema_arrow.metadata, table)
            if fault:
                raise bad_part(part, fault)
            names = [name for name in schema.names if name in file.schema_arrow.names]
            groups = _row_groups(file.metadata, trial_ids)
            rows = file.read_row_groups(groups, columns=names, use_threads=len(groups) > 1)
        rows = pa.concat_tables(
            [pa.Table.from_batches([], schema), rows.replace_schema_metadata(None)], promote_options="default"
        )
    except (OSError, pa.ArrowException) as error:
        if is_absent(error):
            raise FileNotFoundError(part) from None
        raise unreadable(part, error) from None
    if trial_ids is None:
        return rows
    return rows.filter(pc.is_in(rows["trial_id"], value_set=pa.array(trial_ids, pa.string())))


def _row_groups(metadata: pq.FileMetaData, trial_ids: Sequence[str] | None) -> list[int]:
    """The row groups that may hold one of `trial_ids`, which are sorted, as the rows of compacted parts are."""
    numbers = range(metadata.num_row_groups)
    if trial_ids is None:
        return list(numbers)
    held = []
    for number in numbers:
        ids: Any = metadata.row_group(number).column(0).statistics
        nearest = bisect_left(trial_ids, ids.min)
        if nearest < len(trial_ids) and trial_ids[nearest] <= ids.max:
            held.append(number)
    return held


def reason(error: BaseException) -> str:
    """In one line what the system or a library says."""
    number = getattr(error, "errno", None)
    text = (os.strerror(number) if number else str(error) or type(error).__name__).splitlines()[0].rstrip(". ")
    said = _STORE_ERROR.search(text)
    return f"{said['kind']}: {said['text']}".rstrip(": ") if said else text


def unreadable(part: str, error: BaseException) -> LedgerError:
    """The error for a part that could not be read: its store did not answer, or it is not whole."""
    if _STORE_ERROR.search(str(error)):
        return LedgerError(f"cannot read {part} ({reason(error)}); {STORE_REMEDY}")
    return bad_part(part, f"is truncated, damaged or not a Parquet file ({reason(error)})")


def bad_part(part: str, fault: str) -> LedgerError:
    """The error that names a part, its fault and the remedy."""
    return LedgerError(f"{part} {fault}; move it out of the ledger or delete it, its trials then run again")
