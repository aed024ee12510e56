"""The trials of a map: their seeds by purpose, their ids, and the columns that tell claims apart."""

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

Claim and boundary trials at the same point use different seeds; a shared seed would be counted as fresh evidence twice.
"""


def map_of(sweep: Sweep) -> MapSearch:
    """The search of a sweep that is a map; raises `SweepError` for any other."""
    if not isinstance(sweep.search, MapSearch):
        raise SweepError(f"{sweep.name} is no map: its trials are a grid's or a search's for an optimum")
    return sweep.search


def of_setting(trials: pd.DataFrame, setting: Mapping[str, Any]) -> pd.DataFrame:
    """The trials that have these values."""
    for name, value in setting.items():
        trials = trials[trials[name] == value]
    return trials


def draw_seed(point: Mapping[str, Any], replicate: int, purpose: str) -> int:
    """The seed of a point's draw: points share none, so that what one shows tells nothing of another's luck.

    It depends on the point alone, the optimizer apart: Adam and AdamW are paired, and a finer map has the trials of a
    coarser one.
    """
    named = {name: value for name, value in point.items() if name != "optimizer"}
    text = json.dumps([purpose, named, replicate], sort_keys=True, default=str)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> (32 - _SEED_BITS)


def make_map_trial(sweep: Sweep, values: Mapping[str, Any]) -> TrialConfig:
    """One trial of a map, its number of epochs filled in."""
    search = map_of(sweep)
    if search.num_steps is not None and "num_epochs" not in values:
        middle = make_trial(sweep.workload, values).model_dump()
        if "num_train" not in middle:
            raise SweepError(f"{sweep.name}: num_steps needs a field num_train, which {sweep.workload} has not")
        num_train = middle["num_train"]
        values = search.completed(values, num_train)
    return make_trial(sweep.workload, values)


def seed_trial(sweep: Sweep, point: Mapping[str, Any], replicate: int, purpose: str) -> TrialConfig:
    """The trial of a point's replicate; its seed is the point's own for that purpose."""
    return make_map_trial(sweep, {**point, "seed": draw_seed(point, replicate, purpose)})


def claim_draws(sweep: Sweep) -> set[str]:
    """Ids of the trials that the claims of a map may have."""
    search = map_of(sweep)
    cells = [cell for cell in sweep.cells() if search.is_claim(cell)]
    return {seed_trial(sweep, cell, r, CLAIM).trial_id for cell in cells for r in range(search.rule.max_seeds)}


def claim_keys(sweep: Sweep) -> list[str]:
    """The fields that tell the cells of a map's claims apart, the optimizer aside."""
    search = map_of(sweep)
    cells = [cell for cell in sweep.cells() if search.is_claim(cell)]
    shared = [name for name in cells[0] if name != "optimizer" and all(name in cell for cell in cells)]
    varying = [name for name in shared if len({cell[name] for cell in cells}) > 1]
    return list(dict.fromkeys((*search.fields, *varying)))
