"""The toy workload: logistic regression, trained by whatever rule `trainables.optimizers` has in torch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from tests.contracts.toy.config import NUM_CLASSES, ToyConfig, ToyTracePoint
from trainables.config import TrialConfig, make_config
from trainables.contract import Member, State, Workload
from trainables.errors import ConfigError, unknown_name
from trainables.outcome import outcome
from trainables.packs.pack_run import MemberPackRun
from trainables.packs.saved_states import check_like
from trainables.packs.trial_run import Digests, Trainer, TrialRun
from trainables.random_streams import ORDER_BLOCK_EPOCHS, Purpose, digest, order_block, stream
from trainables.registry import register_workload
from trainables.result import Outcome, TracePoint

ENGINE, MOMENTS = "toy-cpu", ("first", "second")


class ToyTrainer(Trainer):
    """One trial; a slice is an epoch, and every epoch is measured."""

    engine = ENGINE
    point_type = ToyTracePoint

    def __init__(self, member: Member) -> None:
        self.config = cast(ToyConfig, member.config)
        self._epoch = 0

    @property
    def epoch(self) -> int:
        return self._epoch

    def begin(self, state: State | None, trace: Sequence[TracePoint]) -> None:
        import torch

        c = self.config
        self._train, self._test = (_points(c, p) for p in (Purpose.TRAIN_DATA, Purpose.TEST_DATA))
        given = {"epoch": 0, "weights": _first_weights(c)} if state is None else state
        if state is not None:
            check_like(state, ("weights", *MOMENTS), (c.dimension,), np.float64)
        self._epoch, self._has_begun = int(given["epoch"]), bool(trace)
        self._weights = torch.from_numpy(np.array(given["weights"]))
        self._moments = [torch.from_numpy(np.array(given.get(name, np.zeros(c.dimension)))) for name in MOMENTS]

    def train_slice(self, size: int) -> TracePoint:
        if self._has_begun:
            self._train_epoch()
            self._epoch += 1
        self._has_begun = True
        return self._point()

    def arrays(self) -> State:
        moments = {name: moment.numpy().copy() for name, moment in zip(MOMENTS, self._moments, strict=True)}
        return {"weights": self._weights.numpy().copy(), "epoch": np.array(self._epoch), **moments}

    def digests(self) -> Digests:
        c = self.config
        order = order_block(c.seed, c.num_points, 0)
        return Digests(digest(_points(c, Purpose.TRAIN_DATA)[0]), digest(_first_weights(c)), digest(order))

    def outcome(self, trace: Sequence[TracePoint]) -> Outcome:
        return outcome(trace, NUM_CLASSES)

    def _train_epoch(self) -> None:
        import torch

        from trainables.optimizers import make_optimizer, set_moments

        c = self.config
        optimizer = make_optimizer(c, [self._weights])
        step = self._epoch * -(-c.num_points // c.batch_size)
        set_moments(optimizer, self._weights, torch.tensor(float(step)), *self._moments)
        order = order_block(c.seed, c.num_points, self._epoch // ORDER_BLOCK_EPOCHS)[self._epoch % ORDER_BLOCK_EPOCHS]
        for start in range(0, c.num_points, c.batch_size):
            self._weights.grad = torch.from_numpy(self._gradient(order[start : start + c.batch_size]))
            optimizer.step()

    def _gradient(self, batch: Any) -> Any:
        x, y = self._train[0][batch], self._train[1][batch]
        with np.errstate(over="ignore", invalid="ignore"):
            return -(x * (y / (1 + np.exp(y * (x @ self._weights.numpy()))))[:, None]).mean(axis=0)

    @np.errstate(over="ignore", invalid="ignore")
    def _point(self) -> ToyTracePoint:
        weights = self._weights.numpy()
        (train, test) = (y * (x @ weights) for x, y in (self._train, self._test))
        return ToyTracePoint(
            epoch=self._epoch,
            train_loss=float(np.logaddexp(0, -train).mean()),
            train_error=float((~(train > 0)).mean()),
            test_error=float((~(test > 0)).mean()),
            weight_norm=float(np.linalg.norm(weights)),
            gradient_norm=float(np.linalg.norm(self._gradient(slice(None)))),
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
        return MemberPackRun(members, lambda member: TrialRun(member, ToyTrainer(member)))


def _points(c: ToyConfig, purpose: Purpose) -> tuple[Any, Any]:
    """Points of two classes, separated by the first coordinate."""
    y = np.where(np.arange(c.num_points) % 2 == 0, 1.0, -1.0)
    x = stream(c.seed, purpose).standard_normal((c.num_points, c.dimension))
    x[:, 0] += 3 * y
    return x, y


def _first_weights(c: ToyConfig) -> Any:
    return 0.1 * stream(c.seed, Purpose.INIT).standard_normal(c.dimension)
