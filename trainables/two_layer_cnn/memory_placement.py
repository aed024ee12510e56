"""Places matrices in memory for kernels that read and write several of them row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_PAGE_BYTES = 4096
_LINE_BYTES = 64


def place(matrix: npt.NDArray[Any], quarter: int) -> npt.NDArray[Any]:
    """Copy a matrix so that each row begins on a cache line, and the first row at that quarter (0-3) of a memory page.

    Large numpy arrays all begin 16 bytes into a page. Every vector would then straddle two cache lines, and a load from
    one array would wait for a store to another array at an address with the same last 12 bits.
    """
    rows, width = matrix.shape
    padded_width = -(-width * matrix.itemsize // _LINE_BYTES) * _LINE_BYTES // matrix.itemsize
    num_bytes = rows * padded_width * matrix.itemsize
    buffer = np.empty(num_bytes + _PAGE_BYTES, np.uint8)
    start = (quarter * _PAGE_BYTES // 4 - buffer.ctypes.data) % _PAGE_BYTES
    placed = buffer[start : start + num_bytes].view(matrix.dtype).reshape(rows, padded_width)[:, :width]
    placed[...] = matrix
    return placed
