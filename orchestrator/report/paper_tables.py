"""Compares tables 1 and 2 of the paper with our trials of the same setting."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import pandas as pd

from orchestrator.analysis.cells import CELL_STATISTICS, cell_summary
from orchestrator.report.text import mean_std, value_text
from trainables.config import Optimizer
from trainables.two_layer_cnn.config import TwoLayerCNNConfig


@dataclass(frozen=True, slots=True)
class PaperCell:
    """Training and test error of one setting in the paper's tables 1 (Adam) and 2 (AdamW)."""

    table: int
    optimizer: str
    weight_decay: float
    batch_size: int
    paper_train_error: float
    paper_test_error: float


PAPER_CELLS = (
    PaperCell(1, "adam", 1e-5, 100, 0.0, 0.9545),
    PaperCell(1, "adam", 1e-5, 2, 0.0, 0.0),
    PaperCell(2, "adamw", 1e-2, 100, 0.0, 0.5485),
    PaperCell(2, "adamw", 1e-2, 2, 0.0, 0.0),
)


def paper_comparison(trials: pd.DataFrame) -> pd.DataFrame:
    """Tables 1 and 2 of the paper beside our trials of exactly that setting; n = 0 and nan where we have none."""
    rows = []
    for cell in PAPER_CELLS:
        ours = _trials_of(cell, trials)
        summary = cell_summary(ours, ["optimizer", "weight_decay", "batch_size"])
        statistics = summary.iloc[0].to_dict() if len(summary) else {"num_trials": 0, "n": 0}
        rows.append(statistics | asdict(cell))
    return pd.DataFrame(rows, columns=[*(field.name for field in fields(PaperCell)), *CELL_STATISTICS])


def paper_table(trials: pd.DataFrame) -> pd.DataFrame:
    """`paper_comparison` as text, ready to print: the cells of which we have trials."""
    rows = paper_comparison(trials)
    rows = rows[rows["num_trials"] > 0]
    table = rows[["table", "optimizer", "batch_size"]].astype(str)
    table["weight_decay"] = rows["weight_decay"].map(value_text)
    for split in ("train", "test"):
        table[f"{split} error in the paper"] = rows[f"paper_{split}_error"].map(value_text)
        pairs = zip(rows[f"{split}_error_mean"], rows[f"{split}_error_std"], strict=True)
        table[f"{split} error here"] = [mean_std(*pair) for pair in pairs]
    table["n"] = rows["num_trials"].astype(int).map(str)
    return table


def _trials_of(cell: PaperCell, trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that differ from the paper's experiment in nothing but the seed."""
    config = TwoLayerCNNConfig(
        optimizer=Optimizer(cell.optimizer), weight_decay=cell.weight_decay, batch_size=cell.batch_size, seed=0
    )
    same = pd.Series(True, index=trials.index)
    for name, value in config.model_dump(mode="json", exclude={"seed"}).items():
        if name in trials:  # a missing column or value stands for the default
            same &= (trials[name] == value) | trials[name].isna()
    return trials[same]
