"""`PackExchange`: keeps orders for the workers and reports for the driver. It imports no ray, so it starts fast."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress

from trainables.contract import Report
from trainables.packs.orders import PackOrder


class PackExchange:
    """Passes orders to workers and their reports to the driver, bypassing Tune's result log; runs as an async actor."""

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
        """Return the order of that pack; waits for it, since a worker may ask before the driver has offered it."""
        async with self._offered:
            await self._offered.wait_for(lambda: pack_id in self._orders)
            return self._orders[pack_id]

    async def report(self, pack_id: str, reports: Sequence[Report]) -> list[str]:
        """Take a pack's reports; returns the trial_ids of its members that the driver has recorded so far."""
        self._reports.extend(reports)
        self._news.set()
        return [m.config.trial_id for m in self._orders[pack_id].members if m.config.trial_id in self._recorded]

    async def news(self, wait_seconds: float) -> None:
        """Wait until there are reports to drain, `wake` is called or `wait_seconds` have passed."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), wait_seconds)

    async def wake(self) -> None:
        """Let `news` return."""
        self._news.set()

    async def drain(self) -> list[Report]:
        """Return all reports since the last call."""
        reports, self._reports = self._reports, []
        self._news.clear()
        return reports

    async def acknowledge(self, trial_ids: Collection[str]) -> None:
        """Note that the driver has recorded these trials; later calls of `report` tell their workers."""
        open_ids = {member.config.trial_id for order in self._orders.values() for member in order.members}
        self._recorded.update(open_ids.intersection(trial_ids))

    async def close(self, pack_id: str) -> None:
        """Forget an order that has ended."""
        order = self._orders.pop(pack_id, None)
        if order is not None:
            self._recorded.difference_update(m.config.trial_id for m in order.members)
