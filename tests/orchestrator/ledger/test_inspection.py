"""What looks like results and is not used is named, and `verify` says of every file what it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.launching import WORKLOAD, checked, environment, launch, make_folder, run_launch, start, wait_for

INLINE = ("--executor", "inline", "--no-figures", "--no-mlflow")
FOLDER = f"workload={WORKLOAD}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with the results of `small`."""
    folder = make_folder(tmp_path_factory.mktemp("finished"))
    checked(folder, "small", *INLINE)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "user")
    return tmp_path / "user"


def part_of(folder: Path, table: str) -> Path:
    return next((folder / "results" / table / FOLDER).glob("*.parquet"))


def renamed(folder: Path) -> Path:
    part = part_of(folder, "trials")
    return part.rename(part.with_suffix(".PARQUET"))


def moved_up(folder: Path) -> Path:
    part = part_of(folder, "trials")
    return part.rename(part.parent.parent / part.name)


def kept_aside(folder: Path) -> Path:
    part = part_of(folder, "trials")
    part.parent.rename(part.parent.with_name(f"{FOLDER}.bak"))
    return part.parent.with_name(f"{FOLDER}.bak") / part.name


def moved_down(folder: Path) -> Path:
    part = part_of(folder, "traces")
    (part.parent / "old").mkdir()
    return part.rename(part.parent / "old" / part.name)


def packed(folder: Path) -> Path:
    part = part_of(folder, "trials")
    return part.rename(part.with_name(f"{part.name}.gz"))


@pytest.mark.parametrize(
    "change",
    [renamed, moved_up, *(pytest.param(change, marks=pytest.mark.slow) for change in (kept_aside, moved_down, packed))],
)
def test_a_part_that_no_reader_finds_is_named(change: Callable[[Path], Path], folder: Path) -> None:
    path = change(folder)
    for command in (("status", "small"), ("plan", "small"), ("small", *INLINE, "--max-trials", "1")):
        done = launch(folder, *command)
        assert done.returncode == 0
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"{path} looks like results, but is not used: ")


def test_a_folder_of_results_alone_is_not_warned_of(folder: Path) -> None:
    part = part_of(folder, "trials")
    for beside in (".tmp-part.parquet.part", "_SUCCESS"):
        (part.parent / beside).touch()
    (part.parent.with_name("workload=of_a_users_module")).mkdir()
    assert launch(folder, "status", "small").stderr == ""


@pytest.mark.parametrize("command", ["status", "plan"])
def test_a_trace_part_that_was_cut_is_named(command: str, folder: Path) -> None:
    part = part_of(folder, "traces")
    part.write_bytes(part.read_bytes()[:-100])
    done = launch(folder, command, "small")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {part} is truncated, damaged or not a Parquet file (")
    assert done.stderr.count("\n") == 1


def verify(folder: Path, *arguments: str) -> tuple[int, list[str]]:
    done = run_launch("verify", *arguments, cwd=folder, env=environment())
    return done.returncode, (done.stdout + done.stderr).splitlines()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_verify_says_of_each_file_what_it_is_and_changes_nothing(folder: Path) -> None:
    assert verify(folder) == (0, ["2 sound"])
    trials, traces = part_of(folder, "trials"), part_of(folder, "traces")
    foreign = trials.with_name("part-x-000001.parquet")
    pq.write_table(pa.table({"trial_id": ["a"], "nested": [{"a": 1, "b": 2}]}), foreign)
    unsealed = trials.with_name("part-y-000001.parquet")
    pq.write_table(pq.read_table(trials), unsealed)
    (folder / "results/states").mkdir(exist_ok=True)
    (folder / "results/states/pack.1.npz").write_bytes(b"no archive")
    content = bytearray(traces.read_bytes())
    content[len(content) // 3] ^= 1
    traces.write_bytes(content)
    (traces.parent / "notes.txt").touch()
    before = contents(folder)
    code, lines = verify(folder)
    assert code == 1
    assert contents(folder) == before
    *named, counts = lines
    assert counts == "1 sound, 1 sound without checksums, 1 unused, 1 foreign, 2 damaged"
    starts = {
        f"foreign: {foreign} (is a Parquet file that lambda-atlas did not write)",
        f"unused: {traces.parent / 'notes.txt'} (names of parts end in .parquet)",
        f"damaged: {traces} (is truncated, damaged or not a Parquet file (column ",
        f"damaged: {folder / 'results/states/pack.1.npz'} (",
    }
    assert all(sum(line.startswith(start) for line in named) == 1 for start in starts), named
    assert len(named) == len(starts)


def test_verify_of_nothing_is_one_line(tmp_path: Path) -> None:
    assert verify(tmp_path, "--out", "nowhere") == (2, [f"error: {str(tmp_path / 'nowhere')!r} has no results"])


@pytest.mark.slow
def test_a_launch_whose_results_are_deleted_meanwhile_is_no_success(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    process = start(folder, "longer", *INLINE)
    wait_for(lambda: list(folder.glob(f"results/trials/{FOLDER}/*.parquet")), process)
    shutil.rmtree(folder / "results")
    printed, said = process.communicate(timeout=280)
    assert process.returncode == 2, printed + said
    assert said.splitlines()[-1].startswith("error: ")
    assert "gone: something deleted or moved their files" in said.splitlines()[-1]
    again = ("longer", *INLINE, "--seeds", "0")
    checked(folder, *again)
    assert "0 to run" in checked(folder, *again)
