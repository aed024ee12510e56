"""What the ledger's checksums cost: `python -m tests.benchmarks.ledger [--rows 100000]`.

Each row compares sealed parts with plain Parquet of the same rows, in alternating rounds in one process: processor
seconds of all threads, the median of the rounds. The plain side is pyarrow's own writer and reader with the ledger's
settings, without any check.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from orchestrator.ledger import standing
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.part_files import ROWS_PER_GROUP
from orchestrator.ledger.schema import TableName, schema_of, trial_table
from orchestrator.ledger.sealed_parquet import SealedParquet, seal
from tests.support.made_results import made_result
from trainables.config import TrialConfig
from trainables.provenance import provenance
from trainables.registry import config_from_values

WORKLOAD = "two_layer_cnn"
ROUNDS = 5
SMALL_PARTS = 100
SETTLING = list(standing.SETTLING_COLUMNS)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the large part")
    num_rows = parser.parse_args().rows
    print(
        f"{provenance('none').device_name}, Python {platform.python_version()}, pyarrow {version('pyarrow')}; "
        f"medians of {ROUNDS} rounds\n\n| | plain Parquet | sealed | ratio |\n|---|---|---|---|"
    )
    one, many = rows_of(1), rows_of(num_rows)
    with tempfile.TemporaryDirectory() as folder:
        plain, sealed = Path(folder) / "plain.parquet", Path(folder) / "sealed.parquet"
        large = {plain: written(many).to_pybytes(), sealed: seal(written(many)).to_pybytes()}
        for path, content in large.items():
            path.write_bytes(content)
        row("write a part of one trial", lambda: written(one), lambda: seal(written(one)), times=SMALL_PARTS)
        small = written(one)
        row("read it", partial(read_plain, small), partial(read_sealed, seal(small)), times=SMALL_PARTS)
        row(f"write {num_rows:,} rows", lambda: written(many), lambda: seal(written(many)))
        row("read them", partial(read_plain, plain), partial(read_sealed, sealed))
        row("read what settles them", partial(read_plain, plain, SETTLING), partial(read_sealed, sealed, SETTLING))
        last = many["trial_id"][num_rows - 1].as_py()
        row("look one trial up", partial(find_plain, plain, last), partial(find_sealed, sealed, last))
        sizes = [len(content) for content in large.values()]
        print(f"| bytes of that part | {sizes[0]:,} | {sizes[1]:,} | {sizes[1] / sizes[0]:.4f} |")
        ledger = Ledger(f"{folder}/results", "driver")
        for seed in range(SMALL_PARTS):
            ledger.append([made_result(config(seed))])
        seconds = statistics.median(timed(lambda: ledger.trials(WORKLOAD), 1) for _ in range(ROUNDS))
        print(f"\nA ledger of {SMALL_PARTS} parts of one trial is read in {1e3 * seconds:.0f} ms of a core.")


def config(seed: int) -> TrialConfig:
    values = {"workload": WORKLOAD, "optimizer": "adam", "weight_decay": 1e-5, "batch_size": 20, "seed": seed}
    return config_from_values(values)


def rows_of(num: int) -> pa.Table:
    """The ledger's rows of that many trials, sorted as a compaction sorts them; 1,000 of them, repeated under other ids."""
    distinct = [made_result(config(seed)) for seed in range(max(1, min(num, 1000)))]
    table = trial_table(distinct, schema_of(TableName.TRIALS, WORKLOAD), "driver")
    table = pa.concat_tables([table] * -(-num // table.num_rows))[:num]
    ids = pa.array([f"{number:016x}" for number in range(num)])
    return table.set_column(table.schema.get_field_index("trial_id"), "trial_id", ids)


def written(rows: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, row_group_size=ROWS_PER_GROUP, compression="zstd", write_statistics=["trial_id"])
    return sink.getvalue()


def source(part: Path | pa.Buffer) -> pa.NativeFile:
    return pa.BufferReader(part) if isinstance(part, pa.Buffer) else pafs.LocalFileSystem().open_input_file(str(part))


def read_plain(part: Path | pa.Buffer, columns: list[str] | None = None) -> pa.Table:
    with source(part) as opened:
        return pq.ParquetFile(opened).read(columns=columns)


def read_sealed(part: Path | pa.Buffer, columns: list[str] | None = None) -> pa.Table:
    with source(part) as opened:
        return SealedParquet(opened).read(columns=columns)


def find_plain(part: Path, trial_id: str) -> pa.Table:
    with source(part) as opened:
        file = pq.ParquetFile(opened)
        return file.read_row_groups([group_of(file.metadata, trial_id)])


def find_sealed(part: Path, trial_id: str) -> pa.Table:
    with source(part) as opened:
        file = SealedParquet(opened)
        return file.read([group_of(file.metadata, trial_id)])


def group_of(metadata: pq.FileMetaData, trial_id: str) -> int:
    ends = [metadata.row_group(group).column(0).statistics.max for group in range(metadata.num_row_groups)]
    return next(group for group, end in enumerate(ends) if trial_id <= end)


def row(what: str, plain: Callable[[], object], sealed: Callable[[], object], times: int = 1) -> None:
    """Time both in turn, after one round that counts nothing."""
    plain(), sealed()
    pairs = [(timed(plain, times), timed(sealed, times)) for _ in range(ROUNDS)]
    seconds = [statistics.median(side) for side in zip(*pairs, strict=True)]
    ratio = statistics.median(after / before for before, after in pairs)
    print(f"| {what} | {1e3 * seconds[0]:.2f} ms | {1e3 * seconds[1]:.2f} ms | {ratio:.2f} |", flush=True)


def timed(function: Callable[[], object], times: int) -> float:
    """Processor seconds of one call."""
    started = time.process_time()
    for _ in range(times):
        function()
    return (time.process_time() - started) / times


if __name__ == "__main__":
    main()
