"""What is struck and when: a pure function of the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What happens to a launch."""

    DRIVER = "driver"
    PARENT = "parent"
    WORKER = "worker"
    EXCHANGE = "exchange"
    RAYLET = "raylet"
    GCS = "gcs"
    EVERYTHING = "everything"
    """All processes of a launch at once, as when the power fails."""
    TERMINATE = "SIGTERM"
    """The only one that a launch can heed: to whatever process was started."""
    FULL_DISK = "full disk"
    """No process of the launch can write to a file any more."""
    LOCKED_MLFLOW = "mlflow locked"
    DELETED_MLFLOW = "mlflow deleted"
    CLOSED_MLFLOW = "mlflow closed"
    """The driver is killed, and the next launch finds MLflow's server closed."""


class Moment(StrEnum):
    """When a fault strikes a launch; its delay comes on top."""

    BEGIN = "begin"
    """The process was started: it imports, plans, and starts Ray."""
    TRAINING = "training"
    """The launch has recorded or saved something."""
    WRITING = "writing"
    """The launch, which has recorded or saved something, is writing a file."""


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault; `at_once` starts the next launch while the processes of the last one may still be ending."""

    fault: Fault
    moment: Moment
    delay: float
    at_once: bool


LONGEST_DELAYS = {Moment.BEGIN: 8.0, Moment.TRAINING: 2.0, Moment.WRITING: 0.002}
_MOMENTS = (Moment.TRAINING, Moment.TRAINING, Moment.WRITING, Moment.BEGIN)
_ANY_MOMENT = (Fault.DRIVER, Fault.PARENT, Fault.EVERYTHING, Fault.TERMINATE)
"""Faults of processes that exist from the begin."""


def schedule(seed: int, num_strikes: int) -> list[Strike]:
    """The strikes of a seed: each fault equally often, in random order; a longer schedule begins as a shorter one."""
    rng = random.Random(seed)
    strikes: list[Strike] = []
    while len(strikes) < num_strikes:
        strikes += [_strike(fault, rng) for fault in rng.sample(list(Fault), len(Fault))]
    return strikes[:num_strikes]


def _strike(fault: Fault, rng: random.Random) -> Strike:
    moment = rng.choice(_MOMENTS if fault in _ANY_MOMENT else _MOMENTS[:-1])
    return Strike(fault, moment, round(rng.uniform(0, LONGEST_DELAYS[moment]), 4), rng.random() < 0.5)
