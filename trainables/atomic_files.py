"""Opens output folders and object-store URIs as file systems, and writes files so that each is complete or absent."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

UNFINISHED = ".tmp-"
"""Prefix of the hidden name of a file that a local writer has not finished, or will never finish if it was killed."""

_ABSENT = ("AWS Error NO_SUCH_KEY", "AWS Error RESOURCE_NOT_FOUND")
_ONE_REQUEST = "?allow_delayed_open=true"
_SECONDS_WITHOUT_ANSWER = "?retry_limit_seconds=5"
"""For Google's store, which pyarrow otherwise asks for 15 minutes; who can wait repeats the request."""

_ABANDONED_NS = 600 * 10**9


def open_root(root: str) -> tuple[fs.FileSystem, str]:
    """The file system of a folder or URI, and the path in it; raises pyarrow's exception if it cannot be opened."""
    if "://" not in root:
        return fs.LocalFileSystem(), root
    if root.startswith("s3://"):
        with suppress(pa.ArrowInvalid):  # a pyarrow without this option needs three requests for a small file
            return fs.FileSystem.from_uri(f"{root}{_ONE_REQUEST}")
    if root.startswith(("gs://", "gcs://")):
        return fs.FileSystem.from_uri(f"{root}{_SECONDS_WITHOUT_ANSWER}")
    return fs.FileSystem.from_uri(root)


def is_absent(error: BaseException) -> bool:
    """Whether opening or reading failed because the file does not exist.

    Object stores raise only when the file is read, and only their message says why.
    """
    return isinstance(error, FileNotFoundError) or any(kind in str(error) for kind in _ABSENT)


def is_abandoned(info: fs.FileInfo) -> bool:
    """Whether this is an unfinished file whose writer was killed: it was last written long ago."""
    return info.base_name.startswith(UNFINISHED) and time.time_ns() - (info.mtime_ns or 0) > _ABANDONED_NS


def write_whole(files: fs.FileSystem, path: str, content: pa.Buffer, *, is_lasting: bool = True) -> None:
    """Create or replace a file so that no reader ever sees a part of it; raises `OSError`.

    A local file is written under a hidden name and then renamed. An object store shows an upload only once it is
    complete, and a rename there would be a copy. After a power cut, too, a lasting file is complete or absent.
    """
    if isinstance(files, fs.LocalFileSystem):
        _write_locally(Path(path), content, is_lasting)
    else:
        with files.open_output_stream(path) as stream:
            stream.write(content)


def _write_locally(path: Path, content: pa.Buffer, is_lasting: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f"{UNFINISHED}{path.name}.part")
    try:
        with hidden.open("wb") as file:
            file.write(content)
            if is_lasting:
                file.flush()
                os.fsync(file.fileno())
        hidden.rename(path)
    finally:
        hidden.unlink(missing_ok=True)
    if is_lasting:
        _sync(path.parent)


def _sync(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
