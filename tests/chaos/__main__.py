"""`python -m tests.chaos --kills 200 --seed 0`: strikes sweeps, prints a table, ends with 1 if a rule was broken."""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.launches import MARK, Folder, remove, run_undisturbed
from tests.chaos.schedule import Fault, schedule
from tests.chaos.storm import Hit, Storm
from tests.chaos.sweeps import LAST, NAMES

VIOLATIONS = ("lost", "twice", "bits", "mlflow", "orphans", "files", "hangs")
_LOG_CHARACTERS = 6000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run storms until all strikes are done; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="number of kills and faults")
    parser.add_argument("--seed", type=int, default=0, help="chooses them, their order and their moments")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no further storm after this time")
    parser.add_argument("--keep", help="a folder for the results and logs of a run that broke a rule")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(f"stopped by signal {number}"))
    token = os.environ.get(MARK) or secrets.token_hex(8)
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))  # sockets need a short path
    try:
        return _run(folder, token, options)
    finally:
        remove(folder, token)


def _run(folder: Path, token: str, options: argparse.Namespace) -> int:
    strikes = deque(schedule(options.seed, options.kills))
    began = time.monotonic()
    undisturbed = Folder(folder / "undisturbed", token)
    run_undisturbed(undisturbed, (*NAMES, LAST))
    _say(f"undisturbed: {time.monotonic() - began:.0f} s")
    hits: list[Hit] = []
    while strikes and time.monotonic() - began < 60 * options.minutes:
        place = Folder(folder / str(len(hits)), token)
        storm = Storm(place, undisturbed.out, _say)
        try:
            storm.run(strikes)
        except BaseException:
            _show_failure(storm, place, options)
            print(_table([*hits, *storm.hits]))
            raise
        hits += storm.hits
        _say(f"{len(hits)} of {options.kills} after {time.monotonic() - began:.0f} s")
        if any(hit.violations for hit in storm.hits):
            _show_failure(storm, place, options)
        else:
            shutil.rmtree(place.path)
    print(_table(hits))
    return int(any(hit.violations for hit in hits))


def _table(hits: Sequence[Hit]) -> str:
    heads = ("fault", "count", "ended", "progress s", "longest s", *VIOLATIONS)
    lines = [_line([hit for hit in hits if hit.strike.fault is fault], str(fault)) for fault in Fault]
    cells = [heads, *lines, _line(hits, "all")]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


def _line(hits: Sequence[Hit], name: str) -> tuple[str, ...]:
    seconds = [hit.progress_seconds for hit in hits if hit.progress_seconds is not None]
    middle, longest = (f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}") if seconds else ("", "")
    counts = [str(sum(len(hit.violations.get(kind, ())) for hit in hits)) for kind in VIOLATIONS]
    return (name, str(len(hits)), str(sum(hit.ended for hit in hits)), middle, longest, *counts)


def _show_failure(storm: Storm, place: Folder, options: argparse.Namespace) -> None:
    print(f"--- it failed; seed {options.seed}; the strikes of this storm:")
    for hit in storm.hits:
        print(f"{hit.strike}{' ended the launch' * hit.ended} {hit.violations or ''}")
    _show_log(place)
    if options.keep:
        kept = Path(options.keep) / place.path.name
        shutil.copytree(place.out, kept / "out", dirs_exist_ok=True)
        shutil.copy(place.log, kept)


def _show_log(place: Folder) -> None:
    if place.log.exists():
        print(f"--- the end of the log:\n{place.log.read_text(errors='replace')[-_LOG_CHARACTERS:]}", flush=True)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
