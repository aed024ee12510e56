"""`replay` trains a recorded trial again: identical where nothing changed, and what changed where it did."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.driver.replay import replay
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.part_files import PartFiles
from orchestrator.ledger.schema import TableName, with_values
from tests.support.images import image_folders
from tests.support.launching import checked, launch, make_folder, run_launch
from tests.support.launching import environment as plain
from tests.support.product_copy import copy_product, launch_copy, patch

INLINE = ("--executor", "inline", "--no-figures", "--no-mlflow")
WORKLOAD = "two_layer_cnn"
PICTURED = """
@sweep
def pictured() -> Sweep:
    base = {"dataset": "tiny8", "architecture": "resnet8", "batch_size": 16, "num_epochs": 3, "learning_rate": 1e-3}
    grid = Grid(DECAYS, {"augment_flip": (True, False)}, base)
    return Sweep("pictured", "a small network", (grid,), seeds=(0,), workload="image_classifier")
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with the results of `small`, two of whose trials diverge in another sweep, and of images."""
    folder = make_folder(tmp_path_factory.mktemp("finished"))
    with (folder / "my_sweeps.py").open("a") as module:
        module.write(PICTURED)
    with image_folders(folder, 8):
        for name in ("small", "diverging", "pictured"):
            checked(folder, name, *INLINE)
    return folder


def ids(folder: Path, workload: str = WORKLOAD, outcome: str | None = None) -> list[str]:
    rows = Ledger(str(folder / "results")).trials(workload).to_pylist()
    return [row["trial_id"] for row in rows if outcome in (None, row["outcome"])]


def test_a_trial_is_identical_where_it_was_made(finished: Path) -> None:
    trials = random.Random(0).sample(ids(finished), 3)
    for trial_id in [*trials, ids(finished, outcome="diverged")[0]]:
        done = launch(finished, "replay", trial_id)
        assert (done.returncode, done.stderr) == (0, "")
        (line,) = done.stdout.splitlines()
        assert line.startswith("identical: all ")
        assert line.endswith(f" numbers of {trial_id}")


def test_a_trial_of_images_is_identical(finished: Path) -> None:
    with image_folders(finished, 8):
        trial_id = random.Random(0).choice(ids(finished, "image_classifier"))
        done = launch(finished, "replay", trial_id)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("identical: all ")


def test_a_trial_that_was_trained_on_another_processor_says_so(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    (trial_id, *_) = ids(finished)
    ledger = Ledger(str(finished / "results"))
    rows, traces = ledger.trials(WORKLOAD, trial_ids=[trial_id]), ledger.traces(WORKLOAD, trial_ids=[trial_id])
    rows = with_values(rows, {"device_name": "a processor of old", "numpy_version": "1.0"})
    epoch = traces["epoch"].to_pylist()[-1]
    other = Ledger(str(out))
    parts = PartFiles(other._storage, "other")
    parts.commit(TableName.TRACES, WORKLOAD, with_values(traces, {"weight_norm": 1.0}))
    parts.commit(TableName.TRIALS, WORKLOAD, rows)
    found = replay(other, trial_id)
    assert [one.what for one in found.circumstances] == ["device_name", "numpy_version"]
    assert len(found.differences) == traces.num_rows
    last = found.differences[-1]
    assert (last.what, last.recorded) == (f"weight_norm at epoch {epoch}", 1.0)
    assert last.now == ledger.traces(WORKLOAD, trial_ids=[trial_id])["weight_norm"][-1].as_py()


def kept(folder: Path, out: Path, **changed: Any) -> tuple[Ledger, str]:
    """A ledger with one of the trials, whose row has other values."""
    (trial_id, *_) = ids(folder)
    ledger = Ledger(str(folder / "results"))
    rows, traces = ledger.trials(WORKLOAD, trial_ids=[trial_id]), ledger.traces(WORKLOAD, trial_ids=[trial_id])
    other = Ledger(str(out))
    parts = PartFiles(other._storage, "other")
    parts.commit(TableName.TRACES, WORKLOAD, traces)
    parts.commit(TableName.TRIALS, WORKLOAD, with_values(rows, changed))
    return other, trial_id


def test_a_pruned_trial_is_identical_up_to_where_it_was_stopped(finished: Path, tmp_path: Path) -> None:
    found = replay(*kept(finished, tmp_path / "out", outcome="pruned"))
    assert found.differences == []


def test_a_failed_trial_that_trains_now_says_how_it_failed(finished: Path, tmp_path: Path) -> None:
    changed = {"outcome": "failed", "error": "Traceback ...\nOSError: the disk is gone", "engine": "none"}
    found = replay(*kept(finished, tmp_path / "out", **changed))
    first, second, *_ = found.differences
    assert (first.what, first.recorded, first.now) == ("error", "OSError: the disk is gone", None)
    assert (second.what, second.recorded) == ("outcome", "failed")


def test_a_trial_whose_images_are_gone_is_one_line(finished: Path, tmp_path: Path) -> None:
    trial_id = ids(finished, "image_classifier")[0]
    done = launch(finished, "replay", trial_id, "--data", str(tmp_path), LAMBDA_ATLAS_CACHE=str(tmp_path))
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith(f"error: trial {trial_id} cannot be trained here: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_changed_line_of_code_is_named(finished: Path, tmp_path: Path) -> None:
    product = copy_product(tmp_path / "product")
    patch(product / "trainables/two_layer_cnn/trace.py", "test_error=_mean(test_wrong),", "test_error=0.777,")
    shutil.copytree(finished, tmp_path / "user")
    (trial_id, *_) = ids(finished)
    done = launch_copy(product, tmp_path / "user", "replay", trial_id)
    assert done.returncode == 1, done.stdout + done.stderr
    first, *lines = done.stdout.splitlines()
    assert first.startswith("different: ")
    assert any(line.startswith("  test_error at epoch 0: ") and line.endswith(" recorded, 0.777 now") for line in lines)
    assert any(line.startswith("  code_digest is ") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("0" * 16,),
            "has no trial '0000000000000000': give the 16 digits of its trial_id, and",
        ),
        (("abc", "--out", "nowhere"), "has no trial 'abc': give the 16 digits"),
    ],
)
def test_a_trial_that_is_not_there_is_one_line(arguments: tuple[str, ...], line: str, finished: Path) -> None:
    done = run_launch("replay", *arguments, cwd=finished, env=plain())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
