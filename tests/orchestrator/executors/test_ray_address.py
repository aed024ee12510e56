"""Addresses where no Ray cluster answers: refused within seconds, with what is wrong."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest

from orchestrator.errors import ClusterError
from orchestrator.executors import ray_address
from orchestrator.executors.ray_address import check_address
from tests.support.launching import environment

HTTP1 = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


@contextmanager
def listener(answer: bytes | None) -> Iterator[str]:
    """A server that answers every connection with these bytes and closes it, or with None stays silent; its address."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        ended = threading.Event()

        def serve() -> None:
            with suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    if answer is None:
                        ended.wait()
                    else:
                        connection.sendall(answer)
                        connection.shutdown(socket.SHUT_WR)
                        while connection.recv(1024):
                            pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        ended.set()
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    "answer",
    [None, b"", HTTP1, b"SSH-2.0-OpenSSH_9.2p1\r\n", b"J\0\0\0\n8.0.36\0", b"-ERR unknown command 'PRI'\r\n"],
    ids=["silent", "hangs up", "web", "ssh", "mysql", "redis"],
)
def test_where_something_else_listens(answer: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_address, "_PROBE_SECONDS", 0.5)
    with listener(answer) as address, pytest.raises(ClusterError) as refused:
        check_address(address)
    assert f"--address {address}: something else listens there" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:99999",
        "127.0.0.1:0",
        "no.such.host.invalid:6379",
        "head..svc:6379",
        f"{'head' * 16}.svc:6379",
        "\udc80:6379",
    ],
    ids=ascii,
)
def test_where_nothing_can_listen(address: str) -> None:
    began = time.monotonic()
    with pytest.raises(ClusterError, match=f"^no Ray cluster at --address {address}: .+$"):
        check_address(address)
    assert time.monotonic() - began < 30


def test_where_another_service_of_grpc_listens() -> None:
    """As on Ray's own other ports."""
    server = grpc.server(ThreadPoolExecutor(1))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with pytest.raises(ClusterError, match=f"--address {address}: something else listens there"):
        check_address(address)
    server.stop(0)


PROBE = """
import sys
from orchestrator.executors.ray_address import ClusterError, check_address
try:
    check_address(sys.argv[1])
except ClusterError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "token", ["missing", *(pytest.param(one, marks=pytest.mark.slow) for one in ("empty", "a folder"))]
)
def test_without_a_readable_token(token: str, tmp_path: Path) -> None:
    """Ray's client would end the process; the mode is read when Ray is imported."""
    (tmp_path / "empty").touch()
    (tmp_path / "a folder").mkdir()
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / token)}
    with listener(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])) as address:  # as a server of gRPC begins
        command = [sys.executable, "-c", PROBE, address]
        done = subprocess.run(command, env=environment(**variables), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"--address {address}: RAY_AUTH_TOKEN_PATH is set but ")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("address", ["auto", "local", "head:²"])
def test_words_are_left_to_ray(address: str) -> None:
    check_address(address)
