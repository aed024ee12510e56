"""A map as Optuna studies, one for each optimizer and setting, rebuilt from the ledger's rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from orchestrator.claims import works
from orchestrator.errors import SweepError
from orchestrator.ledger import Ledger
from orchestrator.map_search import MapSearch
from orchestrator.plan import plan_sweep
from orchestrator.sweep import Sweep
from search_spaces.studies import write_study
from trainables.result import SATISFYING


def export_optuna(sweep: Sweep, out: str, storage: str | None = None) -> tuple[str, dict[str, int]]:
    """Write the map's draws into an Optuna storage (default: `out`/optuna.db); its URL, and draws by study.

    Raises `SweepError` for a sweep that is no map, or an object store without a storage of its own.
    """
    if not isinstance(sweep.search, MapSearch):
        raise SweepError(f"{sweep.name} is no map: its trials have no space to make a study of")
    if storage is None and "://" in out:
        raise SweepError(f"{out!r} cannot hold an Optuna database: name one with --storage")
    storage = storage or f"sqlite:///{Path(out).resolve()}/optuna.db"
    ledger = Ledger(out)
    ids = {config.trial_id for config in plan_sweep(sweep, ledger).configs}
    trials = ledger.trials(sweep.workload, trial_ids=ids).to_pandas()
    trials = trials[trials["outcome"].isin(SATISFYING)].sort_values("trial_id")
    if trials.empty:
        raise SweepError(f"{out!r} has no finished trial of {sweep.name}: run it first")
    trials = trials.assign(works=works(trials, sweep.search.rule))
    written = {}
    for setting, _ in sweep.search.boundaries(sweep):
        if any(field in setting for field in sweep.search.fields):
            continue  # a line: its draws are the whole map's too
        own = trials[np.logical_and.reduce([trials[name] == value for name, value in setting.items()])]
        points = own[list(sweep.search.fields)].to_dict("records")
        draws = [
            ({str(k): v for k, v in point.items()}, float(w)) for point, w in zip(points, own["works"], strict=True)
        ]
        name = f"{sweep.name}: {', '.join(f'{k}={v}' for k, v in setting.items())}"
        study = write_study(name, sweep.search.space[setting["optimizer"]], draws, storage)
        written[name] = len(study.get_trials(deepcopy=False))
    return storage, written
