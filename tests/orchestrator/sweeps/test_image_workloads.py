"""Image sweeps from the command line to the results: their trials, refused settings, and results after a kill."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from orchestrator.errors import SweepError
from orchestrator.figures.drawing import draw
from orchestrator.ledger.ledger import Ledger
from orchestrator.report.presentations import selection_of
from orchestrator.report.show import show
from orchestrator.schedulers.plan import plan_sweep
from orchestrator.sweeps.registry import find_sweep
from search_spaces import paper
from tests.orchestrator.figures.test_figures import figure_of, given
from tests.support.images import make_images
from tests.support.launching import (
    BRIEF_MAP,
    check_went_on,
    checked,
    descendants,
    environment,
    half_done,
    kill_tree,
    launch,
    plant_seconds,
    rows,
    run_launch,
    start,
    traces,
    wait_for,
)
from trainables.config import TrialConfig
from trainables.image_classifier.config import ImageClassifierConfig, ImageTracePoint
from trainables.machine.gpu import gpu_is_here
from trainables.provenance import provenance
from trainables.result import Outcome, TrialResult

IMAGES = "image_classifier"
PLAIN = ("--no-figures", "--no-mlflow")
INLINE = ("--executor", "inline", *PLAIN)
SHORT = ("--workload", "tiny_resnet8", "--set", "num_epochs=2", "--set", "batch_size=16,48", "--seeds", "0-1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's current folder with a data set named tiny: 48 training and 24 test images."""
    make_images(tmp_path / "data")
    monkeypatch.setenv("LAMBDA_ATLAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LAMBDA_ATLAS_DATA", str(tmp_path / "data"))
    (tmp_path / "my_sweeps.py").write_text("")
    return tmp_path


# --- their trials ---


def test_grid_bsz_is_figure_1_with_every_learning_rate(folder: Path) -> None:
    sweep = find_sweep("grid_bsz", workload="tiny_resnet18").with_overrides(["batch_size=16,32"])
    configs = sweep.configs()
    assert sweep.name == "grid_bsz_tiny_resnet18"
    assert sweep.best_over == ("learning_rate",)
    points = {(c.optimizer.value, c.weight_decay, c.batch_size, c.learning_rate) for c in configs}
    arms = (("adam", 5e-4), ("adamw", 1e-2))
    assert points == {(*arm, b, eta) for arm in arms for b in (16, 32) for eta in (5e-4, 1e-4, 1e-5)}
    assert {(c.num_epochs, c.beta1, c.beta2, c.seed) for c in configs} == {(100, 0.9, 0.99, seed) for seed in range(5)}
    assert paper.IMAGE_BATCH_SIZES == (16, 32, 64, 256, 1024, 4096, 8192)


def test_grid_wd_is_figure_2(folder: Path) -> None:
    configs = find_sweep("grid_wd", workload="tiny_resnet8").configs()
    adam = sorted({c.weight_decay for c in configs if c.optimizer == "adam"})
    adamw = sorted({c.weight_decay for c in configs if c.optimizer == "adamw"})
    assert (len(adam), adam[0], adam[-1]) == (12, 5e-7, 1e-1)
    assert (len(adamw), adamw[0], adamw[-1]) == (8, 1e-4, 5e-1)
    assert {(c.batch_size, c.learning_rate) for c in configs} == {(16, 1e-4)}


def test_grid_betas_is_figures_9_and_10(folder: Path) -> None:
    configs = find_sweep("grid_betas", workload="tiny_resnet8").with_overrides(["batch_size=16"]).configs()
    pairs = {(c.beta1, c.beta2) for c in configs}
    wanted = {(a, b) for a in (0.0, 0.5, 0.9) for b in (0.5, 0.9, 0.95) if a**2 < b} | {(0.9, 0.99)}
    assert pairs == wanted


def test_imagenet_has_its_own_grids_and_is_judged_by_top_5(folder: Path) -> None:
    sweep = find_sweep("grid_bsz", workload="imagenet_resnet50")
    (grid,) = sweep.grids
    assert grid.arms == {"adam": {"weight_decay": 1e-4}, "adamw": {"weight_decay": 1e-2}}
    assert (grid.axes["batch_size"][0], grid.axes["batch_size"][-1]) == (64, 32_768)
    assert grid.base["num_epochs"] == 90
    assert (grid.base["num_train"], grid.base["image_size"]) == (100_000, 224)
    assert (sweep.error, sweep.figures) == (
        "test_top5_error",
        ("top5_error_vs_batch_size", "precise_top5_error_vs_batch_size"),
    )
    base = find_sweep("grid_wd", workload="imagenet_resnet101").grids[0].base
    assert (base["batch_size"], base["learning_rate"]) == (64, 1e-3)


def test_a_search_says_that_it_chooses_by_the_images_that_it_reports(folder: Path) -> None:
    ledger = Ledger(str(folder / "results"))
    sweeps = [
        find_sweep("tune_wd", workload=name).with_overrides(["batch_size=16"])
        for name in ("tiny_resnet8", "two_layer_cnn")
    ]
    for_images, synthetic = (selection_of(sweep, plan_sweep(sweep, ledger).scheduler).notes for sweep in sweeps)
    said = "points are chosen by their error on the same test images that the table reports: only the training seeds"
    assert [line for line in for_images if line.startswith(said)]
    assert not [line for line in synthetic if "chosen" in line], "each seed draws its own test points"


def test_a_data_set_of_ones_own_whose_name_begins_like_imagenet_is_not_imagenet(folder: Path) -> None:
    make_images(folder / "data", "imagenet_mini")
    sweep = find_sweep("grid_bsz", workload="imagenet_mini_resnet8").with_overrides(["batch_size=16"])
    assert sweep.configs()[0].num_train == 48
    assert sweep.error == "test_error"


def test_a_sweep_of_one_workload_takes_no_other(folder: Path) -> None:
    with pytest.raises(SweepError, match="trace_dynamics has one workload, two_layer_cnn"):
        find_sweep("trace_dynamics", workload="tiny_resnet8")


# --- refused settings ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--workload tiny_resnet9", "unknown workload 'tiny_resnet9'; did you mean 'tiny_resnet8'? ("),
        ("--workload cifar10", "unknown workload 'cifar10'"),
        ("--workload tinny_resnet8", "unknown data set 'tinny'; did you mean 'tiny'? (known: "),
        ("--workload cifar10_resnet8", "no images of 'cifar10' in"),
        ("--workload imagenet_resnet50", "put them there as train/CLASS/*.JPEG and val/CLASS/*.JPEG or as "),
        ("--workload tiny_resnet8", "batch_size <= num_train is required, got B=64, n=48"),
        ("--workload tiny_resnet8 --set num_train=1e6", "'tiny' has 48 training images, 1000000 are requested"),
        ("--workload tiny_vgg16 --set batch_size=16", "vgg16 needs images of 32 pixels, got 16: image_size=32"),
        ("--workload tiny_resnet8 --set architecture=resnet9", "unknown architecture 'resnet9'; did you mean"),
        ("--workload tiny_resnet8 --set batch_size=16 --data nowhere", "got 'nowhere', which is not a folder"),
        ("--workload tiny_resnet8 --set batch_size=16 --device gpu", "image_classifier trains on cuda or cpu"),
        ("--workload tiny_resnet8 --set batch_size=16 --cpus-per-trial 9999", "--cpus-per-trial is at most the "),
        ("--device cuda", "two_layer_cnn trains on cpu, got --device cuda"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2_and_nothing_started(folder: Path, arguments: str, message: str) -> None:
    done = launch(folder, "grid_bsz", *arguments.split(), *INLINE)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert message in line
    assert not (folder / "results").exists()


def test_a_gpu_where_none_is_is_one_line(folder: Path) -> None:
    done = launch(folder, "grid_bsz", *SHORT, *INLINE, "--device", "cuda")
    assert done.returncode == 2
    assert done.stderr == "error: --device cuda: this machine has no GPU that torch can use\n"
    assert not (folder / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("tiny --set num_train=\u00b2", "num_train is an integer, got '\u00b2'"),
        ("tiny --set num_train", "a setting is field=value"),
        ("tiny --set num_train=-3", "1 <= num_train <= 1000000000 is required, got -3"),
        ("tiny --set image_size=4", "8 <= image_size <= 1024 is required, got 4"),
        ("tiny --set num_train=24,12", "num_train has one value here, as num_train=number, got 'num_train=24,12'"),
        ("tiny --set num_train=24 --set num_train=12", "num_train has one value here"),
        ("tiny --set num_train+=24", "num_train has one value here"),
        ("tiny --set epochs=2", "unknown field 'epochs'"),
        ("tiny --data nowhere", "got 'nowhere', which is not a folder"),
        ("tiny --data nowhere --download", "only cifar10, cifar100, fashion_mnist can be downloaded, got 'tiny'"),
        ("elsewhere", "unknown data set 'elsewhere'"),
    ],
)
def test_what_data_cannot_check_is_one_line(folder: Path, arguments: str, message: str) -> None:
    done = launch_data(folder, *arguments.split())
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert message in line


def test_data_that_has_gone_is_not_called_checked_and_a_sweep_says_what_it_uses(folder: Path) -> None:
    """The cache is enough to train from; a cluster's driver may have no images at all."""
    make_images(folder / "data", "gone")
    checked_data(folder, "gone")
    (folder / "data" / "gone").rename(folder / "kept_elsewhere")
    done = launch_data(folder, "gone")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown data set 'gone'" in done.stderr
    planned = launch(folder, "plan", "grid_bsz", "--workload", "gone_resnet8", "--set", "batch_size=16")
    assert planned.returncode == 0
    assert planned.stderr == f"no images of 'gone' in {folder / 'data' / 'gone'}: those in the cache are used\n"


def test_what_is_left_out_is_said_beside_what_is_decoded(folder: Path) -> None:
    tiny = folder / "data" / "tiny"
    (tiny / "train_augmented.parquet").write_bytes((tiny / "train.parquet").read_bytes())
    for _ in range(2):  # decoded, then from the cache
        done = launch_data(folder, "tiny")
        assert (done.returncode, done.stdout[:23]) == (0, "tiny: 48 training and 2")
        assert done.stderr == "files left out of 'tiny': 1 of no split (train_augmented.parquet)\n"


@pytest.mark.parametrize("command", [("data", "tiny"), ("plan", "grid_bsz", "--workload", "tiny_resnet8")], ids=str)
def test_a_missing_shard_and_images_under_another_name_are_one_line(folder: Path, command: tuple[str, ...]) -> None:
    tiny = folder / "data" / "tiny"
    for name, said in (
        ("train-00001-of-00002", "lacks train-00000-of-00002.parquet"),
        ("Train", "(found Train.pa"),
    ):
        next(tiny.glob("[tT]rain*")).rename(tiny / f"{name}.parquet")
        done = run_launch(*command, cwd=folder, env=environment())
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        assert said in line


def test_a_torn_image_is_named(folder: Path) -> None:
    make_images(folder / "data", "torn")
    part = folder / "data" / "torn" / "train.parquet"
    content = part.read_bytes()
    part.write_bytes(content[: len(content) // 2])
    done = launch(folder, "grid_bsz", "--workload", "torn_resnet8", "--set", "batch_size=16", *INLINE)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "the images of 'torn'" in line
    assert "complete or replace the files" in line


# --- runs ---


@pytest.mark.slow
def test_the_best_rate_of_each_point_makes_one_line_of_them_and_tables_tell_only_what_was_set(folder: Path) -> None:
    settings = ["num_epochs=2", "batch_size=16,48", "normalization=batch,group", "learning_rate=1e-2,1e-3"]
    sweep = find_sweep("grid_bsz", workload="tiny_resnet8").with_overrides(settings, "0-1")
    ledger = Ledger(str(folder / "results"))
    ledger.append([ended(config) for config in sweep.configs()])
    told = io.StringIO()
    png, _, precise, _ = show(plan_sweep(sweep, ledger), ledger, Console(file=told, width=300), with_figures=True)
    heads = [line for line in told.getvalue().splitlines() if line.startswith("┃")]
    assert all("normalization" in line and "batchnorm_policy" not in line for line in heads)
    assert len(heads) == 3
    assert "precise test error" in heads[0]
    trials, points = ledger.trials(IMAGES).to_pandas(), ledger.traces(IMAGES).to_pandas()
    kept = trials[trials["learning_rate"] == trials["batch_size"].map({16: 1e-2, 48: 1e-3})]
    note = "best learning_rate of each point, at an end of the grid at 8 of 8"
    (own, _) = draw("error_vs_batch_size", given(kept, points, ("learning_rate",)), folder / "own", note)
    assert png.read_bytes() == own.read_bytes()
    others = trials[trials["learning_rate"] == trials["batch_size"].map({16: 1e-3, 48: 1e-2})]
    (own, _) = draw("precise_error_vs_batch_size", given(others, points, ("learning_rate",)), folder / "own", note)
    assert precise.read_bytes() == own.read_bytes(), "chosen by what it shows"
    upper, _ = figure_of("precise_error_vs_batch_size", others, points, ("learning_rate",)).axes
    assert {float(y) for line in upper.lines for y in np.asarray(line.get_ydata())} == {0.125}


def test_trials_without_precise_errors_have_no_table_and_no_figure_of_them(folder: Path) -> None:
    """Rows of earlier versions."""
    settings = ["num_epochs=2", "batch_size=16,48", "learning_rate=1e-2,1e-3"]
    sweep = find_sweep("grid_bsz", workload="tiny_resnet8").with_overrides(settings, "0-1")
    ledger = Ledger(str(folder / "results"))
    for result in map(ended, sweep.configs()):
        without = [replace(point, precise_train_error=None, precise_test_error=None) for point in result.trace]
        ledger.append([replace(result, trace=tuple(without))])
    told = io.StringIO()
    paths = show(plan_sweep(sweep, ledger), ledger, Console(file=told, width=300), with_figures=True)
    assert [path.name for path in paths] == ["error_vs_batch_size.png", "error_vs_batch_size.pdf"]
    assert not re.search("precise.test", told.getvalue())


def ended(config: TrialConfig) -> TrialResult:
    """A result in which the larger rate is better at the smaller batch size, and the worse one by precise errors."""
    assert isinstance(config, ImageClassifierConfig)
    error = 0.125 if (config.learning_rate == 1e-2) == (config.batch_size == 16) else 0.25
    precise = {f"precise_{split}_error": 0.375 - error for split in ("train", "test")}
    point = ImageTracePoint(
        config.num_epochs, 0.1, error, error, 1.0, 0.0, 0.1, 0.0, config.num_epochs, error, **precise
    )
    return TrialResult(
        config=config,
        outcome=Outcome.LEARNED,
        epochs_done=config.num_epochs,
        trace=(point,),
        data_digest="d",
        init_digest="d",
        order_digest="d",
        train_seconds=1.0,
        finished_at=0.0,
        provenance=provenance("torch"),
    )


def test_why_trials_failed_is_said_by_the_launch_itself(folder: Path) -> None:
    checked(folder, "plan", "grid_bsz", *SHORT)
    for arrays in (folder / "cache").rglob("*.npy"):
        arrays.unlink()
    (folder / "data" / "tiny").rename(folder / "elsewhere")
    done = launch(folder, "grid_bsz", *SHORT, *INLINE, "--max-trials", "2")
    assert done.returncode == 1
    _, first, *errors = done.stderr.splitlines()  # after the line that the cache is used
    assert first == "2 trials failed; column `error` of the trials has the tracebacks:"
    (error,) = errors
    assert error.startswith("  2 with ")
    assert "'tiny'" in error
    assert "0 of 24 trials done: what follows shows a part of the sweep" in done.stdout.splitlines()


def test_status_of_all_sweeps_on_images_is_of_those_that_run_on_images(folder: Path) -> None:
    sizes = ("--set", "batch_size=16,48")
    output = checked(folder, "status", "all", "--workload", "tiny_resnet8", *sizes)
    shown = {line.partition(":")[0] for line in output.splitlines()}
    assert {f"{name}_tiny_resnet8" for name in ("grid_bsz", "grid_wd", "tune_wd", "map_wd")} <= shown
    assert not any(name.startswith(("trace_dynamics", "sign_agreement")) for name in shown)


def test_status_of_all_sweeps_is_of_those_that_can_have_the_options(folder: Path) -> None:
    done = launch(folder, "status", "all", "--workload", "tiny_resnet8", "--seeds", "0-1")
    assert done.returncode == 0
    assert done.stdout.startswith("grid_wd_tiny_resnet8: 0/40 trials done\n")
    lines = {line.partition(" cannot have these options: ")[::2] for line in done.stderr.splitlines()}
    assert {name for name, _ in lines} == {"grid_bsz", "grid_betas", "tune_wd", "map_wd", "map_lr_wd"}
    assert all("batch_size <= num_train" in why or "its seeds cannot be chosen" in why for _, why in lines)
    none = launch(folder, "status", "all", "--workload", "tiny_resnet8", "--set", "epochs=3")
    assert none.returncode == 2
    assert none.stderr.startswith("error: unknown field 'epochs'")


def test_data_says_what_is_decoded(folder: Path) -> None:
    output = checked_data(folder, "tiny")
    assert "tiny: 48 training and 24 test images of 16x16x3 in 3 classes, digest " in output
    assert "24 training and 24 test images" in checked_data(folder, "tiny", "--set", "num_train=2.4e1")
    unknown = launch_data(folder, "tony")
    assert unknown.returncode == 2
    assert "did you mean 'tiny'?" in unknown.stderr


@pytest.mark.slow
def test_a_sweep_ends_with_tables_figures_and_mlflow_from_images(folder: Path) -> None:
    output = checked(folder, "grid_bsz", *SHORT, "--executor", "inline")
    assert "Best learning_rate by mean test_error over seeds" in output
    assert "at an end of the grid" in output
    assert (folder / "results/figures/grid_bsz_tiny_resnet8/error_vs_batch_size.png").stat().st_size > 10_000
    assert (folder / "results/mlflow.db").is_file()
    assert "24 trials, 24 done, 0 to run" in checked(folder, "grid_bsz", *SHORT, *INLINE)
    assert "24/24 trials done" in checked(folder, "status", "grid_bsz", *SHORT)
    assert "grid_bsz_tiny_resnet8: 0 runs written" in checked(folder, "export-mlflow", "grid_bsz", *SHORT)
    found = rows(folder / "results", IMAGES)
    assert len(found) == 24
    assert {row["device"] for row in found.values()} == {"cpu"}
    assert {row["num_train"] for row in found.values()} == {48}


@pytest.mark.skipif(not gpu_is_here(), reason="this machine has no GPU")
@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_a_sweep_trains_on_the_gpu_by_itself(folder: Path, executor: str) -> None:
    arguments = (*SHORT, *PLAIN, "--executor", executor)
    done = launch(folder, "grid_bsz", *arguments, CUDA_VISIBLE_DEVICES="0")
    assert done.returncode == 0, done.stderr
    found = rows(folder / "results", IMAGES).values()
    assert len(found) == 24
    assert {(row["device"], row["engine"]) for row in found} == {("cuda", "graph-cuda")}
    assert "0 to run" in checked(folder, "grid_bsz", *arguments), "also for a launch that sees no GPU"


@pytest.mark.slow
def test_a_map_of_images_runs_to_its_end(folder: Path) -> None:
    (folder / "my_sweeps.py").write_text(BRIEF_MAP)
    small = ("num_epochs=2", "batch_size=8,48", "weight_decay=1e-4,1", "learning_rate=3e-3")
    sets = ("--workload", "tiny_resnet8", *(part for one in small for part in ("--set", one)))
    output = checked(folder, "brief_map", *sets, "--no-mlflow", "--executor", "inline")
    verdicts = [line for line in output.splitlines() if line.startswith(("│ 8 ", "│ 48 "))]
    assert len(verdicts) == 4
    assert (folder / "results/figures/brief_map_tiny_resnet8/phase_diagram.png").stat().st_size > 10_000
    assert "0 to run" in checked(folder, "brief_map", *sets, *INLINE)


@pytest.mark.slow
def test_a_driver_without_images_plans_by_the_manifest(folder: Path) -> None:
    planned = checked(folder, "plan", "grid_bsz", *SHORT)
    for arrays in (folder / "cache").rglob("*.npy"):
        arrays.unlink()
    (folder / "data" / "tiny").rename(folder / "elsewhere")
    assert checked(folder, "plan", "grid_bsz", *SHORT) == planned
    done = launch(folder, "grid_bsz", *SHORT, *INLINE, "--max-trials", "1")
    assert done.returncode == 1, "a trial without images fails, in a row"
    (row,) = rows(folder / "results", IMAGES).values()
    assert row["outcome"] == "failed"
    assert "no images of 'tiny'" in str(row["error"]) or "unknown data set 'tiny'" in str(row["error"])


@pytest.mark.slow
def test_rows_equal_the_inline_executors_to_the_bit_also_when_workers_and_drivers_are_killed(folder: Path) -> None:
    # Some seconds a trial: states are saved between reports, a second apart, and a shorter trial would leave none.
    sizes = ("num_epochs=72", "batch_size=16,48", "learning_rate=1e-3")
    longer = ("--workload", "tiny_resnet8", "--seeds", "0", *(part for one in sizes for part in ("--set", one)))
    checked(folder, "grid_bsz", *longer, *INLINE, "--out", "inline")
    on_ray = (*longer, *PLAIN, "--out", "ray", "--checkpoint-seconds", "0.2")
    process = start(folder, "grid_bsz", *on_ray)
    try:
        wait_for(lambda: list(folder.glob("ray/states/*.npz")), process)
        lines = descendants(process.pid)
        workers = [pid for pid, line in lines if "ResourceTrainable" in line or "PackTrainable" in line]
        os.kill(workers[0], signal.SIGKILL)
        wait_for(lambda: rows(folder / "ray", IMAGES) and half_done(folder / "ray", IMAGES), process)
    finally:
        kill_tree(process)
    planted = plant_seconds(folder / "ray", IMAGES)
    checked(folder, "grid_bsz", *on_ray)
    check_went_on(folder / "ray", planted, workload=IMAGES)
    assert rows(folder / "ray", IMAGES) == rows(folder / "inline", IMAGES)
    assert traces(folder / "ray", IMAGES) == traces(folder / "inline", IMAGES)


def launch_data(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_launch("data", *arguments, cwd=folder, env=environment())


def checked_data(folder: Path, *arguments: str) -> str:
    done = launch_data(folder, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout
