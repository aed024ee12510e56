"""Rewrites what the golden tests compare with: `python -m tests.golden.record texts|numbers|old-results ...`.

`texts`: help, lists, plans, and what `status` says of the old results. `numbers`: names, columns, rows, traces and
asks. `old-results`: the folder of results from which later code continues.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.golden import old, results, texts, workloads
from tests.golden.workloads import Findings


def record_texts(folder: Path) -> None:
    """What the command line says."""
    texts.save(texts.said(folder), texts.RECORDED)
    if old.ARCHIVE.exists():
        texts.save(old.statuses(old.unpacked(folder / "old")), old.STATUSES)


def record_numbers(folder: Path) -> None:
    """What trials and searches give."""
    workloads.run_all(folder)
    found = workloads.findings(folder)
    slower = workloads.train_by_slower_engine(found.rows["rules"])
    _save(found)
    _save(slower)
    names = {
        "trials": workloads.trial_names(found),
        "sweeps": workloads.named_sweeps(),
        "files": workloads.columns(folder),
    }
    results.save_json(workloads.NAMES, names)
    results.save_json(workloads.MADE_ON, results.circumstances())


def _save(found: Findings) -> None:
    for name, rows in found.rows.items():
        results.save_rows(workloads.RECORDED / f"{name}-trials.parquet", rows.values())
        points = [point for trace in found.traces[name].values() for point in trace]
        results.save_rows(workloads.RECORDED / f"{name}-traces.parquet", points)
    for name, asked in found.asks.items():
        results.save_json(workloads.RECORDED / f"{name}-asks.json", asked)


PARTS: dict[str, Callable[[Path], None]] = {
    "texts": record_texts,
    "numbers": record_numbers,
    "old-results": old.record,
}


def main(names: list[str]) -> None:
    """Record these parts."""
    if not names or not set(names) <= set(PARTS):
        sys.exit(f"usage: python -m tests.golden.record {'|'.join(PARTS)} ...")
    for name in names:
        with TemporaryDirectory() as folder:
            PARTS[name](Path(folder))
        print(f"recorded {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
