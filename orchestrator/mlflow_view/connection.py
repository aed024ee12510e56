"""Connects to MLflow: its URI, settings, the lock around its database, and what it may print."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from orchestrator.errors import UserError
from trainables.redaction import redacted

SQLITE = "sqlite:///"
POSTGRESQL = "postgresql"

_CREATION_SECONDS = 300.0
_CONNECT_SECONDS = 10
_ADVISORY_KEY = int.from_bytes(b"lambda_a")
_MAX_LINE = 300
_CHATTY_LOGGERS = ("mlflow.store.db.utils", "mlflow.store.tracking.sqlalchemy_store", "urllib3.connectionpool")
_SERVER_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class MlflowUnavailable(UserError):  # noqa: N818 - what the user reads is "MLflow unavailable"
    """MLflow cannot be reached, opened or written."""


def default_tracking_uri(out: str) -> str:
    """`MLFLOW_TRACKING_URI` if set, else a SQLite file in the output folder.

    An object store cannot hold the file: for `out` = s3://bucket/prefix it lies in the current folder, under
    `mlflow-views/bucket/prefix/`. Raises `UserError` for a folder whose name a SQLite URI cannot hold.
    """
    if given := os.environ.get("MLFLOW_TRACKING_URI"):
        return given
    scheme, _, rest = out.rpartition("://")
    folder = Path("mlflow-views", *Path(rest.strip("/")).parts) if scheme not in ("", "file") else Path(rest)
    path = str(folder.absolute() / "mlflow.db")
    if urlsplit(f"{SQLITE}{path}").path != f"/{path}" or unquote(path) != path:
        raise UserError(
            f"a SQLite URI reads #, ? and %41 of {path} as something else: choose another folder, set "
            "MLFLOW_TRACKING_URI, or leave MLflow out with --no-mlflow"
        )
    return f"{SQLITE}{path}"


def local_database(tracking_uri: str) -> Path | None:
    """The file behind a SQLite URI, None for any other."""
    if not tracking_uri.startswith(SQLITE) or tracking_uri.endswith(":memory:"):
        return None
    return Path(tracking_uri.removeprefix(SQLITE).partition("?")[0]).absolute()


def set_environment(tracking_uri: str) -> None:
    """Set environment variables that the user has not set: no telemetry; for a server, few retries and no links."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if tracking_uri.startswith(("http://", "https://")):
        for name, value in _SERVER_SETTINGS.items():
            os.environ.setdefault(name, value)


def creation_lock(tracking_uri: str) -> AbstractContextManager[Any]:
    """Let one process at a time create the database: several at once crash in MLflow's migrations.

    A server creates its own database, so there is no lock for it. Raises SQLAlchemy's errors within seconds if a
    PostgreSQL cannot be reached; MLflow would try for minutes.
    """
    if tracking_uri.startswith(POSTGRESQL):
        return _advisory_lock(tracking_uri)
    database = local_database(tracking_uri)
    if database is None:
        return nullcontext()
    database.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{database}.lock", timeout=_CREATION_SECONDS)


@contextmanager
def _advisory_lock(tracking_uri: str) -> Iterator[None]:
    """A PostgreSQL advisory lock, which ends with the connection that holds it."""
    from sqlalchemy import NullPool, create_engine, text

    waits = {"connect_timeout": _CONNECT_SECONDS}
    engine = create_engine(tracking_uri, poolclass=NullPool, connect_args=waits, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"SET lock_timeout = '{_CREATION_SECONDS:.0f}s'"))
        connection.execute(text(f"SELECT pg_advisory_lock({_ADVISORY_KEY})"))
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what MLflow and urllib3 log in this thread; they raise exceptions for failures anyway."""
    thread_id = threading.get_ident()

    def is_of_another_thread(record: logging.LogRecord) -> bool:
        return record.thread != thread_id

    loggers = [logging.getLogger(name) for name in _CHATTY_LOGGERS]
    for logger in loggers:
        logger.addFilter(is_of_another_thread)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_of_another_thread)


def reason(error: BaseException) -> str:
    """What the system or the database said; the text of MLflow's error begins with the statement or the address."""
    said = str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (OSError, sqlite3.Error)) and str(cause):
            said = str(cause)
        cause = cause.__cause__ or cause.__context__
    return said


def one_line(text: str) -> str:
    """A message without line breaks and secrets, short enough for a terminal; a long one loses its middle."""
    line = " ".join(redacted(text).split())
    return line if len(line) <= _MAX_LINE else f"{line[: _MAX_LINE // 2]} … {line[-_MAX_LINE // 2 :]}"
