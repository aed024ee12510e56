"""Whether this machine has a GPU that torch can use; loads torch only where one may be."""

from __future__ import annotations

from pathlib import Path

_DRIVER = Path("/proc/driver/nvidia")


def gpu_is_here() -> bool:
    """Whether torch sees a GPU."""
    if not _DRIVER.exists():
        return False
    import torch

    return bool(torch.cuda.is_available())
