"""Makes the trials of a map: their seeds by purpose, their ids, and the columns that identify judged cells."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.errors import SweepError
from orchestrator.sweeps.map_search import MapSearch
from orchestrator.sweeps.value import Sweep, make_trial
from trainables.config import TrialConfig

if TYPE_CHECKING:
    import pandas as pd

_SEED_BITS = 31

CLAIM, BOUNDARY = "claim", "boundary"
"""Purposes of a point's seeds.

Claim and boundary trials at one point use different seeds: a shared seed would count twice as new evidence.
"""


def map_of(sweep: Sweep) -> MapSearch:
    """The search of a sweep that is a map; raises `SweepError` for any other."""
    if not isinstance(sweep.search, MapSearch):
        raise SweepError(f"sweep {sweep.name} is not a map: it is a grid or a halving search")
    return sweep.search


def of_setting(trials: pd.DataFrame, setting: Mapping[str, Any]) -> pd.DataFrame:
    """The trials that have these values."""
    for name, value in setting.items():
        trials = trials[trials[name] == value]
    return trials


def sample_seed(point: Mapping[str, Any], replicate: int, purpose: str) -> int:
    """The seed of a point's replicate. Different points have different seeds, so that their results are independent.

    It depends on the point's fields except the optimizer. So Adam and AdamW are paired, and a finer map contains the
    trials of a coarser one.
    """
    named = {name: value for name, value in point.items() if name != "optimizer"}
    text = json.dumps([purpose, named, replicate], sort_keys=True, default=str)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> (32 - _SEED_BITS)


def make_map_trial(sweep: Sweep, values: Mapping[str, Any]) -> TrialConfig:
    """One trial of a map, with the number of epochs that `num_steps` implies."""
    search = map_of(sweep)
    if search.num_steps is not None and "num_epochs" not in values:
        middle = make_trial(sweep.workload, values).model_dump()
        if "num_train" not in middle:
            raise SweepError(f"{sweep.name}: num_steps needs a field num_train, which {sweep.workload} does not have")
        num_train = middle["num_train"]
        values = search.completed(values, num_train)
    return make_trial(sweep.workload, values)


def seed_trial(sweep: Sweep, point: Mapping[str, Any], replicate: int, purpose: str) -> TrialConfig:
    """The trial of a point's replicate, with the point's seed for that purpose."""
    return make_map_trial(sweep, {**point, "seed": sample_seed(point, replicate, purpose)})


def claim_ids(sweep: Sweep) -> set[str]:
    """Ids of all trials that a map's claims may ask, up to `max_seeds` for each cell."""
    search = map_of(sweep)
    cells = [cell for cell in sweep.cells() if search.is_claim(cell)]
    return {seed_trial(sweep, cell, r, CLAIM).trial_id for cell in cells for r in range(search.rule.max_seeds)}


def claim_keys(sweep: Sweep) -> list[str]:
    """The fields that identify a map's judged cells, without the optimizer."""
    search = map_of(sweep)
    cells = [cell for cell in sweep.cells() if search.is_claim(cell)]
    shared = [name for name in cells[0] if name != "optimizer" and all(name in cell for cell in cells)]
    varying = [name for name in shared if len({cell[name] for cell in cells}) > 1]
    return list(dict.fromkeys((*search.fields, *varying)))
