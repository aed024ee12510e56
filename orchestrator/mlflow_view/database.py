"""Opens MLflow's client; creates a local database, or checks it before MLflow waits for it or writes where it says."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from orchestrator.mlflow_view.connection import SQLITE, MlflowUnavailable
from orchestrator.mlflow_view.sqlite import BUSY_SECONDS

if TYPE_CHECKING:
    from mlflow import MlflowClient


def open_client(
    tracking_uri: str, database: Path | None, artifact_root: str | None, progress: Callable[[], None]
) -> MlflowClient:
    """MLflow's client; a local database that does not exist is created. `progress` is called after each step.

    Raises sqlite3's errors, in time, for a file that MLflow would try for minutes to open: no database, locked or
    read-only.
    """
    from mlflow import MlflowClient

    progress()
    if database is not None:
        if not database.exists():
            _create(database, str(artifact_root))
            progress()
        if not database.is_file():
            raise MlflowUnavailable(f"MLflow: {database} is no file: move it away")
        address = f"{database.as_uri()}?mode=rw"
        with closing(sqlite3.connect(address, timeout=BUSY_SECONDS, isolation_level=None, uri=True)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    return MlflowClient(tracking_uri)


def check_artifacts(artifact_uri: str, database: Path) -> None:
    """Check that artifacts lie beside the database: whoever made the file may have named any other place in it."""
    folder = database.parent.resolve()
    for path in (artifact_uri, unquote(artifact_uri)):  # MLflow decodes it
        if not path.startswith("/") or not Path(path).resolve().is_relative_to(folder):
            raise MlflowUnavailable(
                f"MLflow: artifacts of {database} would be written to {artifact_uri}, outside of its folder: delete "
                "the file (`launch export-mlflow` writes it again)"
            )


def _create(database: Path, artifact_root: str) -> None:
    """Create the tables under another name first: a driver killed meanwhile would leave a database half migrated."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    open_store: Callable[[str, str], Any] = SqlAlchemyStore
    draft = database.with_name(f"{database.name}.new")
    draft.unlink(missing_ok=True)
    open_store(f"{SQLITE}{draft}", artifact_root).engine.dispose()
    draft.replace(database)
    # MLflow keeps connections by URI; this process may hold some to a database of this name that was deleted since
    open_store(f"{SQLITE}{database}", artifact_root).engine.dispose()
