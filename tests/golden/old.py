"""Keeps an archive of results as the recording code left them, unfinished in every possible way.

In it are a finished sweep and its runs in MLflow, a trial that was killed in training and its state, a map that was
killed between its rounds, and images decoded into a cache with one trial that is done and one that was killed.
"""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import tarfile
import time
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tests.golden import results, texts
from tests.golden.launches import checked_launches, start_launches
from tests.golden.product import SWEEP_IMPORTS
from tests.support.images import make_images

KEPT = Path(__file__).parent / "old_results"
ARCHIVE, STATUSES = KEPT / "results.tar.xz", KEPT / "statuses.txt"
ASKS, MADE_ON = KEPT / "asks.json", KEPT / "circumstances.json"
IMAGES, SYNTHETIC = "image_classifier", "two_layer_cnn"

SWEEPS = """
DECAYS = {"adam": {"weight_decay": 1e-5}, "adamw": {"weight_decay": 1e-2}}
SIZES = {"num_train": 40, "num_test": 100, "dimension": 60, "noise_sparsity": 10, "num_filters": 4}

@sweep
def finished() -> Sweep:
    grid = Grid(DECAYS, {"batch_size": (7, 40)}, {**SIZES, "num_epochs": 30})
    return Sweep("finished", "short trials", (grid,), seeds=(0,))

@sweep
def long() -> Sweep:
    grid = Grid({"adam": DECAYS["adam"]}, {}, {**SIZES, "batch_size": 3, "num_epochs": 80_000})
    return Sweep("long", "a trial of some seconds", (grid,), seeds=(0,))

@sweep
def pictured() -> Sweep:
    base = {"dataset": "tiny8", "architecture": "resnet8", "batch_size": 20, "num_epochs": 60, "learning_rate": 1e-4}
    grid = Grid({"signsgd": {"weight_decay": 1e-3}}, {}, {**base, "augment_flip": True})
    return Sweep("pictured", "a small network", (grid,), seeds=(0, 1), workload="image_classifier")

@sweep
def mapped() -> Sweep:
    sizes = {"num_train": 20, "num_test": 50, "dimension": 40, "noise_sparsity": 5, "num_filters": 4, "init_std": 0.1}
    space = {"batch_size": LogIntegers((2, 5, 20)), "weight_decay": LogUniform(1e-4, 1e2)}
    search = MapSearch(
        {"adam": space, "adamw": space}, ClaimRule(max_test_error=0.2, min_seeds=6, max_seeds=9),
        ({"batch_size": 2},), rounds=6, per_round=4, line_rounds=3,
    )
    axes = {"batch_size": (2, 20), "weight_decay": (1e-3, 10.0)}
    grid = Grid({"adam": {}, "adamw": {}}, axes, {**sizes, "num_epochs": 40, "learning_rate": 5e-3})
    return Sweep("mapped", "a map", (grid,), search=search)
"""
STATUS = tuple(f"status {name} --module my_sweeps" for name in ("finished", "long", "pictured", "mapped"))
_PLAIN = "--executor inline --device cpu --no-figures --module my_sweeps"
WITHOUT_VIEW = f"{_PLAIN} --no-mlflow --checkpoint-seconds 0.1"
TAKE_UP = (
    f"long {WITHOUT_VIEW}",
    f"pictured {WITHOUT_VIEW}",
    f"mapped {WITHOUT_VIEW}",
    f"finished --seeds 0-1 {_PLAIN}",
    "export-mlflow finished --seeds 0-1 --module my_sweeps",
)
"""Launches that continue from the old results, each with trials that the results lack."""

_IMAGES_MADE_AT = 1_700_000_000
"""Seconds since 1970: an archive keeps whole ones, and the cache knows images by their files' times."""
_SECONDS_TO_START = 120.0
_EPOCHS_OF_MAP = 40


def where(folder: Path) -> dict[str, str]:
    """What a launch's environment needs to find the images of such a folder."""
    return {"LAMBDA_ATLAS_DATA": str(folder / "data"), "LAMBDA_ATLAS_CACHE": str(folder / "cache")}


def unpacked(folder: Path) -> Path:
    """The old results in a user's folder, whose module of sweeps is written for the present code."""
    folder.mkdir(parents=True)
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    _write_sweeps(folder)
    return folder


def statuses(folder: Path) -> dict[str, str]:
    """What `status` says of each sweep."""
    return dict(zip(STATUS, checked_launches(folder, STATUS, **where(folder)), strict=True))


def child_runs(folder: Path) -> list[tuple[str, str, str]]:
    """Trial, run and name of the experiment of each run in the folder's MLflow that stands for a trial."""
    question = """
        select tags.value, runs.run_uuid, experiments.name from tags
        join runs on runs.run_uuid = tags.run_uuid join experiments on experiments.experiment_id = runs.experiment_id
        where tags.key = 'trial_id' and runs.lifecycle_stage = 'active'
    """
    return _asked(folder, question)


def parent_runs(folder: Path) -> list[tuple[str, str]]:
    """Sweep and run of each run that stands for a sweep."""
    return _asked(folder, "select value, run_uuid from tags where key = 'lambda_atlas.sweep'")


def _asked(folder: Path, question: str) -> list[tuple[str, ...]]:  # type: ignore[type-arg]
    with closing(sqlite3.connect(folder / "results" / "mlflow.db")) as database:
        return sorted(database.execute(question).fetchall())


def undisturbed() -> tuple[dict[str, results.Row], dict[str, list[results.Row]]]:
    """Rows and traces of all these trials, as the older code trained them without a break."""
    rows = {
        row["trial_id"]: row
        for name in (IMAGES, SYNTHETIC)
        for row in results.load_rows(KEPT / f"{name}-trials.parquet")
    }
    return rows, {
        trial_id: trace
        for name in (IMAGES, SYNTHETIC)
        for trial_id, trace in results.load_traces(KEPT / f"{name}-traces.parquet").items()
    }


# --- how it was made ---


def record(folder: Path) -> None:
    """Make the archive, and what the same sweeps give undisturbed."""
    whole, broken = folder / "whole", Path("/tmp/lambda-atlas-old-results")  # its name is in MLflow's database
    _make_folder(whole)
    checked_launches(whole, TAKE_UP, **where(whole))
    shutil.rmtree(broken, ignore_errors=True)
    try:
        _make_folder(broken)
        _leave_half_done(broken)
        KEPT.mkdir(exist_ok=True)
        _pack(broken, ARCHIVE)
    finally:
        shutil.rmtree(broken)
    out = whole / "results"
    rows, traces = results.rows(out), results.traces(out)
    for workload in (IMAGES, SYNTHETIC):
        own = [row for row in rows.values() if row["workload"] == workload]
        few = [row for row in own if row["num_epochs"] != _EPOCHS_OF_MAP]  # a map's traces are many, its rows enough
        results.save_rows(KEPT / f"{workload}-trials.parquet", own)
        results.save_rows(KEPT / f"{workload}-traces.parquet", [p for row in few for p in traces[row["trial_id"]]])
    results.save_json(ASKS, results.asks(out))
    results.save_json(MADE_ON, results.circumstances() | {"mlflow": version("mlflow")})
    texts.save(statuses(unpacked(folder / "old")), STATUSES)


def _write_sweeps(folder: Path) -> None:
    (folder / "my_sweeps.py").write_text(SWEEP_IMPORTS + SWEEPS)


def _make_folder(folder: Path) -> None:
    folder.mkdir(parents=True)
    _write_sweeps(folder)
    make_images(folder / "data", "tiny8", size=8)
    for path in (folder / "data" / "tiny8").iterdir():
        os.utime(path, (_IMAGES_MADE_AT, _IMAGES_MADE_AT))


def _leave_half_done(folder: Path) -> None:
    out = folder / "results"
    checked_launches(folder, [f"finished {_PLAIN}", f"pictured --seeds 0 {WITHOUT_VIEW}"], **where(folder))
    _kill(folder, f"mapped {WITHOUT_VIEW}", lambda: len(list(out.glob("asks/*/*"))) >= 12)
    _kill(folder, f"pictured --seeds 1 {WITHOUT_VIEW}", lambda: _furthest(out, "buffers") >= 30)
    _kill(folder, f"long {WITHOUT_VIEW}", lambda: _furthest(out, "first_moment") >= 30_000)


def _kill(folder: Path, command: str, is_time: Callable[[], bool]) -> None:
    """Send SIGKILL to a launch in a separate process, in the middle of its work."""
    process = start_launches(folder, [command], **where(folder))
    deadline = time.monotonic() + _SECONDS_TO_START
    while not is_time():
        assert process.poll() is None, f"{command} ended before it was killed"
        assert time.monotonic() < deadline, f"{command} does not get that far"
        time.sleep(0.02)
    process.kill()
    process.communicate()


def _furthest(out: Path, kind: str) -> int:
    """The last epoch of the states that have such an array; files come and go while one looks."""
    epochs = [-1]
    for path in out.glob("states/*.npz"):
        try:
            with np.load(io.BytesIO(path.read_bytes())) as state:
                owners = {name.partition("/")[0] for name in state.files if name.partition("/")[2].startswith(kind)}
                epochs += [int(state[f"{owner}/epoch"]) for owner in owners]
        except OSError:
            continue
    return max(epochs)


def _pack(folder: Path, archive: Path) -> None:
    """Without the images: files of their names, sizes and times are there, but nothing can be decoded from them."""
    (folder / "my_sweeps.py").unlink()
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    for path in (folder / "data" / "tiny8").iterdir():
        path.write_bytes(bytes(path.stat().st_size))
        os.utime(path, (_IMAGES_MADE_AT, _IMAGES_MADE_AT))
    with tarfile.open(archive, "w:xz", preset=9) as packed:
        for path in sorted(folder.iterdir()):
            packed.add(path, path.name, filter=_without_owner)


def _without_owner(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry
