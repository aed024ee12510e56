"""Copies a map's trials into Optuna studies, one for each optimizer and setting."""

from __future__ import annotations

from orchestrator.analysis.claims import judged
from orchestrator.errors import SweepError
from orchestrator.schedulers.plan import ledger_of, plan_sweep
from orchestrator.sweeps.map_trials import map_of, of_setting
from orchestrator.sweeps.value import Sweep
from search_spaces.samplers.studies import write_study


def export_optuna(sweep: Sweep, out: str, storage: str | None = None) -> tuple[str, dict[str, int]]:
    """Write the map's trials into an Optuna storage (default: `out`/optuna.db); its URL, and each study's trials.

    Raises `SweepError` if the sweep is not a map or has no finished trial, or if `out` is an object store and no
    storage is given.
    """
    search = map_of(sweep)
    ledger = ledger_of(sweep, out)
    if storage is None and "://" in ledger.root:
        raise SweepError(f"{out!r} cannot hold an Optuna database: name one with --storage")
    storage = storage or f"sqlite:///{ledger.root}/optuna.db"
    ids = {config.trial_id for config in plan_sweep(sweep, ledger).configs}
    trials = judged(ledger.trials(sweep.workload, trial_ids=ids).to_pandas(), search.rule)
    if trials.empty:
        raise SweepError(f"{out!r} has no finished trial of {sweep.name}: run it first")
    written = {}
    for setting, _ in search.boundaries(sweep.cells()):
        if any(field in setting for field in search.fields):
            continue  # a line: its trials are in the whole map's studies too
        own = of_setting(trials, setting)
        columns = (own[field].tolist() for field in search.fields)
        points = [dict(zip(search.fields, values, strict=True)) for values in zip(*columns, strict=True)]
        tried = list(zip(points, own["works"].astype(float), strict=True))
        name = f"{sweep.name}: {', '.join(f'{k}={v}' for k, v in setting.items())}"
        study = write_study(name, search.space[setting["optimizer"]], tried, storage)
        written[name] = len(study.get_trials(deepcopy=False))
    return storage, written
