"""Room for packs on a Ray cluster: what its nodes hold now, and what an autoscaler may be asked to add."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import ray

GPU_NODES = {"lambda-atlas/device": "cuda"}
"""Label of nodes that are kept for packs that train on a GPU; `k8s/components/gpu` gives it to its group."""

MOST_WAITING = 1000
"""Packs that wait for nodes at most: each is a placement group that Ray's autoscaler looks at in every round."""
LONELY_SECONDS = 300.0
"""The launch warns after this long without a usable node; cloud nodes normally start sooner."""
_LOOK_SECONDS = 1.0

_logger = logging.getLogger(__name__)


class ClusterRoom:
    """Packs of `pack` resources (CPU, GPU) that a cluster can run at once.

    With `max_nodes` it may grow to as many worker nodes; `slots_per_node` is what one of them will hold, by default
    what the roomiest node that is there holds, one pack as long as there is none.
    """

    def __init__(
        self, pack: Mapping[str, float], max_nodes: int | None = None, slots_per_node: int | None = None
    ) -> None:
        self._pack, self._max_nodes, self._slots_per_node = pack, max_nodes, slots_per_node
        self._looked_at = -_LOOK_SECONDS
        self._by_node: list[int] = []
        self._roomy_at: float | None = time.monotonic()  # None: it was said that there is no room

    @property
    def now(self) -> int:
        """Packs that the nodes which are there can run at once."""
        return sum(self._nodes())

    @property
    def wanted(self) -> int:
        """Packs to have running or waiting: what waits is what the autoscaler sees as demand; at least 1."""
        if self._max_nodes is None:
            return max(1, self.now)
        by_node = self._nodes()
        per_node = self._slots_per_node or max(by_node, default=1)
        return max(1, min(self._max_nodes * per_node, sum(by_node) + MOST_WAITING))

    def _nodes(self) -> list[int]:
        """Packs that each node with room for any can run at once; looked up once a second."""
        if time.monotonic() - self._looked_at >= _LOOK_SECONDS:
            slots = [self._slots(node) for node in ray.nodes() if node["Alive"]]
            self._by_node = [num for num in slots if num]
            self._looked_at = time.monotonic()
            self._say_if_lonely(self._looked_at)
        return self._by_node

    def _say_if_lonely(self, now: float) -> None:
        """The autoscaler tells nobody that no node type holds what is asked for, nor that a cloud has none left."""
        if self._by_node:
            self._roomy_at = now
        elif self._roomy_at is not None and now - self._roomy_at > LONELY_SECONDS:
            self._roomy_at = None
            _logger.warning(
                "no node with room for a trial (%s) has been there for %.0f s: does a node type hold that? "
                "`ray status` on the head says what the autoscaler waits for",
                self.pack_text,
                LONELY_SECONDS,
            )

    @property
    def pack_text(self) -> str:
        """What a pack needs, for people."""
        return ", ".join(f"{count:g} {name}" for name, count in self._pack.items())

    def _slots(self, node: Mapping[str, Mapping[str, float]]) -> int:
        if "GPU" not in self._pack and GPU_NODES.items() <= node["Labels"].items():
            return 0
        return min(int(node["Resources"].get(name, 0) // count) for name, count in self._pack.items())
