"""Whether this machine has a GPU that torch can use; loads torch only where one may be."""

from __future__ import annotations

from pathlib import Path

_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")  # the last one under Windows' Linux


def gpu_is_here() -> bool:
    """Whether torch sees a GPU."""
    if not any(Path(driver).exists() for driver in _DRIVERS):
        return False
    import torch

    return bool(torch.cuda.is_available())
