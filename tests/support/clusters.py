"""A Ray cluster on this machine that a real autoscaler (v2) grows and shrinks: its nodes are processes."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.processes import kill_marked, marked

HEAD_NODE = "f" * 51 + "00000"
HEAD_TYPE = "ray.head.default"  # the fake provider's own name for it
_MARK = "LAMBDA_ATLAS_TEST_CLUSTER"
_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"


@dataclass(frozen=True, slots=True)
class NodeType:
    """A kind of worker node: its resources, the most nodes of it, its labels."""

    resources: Mapping[str, float]
    most: int
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AutoscaledCluster:
    """A running cluster; `mark` is in the environment of each of its processes, `environment` what drivers need."""

    address: str
    mark: str
    environment: Mapping[str, str]

    def kill_node(self, node_id: str) -> None:
        """SIGKILL for all processes of a worker node, as when its machine is taken away."""
        for process in marked(f"{_MARK}={self.mark}", node_id):
            process.send(signal.SIGKILL)


@contextmanager
def autoscaled_cluster(idle_seconds: float = 6.0, **node_types: NodeType) -> Iterator[AutoscaledCluster]:
    """A cluster with a head without CPUs; workers start when something asks for them; all end with the block."""
    mark = secrets.token_hex(8)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="atlas-ray-", ignore_cleanup_errors=True) as folder:
        config = Path(folder) / "autoscaling.json"
        config.write_text(json.dumps(_config(node_types, f"127.0.0.1:{port}", idle_seconds)))
        token = Path(folder) / "token"
        token.write_text(secrets.token_hex(32))
        access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        environment = {
            **os.environ,
            **access,
            _MARK: mark,
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_NODE,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_NODE,
        }
        start = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}", "--num-cpus=0"),
            *("--node-ip-address=127.0.0.1", "--include-dashboard=false", "--disable-usage-stats"),
            *(f"--autoscaling-config={config}", f"--temp-dir={folder}"),
        ]
        try:
            started = subprocess.run(start, env=environment, capture_output=True, text=True, check=False, timeout=120)
            assert started.returncode == 0, started.stdout + started.stderr
            yield AutoscaledCluster(f"127.0.0.1:{port}", mark, access)
        finally:
            kill_marked(f"{_MARK}={mark}")


WATCH = """
import json, sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
while True:
    print(json.dumps([node for node in ray.nodes() if node["Alive"] and node["NodeID"] != sys.argv[2]]), flush=True)
    time.sleep(0.2)
"""


class Watcher:
    """A driver of its own that looks at a cluster's worker nodes; `history` has what it saw, with times in seconds."""

    def __init__(self, cluster: AutoscaledCluster) -> None:
        self.history: list[tuple[float, list[dict[str, Any]]]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-c", WATCH, cluster.address, HEAD_NODE],
            env={**os.environ, **cluster.environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def workers(self) -> list[dict[str, Any]]:
        """Worker nodes that were alive a moment ago, as Ray describes them."""
        assert self._process.poll() is None, "the watching driver has ended"
        return self.history[-1][1] if self.history else []

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("[{") or line == "[]\n":  # Ray prints lines as well
                self.history.append((time.monotonic(), json.loads(line)))


def _config(node_types: Mapping[str, NodeType], gcs_address: str, idle_seconds: float) -> dict[str, Any]:
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "test",
        "max_workers": sum(kind.most for kind in node_types.values()),
        "idle_timeout_minutes": idle_seconds / 60,
        "upscaling_speed": 100,
        "provider": {
            "type": "external",
            "module": _PROVIDER,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": HEAD_NODE,
            "gcs_address": gcs_address,
        },
        **{f"{name}_commands": [] for name in commands},
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        "file_mounts_sync_continuously": False,
        "head_node_type": HEAD_TYPE,
        "available_node_types": {
            HEAD_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "min_workers": 0, "max_workers": 0},
            **{
                name: {
                    "resources": dict(kind.resources),
                    "labels": dict(kind.labels),
                    "node_config": {},
                    "min_workers": 0,
                    "max_workers": kind.most,
                }
                for name, kind in node_types.items()
            },
        },
    }
