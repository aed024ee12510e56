"""Records a training step once as a CUDA graph, and replays it for each batch.

Shapes: B images of a batch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from trainables.image_classifier.steps import EagerStep, put_back
from trainables.machine.gpu import memory_ran_out

_logger = logging.getLogger(__name__)

_WARM_UP_STEPS = 3
_recording = threading.Lock()
"""Held while a graph is recorded: a process records one graph at a time."""
_recording_has_failed = False
"""Once true, this process records no more graphs: memory that torch keeps after each failure would add up."""

_abandoned: list[torch.cuda.CUDAGraph] = []
"""Graphs of failed recordings, kept until the process ends: torch's pinned-memory allocator may still query them."""


class GraphStep:
    """An eager step recorded as a CUDA graph for full batches, one launch per step; smaller batches run eagerly.

    If recording fails, all batches run eagerly from then on, and `engine` says so.
    """

    def __init__(self, eager: EagerStep, mutable: Sequence[Tensor]) -> None:
        self._eager = eager
        self._graph: torch.cuda.CUDAGraph | None = None
        self.engine, self.sums, self.augmentation = eager.engine, eager.sums, eager.augmentation
        self._index_b = torch.zeros(eager.config.batch_size, dtype=torch.int64, device=eager.device)
        images = eager.images
        self._stored_b = None if images.home == images.device else images.stored(self._index_b.to(images.home))
        if not _recording_has_failed:
            self._record([*mutable, self.sums])

    def __call__(self, index_b: Tensor) -> None:
        """Train the images with these indices, a tensor on the images' `home`."""
        if self._graph is None or len(index_b) != len(self._index_b):
            self._eager(index_b)
            return
        self._index_b.copy_(index_b)
        if self._stored_b is not None:
            self._stored_b.copy_(self._eager.images.stored(index_b))
        self._graph.replay()

    def _train(self) -> None:
        """The step that is recorded; it gathers the images itself if they are stored on the device."""
        stored_b = self._eager.images.stored(self._index_b) if self._stored_b is None else self._stored_b
        self._eager.train_whole(stored_b, self._index_b)

    def close(self) -> None:
        """Release the recording and the memory of its tensors."""
        if self._graph is not None:
            self._graph.reset()
        self._graph = None

    def _record(self, mutable: Sequence[Tensor]) -> None:
        global _recording_has_failed
        torch.cuda.empty_cache()  # of members that ended: the peak decides how many members fit
        with _recording, put_back(mutable):
            for _ in range(_WARM_UP_STEPS):  # allocates memory, and lets cuDNN choose its algorithms
                self._train()
            own = torch.cuda.current_stream(self._eager.device)
            own.synchronize()
            self._eager.optimizer.zero_grad(set_to_none=True)
            graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
            try:
                # On the member's own stream: graphs recorded on one stream share cuBLAS's workspace, which is freed
                # with the first of them (pytorch#193402).
                with torch.cuda.graph(graph, pool=pool, stream=own, capture_error_mode="thread_local"):
                    self._train()
                self._graph, self.engine = graph, "graph-cuda"
            except RuntimeError as error:
                _abandon(graph, pool, self._eager.device)
                if memory_ran_out(error):
                    raise
                _recording_has_failed = True  # an operation that cannot be recorded
                _logger.warning("steps are not recorded as CUDA graphs, so small batches train more slowly: %s", error)


def _abandon(graph: torch.cuda.CUDAGraph, pool: tuple[int, int], device: torch.device) -> None:
    """Release the device memory that a failed recording holds.

    In torch before 2.12 the allocator stays in recording mode, and from then on frees no memory (pytorch#180395).
    """
    index = device.index or 0
    with suppress(RuntimeError):  # a newer torch has ended the recording itself, and raises
        torch._C._cuda_endAllocateToPool(index, pool)
        torch._C._cuda_releasePool(index, pool)
    graph.reset()
    _abandoned.append(graph)
    # The device's generator is still registered with the recording, and would raise when dropout samples masks.
    generator = torch.cuda.default_generators[index]
    generator.graphsafe_set_state(generator.clone_state())
