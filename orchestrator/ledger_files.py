"""Files of the ledger: where they lie, how one is written whole or not at all, and what makes one unreadable."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from orchestrator import ledger_schema as rules
from orchestrator.errors import LedgerError
from orchestrator.ledger_schema import TableName


class Storage:
    """The folder or object-store URI under a ledger; raises `LedgerError` for one that cannot be opened."""

    def __init__(self, root: str) -> None:
        self.root, self.files, self.path = _resolve(root)

    def write(self, path: str, content: pa.Buffer) -> None:
        """Make a file, whole or not at all; raises `LedgerError` in one line."""
        try:
            self.files.create_dir(path.rpartition("/")[0], recursive=True)
            if isinstance(self.files, pafs.LocalFileSystem):
                _write_locally(Path(path), content)
            else:
                with self.files.open_output_stream(path) as stream:  # becomes visible when it closes
                    stream.write(content)
        except OSError as error:
            raise LedgerError(
                f"cannot write to {path.rpartition('/')[0]} ({reason(error)}); choose another output folder"
            ) from None

    def list(self, folder: str, file_type: pafs.FileType) -> list[str]:
        """Sorted paths in a folder, without hidden ones."""
        way = [folder, folder.rpartition("/")[0], self.path]
        blocking = [i.path for i in self.files.get_file_info(way) if i.type == pafs.FileType.File]
        if blocking:
            raise LedgerError(f"{blocking[0]} is a file where a folder belongs; move it away")
        try:
            infos = self.files.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
        except OSError as error:
            raise LedgerError(f"cannot list {folder} ({reason(error)})") from None
        return sorted(i.path for i in infos if i.type == file_type and not i.base_name.startswith((".", "_")))


def _resolve(root: str) -> tuple[str, pafs.FileSystem, str]:
    """A folder or URI as (absolute name, file system, path in it)."""
    if "://" not in root:
        path = str(Path(root).expanduser().absolute())
        return path, pafs.LocalFileSystem(), path
    try:
        files, path = pafs.FileSystem.from_uri(root)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise LedgerError(f"cannot open {root} ({reason(error)}); give a folder or a URI as s3://bucket/path") from None
    return root.rstrip("/"), files, path.rstrip("/")


def _write_locally(path: Path, content: pa.Buffer) -> None:
    """Write beside the final name and rename, so that no reader sees half a file, not even after a power cut."""
    hidden = path.with_name(f".tmp-{path.name}.part")
    try:
        with hidden.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        hidden.rename(path)
    finally:
        hidden.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_part(
    files: pafs.FileSystem, part: str, table: TableName, schema: pa.Schema, trial_ids: Sequence[str] | None
) -> pa.Table:
    """The rows of a part that is ours, in `schema`: absent columns are null, unknown ones are left out."""
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
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise bad_part(part, f"is truncated, damaged or not a Parquet file ({reason(error)})") from None
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
    text = os.strerror(number) if number else str(error) or type(error).__name__
    return text.splitlines()[0].rstrip(". ")


def bad_part(part: str, fault: str) -> LedgerError:
    """The error that names a part, its fault and the remedy."""
    return LedgerError(f"{part} {fault}; move it out of the ledger or delete it, its trials then run again")
