"""Counts the packs that a Ray cluster can run now, and those that its autoscaler may be asked to make room for."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import ray

GPU_NODES = {"lambda-atlas/device": "cuda"}
"""Label of nodes reserved for packs on a GPU; `k8s/components/gpu` sets it on its worker group."""

MOST_WAITING = 1000
"""Most packs that wait for nodes: each is a placement group that Ray's autoscaler examines in every round."""
LONELY_SECONDS = 300.0
"""The launch warns after this long without a usable node; cloud nodes normally start sooner."""
_LOOK_SECONDS = 1.0

_logger = logging.getLogger(__name__)


class ClusterRoom:
    """Number of packs, each with the resources `pack` (CPU, GPU), that a cluster can run at once.

    With `max_nodes` the cluster may grow to that many worker nodes. `slots_per_node` is the number of packs that a new
    node will run; by default, that of the existing node with most room, or one pack while no node exists.
    """

    def __init__(
        self, pack: Mapping[str, float], max_nodes: int | None = None, slots_per_node: int | None = None
    ) -> None:
        self._pack, self._max_nodes, self._slots_per_node = pack, max_nodes, slots_per_node
        self._looked_at = -_LOOK_SECONDS
        self._by_node: list[int] = []
        self._roomy_at: float | None = time.monotonic()  # None: the warning was given

    @property
    def now(self) -> int:
        """Number of packs that the existing nodes can run at once."""
        return sum(self._nodes())

    @property
    def wanted(self) -> int:
        """Number of packs to keep running or waiting, at least 1; the autoscaler sees waiting packs as demand."""
        if self._max_nodes is None:
            return max(1, self.now)
        by_node = self._nodes()
        per_node = self._slots_per_node or max(by_node, default=1)
        return max(1, min(self._max_nodes * per_node, sum(by_node) + MOST_WAITING))

    def _nodes(self) -> list[int]:
        """Number of packs of each node that can run any; looked up at most once a second."""
        if time.monotonic() - self._looked_at >= _LOOK_SECONDS:
            slots = [self._slots(node) for node in ray.nodes() if node["Alive"]]
            self._by_node = [num for num in slots if num]
            self._looked_at = time.monotonic()
            self._say_if_lonely(self._looked_at)
        return self._by_node

    def _say_if_lonely(self, now: float) -> None:
        """Warn if no node has room for long: the autoscaler reports neither unfit node types nor a cloud's shortage."""
        if self._by_node:
            self._roomy_at = now
        elif self._roomy_at is not None and now - self._roomy_at > LONELY_SECONDS:
            self._roomy_at = None
            _logger.warning(
                "no node has had room for a trial (%s) for %.0f s: does a node type have that much? "
                "`ray status` on the head node shows what the autoscaler is waiting for",
                self.pack_text,
                LONELY_SECONDS,
            )

    @property
    def pack_text(self) -> str:
        """The resources of a pack, for messages."""
        return ", ".join(f"{count:g} {name}" for name, count in self._pack.items())

    def _slots(self, node: Mapping[str, Mapping[str, float]]) -> int:
        if "GPU" not in self._pack and GPU_NODES.items() <= node["Labels"].items():
            return 0
        return min(int(node["Resources"].get(name, 0) // count) for name, count in self._pack.items())
