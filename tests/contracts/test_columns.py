"""A result's column is one field: every workload fills it, Parquet has it, and the field says how MLflow shows it."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.driver.options import RunOptions
from orchestrator.driver.run import run_sweep
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.schema import TableName, schema_of
from orchestrator.sweeps.value import Grid, Sweep
from tests.support.examples import example_of
from tests.support.images import image_folders
from tests.support.launching import WORKLOAD, environment
from tests.support.product_copy import copy_product, launch_copy, patch
from tests.support.registration import TOYS, registered
from trainables.packs.orders import MemberOrder, PackOrder
from trainables.packs.worker import PackWorker
from trainables.registry import WORKLOADS, config_from_values, workload
from trainables.result import METRIC_COLUMNS

NULL_FOR_GOOD_REASON = {
    "error": "of failed trials",
    "certificate": "of trials whose end is proven",
    "certificate_epoch": "of trials whose end is proven",
    "peak_memory_bytes": "of trials on a GPU",
    "git_sha": "of a checkout",
    "git_dirty": "of a checkout",
}
"""Columns that finished trials need not have, and which trials have them."""

SIZES = {"num_train": 20, "num_test": 50, "dimension": 40, "noise_sparsity": 5, "num_filters": 4, "num_epochs": 20}
GRID = Grid({"adam": {"weight_decay": 1e-3}}, {}, {**SIZES, "batch_size": 5})
SWEEP = f"""
from orchestrator import Grid, Sweep, sweep

@sweep
def columns() -> Sweep:
    grid = Grid({GRID.arms!r}, {{}}, {GRID.base!r})
    return Sweep("columns", "two short trials", (grid,), seeds=(0, 1))
"""

Row = Mapping[str, Any]

with registered(*TOYS):
    NAMES = tuple(WORKLOADS)


def unfilled(name: str, rows: Sequence[Row]) -> set[str]:
    """Columns that none of these finished trials of the workload fills; those have no reason, and nobody chose them."""

    def is_filled(value: Any) -> bool:
        return value is not None and not (isinstance(value, float) and math.isnan(value))

    found = {column for row in rows for column, value in row.items() if is_filled(value)}
    return {column for row in rows for column in row} - found - NULL_FOR_GOOD_REASON.keys() - asked(name)


def asked(name: str) -> set[str]:
    """Columns of the config: one that is null says what was asked."""
    return set(workload(name).config_type.model_fields)


@pytest.fixture(autouse=True, scope="module")
def around(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The image workload's examples have their data set, and ours have a user's workload and optimizer beside them."""
    with image_folders(tmp_path_factory.mktemp("images"), 8), registered(*TOYS):
        yield


def recorded_rows(name: str, folder: Path) -> list[Row]:
    """What a ledger has of the workload's examples, trained as a worker trains them."""
    example = example_of(name)
    configs = [config_from_values({"workload": name, **example.base, **values}) for values in example.members]
    order = PackOrder(
        pack_id="one",
        members=tuple(map(MemberOrder, configs)),
        states_root=str(folder / "states"),
        checkpoint_seconds=9.0,
    )
    worker, results = PackWorker(order), []
    while not worker.is_done:
        results += [report.result for report in worker.step() if report.result is not None]
    ledger = Ledger(str(folder))
    ledger.append(results)
    found = ledger.trials(name).to_pylist()
    assert [row["epochs_done"] for row in found] == [row["num_epochs"] for row in found]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_column_is_filled(name: str, tmp_path: Path) -> None:
    rows = recorded_rows(name, tmp_path)
    assert rows[0].keys() == set(schema_of(TableName.TRIALS, name).names)
    assert unfilled(name, rows) == set()


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_is_a_number_and_a_reason_is_of_a_column(name: str) -> None:
    schema = schema_of(TableName.TRIALS, name)
    assert {schema.field(column).type for column in METRIC_COLUMNS} <= {pa.int64(), pa.float64()}
    assert NULL_FOR_GOOD_REASON.keys() < set(schema.names)


# --- columns that are added ---


MINE = ("--module", "mine")
NEW_FIELDS = """    certificate_epoch: int | None = None
    num_slices: int | None = field(default=None, metadata=METRIC)
    mood: str = "none"
    nobody_fills: float | None = None
"""


class Launched(NamedTuple):
    """A changed copy of the product, and the folder of a user who launched it."""

    product: Path
    folder: Path


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Launched:
    """Results of a launch of ours, and of one of a copy with three fields more, of which it fills two."""
    product, folder = copy_product(tmp_path_factory.mktemp("product")), tmp_path_factory.mktemp("user")
    patch(product / "trainables/result.py", "    certificate_epoch: int | None = None\n", NEW_FIELDS)
    patch(
        product / "trainables/packs/trial_run.py",
        "            error=error,\n",
        "            error=error,\n            num_slices=7,\n            mood='bright',\n",
    )
    before = Sweep("columns", "one short trial", (GRID,), seeds=(0,))
    run_sweep(before, RunOptions(out=str(folder / "results"), executor="inline", mlflow=False, figures=False))
    (folder / "mine.py").write_text(SWEEP)
    done = launch_copy(product, folder, "columns", *MINE, "--executor", "inline", "--no-figures", "--no-mlflow")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 trials, 1 done, 1 to run" in done.stdout, "old rows count, though they lack the columns"
    assert "2/2 trials" in done.stdout
    return Launched(product, folder)


def parts(launched: Launched) -> tuple[pa.Table, pa.Table]:
    """The old and the new file of trials."""
    tables = [pq.ParquetFile(path).read() for path in launched.folder.glob("results/trials/*/*.parquet")]
    old, new = sorted(tables, key=lambda table: table.num_columns)
    return old, new


@pytest.mark.slow
def test_an_added_field_is_a_column_of_its_type_beside_old_files_without_it(launched: Launched) -> None:
    old, new = parts(launched)
    added = [name for name in new.column_names if name not in old.column_names]
    assert added == ["num_slices", "mood", "nobody_fills"]
    assert [new.schema.field(name).type for name in added] == [pa.int64(), pa.string(), pa.float64()]
    assert [new[name].to_pylist() for name in added] == [[7], ["bright"], [None]]


@pytest.mark.slow
def test_a_column_that_nobody_fills_is_found_out(launched: Launched) -> None:
    _, new = parts(launched)
    assert unfilled(WORKLOAD, new.to_pylist()) == {"nobody_fills"}


READ = """
import json
from orchestrator.ledger.ledger import Ledger
from orchestrator.mlflow_view.runs import child_run
from trainables.result import METRIC_COLUMNS
rows = Ledger("results").trials("two_layer_cnn").to_pylist()
runs = [child_run(row, []) for row in rows]
shown = [({name: value for (name, _), value in run.points.items()}, dict(run.tags)) for run in runs]
print(json.dumps([METRIC_COLUMNS, sorted(zip([row["seed"] for row in rows], rows, shown))]))
"""


@pytest.mark.slow
def test_old_and_new_rows_are_read_together_and_shown_as_the_field_says(launched: Launched) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ], cwd=launched.folder, env=environment(PYTHONPATH=str(launched.product)),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    metric_columns, ((_, old, shown_old), (_, new, shown_new)) = json.loads(done.stdout)
    assert metric_columns == [*METRIC_COLUMNS, "num_slices"]
    assert [(row["num_slices"], row["mood"], row["nobody_fills"]) for row in (old, new)] == [
        (None, None, None),
        (7, "bright", None),
    ]
    check_shown(*shown_old, *shown_new)


@pytest.mark.slow
def test_mlflow_has_it_as_the_field_says(launched: Launched) -> None:
    done = launch_copy(launched.product, launched.folder, "export-mlflow", "columns", *MINE)
    assert done.stdout == "columns: 2 runs written to MLflow\n", done.stderr
    shown: list[dict[str, Any]] = []
    with closing(sqlite3.connect(launched.folder / "results/mlflow.db")) as database:
        for part in parts(launched):
            (trial_id,) = part["trial_id"].to_pylist()
            (run,) = database.execute("SELECT run_uuid FROM tags WHERE key = 'trial_id' AND value = ?", (trial_id,))
            for table in ("latest_metrics", "tags"):
                shown.append(dict(database.execute(f"SELECT key, value FROM {table} WHERE run_uuid = ?", run)))
    check_shown(*shown)


def check_shown(old_metrics: Row, old_tags: Row, new_metrics: Row, new_tags: Row) -> None:
    assert (new_metrics["num_slices"], new_tags["mood"]) == (7.0, "bright")
    assert not {"mood", "nobody_fills"} & new_metrics.keys()
    assert not {"num_slices", "nobody_fills"} & new_tags.keys()
    assert not {"num_slices", "mood", "nobody_fills"} & (old_metrics.keys() | old_tags.keys())
    assert set(METRIC_COLUMNS) <= old_metrics.keys() & new_metrics.keys()
