"""`PackExchange`: where orders wait for workers and reports for the driver. Without ray: its process starts fast."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress

from trainables.contract import Report
from trainables.packs.orders import PackOrder


class PackExchange:
    """Hands pack orders to workers and their reports to the driver, past Tune's result log; runs as an async actor."""

    def __init__(self) -> None:
        self._orders: dict[str, PackOrder] = {}
        self._offered = asyncio.Condition()
        self._reports: list[Report] = []
        self._news = asyncio.Event()
        self._recorded: set[str] = set()

    async def put(self, order: PackOrder) -> None:
        """Offer an order until `close`."""
        async with self._offered:
            self._orders[order.pack_id] = order
            self._offered.notify_all()

    async def fetch(self, pack_id: str) -> PackOrder:
        """The order of that id; waits for it, since a worker may be quicker than the driver."""
        async with self._offered:
            await self._offered.wait_for(lambda: pack_id in self._orders)
            return self._orders[pack_id]

    async def report(self, pack_id: str, reports: Sequence[Report]) -> list[str]:
        """Take a pack's reports; returns its members that the driver has recorded by now."""
        self._reports.extend(reports)
        self._news.set()
        return [m.config.trial_id for m in self._orders[pack_id].members if m.config.trial_id in self._recorded]

    async def news(self, wait_seconds: float) -> None:
        """Return when there are reports to drain, on `wake`, or after that long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), wait_seconds)

    async def wake(self) -> None:
        """Let `news` return."""
        self._news.set()

    async def drain(self) -> list[Report]:
        """All reports since the last call."""
        reports, self._reports = self._reports, []
        self._news.clear()
        return reports

    async def acknowledge(self, trial_ids: Collection[str]) -> None:
        """The driver has recorded these trials."""
        open_ids = {member.config.trial_id for order in self._orders.values() for member in order.members}
        self._recorded.update(open_ids.intersection(trial_ids))

    async def close(self, pack_id: str) -> None:
        """Forget an order that has ended."""
        order = self._orders.pop(pack_id, None)
        if order is not None:
            self._recorded.difference_update(m.config.trial_id for m in order.members)
