"""Whether this machine has a GPU that torch can use, and whether its memory ran out; loads torch only if need be."""

from __future__ import annotations

from pathlib import Path

_MEMORY_RAN_OUT = ("out of memory", "unable to find an engine", "STATUS_ALLOC_FAILED")
"""torch's own error and CUDA's; of a convolution none of whose algorithms finds room; of cuBLAS."""

_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")  # the last one under Windows' Linux


def gpu_is_here() -> bool:
    """Whether torch sees a GPU."""
    if not any(Path(driver).exists() for driver in _DRIVERS):
        return False
    import torch

    return bool(torch.cuda.is_available())


def memory_ran_out(error: BaseException) -> bool:
    """Whether an error of torch says that a GPU has no room for what was asked."""
    return any(text in str(error) for text in _MEMORY_RAN_OUT)
