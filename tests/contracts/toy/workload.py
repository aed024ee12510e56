"""The toy workload: logistic regression, trained by whatever rule `trainables.optimizers` has in torch."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import astuple
from typing import Any, cast

import numpy as np

from tests.contracts.toy.config import NUM_CLASSES, ToyConfig, ToyTracePoint
from trainables.config import TrialConfig, make_config
from trainables.contract import Member, Report, State, Workload
from trainables.errors import ConfigError, unknown_name
from trainables.outcome import is_finite, outcome
from trainables.packs.pack_run import MemberPackRun
from trainables.provenance import provenance
from trainables.random_streams import ORDER_BLOCK_EPOCHS, Purpose, digest, order_block, stream
from trainables.registry import register_workload
from trainables.result import Outcome, TrialResult

ENGINE = "toy-cpu"


class ToyRun:
    """One trial; every epoch is measured."""

    def __init__(self, member: Member) -> None:
        self.config = cast(ToyConfig, member.config)
        self._until_epoch = min(member.until_epoch, self.config.num_epochs)
        self._given = member.state
        self._seconds = 0.0
        self._trace: list[ToyTracePoint] = []
        self._num_reported = 0
        self.has_begun = False

    def advance(self, deadline: float) -> Report:
        started = time.perf_counter()
        if not self.has_begun:
            self._begin()
        while not self._has_ended:
            self._train_epoch()
            self._trace.append(self._point())
            if time.monotonic() >= deadline:
                break
        self._seconds += time.perf_counter() - started
        points, self._num_reported = tuple(self._trace[self._num_reported :]), len(self._trace)
        return Report(self.config.trial_id, self._epoch, points, self._result() if self._has_ended else None)

    def failed(self, error: str) -> Report:
        return Report(self.config.trial_id, 0, (), self._made(Outcome.FAILED, error))

    def state_arrays(self) -> State:
        return {
            "weights": self._weights.numpy().copy(),
            "first": self._moments[0].numpy().copy(),
            "second": self._moments[1].numpy().copy(),
            "epoch": np.array(self._epoch),
            "trace": np.array([astuple(point) for point in self._trace]),
            "train_seconds": np.array(self._seconds),
        }

    def close(self) -> None:
        pass

    @property
    def _epoch(self) -> int:
        return self._trace[-1].epoch if self._trace else 0

    @property
    def _has_ended(self) -> bool:
        return self._epoch >= self._until_epoch or not is_finite(self._trace[-1])

    def _begin(self) -> None:
        import torch

        c = self.config
        self._train, self._test = (_points(c, p) for p in (Purpose.TRAIN_DATA, Purpose.TEST_DATA))
        if self._given is None:
            self._weights, self._moments = torch.from_numpy(_first_weights(c)), _no_moments(c)
            self._step = 0
            self._trace = [self._point()]
        else:
            given = {name: np.array(array) for name, array in self._given.items()}
            self._weights = torch.from_numpy(given["weights"])
            self._moments = torch.from_numpy(given["first"]), torch.from_numpy(given["second"])
            self._seconds = float(given["train_seconds"])
            self._trace = [ToyTracePoint(int(row[0]), *row[1:].tolist()) for row in given["trace"]]
            self._num_reported = len(self._trace)
            self._step = int(given["epoch"]) * -(-c.num_points // c.batch_size)
        self.has_begun = True

    def _train_epoch(self) -> None:
        import torch

        from trainables.optimizers import make_optimizer, set_moments

        c = self.config
        optimizer = make_optimizer(c, [self._weights])
        set_moments(optimizer, self._weights, torch.tensor(float(self._step)), *self._moments)
        order = order_block(c.seed, c.num_points, self._epoch // ORDER_BLOCK_EPOCHS)[self._epoch % ORDER_BLOCK_EPOCHS]
        for start in range(0, c.num_points, c.batch_size):
            self._weights.grad = torch.from_numpy(self._gradient(order[start : start + c.batch_size]))
            optimizer.step()
            self._step += 1

    def _gradient(self, batch: Any) -> Any:
        x, y = self._train[0][batch], self._train[1][batch]
        with np.errstate(over="ignore", invalid="ignore"):
            return -(x * (y / (1 + np.exp(y * (x @ self._weights.numpy()))))[:, None]).mean(axis=0)

    @np.errstate(over="ignore", invalid="ignore")
    def _point(self) -> ToyTracePoint:
        weights = self._weights.numpy()
        (train, test) = (y * (x @ weights) for x, y in (self._train, self._test))
        return ToyTracePoint(
            epoch=self._epoch + 1 if self._trace else 0,
            train_loss=float(np.logaddexp(0, -train).mean()),
            train_error=float((~(train > 0)).mean()),
            test_error=float((~(test > 0)).mean()),
            weight_norm=float(np.linalg.norm(weights)),
            gradient_norm=float(np.linalg.norm(self._gradient(slice(None)))),
        )

    def _result(self) -> TrialResult:
        is_over = self._epoch >= self.config.num_epochs or not is_finite(self._trace[-1])
        return self._made(outcome(self._trace, NUM_CLASSES) if is_over else Outcome.UNFINISHED)

    def _made(self, ending: Outcome, error: str | None = None) -> TrialResult:
        c = self.config
        digests = (digest(_points(c, Purpose.TRAIN_DATA)[0]), digest(_first_weights(c)))
        order = digest(order_block(c.seed, c.num_points, 0))
        return TrialResult(
            config=c,
            outcome=ending,
            epochs_done=self._epoch,
            trace=tuple(self._trace),
            data_digest=digests[0] if self.has_begun else None,
            init_digest=digests[1] if self.has_begun else None,
            order_digest=order if self.has_begun else None,
            train_seconds=self._seconds,
            finished_at=time.time(),
            provenance=provenance(ENGINE),
            error=error,
        )


@register_workload("toy")
class Toy(Workload):
    """Inherits every default of the contract."""

    config_type = ToyConfig
    trace_point_type = ToyTracePoint
    devices = ("cpu",)
    num_classes = NUM_CLASSES

    def config(self, values: Mapping[str, Any]) -> TrialConfig:
        return make_config(ToyConfig, values)

    def pack_key(self, config: TrialConfig) -> Hashable:
        return config.workload

    def cost(self, config: TrialConfig) -> float:
        return 1e-4 * config.num_epochs

    def memory(self, config: TrialConfig) -> int:
        return 10_000

    def side_by_side(self, device: str) -> int:
        return 1

    def last_engine(self, device: str) -> str | None:
        return None

    def open(
        self, members: Sequence[Member], device: str = "cpu", engine: str | None = None, num_threads: int = 1
    ) -> MemberPackRun:
        if device != "cpu":
            raise ConfigError(f"the toy trains on device 'cpu', got {device!r}")
        if engine not in (None, ENGINE):
            raise ConfigError(unknown_name("engine", str(engine), (ENGINE,)))
        return MemberPackRun(members, ToyRun)


def _points(c: ToyConfig, purpose: Purpose) -> tuple[Any, Any]:
    """Points of two classes, separated by the first coordinate."""
    y = np.where(np.arange(c.num_points) % 2 == 0, 1.0, -1.0)
    x = stream(c.seed, purpose).standard_normal((c.num_points, c.dimension))
    x[:, 0] += 3 * y
    return x, y


def _first_weights(c: ToyConfig) -> Any:
    return 0.1 * stream(c.seed, Purpose.INIT).standard_normal(c.dimension)


def _no_moments(c: ToyConfig) -> tuple[Any, Any]:
    import torch

    return torch.zeros(c.dimension, dtype=torch.float64), torch.zeros(c.dimension, dtype=torch.float64)
