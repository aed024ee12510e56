"""What an image trial saves, between tensors of a network and plain arrays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def flat(tensors: Iterable[Tensor]) -> np.ndarray[Any, Any]:
    """All numbers of the tensors in one vector, in the logical order of their indices."""
    parts = [tensor.detach().cpu().contiguous().reshape(-1) for tensor in tensors]
    return torch.cat(parts).numpy().copy() if parts else np.zeros(0, np.float32)


@torch.no_grad()
def fill(tensors: Iterable[Tensor], flat: np.ndarray[Any, Any]) -> None:
    """Inverse of `flat`, into tensors that are there."""
    values, start = torch.from_numpy(np.array(flat)), 0
    for tensor in tensors:
        tensor.copy_(values[start : start + tensor.numel()].reshape(tensor.shape))
        start += tensor.numel()
