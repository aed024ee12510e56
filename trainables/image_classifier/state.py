"""Converts the tensors that an image trial saves to flat arrays, and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def flat(tensors: Iterable[Tensor]) -> np.ndarray[Any, Any]:
    """All numbers of the tensors in one vector, in index order whatever their memory format."""
    parts = [tensor.detach().cpu().contiguous().reshape(-1) for tensor in tensors]
    return torch.cat(parts).numpy().copy() if parts else np.zeros(0, np.float32)


@torch.no_grad()
def fill(tensors: Iterable[Tensor], flat: np.ndarray[Any, Any]) -> None:
    """Inverse of `flat`: copies the numbers into existing tensors; raises `ValueError` if there are more or fewer."""
    tensors = list(tensors)
    wanted = sum(tensor.numel() for tensor in tensors)
    if flat.shape != (wanted,):
        raise ValueError(f"numbers of shape {flat.shape} do not fill {wanted} weights")
    values, start = torch.from_numpy(np.array(flat)), 0
    for tensor in tensors:
        tensor.copy_(values[start : start + tensor.numel()].reshape(tensor.shape))
        start += tensor.numel()


def within(position: int, num: int) -> int:
    """The position in a pass over `num` images; raises `ValueError` for one that no pass has."""
    if not 0 <= position <= num:
        raise ValueError(f"position {position} in a pass over {num} images")
    return position
