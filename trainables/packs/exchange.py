"""`PackExchange`: keeps orders for the workers and reports for the driver. It imports no ray, so it starts fast."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

from trainables.contract import Report
from trainables.packs.orders import Answer, News, PackOrder


class PackExchange:
    """Passes orders to workers and their reports to the driver, bypassing Tune's result log; runs as an async actor.

    If its process dies, Ray starts another, which knows nothing: workers wait until the driver has offered it their
    orders again.
    """

    def __init__(self) -> None:
        self._name = uuid.uuid4().hex
        self._orders: dict[str, PackOrder] = {}
        self._offered = asyncio.Condition()
        self._reports: list[Report] = []
        self._heard: set[str] = set()
        self._workers: dict[str, Any] = {}
        self._new_workers: dict[str, Any] = {}
        self._news = asyncio.Event()
        self._recorded: set[str] = set()
        self._training: set[str] = set()
        self._stops = False

    async def put(self, order: PackOrder) -> None:
        """Offer an order until `close`."""
        async with self._offered:
            self._orders[order.pack_id] = order
            self._offered.notify_all()

    async def fetch(self, pack_id: str, worker: Any) -> PackOrder:
        """Return the order of that pack to the `worker`, an actor's handle; waits until the driver has offered it."""
        order = await self._order(pack_id)
        await self.begin(pack_id, worker)
        return order

    async def begin(self, pack_id: str, worker: Any) -> None:
        """Note who trains a pack."""
        self._workers[pack_id] = self._new_workers[pack_id] = worker
        self._heard.add(pack_id)

    async def report(self, pack_id: str, reports: Sequence[Report]) -> Answer:
        """Take a pack's reports; the answer says which of its members the driver has recorded so far."""
        order = await self._order(pack_id)
        self._training.add(pack_id)
        self._heard.add(pack_id)
        self._reports.extend(reports)
        self._news.set()
        ids = [member.config.trial_id for member in order.members]
        recorded = [trial_id for trial_id in ids if trial_id in self._recorded]
        return Answer(recorded, self._stops, knows_worker=pack_id in self._workers)

    async def _order(self, pack_id: str) -> PackOrder:
        async with self._offered:
            await self._offered.wait_for(lambda: pack_id in self._orders)
            return self._orders[pack_id]

    async def stop(self) -> None:
        """Have every pack save its states and end, at its next report."""
        self._stops = True

    async def stopped(self, pack_id: str) -> None:
        """Note that the states of a pack are saved, and that it trains no more."""
        self._training.discard(pack_id)
        self._news.set()

    async def num_training(self) -> int:
        """Number of packs that have reported and have not ended."""
        return len(self._training)

    async def news(self, wait_seconds: float) -> str:
        """Wait until there are reports to drain, `wake` is called or `wait_seconds` have passed.

        Returns a name that differs if the exchange was started anew.
        """
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), wait_seconds)
        return self._name

    async def wake(self) -> None:
        """Let `news` return."""
        self._news.set()

    async def drain(self) -> News:
        """Return what has come since the last call."""
        news = News(self._reports, self._heard, self._new_workers)
        self._reports, self._heard, self._new_workers = [], set(), {}
        self._news.clear()
        return news

    async def acknowledge(self, trial_ids: Collection[str]) -> None:
        """Note that the driver has recorded these trials; later calls of `report` tell their workers."""
        open_ids = {member.config.trial_id for order in self._orders.values() for member in order.members}
        self._recorded.update(open_ids.intersection(trial_ids))

    async def close(self, pack_id: str) -> None:
        """Forget an order that has ended."""
        self._training.discard(pack_id)
        self._workers.pop(pack_id, None)
        order = self._orders.pop(pack_id, None)
        if order is not None:
            self._recorded.difference_update(m.config.trial_id for m in order.members)
