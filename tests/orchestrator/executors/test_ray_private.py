"""The Ray of a launch on this machine: only the launch can talk to it, and no log of Ray has the launch's keys."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.launching import descendants, environment, kill_tree, make_folder, start, wait_for

JOIN = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print("joined", ray.cluster_resources())
"""
KEY = "pl4nted/aws+key"


def listening(pid: int) -> Iterator[tuple[str, int]]:
    """(address, port) of the TCP sockets on which a process and its descendants listen."""
    inodes = set()
    for one in (pid, *[child for child, _ in descendants(pid)]):
        for link in Path(f"/proc/{one}/fd").glob("*"):
            try:
                inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and rest[5] in inodes:
                yield _address(local)


def _address(text: str) -> tuple[str, int]:
    address, _, port = text.partition(":")
    words = [struct.pack("=I", int(address[i : i + 8], 16)) for i in range(0, len(address), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, b"".join(words)).removeprefix("::ffff:"), int(port, 16)


def gcs_address(pid: int) -> str | None:
    """Where the control service of a launch's Ray listens."""
    for _, line in descendants(pid):
        if "--gcs-address=" in line:
            return line.partition("--gcs-address=")[2].split()[0]
    return None


def token_of(pid: int) -> str:
    """The token that a launch gave to its Ray: only its user may read a process's environment."""
    for child, line in descendants(pid):
        if "gcs_server" in line:
            found = re.search(rb"RAY_AUTH_TOKEN=(\w+)", Path(f"/proc/{child}/environ").read_bytes())
            assert found is not None
            return found[1].decode()
    raise AssertionError("the launch has no Ray")


def join(address: str, token: str) -> subprocess.CompletedProcess[str]:
    """Another process on this machine tries to use that Ray with a token."""
    plain = {name: value for name, value in environment().items() if not name.startswith("RAY_")}
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    command = [sys.executable, "-c", JOIN, address]
    return subprocess.run(command, env={**plain, **access}, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def ray_files() -> Iterator[Path]:
    """A folder for Ray's files: pytest's own have paths too long for sockets."""
    with tempfile.TemporaryDirectory(prefix="atlas-ray-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.slow
def test_only_its_launch_can_talk_to_a_local_ray(tmp_path: Path, ray_files: Path) -> None:
    folder = make_folder(tmp_path / "run")
    more = {"HOME": str(tmp_path), "RAY_TMPDIR": str(ray_files), "AWS_SECRET_ACCESS_KEY": KEY}
    endless = ("longer", "--set", "num_epochs=1000000000", "--checkpoint-seconds", "0.1")
    process = start(folder, *endless, "--no-mlflow", "--no-figures", **more)
    try:
        wait_for(lambda: any((folder / "results" / "states").glob("*.npz")), process, seconds=200)
        found = set(listening(process.pid))
        assert len(found) > 5
        assert {address for address, _ in found} == {"127.0.0.1"}
        assert not {44217, 44227} & {port for _, port in found}
        address = gcs_address(process.pid)
        assert address is not None
        token = token_of(process.pid)
        assert "joined" in join(address, token).stdout
        stranger = join(address, "0" * len(token))
        assert "InvalidAuthToken" in stranger.stderr
        assert "joined" not in stranger.stdout
        assert not (tmp_path / ".ray").exists()
        logs = [path for path in ray_files.rglob("*") if path.is_file()]
        assert any(path.name == "runtime_env_agent.log" for path in logs)
        assert [path for path in logs if KEY.encode() in path.read_bytes()] == []
    finally:
        kill_tree(process)
