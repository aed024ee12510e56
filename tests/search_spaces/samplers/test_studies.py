"""Studies in real SQLite files: what an export adds, and what of a user's it never removes."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest

from search_spaces.samplers.studies import StudyError, Tried, open_storage, sqlite_url, write_study
from search_spaces.space import LogIntegers, LogUniform

SPACE: dict[str, Any] = {"batch_size": LogIntegers((2, 5, 20)), "weight_decay": LogUniform(1e-4, 1e2)}
TRIALS: dict[str, Tried] = {
    "a": ({"batch_size": 2, "weight_decay": 1e-3}, 1.0),
    "b": ({"batch_size": 20, "weight_decay": 1e-3}, 0.0),
    "c": ({"batch_size": 20, "weight_decay": 1e-3}, 1.0),  # another seed at the same point
}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_url(str(tmp_path / "optuna.db"))


def exported(url: str, trials: dict[str, Tried]) -> optuna.Study:
    return write_study("map", SPACE, trials, open_storage(url))


def own_trial(study: optuna.Study) -> optuna.trial.Trial:
    return study.ask({name: axis.distribution() for name, axis in SPACE.items()})


def values(study: optuna.Study) -> list[tuple[str | None, float | None]]:
    return [(one.user_attrs.get("trial_id"), one.value) for one in study.get_trials()]


def test_an_export_adds_what_is_missing_and_keeps_a_users_trials(url: str) -> None:
    study = exported(url, {"a": TRIALS["a"]})
    told, asked = own_trial(study), own_trial(study)
    study.tell(told, 0.5)
    again = exported(url, TRIALS)
    assert values(again) == [("a", 1.0), (None, 0.5), (None, None), ("b", 0.0), ("c", 1.0)]
    study.tell(asked, 1.0)  # a trial that was running meanwhile goes on
    assert values(exported(url, TRIALS))[2] == (None, 1.0)


@pytest.mark.slow
def test_a_study_that_lacks_names_is_completed_not_doubled(url: str) -> None:
    """Exports of earlier versions named no trials."""
    study = optuna.create_study(study_name="map", storage=url, direction="maximize")
    add_as_exported(study, TRIALS["a"], TRIALS["b"])
    assert values(exported(url, TRIALS)) == [(None, 1.0), (None, 0.0), ("c", 1.0)]


def add_as_exported(study: optuna.Study, *trials: Tried, **attributes: str) -> None:
    distributions = {name: axis.distribution() for name, axis in SPACE.items()}
    study.add_trials(
        [
            optuna.create_trial(
                params=dict(params), distributions=distributions, value=value, user_attrs=dict(attributes)
            )
            for params, value in trials
        ]
    )


def test_a_trial_that_two_exports_wrote_at_once_is_not_outdated(url: str) -> None:
    study = exported(url, TRIALS)
    add_as_exported(study, TRIALS["b"], trial_id="b")
    add_trial(study)
    before = values(study)
    assert values(exported(url, TRIALS)) == before


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (0.0, [("a", 1.0), ("b", 0.0), ("c", 1.0)]),
        # of a user: exports write only 0 and 1
        pytest.param(0.5, [(None, 0.0), (None, 0.5), ("a", 1.0), ("c", 1.0)], marks=pytest.mark.slow),
    ],
)
def test_a_trial_without_a_name_and_with_another_value_is_outdated(value: float, found: object, url: str) -> None:
    study = optuna.create_study(study_name="map", storage=url, direction="maximize")
    add_as_exported(study, TRIALS["b"], (TRIALS["a"][0], value))
    assert values(exported(url, TRIALS)) == found


def test_a_trial_that_a_user_ran_at_the_point_of_another_stays(url: str) -> None:
    study = optuna.create_study(study_name="map", storage=url, direction="maximize")
    study.enqueue_trial(dict(TRIALS["a"][0]))
    study.tell(own_trial(study), 0.0)
    assert values(exported(url, TRIALS)) == [(None, 0.0), ("a", 1.0), ("b", 0.0), ("c", 1.0)]


@pytest.mark.slow
def test_outdated_trials_are_written_anew(url: str) -> None:
    exported(url, TRIALS)
    changed = TRIALS | {"b": (TRIALS["b"][0], 1.0)}
    assert values(exported(url, changed)) == [("a", 1.0), ("b", 1.0), ("c", 1.0)]


def add_trial(study: optuna.Study) -> None:
    study.tell(own_trial(study), 1.0)


def add_running_trial(study: optuna.Study) -> None:
    own_trial(study)


def add_note(study: optuna.Study) -> None:
    study.set_user_attr("note", "the paper's cell")


slow = pytest.mark.slow


@pytest.mark.parametrize(
    "add", [add_trial, pytest.param(add_running_trial, marks=slow), pytest.param(add_note, marks=slow)]
)
def test_what_a_user_added_is_not_deleted_with_outdated_trials(add: Any, url: str) -> None:
    study = exported(url, TRIALS)
    add(study)
    before = values(study)
    with pytest.raises(StudyError, match=r"^study 'map' has 1 trial that is no longer so, and trials or notes of "):
        exported(url, TRIALS | {"b": (TRIALS["b"][0], 1.0)})
    kept = optuna.load_study(study_name="map", storage=url)
    assert (values(kept), kept.user_attrs) == (before, study.user_attrs)


@pytest.mark.slow
def test_a_users_study_of_the_same_name_stays_theirs(url: str) -> None:
    study = optuna.create_study(study_name="map", storage=url, direction="minimize")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(StudyError, match="study 'map' is another kind of study"):
        exported(url, TRIALS)
    assert len(optuna.load_study(study_name="map", storage=url).trials) == 1


@pytest.mark.parametrize(
    "name", ["q?x=1", *(pytest.param(one, marks=slow) for one in ("#1", "50%41", "with space", "it's"))]
)
def test_any_folder_can_hold_a_database(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    exported(sqlite_url(str(tmp_path / name / "optuna.db")), TRIALS)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == [f"{name}/optuna.db"]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("journal.log", r"^a storage is a database's URL, as sqlite:///FOLDER/optuna\.db or .*, got 'journal\.log'$"),
        ("postgresql//me:secret@host/db", "^a storage is a database's URL, as"),
        ("sqlite:///{}/q?x=1/optuna.db", "Query string argument.*'x' are not accepted"),
        ("sqlite:///{}/no/such/folder.db", "unable to open database file"),
        ("sqlite:///{}/text.db", "file is not a database"),
        ("sqlite://", "is a database in memory, which ends with this command"),
        ("oracel://me:secret@host/db", "sqlalchemy.dialects:oracel"),
        ("redis://host", "redis"),
        ("postgresql+psycopg2://me:secret@127.0.0.1:1/db", "onnection refused|DB access module"),
        ("postgresql+psycopg2://me:secret@host:port/db", "^a storage is a database's URL, as"),
    ],
)
def test_a_storage_that_cannot_be_had_is_one_line(given: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is a text and no database" * 100)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StudyError, match=line) as refused:
        open_storage(given.format(tmp_path))
    assert len(str(refused.value).splitlines()) == 1
    assert "secret" not in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_a_database_that_cannot_be_written_is_one_line(url: str, tmp_path: Path) -> None:
    storage = open_storage(url)
    with sqlite3.connect(tmp_path / "optuna.db") as database:
        database.execute("DROP TABLE trials")
    with pytest.raises(StudyError, match=r"^cannot write study 'map' \(") as refused:
        write_study("map", SPACE, TRIALS, storage)
    assert len(str(refused.value).splitlines()) == 1
