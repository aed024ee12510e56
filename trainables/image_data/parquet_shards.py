"""Reads images from the Hugging Face hub's Parquet shards: all labels at once, but images by row group.

ImageNet is 140 GB, too much to read at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.errors import DataError

_IMAGE_COLUMNS, _LABEL_COLUMNS = ("img", "image"), ("label", "fine_label", "labels")
_GROUPS_AT_HAND = 2
"""Number of row groups kept in memory: threads that are a few rows apart read the images in rising order."""


class Shards:
    """The rows of one split's files, one after another."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._metadata = [pq.read_metadata(file) for file in files]
        columns = [metadata.schema.to_arrow_schema().names for metadata in self._metadata]
        self._image_columns = [_column(*of_file, _IMAGE_COLUMNS) for of_file in zip(files, columns, strict=True)]
        label_columns = [_column(*of_file, _LABEL_COLUMNS) for of_file in zip(files, columns, strict=True)]
        labels = [_labels(*of_file) for of_file in zip(files, label_columns, strict=True)]
        self.labels: npt.NDArray[np.int64] = np.concatenate(labels)
        self._groups = [(i, g) for i, metadata in enumerate(self._metadata) for g in range(metadata.num_row_groups)]
        sizes = [self._metadata[i].row_group(g).num_rows for i, g in self._groups]
        self._begins = np.cumsum([0, *sizes])
        self._lock = Lock()
        self._images = lru_cache(_GROUPS_AT_HAND)(self._read)

    @property
    def named(self) -> str:
        """The files, for messages."""
        more = len(self._files) - 1
        return f"{self._files[0]}{f' and the {more} after it' if more else ''}"

    def content(self, index: int) -> bytes:
        """The bytes of the image file in that row; several threads may call it."""
        group = int(np.searchsorted(self._begins, index, side="right")) - 1
        with self._lock:
            images = self._images(group)
        cell = images[index - int(self._begins[group])].as_py()
        content = cell["bytes"] if isinstance(cell, dict) else cell
        if content is None:
            raise ValueError("the row has no bytes")
        return bytes(content)

    def _read(self, group: int) -> pa.ChunkedArray[Any]:
        i, group_of_file = self._groups[group]
        # opened anew each time: with thousands of shards a process would run out of file descriptors
        with pq.ParquetFile(self._files[i], metadata=self._metadata[i], memory_map=True) as file:
            return file.read_row_group(group_of_file, [self._image_columns[i]])[0]


def _labels(file: Path, column: str) -> npt.NDArray[np.int64]:
    with pq.ParquetFile(file) as opened:
        labels = opened.read([column])[column]
    is_number = pa.types.is_integer(labels.type) or pa.types.is_boolean(labels.type)
    if not is_number or labels.null_count:
        given = f"{labels.null_count} without a label" if is_number else f"{labels.type}"
        raise DataError(f"column {column} of {file} has to number the classes of all images from 0, got {given}")
    return labels.to_numpy().astype(np.int64)


def _column(file: Path, given: Sequence[str], wanted: Sequence[str]) -> str:
    for name in wanted:
        if name in given:
            return name
    raise DataError(f"{file} has no column {' or '.join(wanted)} (columns: {', '.join(given)})")
