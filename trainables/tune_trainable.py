"""`PackTrainable`: runs a pack of trials as one Ray Tune trial, in this project's executor or in your `tune.Tuner`.

This is the only file of the package that imports ray.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import tune

from trainables.config import TrialConfig
from trainables.contract import Member
from trainables.packs.worker import REPORT_SECONDS, TUNE_STEP_SECONDS, PackWorker
from trainables.redaction import guard_output
from trainables.registry import config_from_values, workload
from trainables.result import TrialResult

PACK_ID, EXCHANGE = "pack_id", "exchange"
"""Keys of a Tune config that names a pack of this project's executor instead of describing a trial."""
EXCHANGE_NAMESPACE = "lambda-atlas"

_STATE_FILE, _OWNER_FILE = "state.npz", "trial_id.json"


class PackTrainable(tune.Trainable):
    """Ray Tune trains one trial with this class from a flat config, under any of Tune's schedulers and searchers.

    Give it to a `tune.Tuner`, with the fields of a `TrialConfig` as `param_space`. Each result reports the next trace
    point: `epoch`, `train_loss`, `test_error` and so on. The last result also has `outcome`, and `done` is true. Tune's
    checkpoints hold the exact state at the last report. A scheduler may restore one under another config, as Population
    Based Training does: training continues with that config, and `trial_id_atlas`, the trial's name, is then None.

    The trial uses the CPUs and the GPU of `tune.with_resources`. Outside of Ray it trains in the calling process, on
    one CPU.

    A sweep uses the class as well: its config then names a pack, which the worker fetches from the driver.

    Args:
        config: The fields of one trial, flat, with its `workload`.

    Raises:
        ConfigError: The config does not describe a trial of a known workload.
        RuntimeError: The trial failed. The message is its traceback.

    Example:
        >>> from trainables import PackTrainable
        >>> adam = {"optimizer": "adam", "weight_decay": 1e-5}
        >>> values = {"workload": "two_layer_cnn", **adam, "batch_size": 20, "seed": 0}
        >>> trial = PackTrainable({**values, "num_epochs": 2})
        >>> while not (result := trial.train())["done"]:
        ...     print(result["epoch"])
        0
        1
        >>> result["epoch"]
        2
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Open the pack or the trial that the config describes."""
        self._task: _ExchangedPack | _FlatTrial
        self._task = _ExchangedPack(config) if PACK_ID in config else _FlatTrial(config)

    def step(self) -> dict[str, Any]:
        """Train a pack for up to half a minute, or a flat trial to its next trace point."""
        return self._task.step()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start the next pack in the same process, which keeps data and compiled code."""
        self.setup(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the exact state of a flat trial; packs save their states where a restarted driver finds them."""
        self._task.save(Path(checkpoint_dir) / _STATE_FILE)

    def load_checkpoint(self, checkpoint: str | None) -> None:
        """Resume from a state that `save_checkpoint` wrote."""
        assert checkpoint is not None
        self._task.load(Path(checkpoint) / _STATE_FILE)


class _ExchangedPack:
    """A pack that gets its order from the exchange and sends its reports to it; Tune sees only whether it is done."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        guard_output()  # Ray keeps what a worker prints in files
        self._pack_id = str(config[PACK_ID])
        self._exchange = ray.get_actor(config[EXCHANGE], namespace=EXCHANGE_NAMESPACE)
        self._me = ray.get_runtime_context().current_actor
        self._worker = PackWorker(ray.get(self._exchange.fetch.remote(self._pack_id, self._me)))

    def step(self) -> dict[str, Any]:
        deadline = time.monotonic() + TUNE_STEP_SECONDS
        while not self._worker.is_done and time.monotonic() < deadline:
            reports = self._worker.step()
            answer = ray.get(self._exchange.report.remote(self._pack_id, reports))
            self._worker.forget(answer.recorded)
            if not answer.knows_worker:
                ray.get(self._exchange.begin.remote(self._pack_id, self._me))
            if answer.stops:
                self._worker.save()
                ray.get(self._exchange.stopped.remote(self._pack_id))
                return {"done": True}
        return {"done": self._worker.is_done}

    def save(self, path: Path) -> None:
        """Do nothing: the worker itself saves states to the state store at intervals."""

    def load(self, path: Path) -> None:
        """Do nothing: a pack that is run again gets its states with its order."""


class _FlatTrial:
    """One trial under Tune's scheduler, which gets every trace point; a checkpoint is of the point reported last."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config: TrialConfig = config_from_values(config)
        self._is_own = True
        self._open(None)

    def _open(self, state: dict[str, Any] | None) -> None:
        member = Member(self._config, self._config.num_epochs, state, pauses=True)
        found = workload(self._config.workload)
        has_gpu, num_threads = _assigned()
        device = "cuda" if has_gpu and "cuda" in found.devices else "cpu"
        self._run = found.open([member], device, num_threads=num_threads)

    def step(self) -> dict[str, Any]:
        while not self._run.is_done:
            (report,) = self._run.advance(REPORT_SECONDS)  # at most to the next point
            ending = {} if report.result is None else self._end(report.result)
            if report.points or ending:
                (*_, point) = report.points or report.result.trace  # type: ignore[union-attr]  # of a finished state
                return {**self._shared(), **asdict(point), **ending}
        raise RuntimeError(f"trial {self._config.trial_id} has ended")

    def _end(self, result: TrialResult) -> dict[str, Any]:
        if result.error:
            raise RuntimeError(result.error)
        return {"outcome": result.outcome.value, "done": True}

    def _shared(self) -> dict[str, Any]:
        """The trial's name only if it was trained with this config from its first step to here."""
        return {"done": False, "trial_id_atlas": self._config.trial_id if self._is_own else None}

    def save(self, path: Path) -> None:
        state: dict[str, Any] = dict(self._run.states().get(self._config.trial_id, {}))
        np.savez(path, allow_pickle=False, **state)
        path.with_name(_OWNER_FILE).write_text(json.dumps(self._shared()["trial_id_atlas"]))

    def load(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            self._open({name: arrays[name] for name in arrays.files} or None)
        owner = path.with_name(_OWNER_FILE)  # checkpoints of earlier versions do not say whose they are
        self._is_own = owner.exists() and json.loads(owner.read_text()) == self._config.trial_id


def _assigned() -> tuple[bool, int]:
    """Whether `tune.with_resources` gave this trial a GPU, and how many CPUs; outside of a Ray worker (False, 1)."""
    if not ray.is_initialized():  # otherwise the calls below would start Ray
        return False, 1
    context = ray.get_runtime_context()
    if context.worker.mode != ray.WORKER_MODE:
        return False, 1
    has_gpu = bool(context.get_accelerator_ids().get("GPU"))
    return has_gpu, max(1, int(context.get_assigned_resources().get("CPU", 1)))
