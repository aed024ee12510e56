"""Imitates CUDA graphs without a GPU: recorded operations are repeated on the very same memory.

As on a GPU, a replay knows only the tensors of the recording, each at its address, and all other numbers as they were
at the recording. No Python code runs again. An operation that reads a tensor's values on the host cannot be recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_ASK_THE_HOST = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.equal.default,
}


class RecordedOperations(TorchDispatchMode):
    """Stands in for `torch.cuda.CUDAGraph`: the operations within its `with` block, to be replayed."""

    def __init__(self) -> None:
        super().__init__()
        self.num_replays = 0
        self._operations: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation in _ASK_THE_HOST:
            raise RuntimeError(f"operation not permitted when stream is capturing: {operation}")
        given = [leaf.untyped_storage().data_ptr() for leaf in _tensors((args, kwargs))]
        made = operation(*args, **(kwargs or {}))
        fresh = [t for t in _tensors(made) if t.untyped_storage().data_ptr() not in given]
        # Lists are copied: the caller may change its own.
        self._operations.append((operation, *tree_map(lambda leaf: leaf, (args, kwargs or {})), fresh))
        return made

    def forget_values(self) -> None:
        """Erase every value that a replay does not compute itself: a GPU does not run operations while it records."""
        for *_, fresh in self._operations:
            for tensor in fresh:
                tensor.fill_(torch.nan if tensor.is_floating_point() else 0)

    @torch.no_grad()
    def replay(self) -> None:
        """Repeat all operations, with results in the tensors that had them."""
        self.num_replays += 1
        for operation, args, kwargs, fresh in self._operations:
            known = {leaf.untyped_storage().data_ptr() for leaf in _tensors((args, kwargs))}
            made = [t for t in _tensors(operation(*args, **kwargs)) if t.untyped_storage().data_ptr() not in known]
            for tensor, value in zip(fresh, made, strict=True):
                tensor.copy_(value)

    def reset(self) -> None:
        """Let go of the tensors."""
        self._operations.clear()


class _Stream:
    def synchronize(self) -> None:
        """Do nothing: all operations are done already."""


class _Generator:
    def clone_state(self) -> _Generator:
        return self

    def graphsafe_set_state(self, state: _Generator) -> None:
        """Do nothing: a CPU's generator takes no part in recordings."""


@contextmanager
def recordings() -> Iterator[list[RecordedOperations]]:
    """Replace torch's CUDA graphs by these within the block; yields the ones that were begun."""
    begun: list[RecordedOperations] = []

    @contextmanager
    def graph(
        recording: RecordedOperations, pool: tuple[int, int], stream: _Stream, capture_error_mode: str
    ) -> Iterator[None]:
        begun.append(recording)
        with recording:
            yield
        recording.forget_values()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "CUDAGraph", RecordedOperations)
        patch.setattr(torch.cuda, "graph", graph)
        patch.setattr(torch.cuda, "current_stream", lambda device: _Stream())
        patch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
        patch.setattr(torch.cuda, "default_generators", (_Generator(),))
        yield begun


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
