"""What an image trial saves, between tensors of a network and plain arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.image_classifier.config import ImageTracePoint

_POINT_FIELDS = tuple(field.name for field in fields(ImageTracePoint))
_LATE_FIELDS = tuple(field.name for field in fields(ImageTracePoint) if field.default is None)


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


def point_from_row(row: np.ndarray[tuple[int], np.dtype[np.float64]]) -> ImageTracePoint:
    """Inverse of `astuple`, as the trace keeps it; what was not known yet is None again."""
    values: dict[str, Any] = dict(zip(_POINT_FIELDS, row.tolist(), strict=True))
    values |= {name: None for name in _LATE_FIELDS if math.isnan(values[name])}
    return ImageTracePoint(**{**values, "epoch": int(values["epoch"]), "best_epoch": int(values["best_epoch"])})
