"""Copies a map's trials into Optuna studies, one for each optimizer and setting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.analysis.claims import judged
from orchestrator.errors import SweepError
from orchestrator.schedulers.plan import ledger_of, plan_sweep
from orchestrator.sweeps.map_trials import map_of, of_setting
from orchestrator.sweeps.value import Sweep
from search_spaces.samplers.studies import StudyError, open_storage, sqlite_url, write_study

if TYPE_CHECKING:
    import pandas as pd


def export_optuna(sweep: Sweep, out: str, storage: str | None = None) -> tuple[str, dict[str, int]]:
    """Write the map's trials into an Optuna storage (default: `out`/optuna.db); its URL, and each study's trials.

    Trials that a user has added to a study stay. Raises `SweepError` if the sweep is not a map or has no finished
    trial, if `out` is an object store and no storage is given, or if the storage cannot take the studies.
    """
    search = map_of(sweep)
    ledger = ledger_of(sweep, out)
    if storage is None and "://" in ledger.root:
        raise SweepError(f"{out!r} cannot hold an Optuna database: name one with --storage")
    ids = {config.trial_id for config in plan_sweep(sweep, ledger).configs}
    trials = judged(ledger.trials(sweep.workload, trial_ids=ids).to_pandas(), search.rule)
    if trials.empty:
        raise SweepError(f"{out!r} has no finished trial of {sweep.name}: run it first")
    try:
        url = storage if storage is not None else sqlite_url(f"{ledger.root}/optuna.db")
        return url, _write_studies(sweep, trials, url)
    except StudyError as error:
        raise SweepError(f"--storage: {error}") from None


def _write_studies(sweep: Sweep, trials: pd.DataFrame, url: str) -> dict[str, int]:
    """Write one study for each optimizer and setting; how many trials each has now."""
    search, storage = map_of(sweep), open_storage(url)
    written = {}
    for setting, _ in search.boundaries(sweep.cells()):
        if any(field in setting for field in search.fields):
            continue  # a line: its trials are in the whole map's studies too
        own = of_setting(trials, setting)
        points = own[list(search.fields)].to_dict("list")
        values = [dict(zip(points, point, strict=True)) for point in zip(*points.values(), strict=True)]
        tried = dict(zip(own["trial_id"], zip(values, own["works"].astype(float), strict=True), strict=True))
        name = f"{sweep.name}: {', '.join(f'{k}={v}' for k, v in setting.items())}"
        study = write_study(name, search.space[setting["optimizer"]], tried, storage)
        written[name] = len(study.get_trials(deepcopy=False))
    return written
