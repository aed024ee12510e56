"""No changed bit of a results folder becomes a number: it is noticed, the file is named, or it changes nothing."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.errors import LedgerError
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.sealed_parquet import SealedParquet, seal
from trainables.contract import Member
from trainables.packs.state_store import StateStore
from trainables.registry import config_from_values, workload

WORKLOAD = "two_layer_cnn"
SIZES = {"num_train": 4, "num_test": 4, "dimension": 20, "noise_sparsity": 4, "num_filters": 2, "num_epochs": 6}
NUM_TRIALS = 3


def config(seed: int) -> Any:
    adam = {"workload": WORKLOAD, "optimizer": "adam", "weight_decay": 1e-5, "batch_size": 2}
    return config_from_values({**adam, **SIZES, "seed": seed})


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one file of each kind."""
    made: Path = tmp_path_factory.mktemp("results")
    run = workload(WORKLOAD).open([Member(config(seed), 6) for seed in range(NUM_TRIALS)])
    results = []
    while not run.is_done:
        results += [report.result for report in run.advance(math.inf) if report.result is not None]
    ledger = Ledger(str(made), "driver")
    ledger.append(results)
    ledger.asks.put("a-search", 0, [{"weight_decay": 10.0**-k, "batch_size": 2.0} for k in range(5)])
    StateStore(str(made / "states")).save("pack", run.states())
    return made


def trials(out: Path) -> Any:
    return Ledger(str(out)).trials(WORKLOAD).to_pylist()


def traces(out: Path) -> Any:
    return Ledger(str(out)).traces(WORKLOAD).to_pylist()


def asks(out: Path) -> Any:
    return Ledger(str(out)).asks.rounds("a-search")


def states(out: Path) -> Any:
    """The states that a launch would resume from; their trials start anew without them."""
    store = StateStore(str(out / "states"))
    loaded = {trial_id: store.load(path, trial_id) for trial_id, path in store.index().items()}
    return {
        trial_id: {name: (array.dtype, array.shape, array.tobytes()) for name, array in sorted(state.items())}
        for trial_id, state in loaded.items()
        if state is not None
    }


READERS = {"trials": trials, "traces": traces, "asks": asks, "states": states}


def flip_and_read(out: Path, kind: str, before: Any, rng: random.Random, caplog: pytest.LogCaptureFixture) -> str:
    """Flip one bit of that kind's file, read, put the bit back; whether that was noticed or changed nothing."""
    (path,) = (path for path in (out / kind).rglob("*") if path.is_file())
    content = path.read_bytes()
    position, bit = rng.randrange(len(content)), rng.randrange(8)
    changed = bytearray(content)
    changed[position] ^= 1 << bit
    path.write_bytes(changed)
    try:
        after = READERS[kind](out)
        said = [record.getMessage() for record in caplog.records]
    except LedgerError as error:
        after, said = None, [str(error)]
    finally:
        path.write_bytes(content)
        caplog.clear()
    where = f"bit {bit} of byte {position}"
    if repr(after) == repr(before):
        return "without effect"
    assert said, f"{where}: other content without a word"
    assert all(str(path) in line and "\n" not in line for line in said), said
    assert after is None or after.items() <= before.items(), f"{where}: a state that nobody saved"
    return "noticed"


@pytest.mark.parametrize("num", [50, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", READERS)
def test_no_flipped_bit_becomes_a_number(kind: str, num: int, out: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(num)
    before = READERS[kind](out)
    found = [flip_and_read(out, kind, before, rng, caplog) for _ in range(num)]
    assert repr(READERS[kind](out)) == repr(before), "each bit was put back"
    assert found.count("noticed") > num / 2, found.count("noticed")


def test_a_flipped_bit_of_an_earlier_version_ends_no_process(out: Path, tmp_path: Path) -> None:
    """Without a seal other numbers may be read, but whatever happens is a table or one error."""
    (path,) = (out / "trials").rglob("*.parquet")
    content = bytearray(written(pq.read_table(path)).to_pybytes())
    rng, outcomes = random.Random(1), set()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for _ in range(300):
        position, bit = rng.randrange(footer, len(content)), 1 << rng.randrange(8)
        content[position] ^= bit
        try:
            outcomes.add(type(opened(bytes(content)).read()).__name__)
        except (OSError, pa.ArrowException, UnicodeDecodeError, KeyError, ValueError) as error:
            outcomes.add(type(error).__name__)
        content[position] ^= bit
    assert len(outcomes) > 1


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"a": [{"x": 1, "y": 2}]}),
        pa.table({}),
        pa.table([pa.array([1]), pa.array([2])], names=["same", "same"]),
    ],
    ids=["nested", "without columns", "with two of one name"],
)
def test_a_file_of_another_program_is_opened_to_see_that_it_is_foreign(table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    assert opened(sink.getvalue()).schema.names == table.schema.names


# --- sealed files ---

TABLE = pa.table(
    {
        "trial_id": [f"{i:05}" for i in range(40_000)],
        "x": np.random.default_rng(0).random(40_000),
        "none": [None] * 40_000,
    }
)


def written(table: pa.Table = TABLE, **options: Any) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=16_384, compression="zstd", **options)
    return sink.getvalue()


def opened(content: pa.Buffer | bytes) -> SealedParquet:
    return SealedParquet(pa.BufferReader(content))


def test_a_sealed_file_is_a_parquet_file_with_the_same_footer() -> None:
    plain, sealed = written(), seal(written())
    assert pq.read_table(pa.BufferReader(sealed)).equals(TABLE)
    assert pq.read_metadata(pa.BufferReader(sealed)).equals(pq.read_metadata(pa.BufferReader(plain)))
    assert sealed.size - plain.size == 4 * 3 * 3 + 16


@pytest.mark.parametrize("make", [seal, lambda plain: plain], ids=["sealed", "of an earlier version"])
def test_reads_all_or_some_groups_and_columns(make: Callable[[pa.Buffer], pa.Buffer]) -> None:
    content = make(written())
    assert opened(content).read().equals(TABLE)
    assert opened(content).read([1], ["x"]).equals(TABLE.select(["x"])[16_384 : 2 * 16_384])
    assert opened(content).read([], ["x"]).num_rows == 0
    file = opened(content)
    assert file.read([2], ["trial_id"]).num_rows == 40_000 - 2 * 16_384
    assert file.read([0], ["none", "trial_id"]).equals(TABLE.select(["none", "trial_id"])[:16_384])


def test_a_look_up_reads_only_what_it_needs() -> None:
    reads: list[int] = []

    class Counting(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            found = super().read(size)
            reads.append(len(found))
            return found

    content = seal(written()).to_pybytes()
    file = SealedParquet(pa.PythonFile(Counting(content), mode="r"))
    assert file.read([0], ["x"]).num_rows == 16_384
    assert sum(reads) < len(content) / 2, "the footer, what lies before it, and one column of one group"


@pytest.mark.parametrize("size", [0, 3, 11, 12, 100, -1, -9])
def test_a_file_that_was_cut_is_no_table(size: int) -> None:
    with pytest.raises(pa.ArrowInvalid):
        opened(seal(written()).to_pybytes()[:size]).read()


def test_bits_of_columns_that_are_not_read_do_not_matter() -> None:
    content = bytearray(seal(written()).to_pybytes())
    column = pq.read_metadata(pa.BufferReader(bytes(content))).row_group(0).column(1)
    content[column.dictionary_page_offset + column.total_compressed_size // 2] ^= 1
    assert opened(bytes(content)).read([0], ["trial_id"]).num_rows == 16_384
    with pytest.raises(pa.ArrowInvalid, match="column 'x' of row group 0 is not what was written"):
        opened(bytes(content)).read()
