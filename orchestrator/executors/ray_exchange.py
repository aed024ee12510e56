"""The driver's side of the exchange: calls its actor, has it replaced if it dies or hangs, and offers orders again."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Collection
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.errors import RayEndedError
from trainables.packs.exchange import PackExchange
from trainables.packs.orders import News, PackOrder
from trainables.tune_trainable import EXCHANGE, EXCHANGE_NAMESPACE, PACK_ID

_ANSWER_SECONDS = 60.0
"""An exchange that has not answered for so long hangs."""
_MOST_REPLACED = 3
"""How often a call is made to exchanges that do not answer."""

_logger = logging.getLogger(__name__)


class Exchange:
    """A `PackExchange` actor, which has `answer_seconds` to answer, but not over a minute. Thread-safe."""

    def __init__(self, answer_seconds: float) -> None:
        self._answer_seconds = min(answer_seconds, _ANSWER_SECONDS)
        self._name = f"exchange-{uuid.uuid4().hex}"
        self._lock = threading.Lock()
        self._orders: dict[str, PackOrder] = {}
        self._incarnation: str | None = None
        self._actor = (
            ray.remote(num_cpus=0)(PackExchange)
            .options(
                name=self._name,
                namespace=EXCHANGE_NAMESPACE,
                max_restarts=-1,
                max_task_retries=-1,  # reports that come twice are told apart by the queue
                # on the driver's node: it must not be lost with a worker's node
                scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False),
            )
            .remote()
        )

    def offer(self, order: PackOrder) -> tuple[dict[str, Any], Any]:
        """Send an order, which its worker fetches; returns the Tune config that names it, and a reference to await."""
        with self._lock:
            self._orders[order.pack_id] = order
            return {PACK_ID: order.pack_id, EXCHANGE: self._name}, self._actor.put.remote(order)

    def close(self, pack_id: str) -> None:
        """Forget an order."""
        with self._lock:
            self._orders.pop(pack_id, None)
        self._actor.close.remote(pack_id)

    def acknowledge(self, trial_ids: Collection[str]) -> None:
        """Let workers know that these trials are recorded."""
        self._actor.acknowledge.remote(list(trial_ids))

    def stop(self) -> bool:
        """Have packs save their states and end; whether all have."""
        self._actor.stop.remote()
        return not self.answer(self._actor.num_training.remote())

    def drain(self) -> News:
        """What has come since the last call."""
        news: News = self.answer(self._actor.drain.remote())
        return news

    def wait(self, seconds: float) -> None:
        """Return when there is something to drain, or after this time; offers orders again to a new exchange."""
        incarnation = self.answer(self._actor.news.remote(seconds))
        if incarnation == self._incarnation:
            return
        with self._lock:
            is_first, self._incarnation = self._incarnation is None, incarnation
            for order in () if is_first else self._orders.values():
                self._actor.put.remote(order)
        if not is_first:
            _logger.warning("the process that passes reports on died: another one does so now")

    def wake(self) -> None:
        """Let `wait` return."""
        self._actor.wake.remote()

    def answer(self, asked: Any) -> Any:
        """The result of a call; an exchange that hangs is replaced, and Ray calls the new one."""
        for _ in range(_MOST_REPLACED):
            try:
                return ray.get(asked, timeout=self._answer_seconds)
            except GetTimeoutError:
                ray.kill(self._actor, no_restart=False)
        raise RayEndedError("it does not answer any more")
