"""Databases for the tests of the view: MLflow takes seconds to create one, so all are copies of one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestrator.mlflow_view.connection import default_tracking_uri
from orchestrator.mlflow_view.view import MlflowView


@pytest.fixture(autouse=True)
def no_tracking_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def made_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that has been opened once."""
    uri = default_tracking_uri(str(tmp_path_factory.mktemp("made 100%")))
    MlflowView(uri, "first", "")
    return Path(uri.removeprefix("sqlite:///"))


@pytest.fixture(scope="module")
def uri(made_database: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for most tests of a module, each with its own sweep."""
    out = tmp_path_factory.mktemp("out 100%")
    shutil.copy(made_database, out / "mlflow.db")
    return default_tracking_uri(str(out))


@pytest.fixture
def own_uri(made_database: Path, tmp_path: Path) -> str:
    """A database for one test."""
    (tmp_path / "own").mkdir()
    shutil.copy(made_database, tmp_path / "own" / "mlflow.db")
    return default_tracking_uri(str(tmp_path / "own"))
