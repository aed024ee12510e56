"""Records what the command line prints where nothing runs: help, names and plans, each to the letter."""

from __future__ import annotations

from pathlib import Path

from tests.golden.launches import launches
from tests.support.images import make_images

RECORDED = Path(__file__).parent / "recorded" / "texts.txt"

COMMANDS = ("run", "submit", "plan", "list", "status", "verify", "export-mlflow", "export-optuna", "data")
SWEEPS = (
    "grid_bsz", "grid_wd", "grid_betas", "tune_wd", "trace_dynamics", "sign_agreement", "scale_sparsity",
    "map_wd", "map_lr_wd", "scale_sigma0",
)  # fmt: skip
ON_IMAGES = ("grid_bsz", "grid_wd", "grid_betas", "tune_wd", "map_wd", "map_lr_wd")
# 48 training images are fewer than most batches of the paper.
_FEW_IMAGES = "--workload tiny_resnet8 --set batch_size=16,48"
_CHANGED = (
    "grid_bsz --seeds 0,3,5-7 --set num_epochs=1e4 --set learning_rate+=1e-3",
    "map_wd --set batch_size=2,20",
    "grid_wd --max-trials 7 --set optimizer=adam,signsgdw --set weight_decay=1e-5,1e-2",
)
TEXTS = (
    "--help",
    *(f"{command} --help" for command in COMMANDS),
    "list",
    *(f"plan {sweep}" for sweep in SWEEPS),
    *(f"plan {sweep} {_FEW_IMAGES}" for sweep in ON_IMAGES),
    *(f"plan {changed}" for changed in _CHANGED),
)
_HEADING = "$ launch "


def said(folder: Path) -> dict[str, str]:
    """What each of these launches prints in a folder with a few images and no results."""
    make_images(folder / "data")
    where = {"LAMBDA_ATLAS_DATA": str(folder / "data"), "LAMBDA_ATLAS_CACHE": str(folder / "cache")}
    said = launches(folder, TEXTS, **where)
    return {command: one.out + one.err for command, one in zip(TEXTS, said, strict=True)}


def save(texts: dict[str, str], path: Path) -> None:
    """Save all in one file, so that a change is read as a change of text."""
    path.write_text("".join(f"{_HEADING}{command}\n{text}" for command, text in texts.items()))


def load(path: Path) -> dict[str, str]:
    """Inverse of `save`."""
    sections = ("\n" + path.read_text()).split("\n" + _HEADING)[1:]
    found = dict(section.partition("\n")[::2] for section in sections)
    *firsts, _ = found
    return {command: text + "\n" if command in firsts else text for command, text in found.items()}
