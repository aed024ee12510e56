"""Databases that are locked, read-only, no files, or planted: one line, the reason first, and nothing is harmed."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.mlflow_view import database as opening
from orchestrator.mlflow_view import sqlite
from orchestrator.mlflow_view.connection import MlflowUnavailable, default_tracking_uri
from orchestrator.mlflow_view.view import MlflowView
from tests.orchestrator.mlflow_view.test_view import add, children, parent_of, trial
from tests.support.launching import launch, make_folder, rows

LONG = "long-" * 40
"""A folder whose name alone is as long as half a message."""


def file_of(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///"))


def change(uri: str, statement: str, *values: str) -> None:
    with closing(sqlite3.connect(file_of(uri))) as connection, connection:
        connection.execute(statement, values)


def moved_to_a_long_name(uri: str) -> str:
    folder = file_of(uri).parent
    return default_tracking_uri(str(folder.rename(folder.with_name(LONG))))


def make_read_only(uri: str) -> None:
    """A newer SQLite's mark for files that older ones only read: it stops root too, unlike permissions."""
    content = bytearray(file_of(uri).read_bytes())
    content[18] = 3
    file_of(uri).write_bytes(content)


def lock(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(file_of(uri), isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    return connection


@pytest.mark.slow
def test_a_locked_database_is_said_to_be_locked(own_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "BUSY_SECONDS", 0.1)
    uri = moved_to_a_long_name(own_uri)
    with closing(lock(uri)), pytest.raises(MlflowUnavailable, match=r"^MLflow: database is locked \(sqlite:"):
        MlflowView(uri, "locked", "")


@pytest.mark.slow
def test_a_database_that_is_locked_meanwhile_is_not_tried_again(own_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = moved_to_a_long_name(own_uri)
    view = MlflowView(uri, "locked", "")
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    with closing(lock(uri)), pytest.raises(MlflowUnavailable, match=r"^MLflow: database is locked \(sqlite:"):
        add(view, trial())
    add(view, trial())
    assert set(children(uri, "locked")) == {trial().trial_id}


def test_a_read_only_database_is_said_to_be_read_only(own_uri: str) -> None:
    uri = moved_to_a_long_name(own_uri)
    make_read_only(uri)
    with pytest.raises(MlflowUnavailable, match=r"^MLflow: attempt to write a readonly database \(sqlite:"):
        MlflowView(uri, "read_only", "")


def test_a_full_disk_is_said_to_be_full(own_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By MLflow's client, whose errors begin with the statement."""
    uri = moved_to_a_long_name(own_uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    view = MlflowView(uri, "full", "")
    change(
        uri, "CREATE TRIGGER full BEFORE INSERT ON metrics BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
    )
    with pytest.raises(MlflowUnavailable, match=r"^MLflow: database or disk is full \(sqlite:"):
        add(view, trial())


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_named_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "mlflow.db")
    with pytest.raises(MlflowUnavailable, match=r"mlflow\.db is no file"):
        MlflowView(default_tracking_uri(str(tmp_path)), "sweep", "")


def test_a_launch_goes_on_without_a_file_and_an_export_says_why(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "results").mkdir()
    os.mkfifo(folder / "results" / "mlflow.db")
    done = launch(folder, "small", "--executor", "inline", "--no-figures", "--max-trials", "2")
    line = f"MLflow: {folder / 'results' / 'mlflow.db'} is no file: move it away"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(line) == done.stdout.count("export-mlflow") == 1
    assert len(rows(folder / "results")) == 2
    refused = launch(folder, "export-mlflow", "small")
    assert (refused.returncode, refused.stderr) == (2, f"error: {line}\n")


@pytest.mark.parametrize(
    "planted", ["{root}/../../away", "{root}/%2e%2e/%2e%2e/away", "file://{away}", "{away}", "{root}/../link/x"]
)
def test_artifacts_are_never_written_outside_of_the_results(own_uri: str, tmp_path: Path, planted: str) -> None:
    MlflowView(own_uri, "planted", "")
    run_id = parent_of(own_uri, "planted").info.run_id
    root, away = file_of(own_uri).parent / "mlflow-artifacts", tmp_path / "away"
    away.mkdir()
    (root.parent / "link").symlink_to(away)
    change(own_uri, "UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", planted.format(root=root, away=away), run_id)
    figure = tmp_path / "error.png"
    figure.write_bytes(b"figure")
    view = MlflowView(own_uri, "planted", "")
    add(view, trial())
    with pytest.raises(MlflowUnavailable, match=r"mlflow\.db would be written to .*away|link.*, outside of its folder"):
        view.add_artifacts([figure])
    assert list(away.iterdir()) == []
    assert set(children(own_uri, "planted")) == {trial().trial_id}
