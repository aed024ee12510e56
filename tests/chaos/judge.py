"""Judges a results folder: each trial once, none lost, each bit as in an undisturbed run, nothing left behind."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from orchestrator.ledger.ledger import Ledger
from tests.chaos.launches import Folder
from tests.support.launching import WORKLOAD, rows, traces
from trainables.result import SATISFYING, Outcome

Attempt = tuple[int, float, str]
Trained = dict[tuple[str, int], set[Attempt]]
"""The attempts that trained a trial up to an epoch, by both."""

_COUNTED = {*SATISFYING, Outcome.UNFINISHED}
_KEY = ["trial_id", "epochs_done", "outcome", "attempt", "finished_at", "driver_id"]


class Judge:
    """Looks at the rows of a storm again and again: what it once saw must stay, and must not be trained again."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._seen: Trained = {}
        self._wrong: set[str] = set()

    def look(self) -> tuple[list[str], list[str]]:
        """What is newly lost, and what was newly trained twice; to be called while nothing compacts."""
        now, reached = _trained(self._folder.out)
        lost = [
            f"{trial_id} at epoch {epoch}"
            for trial_id, epoch in self._seen
            if reached.get(trial_id, -1) < epoch  # a compaction drops the rows of earlier rungs
        ]
        twice = []
        for key, attempts in now.items():
            every = attempts | self._seen.get(key, set())
            if len(every) > 1:
                twice.append(f"{key[0]} at epoch {key[1]}: {sorted(every)}")
            self._seen[key] = every
        return self._new(lost), self._new(twice)

    def _new(self, found: list[str]) -> list[str]:
        new = [one for one in found if one not in self._wrong]
        self._wrong.update(new)
        return new


def differences(out: Path, undisturbed: Path) -> list[str]:
    """Trials, traces and asks whose bits differ between two results folders, without their circumstances."""
    found = [f"row of {trial_id}: {fields}" for trial_id, fields in _changed(rows(undisturbed), rows(out)).items()]
    left, right = (
        {f"{point['trial_id']} at epoch {point['epoch']}": point for point in traces(folder)}
        for folder in (undisturbed, out)
    )
    found += [f"trace of {point}: {fields}" for point, fields in _changed(left, right).items()]
    asked = [_asks(folder) for folder in (undisturbed, out)]
    return found + [f"asks of {name}" for name, fields in _changed(*asked).items()]


def mlflow_faults(out: Path) -> list[str]:
    """Settled trials that MLflow does not have exactly once."""
    with closing(sqlite3.connect(out / "mlflow.db")) as database:
        found = database.execute(
            "SELECT tags.value FROM tags JOIN runs USING (run_uuid) "
            "WHERE tags.key = 'trial_id' AND runs.lifecycle_stage = 'active'"
        )
        counts = Counter(trial_id for (trial_id,) in found)
    settled = Ledger(str(out)).settled(WORKLOAD)
    return [f"{n} runs of {tid} in MLflow" for tid in sorted(settled | counts.keys()) if (n := counts[tid]) != 1]


def _trained(out: Path) -> tuple[Trained, dict[str, int]]:
    """The attempts that trained, and how far each trial is recorded; a pruned row only repeats an unfinished one."""
    trained: Trained = defaultdict(set)
    reached: dict[str, int] = {}
    for part in out.glob("trials/*/part-*.parquet"):
        table = pq.ParquetFile(part).read(_KEY)
        for trial_id, epoch, outcome, *attempt in zip(*(table[name].to_pylist() for name in _KEY), strict=True):
            reached[trial_id] = max(epoch, reached.get(trial_id, -1))
            if outcome in _COUNTED:
                trained[trial_id, epoch].add(tuple(attempt))
    return dict(trained), reached


def _changed(left: dict[str, Any], right: dict[str, Any]) -> dict[str, list[str]]:
    """The fields that differ of each entry; `repr` tells -0.0 from 0.0 and one float from the next."""
    changed = {}
    for key in left.keys() | right.keys():
        before, after = left.get(key, {}), right.get(key, {})
        fields = [f for f in before.keys() | after.keys() if repr(before.get(f)) != repr(after.get(f))]
        if fields:
            changed[key] = sorted(fields)
    return changed


def _asks(out: Path) -> dict[str, Any]:
    """The asks of every search, by folder and round."""
    ledger = Ledger(str(out))
    names = [folder.name.partition("=")[2] for folder in out.glob("asks/search=*")]
    return {
        f"{name} round {n}": dict(enumerate(points)) for name in names for n, points in ledger.asks.rounds(name).items()
    }
