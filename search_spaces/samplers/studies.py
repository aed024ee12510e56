"""Writes Optuna studies of trials that were run elsewhere, for optuna-dashboard and Optuna's plots and samplers.

A study that exists is completed: trials that a user has added to it stay. Each written trial has the user attribute
`trial_id`, its name in the results.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial
from sqlalchemy import URL, make_url
from sqlalchemy.exc import SAWarning, SQLAlchemyError

from search_spaces.space import MixedSpace

TRIAL_ID = "trial_id"

_STORAGES = "a storage is a database's URL, as sqlite:///FOLDER/optuna.db or postgresql+psycopg2://HOST/DATABASE"

Tried = tuple[Mapping[str, Any], float]
"""The parameters of a trial, and whether it worked: 1 or 0."""


class StudyError(Exception):
    """A storage cannot be used, or a study has something of a user's that would be lost; the message is one line."""


def sqlite_url(path: str) -> str:
    """The URL of a SQLite file; raises `StudyError` for a path that no URL can name."""
    url = URL.create("sqlite", database=path).render_as_string()
    if make_url(url).database != path:  # before version 2.1 SQLAlchemy escapes nothing
        raise StudyError(f"no SQLite URL can name {path}: choose another folder, or name a storage")
    return url


def open_storage(url: str) -> BaseStorage:
    """Open a database for studies, and create its tables; raises `StudyError` if that cannot be."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        parsed = make_url(url)
    except (SQLAlchemyError, ValueError):
        given = "" if "@" in url else f", got {url!r}"  # what is in front of an @ may be a password
        raise StudyError(f"{_STORAGES}{given}") from None
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise StudyError(f"{url} is a database in memory, which ends with this command: {_STORAGES}")
    with _refusals(f"cannot open the storage {parsed.set(query={}).render_as_string()}"), warnings.catch_warnings():
        warnings.simplefilter("error", SAWarning)  # such as a part of the URL that is not heeded
        return RDBStorage(url)


def write_study(name: str, space: MixedSpace, trials: Mapping[str, Tried], storage: BaseStorage) -> optuna.Study:
    """Write `trials`, by trial_id, as complete trials of the study of that name.

    Trials with values outside an axis are left out, since Optuna accepts only values in its distributions. Trials that
    an earlier export wrote and that are no longer so are removed, with the whole study. Raises `StudyError` if that
    would remove something of a user's too, or if the storage fails.
    """
    inside = {
        trial_id: (params, float(value))
        for trial_id, (params, value) in trials.items()
        if all(axis.nearest(params[field]) == params[field] for field, axis in space.items())
    }
    distributions = {field: axis.distribution() for field, axis in space.items()}
    with _refusals(f"cannot write study {name!r}"):
        missing = _kept(name, inside, storage)
        study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
        study.add_trials([_complete(trial_id, tried, distributions) for trial_id, tried in missing.items()])
    return study


def _complete(trial_id: str, tried: Tried, distributions: dict[str, Any]) -> FrozenTrial:
    params, value = tried
    attributes = {TRIAL_ID: trial_id}
    return create_trial(params=dict(params), distributions=distributions, value=value, user_attrs=attributes)


def _kept(name: str, wanted: Mapping[str, Tried], storage: BaseStorage) -> dict[str, Tried]:
    """The wanted trials that the study of that name lacks, once it is such that they can be added to it."""
    if name not in optuna.get_all_study_names(storage):
        return dict(wanted)
    study = optuna.load_study(study_name=name, storage=storage)
    if study.directions != [StudyDirection.MAXIMIZE]:
        raise StudyError(f"study {name!r} is another kind of study, whose value is not maximized: name another storage")
    found = study.get_trials(deepcopy=False)
    missing, num_outdated, num_foreign = _compared(found, wanted)
    if not num_outdated:
        return missing
    notes = study.user_attrs or storage.get_study_system_attrs(storage.get_study_id_from_name(name))
    if num_foreign or notes or any(trial.system_attrs or set(trial.user_attrs) - {TRIAL_ID} for trial in found):
        outdated = "1 trial that is" if num_outdated == 1 else f"{num_outdated} trials that are"
        raise StudyError(
            f"study {name!r} has {outdated} no longer so, and trials or notes of yours that would be deleted with "
            "the study: name another storage, or delete the study"
        )
    optuna.delete_study(study_name=name, storage=storage)
    return dict(wanted)


def _compared(found: Sequence[FrozenTrial], wanted: Mapping[str, Tried]) -> tuple[dict[str, Tried], int, int]:
    """The wanted trials that are not found; how many of the found ones are no longer wanted, and how many a user's."""
    missing, unnamed, num_outdated = dict(wanted), [], 0
    for trial in found:
        if TRIAL_ID not in trial.user_attrs:
            unnamed.append(trial)
        elif wanted.get(trial.user_attrs[TRIAL_ID]) == (trial.params, trial.value):
            missing.pop(trial.user_attrs[TRIAL_ID], None)  # one that two exports wrote at once is there twice
        else:
            num_outdated += 1
    others = []
    for trial in unnamed:  # of a user, or of an earlier version's export: that named no trials
        same = next((tid for tid, tried in missing.items() if tried == (trial.params, trial.value)), None)
        if same is None:
            others.append(trial)
        else:
            del missing[same]
    points = [params for params, _ in missing.values()]
    exported = [trial for trial in others if trial.params in points and _is_as_exported(trial)]
    return missing, num_outdated + len(exported), len(others) - len(exported)


def _is_as_exported(trial: FrozenTrial) -> bool:
    """Whether an export may have written the trial: its value is 0 or 1, and it took no time, as if never run here."""
    return trial.value in (0.0, 1.0) and trial.datetime_start == trial.datetime_complete


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Say in one line what Optuna, SQLAlchemy or a database refuses."""
    try:
        yield
    except (OptunaError, SQLAlchemyError, SAWarning, ImportError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).splitlines()[:1]) or type(error).__name__
        raise StudyError(f"{what} ({said.rstrip('. ')}); {_STORAGES}") from None
