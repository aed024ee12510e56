"""A map as Optuna studies, one for each optimizer and setting, rebuilt from the ledger's rows."""

from __future__ import annotations

from orchestrator.claims import judged
from orchestrator.errors import SweepError
from orchestrator.map_search import map_of, of_setting
from orchestrator.plan import ledger_of, plan_sweep
from orchestrator.sweep import Sweep
from search_spaces.studies import write_study


def export_optuna(sweep: Sweep, out: str, storage: str | None = None) -> tuple[str, dict[str, int]]:
    """Write the map's draws into an Optuna storage (default: `out`/optuna.db); its URL, and draws by study.

    Raises `SweepError` for a sweep that is no map, or an object store without a storage of its own.
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
            continue  # a line: its draws are the whole map's too
        own = of_setting(trials, setting)
        columns = (own[field].tolist() for field in search.fields)
        points = [dict(zip(search.fields, values, strict=True)) for values in zip(*columns, strict=True)]
        draws = list(zip(points, own["works"].astype(float), strict=True))
        name = f"{sweep.name}: {', '.join(f'{k}={v}' for k, v in setting.items())}"
        study = write_study(name, search.space[setting["optimizer"]], draws, storage)
        written[name] = len(study.get_trials(deepcopy=False))
    return storage, written
