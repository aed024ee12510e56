"""Output folders and object-store URIs as file systems, and how a file comes to be there whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

UNFINISHED = ".tmp-"
"""How the hidden name of a file begins that a local writer has not finished, or never will: it was killed."""

_ABSENT = ("AWS Error NO_SUCH_KEY", "AWS Error RESOURCE_NOT_FOUND")
_ONE_REQUEST = "?allow_delayed_open=true"


def open_root(root: str) -> tuple[fs.FileSystem, str]:
    """The file system of a folder or URI, and the path in it; raises what pyarrow does for one it cannot open."""
    if "://" not in root:
        return fs.LocalFileSystem(), root
    if root.startswith("s3://"):
        with suppress(pa.ArrowInvalid):  # a pyarrow without the option makes three requests of a small file
            return fs.FileSystem.from_uri(f"{root}{_ONE_REQUEST}")
    return fs.FileSystem.from_uri(root)


def is_absent(error: BaseException) -> bool:
    """Whether a file that was opened or read is not there, or no longer: object stores say so in words, on the read."""
    return isinstance(error, FileNotFoundError) or any(kind in str(error) for kind in _ABSENT)


def write_whole(files: fs.FileSystem, path: str, content: pa.Buffer) -> None:
    """Make or replace a file so that no reader ever sees half of it; raises `OSError`.

    Locally it is written under a hidden name and renamed. An object store shows an upload when it is complete, and a
    rename there would be a copy.
    """
    if isinstance(files, fs.LocalFileSystem):
        _write_locally(Path(path), content)
    else:
        with files.open_output_stream(path) as stream:
            stream.write(content)


def _write_locally(path: Path, content: pa.Buffer) -> None:
    """Also after a power cut the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f"{UNFINISHED}{path.name}.part")
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
