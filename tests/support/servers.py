"""Starts real servers on loopback for the tests of shared storage: an S3-compatible store, PostgreSQL, MLflow."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import psycopg2
import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_EC2_METADATA_DISABLED": "true"}
_START_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A running S3-compatible server; `log` has a line for each request."""

    url: str
    log: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find the store: its address and keys."""
        return {**KEYS, "AWS_ENDPOINT_URL": self.url}

    def make_bucket(self, name: str) -> str:
        """A new bucket's URI."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def keys(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """Bytes of every object; without the markers that pyarrow leaves where a folder was."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        objects = [entry for page in pages for entry in page.get("Contents", ())]
        return {entry["Key"]: entry["Size"] for entry in objects if not entry["Key"].endswith("/")}

    def client(self) -> Any:
        """Boto's client of the store."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )


@contextmanager
def object_store(folder: Path, **environment: str) -> Iterator[ObjectStore]:
    """Moto's server in a separate process, until the block ends."""
    port = free_port()
    log = folder / "moto.log"
    arguments = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("w") as output, _running(arguments, stdout=output, stderr=output, environment=environment) as process:
        _await(lambda: _answers(f"http://127.0.0.1:{port}/moto-api/"), process)
        yield ObjectStore(f"http://127.0.0.1:{port}", log)


class Way:
    """A TCP port that leads to a server's, unless it is closed: the network between a store and its users."""

    def __init__(self, url: str) -> None:
        self._to = int(url.rpartition(":")[2])
        self._port = free_port()
        self._listener: socket.socket | None = None
        self._open_ends: list[socket.socket] = []
        self.open()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def open(self) -> None:
        """Take connections, again if it was closed."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._take, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Cut all connections and refuse new ones."""
        assert self._listener is not None
        ends, self._open_ends = [self._listener, *self._open_ends], []
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _take(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open_ends += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@dataclass(frozen=True, slots=True)
class PostgreSQL:
    """A running PostgreSQL cluster whose only user needs no password."""

    port: int

    def make_database(self, name: str) -> str:
        """A new, empty database's SQLAlchemy URI."""
        connection = psycopg2.connect(host="127.0.0.1", port=self.port, user="atlas", dbname="postgres")
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name}")
        connection.close()
        return f"postgresql+psycopg2://atlas@127.0.0.1:{self.port}/{name}"


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """A new cluster, until the block ends; skips the test where PostgreSQL is not installed."""
    programs = _postgresql_programs()
    owner = _plain_user()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="atlas-postgresql-") as folder:
        if owner:
            shutil.chown(folder, owner)  # the server refuses to run as root, and pytest's folders belong to root only
        as_owner: dict[str, Any] = {"cwd": folder, "user": owner, "extra_groups": [] if owner else None}
        data = Path(folder) / "data"
        create = [programs / "initdb", "-D", data, "-U", "atlas", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"]
        made = subprocess.run(create, **as_owner, capture_output=True, text=True, check=False, timeout=120)
        assert made.returncode == 0, made.stdout + made.stderr
        serve = [programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", "", "-F"]
        with _running(
            serve, signal.SIGINT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_owner
        ) as process:
            _await(lambda: _accepts(port), process)
            yield PostgreSQL(port)


@contextmanager
def mlflow_server(backend: str, folder: Path) -> Iterator[str]:
    """`mlflow server` over a database, as a cluster has it; its URL."""
    port = free_port()
    arguments = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", backend, "--artifacts-destination", str(folder / "artifacts")),
    ]
    with (folder / "mlflow.log").open("w") as log, _running(arguments, stdout=log, stderr=log) as process:
        _await(lambda: _answers(f"http://127.0.0.1:{port}/health"), process)
        yield f"http://127.0.0.1:{port}"


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _postgresql_programs() -> Path:
    """The folder of initdb and postgres, which Debian keeps off the search path."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve().parent)
    if not found:
        pytest.skip("PostgreSQL (initdb, postgres) is not installed")
    return max(found)


def _plain_user() -> str | None:
    """The user that runs a server which refuses root; None: this user."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in names:
            return name
    pytest.skip("no user other than root is there to run PostgreSQL")


@contextmanager
def _running(
    arguments: Sequence[str | Path],
    end: signal.Signals = signal.SIGTERM,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose children end with it when the block ends."""
    process = subprocess.Popen(
        [str(argument) for argument in arguments],
        env={**os.environ, **(environment or {})},
        start_new_session=True,
        **options,
    )
    try:
        yield process
    finally:
        process.send_signal(end)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await(is_up: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not is_up():
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        assert time.monotonic() < deadline, f"{process.args} does not answer"
        time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status < 500)
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False


def _accepts(port: int) -> bool:
    try:
        psycopg2.connect(host="127.0.0.1", port=port, user="atlas", dbname="postgres").close()
    except psycopg2.OperationalError:
        return False
    return True
