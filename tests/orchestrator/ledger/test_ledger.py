"""The ledger on real Parquet files, real processes and a real in-memory object store."""

from __future__ import annotations

import math
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import fsspec  # type: ignore[import-untyped]
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

from orchestrator.errors import LedgerError
from orchestrator.ledger.ledger import Ledger, new_driver_id
from orchestrator.ledger.schema import trace_schema, trial_schema
from trainables.result import SATISFYING, Outcome, Provenance, TrialResult
from trainables.two_layer_cnn.config import TwoLayerCNNConfig, TwoLayerCNNTracePoint

WORKLOAD = "two_layer_cnn"
PROVENANCE = Provenance(
    engine="fused-cpu",
    device="cpu",
    device_name="some processor",
    num_threads=1,
    hostname="here",
    code_digest="c0de",
    git_sha=None,
    git_dirty=True,
    package_version="0.1.0",
    python_version="3.11",
    numpy_version="2.0",
    numba_version=None,
    torch_version="2.11",
)


class NextVersionConfig(TwoLayerCNNConfig):
    numeric_version: ClassVar[int] = TwoLayerCNNConfig.numeric_version + 1


def point(epoch: int, value: float) -> TwoLayerCNNTracePoint:
    return TwoLayerCNNTracePoint(epoch, *[value] * (len(fields(TwoLayerCNNTracePoint)) - 1))


def result(
    seed: int = 0,
    outcome: Outcome = Outcome.LEARNED,
    *,
    finished_at: float = 1.0,
    attempt: int = 1,
    epochs: tuple[int, ...] = (0, 3),
    value: float = 0.25,
    config_type: type[TwoLayerCNNConfig] = TwoLayerCNNConfig,
    **config: Any,
) -> TrialResult:
    values = {"optimizer": "adam", "weight_decay": 1e-5, "batch_size": 2, "seed": seed, **config}
    return TrialResult(
        config=config_type.model_validate(values),
        outcome=outcome,
        epochs_done=epochs[-1] if epochs else 0,
        trace=tuple(point(epoch, value) for epoch in epochs),
        data_digest="da7a",
        init_digest="1417",
        order_digest=None,
        train_seconds=0.5,
        finished_at=finished_at,
        provenance=PROVENANCE,
        attempt=attempt,
        error="Traceback: no" if outcome is Outcome.FAILED else None,
    )


def same(left: Any, right: Any) -> bool:
    return left == right or (isinstance(left, float) and isinstance(right, float) and math.isnan(left + right))


def raw_rows(ledger: Ledger, table: str = "trials") -> list[dict[str, Any]]:
    """The rows in the files, duplicates included."""
    parts = sorted(Path(ledger.root, table, f"workload={WORKLOAD}").glob("*.parquet"))
    return [row for part in parts for row in pq.ParquetFile(part).read().to_pylist()]


def parts_of(ledger: Ledger) -> list[str]:
    return sorted(str(path) for path in Path(ledger.root).rglob("*.parquet"))


def sql(query: str) -> list[Any]:
    with duckdb.connect() as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path / "out"), "a")


@pytest.fixture
def other(ledger: Ledger) -> Ledger:
    return Ledger(ledger.root, "b")


class TestRoundTrip:
    @pytest.mark.parametrize("value", [0.1, 5e-324, math.nan, math.inf, -math.inf])
    def test_every_field_of_every_outcome_survives(self, ledger: Ledger, value: float) -> None:
        given = [
            result(2**63 - 1 - k, outcome, value=value, optimizer="signsgdw" if k % 2 else "adam")
            for k, outcome in enumerate(Outcome)
        ]
        ledger.append(given)
        for row, each in zip(ledger.trials(WORKLOAD).to_pylist(), given, strict=True):
            expected = {**each.trial_row(), "driver_id": "a"}
            assert list(row) == list(expected)
            assert all(same(row[name], expected[name]) for name in expected)
        points = ledger.traces(WORKLOAD).to_pylist()
        expected_points = sorted((row for each in given for row in each.trace_rows()), key=lambda row: row["trial_id"])
        for point_row, expected in zip(points, expected_points, strict=True):
            assert all(same(point_row[name], expected[name]) for name in expected)

    def test_a_trial_without_trace_has_nulls(self, ledger: Ledger) -> None:
        ledger.append([result(0, Outcome.FAILED, epochs=()), result(1)])
        rows = {row["seed"]: row for row in ledger.trials(WORKLOAD).to_pylist()}
        assert rows[0]["test_error"] is None
        assert rows[0]["error"] == "Traceback: no"
        assert rows[1]["test_error"] == 0.25
        assert set(ledger.traces(WORKLOAD)["trial_id"].to_pylist()) == {result(1).trial_id}

    def test_a_batch_without_any_trace(self, ledger: Ledger) -> None:
        ledger.append([result(0, Outcome.FAILED, epochs=())])
        ledger.append([])
        assert ledger.trials(WORKLOAD).num_rows == 1
        assert ledger.traces(WORKLOAD).num_rows == 0

    def test_an_absent_folder_is_empty(self, ledger: Ledger) -> None:
        assert ledger.trials(WORKLOAD).schema.names == [*result().trial_row(), "driver_id"]
        assert ledger.traces(WORKLOAD).num_rows == 0
        assert ledger.settled(WORKLOAD) == set()
        assert ledger.attempts(WORKLOAD) == {}
        assert ledger.count_other_versions(WORKLOAD, 1) == 0
        ledger.compact()
        assert not Path(ledger.root).exists()

    def test_types(self) -> None:
        schema = trial_schema(TwoLayerCNNConfig, TwoLayerCNNTracePoint)
        types = {field.name: str(field.type) for field in schema}
        assert types["optimizer"] == types["epsilon_rule"] == types["outcome"] == types["git_sha"] == "string"
        assert types["seed"] == types["attempt"] == types["num_threads"] == "int64"
        assert types["test_error"] == types["beta1"] == types["finished_at"] == "double"
        assert types["bias_correction"] == types["git_dirty"] == "bool"
        assert all(field.nullable for field in schema)
        trace = trace_schema(TwoLayerCNNTracePoint)
        assert trace.names == [*result().trace_rows()[0], "attempt", "finished_at", "driver_id"]

    def test_columns_and_trials_are_chosen(self, ledger: Ledger) -> None:
        ledger.append([result(seed) for seed in range(5)])
        wanted = {result(1).trial_id, result(3).trial_id, "unknown"}
        table = ledger.trials(WORKLOAD, trial_ids=wanted, columns=["test_error", "seed"])
        assert table.schema.names == ["test_error", "seed"]
        assert set(table["seed"].to_pylist()) == {1, 3}
        assert ledger.trials(WORKLOAD, trial_ids=[]).num_rows == 0
        traces = ledger.traces(WORKLOAD, trial_ids=wanted)
        assert traces.select(["trial_id", "epoch"]).to_pylist() == [
            {"trial_id": trial_id, "epoch": epoch} for trial_id in sorted(wanted - {"unknown"}) for epoch in (0, 3)
        ]

    def test_each_trial_is_found_in_many_row_groups(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("orchestrator.ledger.part_files.ROWS_PER_GROUP", 3)
        ledger.append([result(seed) for seed in range(4)])
        ledger.append([result(seed) for seed in range(4, 8)])
        ledger.compact()
        for seed in range(8):
            assert ledger.trials(WORKLOAD, trial_ids=[result(seed).trial_id])["seed"].to_pylist() == [seed]
            assert ledger.traces(WORKLOAD, trial_ids=[result(seed).trial_id])["epoch"].to_pylist() == [0, 3]
        assert ledger.trials(WORKLOAD, trial_ids=["0", "7", "z"]).num_rows == 0

    def test_an_unknown_column_is_named(self, ledger: Ledger) -> None:
        with pytest.raises(LedgerError, match="'tst_error'; did you mean 'test_error'"):
            ledger.trials(WORKLOAD, columns=["tst_error"])

    def test_an_object_store(self) -> None:
        store = Ledger(f"fsspec+memory://{new_driver_id()}/ledger", "a")
        store.check_writable()
        for finished_at in (2.0, 1.0):
            store.append([result(0, finished_at=finished_at)])
        store.compact()
        assert store.trials(WORKLOAD, columns=["finished_at"]).to_pylist() == [{"finished_at": 1.0}]
        assert store.traces(WORKLOAD).num_rows == 2


class TestWhichRowStands:
    @pytest.mark.parametrize(
        ("first", "second", "winner"),
        [
            (result(0, Outcome.FAILED, finished_at=9, attempt=3), result(finished_at=1), "second"),
            (result(0, Outcome.DIVERGED, finished_at=1), result(0, Outcome.PRUNED, finished_at=9, attempt=9), "first"),
            (result(finished_at=2), result(finished_at=1), "second"),
            (result(finished_at=1), result(finished_at=1), "first"),
            (result(0, Outcome.FAILED, attempt=2), result(0, Outcome.UNFINISHED, finished_at=9), "first"),
            (result(0, Outcome.FAILED, finished_at=9), result(0, Outcome.FAILED, finished_at=3), "first"),
            (result(0, Outcome.FAILED), result(0, Outcome.FAILED), "second"),
        ],
        ids=["settled", "settled-over-later", "earliest", "driver", "attempt", "latest", "last-driver"],
    )
    def test_before_and_after_compaction(
        self, ledger: Ledger, other: Ledger, first: TrialResult, second: TrialResult, winner: str
    ) -> None:
        ledger.append([first])
        other.append([second])
        expected = {**first.trial_row(), "driver_id": "a"} if winner == "first" else second.trial_row()
        expected = {**expected, "driver_id": "a" if winner == "first" else "b"}
        for compacted in ((), (other,), (ledger, other)):
            for each in compacted:
                each.compact()
            assert ledger.trials(WORKLOAD).to_pylist() == [expected]
        both_unsettled = first.outcome not in SATISFYING and second.outcome not in SATISFYING
        assert len(raw_rows(ledger)) == (2 if both_unsettled else 1)

    def test_traces_are_those_of_the_attempt_that_stands(self, ledger: Ledger, other: Ledger) -> None:
        ledger.append([result(0, Outcome.FAILED, epochs=(0, 3, 5), value=7.0)])
        ledger.append([result(0, attempt=2, epochs=(0, 4), finished_at=2)])
        other.append([result(0, epochs=(0, 9), finished_at=3, value=8.0)])
        for compacted in ((), (ledger,), (other,)):
            for each in compacted:
                each.compact()
            traces = ledger.traces(WORKLOAD)
            assert traces["epoch"].to_pylist() == [0, 4]
            assert traces["train_loss"].to_pylist() == [0.25, 0.25]
        assert {(row["driver_id"], row["attempt"]) for row in raw_rows(ledger, "traces")} == {("a", 2)}

    def test_a_trace_without_its_trial_is_ignored(self, ledger: Ledger) -> None:
        ledger.append([result(0)])
        shutil.rmtree(Path(ledger.root, "trials"))
        ledger.append([result(1)])
        assert ledger.traces(WORKLOAD)["trial_id"].unique().to_pylist() == [result(1).trial_id]
        ledger.compact()
        assert {row["trial_id"] for row in raw_rows(ledger, "traces")} == {result(1).trial_id}

    def test_settled_and_attempts(self, ledger: Ledger, other: Ledger) -> None:
        ledger.append([result(seed, outcome) for seed, outcome in enumerate(Outcome)])
        other.append([result(99, Outcome.FAILED, attempt=4), result(0, Outcome.FAILED, attempt=9)])
        ledger.append([result(99, Outcome.FAILED, attempt=3, finished_at=9)])
        ledger.append([result(99, Outcome.PRUNED, attempt=2, finished_at=9)])
        settled = {result(seed).trial_id for seed, outcome in enumerate(Outcome) if outcome in SATISFYING}
        attempts = {result(seed).trial_id: 1 for seed, outcome in enumerate(Outcome) if outcome not in SATISFYING}
        for _ in range(2):
            assert ledger.settled(WORKLOAD) == settled
            assert ledger.attempts(WORKLOAD) == {**attempts, result(99).trial_id: 4}
            ledger.compact()
            other.compact()

    def test_other_versions_are_counted_and_apart(self, ledger: Ledger) -> None:
        ledger.append([result(0), result(1), result(0, config_type=NextVersionConfig)])
        ledger.append([result(1)])
        assert ledger.count_other_versions(WORKLOAD, NextVersionConfig.numeric_version) == 2
        assert ledger.count_other_versions(WORKLOAD, TwoLayerCNNConfig.numeric_version) == 1
        assert ledger.trials(WORKLOAD).num_rows == 3


class TestCompaction:
    def test_merges_sorts_and_repeats_without_effect(self, ledger: Ledger) -> None:
        for seed in range(6):
            ledger.append([result(seed), result(seed + 100, Outcome.FAILED, finished_at=seed)])
        before = ledger.trials(WORKLOAD).sort_by("trial_id").to_pylist()
        traces = ledger.traces(WORKLOAD)
        ledger.compact()
        assert ledger.trials(WORKLOAD).to_pylist() == before
        assert ledger.traces(WORKLOAD).equals(traces)
        parts = parts_of(ledger)
        assert len(parts) == 2
        ledger.compact()
        assert parts_of(ledger) == parts
        ledger.append([result(1000)])
        ledger.compact()
        assert len(parts_of(ledger)) == 2
        assert ledger.trials(WORKLOAD).num_rows == 13

    def test_merged_parts_are_bounded(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("orchestrator.ledger.compaction.ROWS_PER_PART", 10)
        for seed in range(8):
            ledger.append([result(seed), result(seed + 100)])
        for _ in range(2):
            ledger.compact()
            counts = [pq.read_metadata(part).num_rows for part in parts_of(ledger)]
            assert max(counts) <= 10
            assert sum(counts) == 16 + 32
            assert len(counts) <= 7
            for part in parts_of(ledger)[:1] + parts_of(ledger)[-1:]:  # what an interrupted compaction leaves
                shutil.copy(part, Path(part).with_name("part-a-000999.parquet"))
        ledger = Ledger(ledger.root, "a")
        ledger.compact()
        assert len(raw_rows(ledger)) == 16
        assert len(raw_rows(ledger, "traces")) == 32
        assert ledger.settled(WORKLOAD) == {result(seed + k).trial_id for seed in range(8) for k in (0, 100)}

    def test_leaves_the_parts_of_other_drivers_alone(self, ledger: Ledger, other: Ledger) -> None:
        longer = Ledger(ledger.root, "a-1")
        for each in (ledger, other, longer, ledger):
            each.append([result(0, finished_at=each.driver_id == "a")])
        others = [part for part in parts_of(ledger) if "part-a-0" not in part]
        ledger.compact()
        assert [part for part in parts_of(ledger) if "part-a-0" not in part] == others
        for each in (longer, other, ledger):
            each.compact()
        (row,) = raw_rows(ledger)
        assert row["driver_id"] == "a-1"

    def test_one_id_never_overwrites(self, ledger: Ledger) -> None:
        twin = Ledger(ledger.root, "a")
        ledger.append([result(0)])
        twin.append([result(1)])
        with pytest.raises(LedgerError, match="exists already"):
            ledger.append([result(2)])
        assert ledger.settled(WORKLOAD) == {result(0).trial_id, result(1).trial_id}


class TestBadFiles:
    def assert_named(self, ledger: Ledger, bad: Path, fault: str) -> None:
        content = bad.read_bytes()
        for read in (ledger.settled, ledger.trials, ledger.traces):
            with pytest.raises(LedgerError, match=fault) as caught:
                read(WORKLOAD)
            assert str(bad) in str(caught.value)
            assert "\n" not in str(caught.value)
        with pytest.raises(LedgerError, match=fault):
            ledger.compact()
        assert bad.read_bytes() == content

    def part(self, ledger: Ledger, table: str = "trials") -> Path:
        """A second driver's part, which the ledger under test has not seen."""
        Ledger(ledger.root, "b").append([result(1)])
        ledger.append([result(0)])
        (path,) = Path(ledger.root, table).rglob("part-b-*.parquet")
        return path

    @pytest.mark.parametrize("length", [0, 3, 2000, -1])
    def test_truncated(self, ledger: Ledger, length: int) -> None:
        part = self.part(ledger)
        part.write_bytes(part.read_bytes()[:length])
        self.assert_named(
            ledger, part, "truncated, damaged or not a Parquet file.*move it out of the ledger or delete it"
        )

    def test_damaged_inside(self, ledger: Ledger) -> None:
        part = self.part(ledger)
        content = part.read_bytes()
        part.write_bytes(content[:4] + b"\xff" * 4000 + content[4004:])
        with pytest.raises(LedgerError, match="truncated, damaged or not a Parquet file") as caught:
            ledger.trials(WORKLOAD)
        assert str(part) in str(caught.value)

    def test_garbage(self, ledger: Ledger) -> None:
        part = self.part(ledger).with_name("notes.parquet")
        part.write_text("these are my notes\n" * 20)
        self.assert_named(ledger, part, "not a Parquet file")

    def test_foreign(self, ledger: Ledger) -> None:
        part = self.part(ledger).with_name("mine.parquet")
        pd.DataFrame({"trial_id": ["x"], "outcome": ["learned"]}).to_parquet(part)
        self.assert_named(ledger, part, "lambda-atlas did not write")

    def test_of_the_other_table(self, ledger: Ledger) -> None:
        trace = self.part(ledger, "traces")
        part = Path(str(trace).replace("/traces/", "/trials/")).with_name("moved.parquet")
        shutil.copy(trace, part)
        self.assert_named(ledger, part, "belongs to the table 'traces'")

    def test_of_a_newer_format(self, ledger: Ledger) -> None:
        part = self.part(ledger)
        table = pq.ParquetFile(part).read()
        pq.write_table(table.replace_schema_metadata({b"lambda_atlas": b"trials/2"}), part)
        self.assert_named(ledger, part, "has format 2, and this version of lambda-atlas reads up to 1")

    @pytest.mark.parametrize("in_the_way", ["", "trials", f"trials/workload={WORKLOAD}"])
    def test_a_plain_file_in_the_way(self, ledger: Ledger, in_the_way: str) -> None:
        path = Path(ledger.root, in_the_way)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        with pytest.raises(LedgerError, match=f"{path} is a file where a folder belongs; move it away"):
            ledger.settled(WORKLOAD)
        with pytest.raises(LedgerError, match=f"{path}"):
            ledger.append([result(0)])
        assert path.read_text() == "mine"

    def test_half_written_and_hidden_files_are_ignored(self, ledger: Ledger) -> None:
        part = self.part(ledger)
        part.with_name(".tmp-part-c-000001.parquet.part").write_bytes(part.read_bytes()[:500])
        part.with_name("_SUCCESS").touch()
        part.with_name("README.txt").write_text("words")
        assert ledger.trials(WORKLOAD).num_rows == 2
        assert sql(f"SELECT count(*) FROM '{ledger.root}/trials/**/*.parquet'") == [(2,)]
        assert len(pd.read_parquet(Path(ledger.root, "traces"))) == 4


class TestWritable:
    def test_creates_the_folders_and_leaves_nothing(self, ledger: Ledger) -> None:
        ledger.check_writable()
        assert sorted(path.name for path in Path(ledger.root).rglob("*")) == ["traces", "trials"]

    @pytest.mark.parametrize("root", ["plain/out", "plain", "/proc/lambda-atlas"])
    def test_says_so_in_one_line(self, tmp_path: Path, root: str) -> None:
        (tmp_path / "plain").write_text("mine")
        with pytest.raises(LedgerError, match=r"cannot write to .*; choose another output folder") as caught:
            Ledger(str(tmp_path / root)).check_writable()
        assert "\n" not in str(caught.value)

    def test_an_unknown_store(self) -> None:
        with pytest.raises(LedgerError, match="cannot open nowhere://x/y"):
            Ledger("nowhere://x/y")

    def test_driver_ids(self, tmp_path: Path) -> None:
        first, second = Ledger(str(tmp_path)), Ledger(str(tmp_path))
        assert first.driver_id != second.driver_id
        assert first.driver_id[:15] <= second.driver_id[:15]
        with pytest.raises(LedgerError, match="'a/b'"):
            Ledger(str(tmp_path), "a/b")


class TestOtherReaders:
    def test_duckdb_and_pandas(self, ledger: Ledger) -> None:
        ledger.append([result(0, value=0.5), result(1, value=0.25), result(0, optimizer="adamw")])
        ledger.append([result(2, value=0.75)])
        query = f"""SELECT optimizer, batch_size, avg(test_error)
                    FROM '{ledger.root}/trials/**/*.parquet' GROUP BY ALL ORDER BY ALL"""
        assert sql(query) == [("adam", 2, 0.5), ("adamw", 2, 0.25)]
        frame = pd.read_parquet(Path(ledger.root, "trials"))
        assert frame.groupby("optimizer").test_error.mean().to_dict() == {"adam": 0.5, "adamw": 0.25}
        assert set(frame.workload) == {WORKLOAD}
        assert len(pd.read_parquet(Path(ledger.root, "traces"))) == 8

    def test_older_and_newer_columns(self, ledger: Ledger) -> None:
        ledger.append([result(0)])
        (part,) = Path(ledger.root, "trials").rglob("*.parquet")
        table = pq.ParquetFile(part).read()
        older = table.drop_columns(["num_filters", "pack_id"])
        newer = table.append_column("momentum", pa.array([0.9]))
        for name, changed, seed in (("part-older-1", older, 1), ("part-newer-1", newer, 2)):
            trial_id = pa.array([result(seed).trial_id])
            changed = changed.set_column(0, "trial_id", trial_id)
            pq.write_table(changed, part.with_name(f"{name}.parquet"))
        rows = {row["trial_id"]: row for row in ledger.trials(WORKLOAD).to_pylist()}
        assert rows[result(0).trial_id]["num_filters"] == rows[result(2).trial_id]["num_filters"] == 20
        assert rows[result(1).trial_id]["num_filters"] is None
        assert "momentum" not in rows[result(2).trial_id]


def test_a_folder_given_as_a_uri_is_that_folder(tmp_path: Path) -> None:
    Ledger(f"file://{tmp_path}/out").append([result(0)])
    assert Ledger(f"file://{tmp_path}/out").root == str(tmp_path / "out")
    assert Ledger(str(tmp_path / "out")).settled(WORKLOAD) == {result(0).trial_id}


class KilledError(Exception):
    """Stands for the death of a driver."""


class MortalFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """An object store that survives its client, which dies at the change after the next `num_changes_left`."""

    protocol = "mortal"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    num_changes_left: ClassVar[float] = math.inf

    def _change(self) -> None:
        if MortalFileSystem.num_changes_left <= 0:
            raise KilledError
        MortalFileSystem.num_changes_left -= 1

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode != "rb":
            self._change()
        return super()._open(path, mode, **options)

    def rm(self, path: str, **options: Any) -> None:
        self._change()
        super().rm(path, **options)


@pytest.fixture
def mortal() -> Iterator[type[MortalFileSystem]]:
    fsspec.register_implementation("mortal", MortalFileSystem, clobber=True)
    yield MortalFileSystem
    MortalFileSystem.num_changes_left = math.inf
    MortalFileSystem.store.clear()


def test_death_within_an_append(mortal: type[MortalFileSystem]) -> None:
    """The trace is written first. Without its trial it does not count, and the next append repairs it."""
    ledger = Ledger("fsspec+mortal://append/ledger", "a")
    mortal.num_changes_left = 1
    with pytest.raises(KilledError):
        ledger.append([result(0)])
    mortal.num_changes_left = math.inf
    assert ["/traces/" in path for path in mortal.store if path.endswith(".parquet")] == [True]
    assert ledger.settled(WORKLOAD) == set()
    assert ledger.traces(WORKLOAD).num_rows == 0
    ledger.append([result(0)])
    assert ledger.settled(WORKLOAD) == {result(0).trial_id}
    assert ledger.traces(WORKLOAD)["epoch"].to_pylist() == [0, 3]


@pytest.mark.slow
def test_death_at_every_step_of_a_compaction(mortal: type[MortalFileSystem]) -> None:
    """Each prefix of the compaction's writes and deletions leaves a ledger that reads the same."""
    for num_changes in range(100):
        root = f"fsspec+mortal://{num_changes}/ledger"
        ledger, other = Ledger(root, "a"), Ledger(root, "b")
        for seed in range(2):
            ledger.append([result(seed), result(100, Outcome.FAILED, attempt=seed + 1)])
        other.append([result(0, finished_at=0), result(1, finished_at=2)])
        expected = ledger.trials(WORKLOAD).sort_by("trial_id"), ledger.traces(WORKLOAD)
        mortal.num_changes_left = num_changes
        survived = True
        try:
            ledger.compact()
        except KilledError:
            survived = False
        mortal.num_changes_left = math.inf
        for _ in range(2):
            heir = Ledger(root, "a")
            assert heir.trials(WORKLOAD).sort_by("trial_id").equals(expected[0])
            assert heir.traces(WORKLOAD).equals(expected[1])
            heir.compact()
            other.compact()
        assert len([path for path in mortal.store if path.endswith(".parquet")]) == 4
        mortal.store.clear()
        if survived:
            break
    assert num_changes == 6  # two merged parts, four sources


BATCH = 4


DRIVER = """
import pickle, sys
from pathlib import Path
from orchestrator.ledger.ledger import Ledger

root, driver = sys.argv[1:]
ledger = Ledger(root, driver)
batches = pickle.load(sys.stdin.buffer)
with Path(root, f"{driver}.log").open("w") as log:
    for number, batch in enumerate(batches, 1):
        ledger.append(batch)
        log.write("".join(f"{result.trial_id}\\n" for result in batch))
        log.flush()
        if number % 3 == 0:
            ledger.compact()
"""


def start(root: Path, driver: str, first_seed: int, num_batches: int) -> subprocess.Popen[bytes]:
    """A process that appends and compacts; it logs a line for each trial that is committed."""
    root.mkdir(exist_ok=True)
    process = subprocess.Popen([sys.executable, "-c", DRIVER, str(root), driver], stdin=subprocess.PIPE)
    seeds = range(first_seed, first_seed + num_batches * BATCH)
    results = [result(seed, finished_at=float(seed)) for seed in seeds]
    assert process.stdin is not None
    with process.stdin as pipe:
        pickle.dump([results[k : k + BATCH] for k in range(0, len(results), BATCH)], pipe)
    return process


def promised(root: Path, driver: str) -> set[str]:
    log = root / f"{driver}.log"
    return set(log.read_text().split()) if log.exists() else set()


def test_sigkill_loses_nothing(tmp_path: Path) -> None:
    root = tmp_path / "out"
    drivers = {f"driver-{k}": start(root, f"driver-{k}", 1000 * k, 100) for k in range(2)}
    for k, (driver, process) in enumerate(drivers.items()):
        while len(promised(root, driver)) < (4 + 3 * k) * BATCH:
            assert process.poll() is None
            time.sleep(0.003)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    reader = Ledger(str(root))
    for repeat in range(2):
        settled = reader.settled(WORKLOAD)
        for driver in drivers:
            assert promised(root, driver) <= settled
        assert len(settled) <= sum(len(promised(root, driver)) + BATCH for driver in drivers)
        trials, traces = reader.trials(WORKLOAD), reader.traces(WORKLOAD)
        assert trials.num_rows == len(settled)
        assert traces.num_rows == 2 * len(settled)
        if repeat == 0:
            for driver in drivers:
                Ledger(str(root), driver).compact()
    assert len(raw_rows(reader)) == len(settled)


@pytest.mark.slow
def test_two_drivers_at_once_lose_nothing(tmp_path: Path) -> None:
    """They share half of their trials; a concurrent reader never sees a settled trial disappear."""
    root, num_batches = tmp_path / "out", 7
    drivers = [start(root, "a", 0, num_batches), start(root, "b", num_batches // 2 * BATCH, num_batches)]
    reader = Ledger(str(root))
    seen: set[str] = set()
    while any(process.poll() is None for process in drivers):
        log = promised(root, "a") | promised(root, "b")
        settled = reader.settled(WORKLOAD)
        time.sleep(0.05)  # leave the processor to the drivers
        assert seen | log <= settled
        assert reader.traces(WORKLOAD).num_rows % 2 == 0
        seen = settled
    assert [process.wait() for process in drivers] == [0, 0]
    everything = {result(seed).trial_id for seed in range((num_batches // 2 + num_batches) * BATCH)}
    assert reader.settled(WORKLOAD) == everything
    assert reader.traces(WORKLOAD).num_rows == 2 * len(everything)
    for driver in ("a", "b"):
        Ledger(str(root), driver).compact()
    assert sorted(row["trial_id"] for row in raw_rows(reader)) == sorted(everything)
    assert len(raw_rows(reader, "traces")) == 2 * len(everything)
