"""`PackTrainable`: a pack of trials as one Ray Tune trial, in our executor or in anyone's own `tune.Tuner`.

The only file of this package that imports ray.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import tune

from trainables.config import TrialConfig
from trainables.pack import REPORT_SECONDS, PackOrder, PackWorker
from trainables.registry import config_from_values, workload
from trainables.workload import Member, Report

PACK_ID, EXCHANGE = "pack_id", "exchange"
"""Keys of a Tune config that names a pack of our executor instead of describing a trial."""
EXCHANGE_NAMESPACE = "lambda-atlas"

_STATE_FILE = "state.npz"


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


class PackTrainable(tune.Trainable):
    """Trains what its config names: a pack of our executor, or one trial given as a flat config.

    A flat config holds the fields of a `TrialConfig`, for example
    `{"workload": "two_layer_cnn", "optimizer": "adam", "weight_decay": 1e-5, "batch_size": 2, "seed": 0}`; each result
    then reports the newest trace point (`epoch`, `train_loss`, `test_error`, ...), at the end also `outcome`.
    Raises `ConfigError` for a bad flat config.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Open what the config names."""
        self._task: _ExchangedPack | _FlatTrial
        self._task = _ExchangedPack(config) if PACK_ID in config else _FlatTrial(config)

    def step(self) -> dict[str, Any]:
        """Train for about a second; a flat trial up to its next trace point at least."""
        return self._task.step()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next pack in the same process: data and compiled code stay."""
        self.setup(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the exact state of a flat trial (packs save theirs where a restarted driver finds them)."""
        self._task.save(Path(checkpoint_dir) / _STATE_FILE)

    def load_checkpoint(self, checkpoint: str | None) -> None:
        """Go on from `save_checkpoint`'s state."""
        assert checkpoint is not None
        self._task.load(Path(checkpoint) / _STATE_FILE)


class _ExchangedPack:
    """A pack whose order and reports travel through the exchange; Tune sees only that it goes on."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._pack_id = str(config[PACK_ID])
        self._exchange = ray.get_actor(config[EXCHANGE], namespace=EXCHANGE_NAMESPACE)
        self._worker = PackWorker(ray.get(self._exchange.fetch.remote(self._pack_id)))

    def step(self) -> dict[str, Any]:
        reports = self._worker.step()
        self._worker.forget(ray.get(self._exchange.report.remote(self._pack_id, reports)))
        return {"done": self._worker.is_done}

    def save(self, path: Path) -> None:
        """Nothing: the worker saves states by time into the state store."""

    def load(self, path: Path) -> None:
        """Nothing: a pack that is run again gets its states with its order."""


class _FlatTrial:
    """One trial under a foreign scheduler."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config: TrialConfig = config_from_values(config)
        self._open(None)

    def _open(self, state: dict[str, Any] | None) -> None:
        member = Member(self._config, self._config.num_epochs, state)
        self._run = workload(self._config.workload).open([member])
        self._last: dict[str, Any] = {}

    def step(self) -> dict[str, Any]:
        fresh: dict[str, Any] = {}
        while not fresh:
            (report,) = self._run.advance(REPORT_SECONDS)
            if report.points:
                fresh = asdict(report.points[-1])
            if report.result is not None:
                if report.result.error:
                    raise RuntimeError(report.result.error)
                fresh |= {"outcome": report.result.outcome.value, "done": True}
        self._last |= fresh
        return {"done": False, **self._last, "trial_id_atlas": self._config.trial_id}

    def save(self, path: Path) -> None:
        state: dict[str, Any] = dict(self._run.states().get(self._config.trial_id, {}))
        np.savez(path, allow_pickle=False, **state)

    def load(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            self._open({name: arrays[name] for name in arrays.files} or None)
