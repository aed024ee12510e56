"""Tells whether torch can use a GPU here, and whether a GPU ran out of memory. Loads torch only if it has to."""

from __future__ import annotations

from pathlib import Path

_MEMORY_RAN_OUT = ("out of memory", "unable to find an engine", "STATUS_ALLOC_FAILED")
"""In the messages of torch and CUDA; of a convolution for which no algorithm has enough memory; of cuBLAS."""

_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")  # the last one is WSL's


def gpu_is_here() -> bool:
    """Whether torch sees a GPU."""
    if not any(Path(driver).exists() for driver in _DRIVERS):
        return False
    import torch

    return bool(torch.cuda.is_available())


def memory_ran_out(error: BaseException) -> bool:
    """Whether an exception raised by torch says that a GPU's memory was too small."""
    return any(text in str(error) for text in _MEMORY_RAN_OUT)
