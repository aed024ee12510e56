"""Seals Parquet files with checksums, so that a reader notices any bit that changed since a file was written.

Parquet's own checksums cover the data of a page, but neither its header nor the footer, which says where each column
lies. A sealed file is an ordinary Parquet file, for any reader. Between its last row group and its footer, where no
reader looks, it has a block with the CRC-32 of each column chunk, in file order, and then one of the block and footer:

    PAR1 | column chunks | CRC-32 of each chunk | their number | CRC-32 of what surrounds it | LAMBDASL | footer | PAR1

A look-up reads and checks the footer and the column chunks that it needs. Files of earlier versions have no seal, and
are read without these checks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from mmap import mmap
from typing import NamedTuple
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_MAGIC = b"LAMBDASL"
_PARQUET = b"PAR1"
_END = struct.Struct("<I4s")
"""Length of the footer, and Parquet's magic number."""
_SEAL = struct.Struct("<II8s")
"""Number of chunks, CRC-32, and our magic number."""
_TAIL = 2**16
"""Bytes of the first read, which often gets all of a small file: an object store is slow to answer each."""
_NEAR = 2**16
"""Chunks that lie closer than this are read by one request."""


class _Chunk(NamedTuple):
    """Where the pages of one column lie in one row group, and which of the file's chunks they are."""

    number: int
    start: int
    size: int


def seal(content: pa.Buffer) -> pa.Buffer:
    """The Parquet file `content` with a seal."""
    file = memoryview(content)
    footer_start = _footer_start(file[-_END.size :], len(file))
    metadata = pq.read_metadata(pa.BufferReader(content))
    assert metadata.num_columns == len(metadata.schema.to_arrow_schema().names), "no column has columns in it"
    chunks = [_chunk(metadata, g, c) for g in range(metadata.num_row_groups) for c in range(metadata.num_columns)]
    assert sum(chunk.size for chunk in chunks) == footer_start - len(_PARQUET), "all bytes belong to a chunk"
    sums = np.array([crc32(file[c.start : c.start + c.size]) for c in chunks], "<u4").tobytes()
    footer = file[footer_start:]
    check = _check(sums, len(chunks), footer)
    return pa.py_buffer(b"".join([file[:footer_start], sums, _SEAL.pack(len(chunks), check, _MAGIC), footer]))


class SealedParquet:
    """An open Parquet file, sealed or of an earlier version; reads only what the seal vouches for.

    Raises `pa.ArrowInvalid` for whatever is truncated or damaged.
    """

    def __init__(self, file: pa.NativeFile) -> None:
        self._file, self._size = file, file.size()
        tail = self._tail(_TAIL)
        footer_start = _footer_start(tail[-_END.size :], self._size)
        tail = self._tail(min(self._size, self._size - footer_start + _SEAL.size), tail)
        footer = tail[footer_start - self._size :]
        self._sums = self._checked_sums(tail, footer)
        self.metadata = pq.read_metadata(pa.BufferReader(footer))
        source = file if self._sums is None else self._copy(tail)
        self._parquet = pq.ParquetFile(source, metadata=self.metadata, page_checksum_verification=True)
        self.schema: pa.Schema = self._parquet.schema_arrow

    @property
    def is_sealed(self) -> bool:
        """Whether the file has checksums, which files of earlier versions have not."""
        return self._sums is not None

    def read(self, groups: Sequence[int] | None = None, columns: Iterable[str] | None = None) -> pa.Table:
        """The rows of these row groups (None: all), with these columns (None: all)."""
        groups = range(self.metadata.num_row_groups) if groups is None else groups
        names = self.schema.names if columns is None else list(columns)
        if self._sums is not None:
            position = {name: number for number, name in enumerate(self.schema.names)}
            numbers = sorted(position[name] for name in names)
            self._fetch(self._sums, [_chunk(self.metadata, group, number) for group in groups for number in numbers])
        return self._parquet.read_row_groups(list(groups), columns=names, use_threads=len(groups) > 1)

    def _copy(self, tail: bytes) -> pa.BufferReader:
        """A copy of the file in which those bytes are filled in that were read; the others take no memory."""
        self._bytes = mmap(-1, self._size)  # not of the heap, which would clear it all, and keep it
        self._first_read = self._size - len(tail)
        self._bytes[self._first_read :] = tail
        return pa.BufferReader(pa.py_buffer(self._bytes))

    def _fetch(self, sums: Sequence[int], chunks: Sequence[_Chunk]) -> None:
        """Read these chunks, which are in file order, into the copy, and check them."""
        num_chunks = self.metadata.num_row_groups * self.metadata.num_columns
        if len(sums) != num_chunks:
            raise pa.ArrowInvalid(f"its seal is of {len(sums)} column chunks, but it has {num_chunks}")
        for start, stop in _spans(chunk for chunk in chunks if chunk.start < self._first_read):
            stop = min(stop, self._first_read)
            self._bytes[start:stop] = self._read_at(start, stop - start)
        content = memoryview(self._bytes)
        for number, start, size in chunks:
            if crc32(content[start : start + size]) != sums[number]:
                group, column = divmod(number, self.metadata.num_columns)
                name = self.schema.names[column]
                raise pa.ArrowInvalid(f"column {name!r} of row group {group} is not what was written")

    def _checked_sums(self, tail: bytes, footer: bytes) -> Sequence[int] | None:
        """The checksums of the seal; None if the file has no seal."""
        before = tail[: len(tail) - len(footer)]
        if not before.endswith(_MAGIC):
            if _MAGIC in tail:
                raise pa.ArrowInvalid("its footer does not begin after its seal")
            return None
        num_chunks, check, _ = _SEAL.unpack(before[-_SEAL.size :])
        size = len(footer) + _SEAL.size + 4 * num_chunks
        if size > self._size:
            raise pa.ArrowInvalid("its seal is longer than the file")
        whole = self._tail(size, tail)
        sums = whole[len(whole) - len(footer) - _SEAL.size - 4 * num_chunks :][: 4 * num_chunks]
        if check != _check(sums, num_chunks, footer):
            raise pa.ArrowInvalid("its footer or its seal is not what was written")
        return [int(one) for one in np.frombuffer(sums, "<u4")]

    def _tail(self, size: int, known: bytes = b"") -> bytes:
        """At least the last `size` bytes, of which `known` are the last ones."""
        size = min(size, self._size)
        return known if len(known) >= size else self._read_at(self._size - size, size - len(known)) + known

    def _read_at(self, start: int, size: int) -> bytes:
        found: bytes = self._file.read_at(size, start)  # type: ignore[call-arg]  # the stubs lack the offset
        if len(found) != size:
            raise pa.ArrowInvalid(f"it ends at {start + len(found)} of {self._size} bytes")
        return found


def _footer_start(end: bytes | memoryview, size: int) -> int:
    """Where the footer begins in a file of that size, by the file's last bytes."""
    if len(end) < _END.size:
        raise pa.ArrowInvalid(f"it has {size} bytes")
    length, magic = _END.unpack(end)
    if magic != _PARQUET or length + _END.size > size:
        raise pa.ArrowInvalid("it does not end as a Parquet file does")
    return size - int(length) - _END.size


def _check(sums: bytes, num_chunks: int, footer: bytes | memoryview) -> int:
    return crc32(footer, crc32(struct.pack("<I", num_chunks), crc32(sums)))


def _chunk(metadata: pq.FileMetaData, group: int, column: int) -> _Chunk:
    found = metadata.row_group(group).column(column)
    starts = (found.dictionary_page_offset, found.data_page_offset)
    start = min(offset for offset in starts if offset is not None)
    return _Chunk(group * metadata.num_columns + column, start, found.total_compressed_size)


def _spans(chunks: Iterable[_Chunk]) -> list[tuple[int, int]]:
    """Start and end of the fewest reads that get all these chunks, which are in file order."""
    spans: list[tuple[int, int]] = []
    for chunk in chunks:
        stop = chunk.start + chunk.size
        if spans and chunk.start - spans[-1][1] < _NEAR:
            spans[-1] = spans[-1][0], stop
        else:
            spans.append((chunk.start, stop))
    return spans
