"""Results as files, read without the product: rows, traces, asks; and how two sets of them are compared."""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]
Asks = dict[str, dict[str, list[Row]]]

CIRCUMSTANCES = {
    "train_seconds", "finished_at", "pack_id", "attempt", "driver_id", "hostname", "device_name", "code_digest",
    "git_sha", "git_dirty", "package_version", "python_version", "numpy_version", "numba_version", "torch_version",
}  # fmt: skip
"""Columns that differ between two runs of one trial, or with the code: never compared."""

ROUNDED = {"data_digest", "init_digest", "best_epoch", "certificate_epoch"}
"""Columns that are not floats but depend on the last bits of floats: compared on the record's processor only."""


@dataclass(frozen=True)
class Tolerance:
    """Of numbers and of error rates on another processor, relative to numbers above 1."""

    numbers: float
    errors: float


NEAR = Tolerance(1e-4, 1e-4)
NEAR_OF_NETWORK = Tolerance(1e-2, 0.1)
"""A network's many float32 sums are rounded in many more places; two of its 24 test images may change sides."""

ROUNDS_WITHOUT_RESULTS = 2
"""A search's first rounds are asked before any result is known: they are the same on every processor."""


def circumstances() -> dict[str, str]:
    """The circumstances on which the last bits of a number depend."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    # Cloud machines give one name to several processors: their instruction sets tell them apart.
    vectors = sorted(f for f in facts.get("flags", "").split() if re.match(r"sse|avx|fma|f16c|amx", f))
    processor = [facts.get(name, "") for name in ("model name", "cpu family", "model")]
    return {
        "processor": " / ".join([platform.machine(), *processor]),
        "vector instructions": sha256(" ".join(vectors).encode()).hexdigest()[:16],
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: version(name) for name in ("numpy", "torch", "numba", "scipy", "optuna")},
    }


def parts(out: Path, table: str) -> dict[str, list[pa.Table]]:
    """A table's files as they are, by workload."""
    found: dict[str, list[pa.Table]] = {}
    for path in sorted(out.glob(f"{table}/workload=*/*.parquet")):
        found.setdefault(path.parent.name.partition("=")[2], []).append(pq.ParquetFile(path).read())
    return found


def rows(out: Path) -> dict[str, Row]:
    """All trials' rows by id; fails for a trial that has two."""
    found = [row for tables in parts(out, "trials").values() for table in tables for row in table.to_pylist()]
    by_id = {row["trial_id"]: row for row in found}
    assert len(by_id) == len(found), "a trial is recorded twice"
    return by_id


def traces(out: Path) -> dict[str, list[Row]]:
    """The trace of every trial that has a row; what a killed launch left of others does not count."""
    ended = {(trial_id, row["finished_at"], row["driver_id"]) for trial_id, row in rows(out).items()}
    found: dict[str, list[Row]] = {}
    for table in (table for tables in parts(out, "traces").values() for table in tables):
        for point in table.to_pylist():
            if (point["trial_id"], point["finished_at"], point["driver_id"]) in ended:
                found.setdefault(point["trial_id"], []).append(point)
    return {trial_id: sorted(points, key=lambda point: point["epoch"]) for trial_id, points in found.items()}


def asks(out: Path) -> Asks:
    """What each search asked, by its id and round; fails for a round that is recorded twice."""
    found: Asks = {}
    for path in sorted(out.glob("asks/search=*/round-*.parquet")):
        asked = pq.ParquetFile(path).read().to_pylist()
        rounds = found.setdefault(path.parent.name.partition("=")[2], {})
        number = path.name.split("-")[1]
        assert number not in rounds, "a round is asked twice"
        assert {(row["search_id"], row["round"]) for row in asked} == {(path.parent.name[7:], int(number))}
        assert [row["position"] for row in asked] == list(range(len(asked)))
        rounds[number] = [{k: v for k, v in r.items() if k not in ("search_id", "round", "position")} for r in asked]
    return found


def compared(row: Mapping[str, Any]) -> Row:
    """The columns of a row that are compared."""
    return {name: value for name, value in row.items() if name not in CIRCUMSTANCES}


def exactly(value: Any) -> Any:
    """The same with floats as text to the last bit, so that nan equals nan and a difference can be read."""
    if isinstance(value, dict):
        return {name: exactly(one) for name, one in value.items()}
    if isinstance(value, list):
        return [exactly(one) for one in value]
    return value.hex() if isinstance(value, float) else value


def assert_rows_equal(found: Mapping[str, Row], recorded: Mapping[str, Row], within: Tolerance | None) -> None:
    """Of the recorded trials; None: to the bit."""
    for trial_id, wanted in recorded.items():
        _assert_row(compared(found[trial_id]), compared(wanted), trial_id, within)


def assert_traces_equal(
    found: Mapping[str, list[Row]], recorded: Mapping[str, list[Row]], within: Tolerance | None
) -> None:
    """Of the recorded trials; None: to the bit."""
    for trial_id, wanted in recorded.items():
        assert len(found[trial_id]) == len(wanted), trial_id
        for ours, point in zip(found[trial_id], wanted, strict=True):
            _assert_row(compared(ours), compared(point), trial_id, within)


def assert_asks_equal(found: Asks, recorded: Asks, within: Tolerance | None) -> None:
    """Compare all asks to the bit; on another processor those before any result, and the size of rounds.

    A round that knows results may there ask for other points, and cells for other numbers of seeds: one error that is
    rounded to the other side moves them.
    """
    assert found.keys() == recorded.keys(), "searches have other names"
    if within is None:
        assert exactly(found) == exactly(recorded)
        return
    for search_id, rounds in recorded.items():
        for number, wanted in rounds.items():
            ours = found[search_id].get(number)
            if ours is None:
                assert int(number) > 0, f"{search_id} asked nothing"
                continue
            assert [row.keys() for row in ours] == [row.keys() for row in wanted], (search_id, number)
            knows_results = int(number) >= (1 if "num_seeds" in wanted[0] else ROUNDS_WITHOUT_RESULTS)
            if not knows_results:
                for asked, point in zip(ours, wanted, strict=True):
                    _assert_row(asked, point, f"{search_id} {number}", within)


def _assert_row(found: Row, wanted: Row, what: str, within: Tolerance | None) -> None:
    assert found.keys() == wanted.keys(), what
    names = wanted.keys() if within is None else wanted.keys() - ROUNDED
    differ = {name: (found[name], wanted[name]) for name in names if not _is_near(found, wanted, name, within)}
    assert not differ, f"{what}: (found, recorded) of {differ}"


def _is_near(found: Row, wanted: Row, name: str, within: Tolerance | None) -> bool:
    ours, number = found[name], wanted[name]
    if within is not None and isinstance(ours, float) and isinstance(number, float) and math.isfinite(number):
        least = within.errors if "error" in name else within.numbers
        return math.isclose(ours, number, rel_tol=least, abs_tol=least)
    return bool(exactly(ours) == exactly(number))


def save_rows(path: Path, kept: Iterable[Row]) -> None:
    """To the bit; only what is compared."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Sorted: the order that trials come in depends on how fast they were.
    every = sorted((compared(row) for row in kept), key=lambda row: (row["trial_id"], row.get("epoch", 0)))
    assert all(row.keys() == every[0].keys() for row in every), "rows of two workloads lose columns"
    pq.write_table(pa.Table.from_pylist(every), path, compression="zstd")


def load_rows(path: Path) -> list[Row]:
    """Inverse of `save_rows`."""
    loaded: list[Row] = pq.ParquetFile(path).read().to_pylist()
    return loaded


def load_traces(path: Path) -> dict[str, list[Row]]:
    """Saved rows of traces, by trial."""
    traces: dict[str, list[Row]] = {}
    for point in load_rows(path):
        traces.setdefault(point["trial_id"], []).append(point)
    return traces


def save_json(path: Path, values: Any) -> None:
    """As text that a diff shows line by line; floats come back to the bit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def load_json(path: Path) -> Any:
    """Inverse of `save_json`."""
    return json.loads(path.read_text())
