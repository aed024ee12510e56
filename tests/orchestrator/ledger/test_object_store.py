"""Sweeps with results in an object store: a real S3-compatible server on loopback."""

from __future__ import annotations

import itertools
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.errors import LedgerError
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.parts import read_part
from orchestrator.ledger.schema import TableName, trial_schema
from orchestrator.ledger.storage import Storage
from orchestrator.sweeps.registry import find_sweep
from tests.orchestrator.ledger.holders import HELD, Holder
from tests.support.launching import (
    CIRCUMSTANCES,
    WORKLOAD,
    check_went_on,
    checked,
    half_done,
    kill_tree,
    launch,
    make_folder,
    plant_seconds,
    start,
    wait_for,
)
from tests.support.servers import ObjectStore, Way, free_port, object_store
from trainables.atomic_files import is_absent
from trainables.packs.state_store import StateStore
from trainables.two_layer_cnn.config import TwoLayerCNNConfig, TwoLayerCNNTracePoint

PLAIN = ("--no-figures", "--no-mlflow")
INLINE = ("--executor", "inline", *PLAIN)
SAVES = ("--checkpoint-seconds", "0.2")

_numbers = itertools.count()
_T = TypeVar("_T")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed_longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of `longer` in a folder, which nothing disturbed."""
    folder = make_folder(tmp_path_factory.mktemp("undisturbed"))
    checked(folder, "longer", *INLINE)
    return folder / "results"


@pytest.fixture
def bucket(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket, which this process can reach too."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{next(_numbers)}"
    store.make_bucket(name)
    return name


def numbers(out: str | Path) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Trials and traces without their provenance columns; nan as text, so that equal rows compare equal."""
    ledger = Ledger(str(out))
    trials, traces = (
        [{k: str(v) if v != v else v for k, v in row.items() if k not in CIRCUMSTANCES} for row in table.to_pylist()]
        for table in (ledger.trials(WORKLOAD), ledger.traces(WORKLOAD))
    )
    return {row["trial_id"]: row for row in trials}, traces


def requests(store: ObjectStore, bucket: str) -> list[str]:
    """Method and path of every request to a bucket."""
    lines = store.log.read_text().splitlines()
    return [found[0] for line in lines if (found := re.search(rf"[A-Z]+ /{bucket}[/?][^ ]*", line))]


def side_by_side(*calls: Callable[[], _T]) -> list[_T]:
    """What the calls return, each of which waits most of its time; raises what one of them raises."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [done.result() for done in [pool.submit(call) for call in calls]]


def saved(store: ObjectStore, bucket: str) -> list[str]:
    return [key for key in store.keys(bucket) if "/states/" in key]


@pytest.mark.slow
def test_results_equal_those_in_a_folder_and_are_read_from_anywhere(
    store: ObjectStore, bucket: str, tmp_path: Path
) -> None:
    out = f"s3://{bucket}/deep/prefix"
    here, elsewhere = make_folder(tmp_path / "here"), make_folder(tmp_path / "elsewhere")
    checked(here, "small", *INLINE, "--out", out)
    checked(here, "small", *INLINE)
    assert numbers(out) == numbers(here / "results")
    assert {path.name for path in here.iterdir()} - {"__pycache__"} == {"my_sweeps.py", "results"}
    assert "small: 12/12 trials done" in checked(elsewhere, "status", "small", "--out", out)
    assert "12 done, 0 to run" in checked(elsewhere, "plan", "small", "--out", out)
    assert not any("?uploads" in request for request in requests(store, bucket))  # one request makes a file
    assert {key.split("/")[2] for key in store.keys(bucket)} == {"trials", "traces"}


@pytest.mark.slow
def test_figures_lie_beside_the_results_as_well(store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    brief = ("--set", "batch_size=100,200", "--set", "num_epochs=2", "--seeds", "0,1")
    folder = make_folder(tmp_path)
    checked(folder, "grid_bsz", "--executor", "inline", "--no-mlflow", *brief, "--out", f"s3://{bucket}")
    drawn = {str(path.relative_to(folder)): path.stat().st_size for path in folder.glob("figures/grid_bsz/*")}
    assert drawn
    assert store.keys(bucket, "figures/") == drawn


@pytest.mark.slow
def test_a_killed_driver_goes_on_from_states_in_the_store(
    store: ObjectStore, bucket: str, tmp_path: Path, undisturbed_longer: Path
) -> None:
    out, folder = f"s3://{bucket}/p", make_folder(tmp_path)
    process = start(folder, "longer", *INLINE, *SAVES, "--out", out)
    wait_for(lambda: Ledger(out).settled(WORKLOAD), process)
    wait_for(lambda: half_done(out), process)
    kill_tree(process)
    before = {row["trial_id"]: row for row in Ledger(out).trials(WORKLOAD).to_pylist()}
    assert 0 < len(before) < 6

    planted = plant_seconds(out)
    printed = checked(folder, "longer", *INLINE, *SAVES, "--out", out)
    assert f"{len(before)} done, {6 - len(before)} to run" in printed
    check_went_on(out, planted)
    after = {row["trial_id"]: row for row in Ledger(out).trials(WORKLOAD).to_pylist()}
    assert {trial_id: after[trial_id] for trial_id in before} == before
    assert saved(store, bucket) == []
    assert numbers(out) == numbers(undisturbed_longer)


@pytest.mark.slow
def test_a_sweep_outlasts_a_store_that_is_away(
    store: ObjectStore, bucket: str, tmp_path: Path, undisturbed_longer: Path
) -> None:
    out, folder = f"s3://{bucket}/p", make_folder(tmp_path)
    way = Way(store.url)
    process = start(folder, "longer", *INLINE, *SAVES, "--out", out, AWS_ENDPOINT_URL=way.url)
    wait_for(lambda: Ledger(out).settled(WORKLOAD), process)
    way.close()
    until_it_waits(process)
    time.sleep(10)  # every trial is trained by now
    assert len(Ledger(out).settled(WORKLOAD)) < 6
    way.open()
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stdout + stderr
    assert numbers(out) == numbers(undisturbed_longer)
    assert saved(store, bucket) == []


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_a_store_that_is_away(bucket: str, store: ObjectStore, tmp_path: Path) -> None:
    out, folder = f"s3://{bucket}/p", make_folder(tmp_path)
    way = Way(store.url)
    many = ("longer", *INLINE, "--seeds", "0-7", "--out", out)  # more than are trained before the signal
    process = start(folder, *many, *SAVES, AWS_ENDPOINT_URL=way.url)
    wait_for(lambda: Ledger(out).settled(WORKLOAD), process)
    way.close()
    until_it_waits(process)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 2, stderr
    assert stderr.splitlines()[-1].startswith("error: cannot "), stderr
    assert "Traceback" not in stderr
    before = finished_at(out)
    checked(folder, *many, "--max-trials", "1")
    assert before
    assert {trial_id: when for trial_id, when in finished_at(out).items() if trial_id in before} == before


def until_it_waits(process: subprocess.Popen[str]) -> None:
    """Return when the launch says that it waits for the store."""
    assert process.stderr is not None
    said = list(itertools.takewhile(lambda line: "retrying for up to 15 minutes" not in line, process.stderr))
    assert process.poll() is None, said


def finished_at(out: str) -> dict[str, float]:
    rows = Ledger(out).trials(WORKLOAD, columns=("trial_id", "finished_at")).to_pylist()
    return {row["trial_id"]: row["finished_at"] for row in rows}


@pytest.mark.slow
def test_four_sweeps_at_once_share_a_ledger(bucket: str, tmp_path: Path) -> None:
    out, names = f"s3://{bucket}/shared", ("small", "overlapping", "diverging", "longer")
    folder = make_folder(tmp_path)
    side_by_side(*(partial(checked, folder, name, *INLINE, "--out", out) for name in names))
    sys.path.insert(0, str(folder))
    expected = {config.trial_id for name in names for config in find_sweep(name, "my_sweeps").configs()}
    trials = Ledger(out).trials(WORKLOAD)["trial_id"].to_pylist()
    assert sorted(trials) == sorted(expected)
    planned = side_by_side(*(partial(checked, folder, "plan", name, "--out", out) for name in names))
    assert all("0 to run" in printed for printed in planned)


@pytest.mark.slow
def test_ray_workers_save_their_states_to_the_store(
    store: ObjectStore, bucket: str, tmp_path: Path, undisturbed_longer: Path
) -> None:
    out = f"s3://{bucket}/ray"
    folder = make_folder(tmp_path)
    process = start(folder, "longer", *PLAIN, *SAVES, "--out", out)
    wait_for(lambda: saved(store, bucket), process)
    printed = "".join(process.communicate(timeout=280))
    assert process.returncode == 0, printed
    assert saved(store, bucket) == []
    assert numbers(out) == numbers(undisturbed_longer)
    assert [path.name for path in folder.iterdir() if path.name != "__pycache__"] == ["my_sweeps.py"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("out", "change", "said"),
    [
        ("s3://no-such-bucket/p", {}, "no-such-bucket"),
        ("s3://no-such-bucket/p", {"AWS_ENDPOINT_URL": "http://127.0.0.1:{closed}"}, "Could not connect to server"),
        pytest.param(
            "s3://no-such-bucket/p",
            {"AWS_ENDPOINT_URL": "http://no-such-host.invalid"},
            "Could not resolve host",
            marks=pytest.mark.slow,
        ),
        ("s3://somebody:secret@bucket/p", {}, "give no password in it"),
        ("s3://bucket/p?endpoint_override=127.0.0.1:9000", {}, "AWS_ENDPOINT_URL"),
        ("s3://", {}, "names no bucket"),
        ("s4://bucket/p", {}, "s4"),
    ],
)
def test_a_store_that_cannot_be_had_is_one_line_within_seconds(
    bucket: str, out: str, change: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in change.items():
        monkeypatch.setenv(name, value.format(closed=free_port()))

    def check(attempt: Callable[[Ledger], object]) -> None:
        begun = time.monotonic()
        with pytest.raises(LedgerError) as caught:
            attempt(Ledger(out))
        assert time.monotonic() - begun < 20
        assert said in str(caught.value)
        assert "secret" not in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1

    side_by_side(partial(check, Ledger.check_writable), partial(check, lambda ledger: ledger.settled(WORKLOAD)))


@pytest.mark.parametrize("key", ["stranger", pytest.param("", marks=pytest.mark.slow)])
def test_wrong_keys_or_none_end_a_launch_before_anything_starts(tmp_path: Path, key: str) -> None:
    folder = make_folder(tmp_path / "user")
    with object_store(tmp_path, INITIAL_NO_AUTH_ACTION_COUNT="1") as strict:
        out = strict.make_bucket("guarded")
        keys = {**strict.environment, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": key}

        def check(*arguments: str) -> None:
            begun = time.monotonic()
            refused = launch(folder, *arguments, "--out", out, **keys)
            assert time.monotonic() - begun < 60
            assert (refused.returncode, refused.stdout) == (2, "")
            assert refused.stderr.startswith("error: cannot ")
            assert len(refused.stderr.splitlines()) == 1

        side_by_side(partial(check, "small", *PLAIN), partial(check, "status", "small"))
    assert [path.name for path in folder.iterdir() if path.name != "__pycache__"] == ["my_sweeps.py"]


@pytest.mark.slow
def test_a_store_that_goes_away_is_not_taken_for_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a server does not answer, no message says to delete results, and no state is deleted."""
    with object_store(tmp_path) as brief:
        for name, value in brief.environment.items():
            monkeypatch.setenv(name, value)
        out = brief.make_bucket("brief")
        states = StateStore(f"{out}/states")
        states.save("pack", {"a": state(1)})
        (path,) = states.index().values()
        ledger = Ledger(out)
    schema = trial_schema(TwoLayerCNNConfig, TwoLayerCNNTracePoint)
    storage = ledger._storage

    def check_fails(error: type[Exception], match: str, call: Callable[[], object]) -> None:
        with pytest.raises(error, match=match):
            call()

    def check_is(expected: object, call: Callable[[], object]) -> None:
        assert call() == expected

    away = "NETWORK_CONNECTION"
    read = partial(read_part, storage, "brief/part.parquet", TableName.TRIALS, schema, None)
    side_by_side(  # each waits for its retries
        partial(check_fails, LedgerError, rf"cannot read brief/part\.parquet.*{away}", read),
        partial(check_fails, OSError, away, states.index),
        partial(check_is, {}, partial(states.find, "pack")),
        partial(states.collect, {"a"}),
        partial(check_is, None, partial(states.load, path, "a")),
        partial(check_fails, LedgerError, away, partial(storage.exists, "brief/part.parquet")),
        partial(check_fails, LedgerError, away, partial(storage.delete, "brief/x")),
    )


def state(epoch: int, num_weights: int = 6) -> dict[str, np.ndarray]:
    return {"weights": np.full(num_weights, epoch, np.float32), "epoch": np.array(epoch)}


def test_a_part_that_another_driver_has_merged_meanwhile_is_absent_not_damaged(store: ObjectStore, bucket: str) -> None:
    """Compaction may delete it before it is opened, or after that and before the read."""
    storage = Storage(f"s3://{bucket}/results")
    part = f"{storage.path}/part-1.parquet"
    schema = trial_schema(TwoLayerCNNConfig, TwoLayerCNNTracePoint)
    with pytest.raises(FileNotFoundError):
        read_part(storage, part, TableName.TRIALS, schema, None)
    for opened in (storage.files.open_input_file, storage.files.open_input_stream):
        storage.write(part, pa.py_buffer(b"PAR1" * 1000))
        file = opened(part)
        storage.delete(part)
        with pytest.raises(OSError, match=r"NO_SUCH_KEY|RESOURCE_NOT_FOUND") as absent:
            file.read()
        assert is_absent(absent.value)
    assert not is_absent(OSError("AWS Error NETWORK_CONNECTION during GetObject operation"))


def test_states_in_the_store(store: ObjectStore, bucket: str) -> None:
    states = StateStore(f"s3://{bucket}/states")
    assert states.index() == {}
    states.save("run-1", {f"member-{number}": state(number) for number in range(50)})
    states.save("run-1", {f"member-{number}": state(number + 1) for number in range(50)})
    states.save("run-12", {"member-3": state(7)})
    before = len(requests(store, bucket))
    index = states.index()
    assert len(requests(store, bucket)) - before <= 1 + 2 * 6  # by file and not by member
    assert len(store.keys(bucket)) == 2
    for trial_id, epoch in (("member-3", 7), ("member-49", 50)):
        loaded = states.load(index[trial_id], trial_id)
        assert loaded is not None
        assert int(loaded["epoch"]) == epoch
        np.testing.assert_array_equal(loaded["weights"], state(epoch)["weights"])
    states.save("member-7", {"member-7": state(9)})
    before = len(requests(store, bucket))
    sizes = states.sizes({"member-3", "member-7"})
    assert len(requests(store, bucket)) - before == 1
    assert sizes == {"member-7": sum(store.keys(bucket, "states/member-7.").values())}
    states.collect({f"member-{number}" for number in range(50)})
    assert store.keys(bucket) == {}


@pytest.mark.slow
def test_an_upload_that_is_cut_leaves_nothing_to_be_seen(store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    """A large state is uploaded in parts; its writer is killed between them."""
    states = StateStore(f"s3://{bucket}/states")
    states.save("pack", {"a": state(1)})
    program = textwrap.dedent(
        f"""
        import numpy as np
        from trainables.packs.state_store import StateStore
        weights = np.random.default_rng(0).random(30_000_000)
        StateStore("s3://{bucket}/states").save("pack", {{"a": {{"epoch": np.array(2), "weights": weights}}}})
        """
    )
    writer = subprocess.Popen([sys.executable, "-c", program])
    while not any("partNumber=" in request for request in requests(store, bucket)):
        assert writer.poll() is None
        time.sleep(0.005)
    writer.kill()
    assert writer.wait() == -9
    time.sleep(1)
    assert len(saved_anywhere := store.keys(bucket)) == 1, saved_anywhere
    loaded = states.load(states.index()["a"], "a")
    assert loaded is not None
    assert int(loaded["epoch"]) == 1


def holder(out: str) -> Holder:
    return Holder(out, beat=0.5, silent=3.0)


@pytest.mark.slow
def test_one_driver_at_a_time_until_it_ends_or_is_killed(store: ObjectStore, bucket: str) -> None:
    out = f"s3://{bucket}/p"
    first = holder(out)
    assert first.said == HELD
    second = holder(out)
    assert second.said.startswith(f"sweep 'sweep' is being run into '{out}' by process {first.process.pid} of ")
    assert f"(it holds {out}/.leases/sweep/" in second.said
    second.end()
    first.end()
    assert store.keys(bucket) == {}
    third = holder(out)
    assert third.said == HELD
    third.kill()
    assert len(store.keys(bucket)) == 1
    fourth = holder(out)
    assert fourth.said == HELD
    fourth.end()
    assert store.keys(bucket) == {}


@pytest.mark.slow
def test_of_drivers_that_start_together_at_most_one_goes_on(store: ObjectStore, bucket: str) -> None:
    for _ in range(3):
        crowd = [holder(f"s3://{bucket}/p") for _ in range(4)]
        assert [one.said for one in crowd].count(HELD) <= 1
        for one in crowd:
            one.end()
        assert store.keys(bucket) == {}


@pytest.mark.slow
def test_a_second_launch_of_a_sweep_is_refused(store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    out, folder = f"s3://{bucket}/p", make_folder(tmp_path)
    first = start(folder, "longer", *INLINE, *SAVES, "--out", out)
    wait_for(lambda: saved(store, bucket), first)
    second = launch(folder, "longer", *INLINE, "--out", out)
    assert second.returncode == 2
    assert "is being run into" in second.stderr.splitlines()[-1]
    assert "12 to run" in checked(folder, "small", *INLINE, "--out", out)
    printed = "".join(first.communicate(timeout=200))
    assert first.returncode == 0, printed
