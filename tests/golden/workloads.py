"""Small trials of every workload, optimizer and kind of search, and what a launch of each leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.golden import results
from tests.golden.launches import checked_launches
from tests.golden.product import SWEEP_IMPORTS, config_names, sweep_trials, trained
from tests.golden.results import Asks, Row
from tests.support.images import make_images

RECORDED = Path(__file__).parent / "recorded"
NAMES, MADE_ON = RECORDED / "names.json", RECORDED / "circumstances.json"

# 10 samples in batches of 3: the last batch of an epoch is a smaller one.
SWEEPS = """
SIZES = {"num_train": 10, "num_test": 20, "dimension": 30, "noise_sparsity": 4, "num_filters": 3, "init_std": 0.1}
BASE = {**SIZES, "learning_rate": 1e-2, "batch_size": 3, "num_epochs": 12}
MOMENTS = {"adam": {"weight_decay": 1e-3}, "adamw": {"weight_decay": 1e-2}}
SIGNS = {"signsgd": {"weight_decay": 1e-3}, "signsgdw": {"weight_decay": 1e-2}}
PRECISIONS = {"precision": ("float32", "float64")}

@sweep
def rules() -> Sweep:
    grids = (
        Grid({**MOMENTS, **SIGNS}, PRECISIONS, BASE),
        Grid(MOMENTS, PRECISIONS, {**BASE, "bias_correction": False}),
        Grid(MOMENTS, {}, {**BASE, "epsilon_rule": "lambda_eta", "beta1": 0.0, "beta2": 0.5}),
        Grid({"adam": MOMENTS["adam"], "signsgdw": SIGNS["signsgdw"]}, {},
             {**BASE, "batch_size": 10, "activation_power": 4, "noise_std": 0.3}),
        Grid({"signsgd": {**SIGNS["signsgd"], "learning_rate": 1e30}}, {}, BASE),
    )
    return Sweep("rules", "every update rule", grids, seeds=(0,))

@sweep
def certified() -> Sweep:
    sizes = {"num_train": 20, "num_test": 50, "dimension": 40, "noise_sparsity": 5, "num_filters": 4, "init_std": 0.05}
    base = {**sizes, "learning_rate": 2e-4, "batch_size": 3, "num_epochs": 1000}
    arms = {"adam": {"weight_decay": 1.0}, "signsgdw": {"weight_decay": 3000.0}}
    return Sweep("certified", "some stop early", (Grid(arms, {}, base),), seeds=(0, 1), accepts_certificates=True)

@sweep
def signs() -> Sweep:
    grid = Grid(MOMENTS, {"batch_size": (3, 10)}, BASE)
    return Sweep("signs", "updates beside sign descent's", (grid,), seeds=(0,), workload="sign_agreement")

@sweep
def pictures() -> Sweep:
    base = {"dataset": "tiny8", "architecture": "resnet8", "learning_rate": 1e-3, "batch_size": 20, "num_epochs": 2}
    grids = (
        Grid({**MOMENTS, **SIGNS}, {}, base),
        Grid({"adam": MOMENTS["adam"]}, {}, {**base, "augment_flip": True, "augment_crop": 1}),
        Grid({"adam": MOMENTS["adam"]}, {}, {**base, "micro_batch_size": 8}),
        Grid({"adamw": MOMENTS["adamw"]}, {}, {**base, "normalization": "group"}),
        Grid({"adam": MOMENTS["adam"]}, {"precision": ("bfloat16", "float64")}, base),
        Grid({"adam": MOMENTS["adam"]}, {}, {**base, "num_train": 30, "subset_seed": 3, "bias_correction": False}),
    )
    return Sweep("pictures", "a small network", grids, seeds=(0,), workload="image_classifier")

@sweep
def searched() -> Sweep:
    space = {"learning_rate": LogUniform(1e-4, 1e-1), "weight_decay": LogUniform(1e-6, 1e-1)}
    search = HalvingSearch({"adam": space, "adamw": space}, rounds=4, per_round=4, reduction=2, num_rungs=2)
    grid = Grid({"adam": {}, "adamw": {}}, {}, {**SIZES, "batch_size": 3, "num_epochs": 12})
    return Sweep("searched", "a search", (grid,), seeds=(0, 1), search=search)

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

GRIDS, SEARCHES = ("rules", "certified", "signs", "pictures"), ("searched", "mapped")
INLINE = "--executor inline --no-figures --no-mlflow --device cpu --module my_sweeps"
SLOWER_ENGINE = "reference"


@dataclass(frozen=True)
class Findings:
    """Rows and traces by trial id, asks by search id, of each sweep's own output folder."""

    rows: Mapping[str, Mapping[str, Row]]
    traces: Mapping[str, Mapping[str, list[Row]]]
    asks: Mapping[str, Asks]


def make_folder(folder: Path) -> dict[str, str]:
    """A user's folder with these sweeps and their images; returns what a launch's environment needs to find them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my_sweeps.py").write_text(SWEEP_IMPORTS + SWEEPS)
    make_images(folder / "data", "tiny8", size=8)
    return {"LAMBDA_ATLAS_DATA": str(folder / "data"), "LAMBDA_ATLAS_CACHE": str(folder / "cache")}


def run_all(folder: Path) -> None:
    """Run every sweep into an output folder of its name."""
    where = make_folder(folder)
    checked_launches(folder, [f"{name} --out {name} {INLINE}" for name in (*GRIDS, *SEARCHES)], **where)


def findings(folder: Path) -> Findings:
    """What `run_all` left."""
    names = (*GRIDS, *SEARCHES)
    return Findings(
        {name: results.rows(folder / name) for name in names},
        {name: results.traces(folder / name) for name in names},
        {name: results.asks(folder / name) for name in SEARCHES},
    )


def train_by_slower_engine(found: Mapping[str, Row]) -> Findings:
    """Train the trials of `rules`, one for each rule, by the engine that a launch uses only if it has no other."""
    done = [trained(_config_of(row), SLOWER_ENGINE) for row in found.values()]
    rows = {row["trial_id"]: row for row, _ in done}
    return Findings({SLOWER_ENGINE: rows}, {SLOWER_ENGINE: {r["trial_id"]: trace for r, trace in done}}, {})


def _config_of(row: Row) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(config_names(row)["json"])
    return values


def columns(folder: Path) -> dict[str, dict[str, Any]]:
    """Names, order and types of all columns, and what marks a file as ours, by the folder that the file lies in."""
    found: dict[str, dict[str, Any]] = {}
    for name in (*GRIDS, *SEARCHES):
        for table in ("trials", "traces"):
            for workload, parts in results.parts(folder / name, table).items():
                found[f"{table}/{workload}"] = _described(parts[0].schema)
        for search_id in results.asks(folder / name):
            part = next((folder / name / "asks" / f"search={search_id}").glob("*.parquet"))
            found[f"asks/{search_id}"] = _described(results.pq.read_schema(part))
    return found


def _described(schema: Any) -> dict[str, Any]:
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    return {"columns": [f"{field.name}: {field.type}" for field in schema], "marker": metadata}


def trial_names(found: Findings) -> dict[str, dict[str, str]]:
    """What names each trial that was run."""
    every = [row for of_sweep in found.rows.values() for row in of_sweep.values()]
    return {row["trial_id"]: config_names(row) for row in every}


def named_sweeps() -> dict[str, str]:
    """Of every named sweep the number of its trials and a digest of their ids in order."""
    return {
        name: f"{len(ids)} trials, {sha256(' '.join(ids).encode()).hexdigest()[:16]}"
        for name, ids in sweep_trials().items()
    }
