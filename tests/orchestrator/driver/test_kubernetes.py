"""`launch submit`: the job that is made of an overlay, and what kubectl sends to a cluster's API."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from orchestrator.commands.command_line import app
from orchestrator.driver.kubernetes import LONGEST_NAME, _cpus, _name
from tests.support.launching import ROOT, environment, launch, make_folder, run_launch

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl on PATH")
LOCAL = ("--overlay", "local")


def submitted(*arguments: str) -> dict[str, Any]:
    """The job that `--dry-run` prints."""
    done = CliRunner().invoke(app, ["submit", *arguments, "--dry-run"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (job,) = yaml.safe_load_all(done.output)
    return dict(job)


def entrypoint(job: dict[str, Any]) -> list[str]:
    return shlex.split(job["spec"]["entrypoint"])


def groups(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {group["groupName"]: group for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]}


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


@needs_kubectl
@pytest.mark.parametrize(
    ("out", "line"),
    [
        ("s3://user:secret@bucket/results", "give no password in it"),
        ("s3:///results", "names no bucket"),
        ("s3://bucket/results?region=x", "an output URI ends with its path"),
    ],
)
def test_an_output_that_no_launch_would_take_is_no_job(out: str, line: str) -> None:
    done = run_submit("grid_bsz", "--overlay", "gke", "--out", out, "--dry-run")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert line in done.stderr
    assert "secret" not in done.stdout + done.stderr


@needs_kubectl
def test_the_job_runs_this_sweep_with_the_nodes_that_it_can_use() -> None:
    two_trials = ("grid_bsz", "--seeds", "0", "--set", "batch_size=2")
    job = submitted(*two_trials, "--overlay", "gke", "--out", "s3://bucket/results")
    words = entrypoint(job)
    assert words[:4] == ["python", "-m", "orchestrator.launch", "run"]
    assert words[4:9] == ["grid_bsz", "--set", "batch_size=2", "--seeds", "0"]
    assert option(words, "--out") == "s3://bucket/results"
    assert option(words, "--device") == "cpu"
    # one node has room for both, whatever the overlay allows
    assert option(words, "--max-nodes") == "1"
    assert groups(job)["cpu"]["maxReplicas"] == 1
    limits = groups(job)["cpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert option(words, "--slots-per-node") == limits["cpu"]


@needs_kubectl
def test_a_large_sweep_may_have_all_nodes_of_the_overlay_or_as_many_as_are_given() -> None:
    large = ("grid_bsz", "--overlay", "gke", "--seeds", "0-199")
    whole = submitted(*large)
    assert int(option(entrypoint(whole), "--max-nodes")) == groups(whole)["cpu"]["maxReplicas"] == 50
    given = submitted(*large, "--max-nodes", "7")
    assert int(option(entrypoint(given), "--max-nodes")) == groups(given)["cpu"]["maxReplicas"] == 7


@needs_kubectl
def test_threads_of_a_trial_are_fewer_trials_of_a_node() -> None:
    slots = [
        int(option(entrypoint(submitted("grid_bsz", "--overlay", "gke", "--cpus-per-trial", cpus)), "--slots-per-node"))
        for cpus in ("1", "2")
    ]
    assert slots[0] == 2 * slots[1]


@needs_kubectl
def test_images_go_to_gpu_groups_and_the_synthetic_model_to_cpu_groups() -> None:
    images = submitted("grid_bsz", "--workload", "cifar10_resnet18", "--overlay", "eks", "--component", "gpu-spot")
    assert option(entrypoint(images), "--device") == "cuda"
    assert option(entrypoint(images), "--slots-per-node") == "1"
    synthetic = submitted("grid_bsz", "--overlay", "eks", "--component", "gpu-spot", "--max-nodes", "3")
    assert option(entrypoint(synthetic), "--device") == "cpu"
    assert groups(synthetic)["cpu"]["maxReplicas"] == 3
    untouched = groups(images)["gpu-spot"]["maxReplicas"]
    assert groups(synthetic)["gpu-spot"]["maxReplicas"] == untouched == 32


@needs_kubectl
def test_the_same_command_is_the_same_job_and_another_one_is_not() -> None:
    name = submitted("grid_bsz", *LOCAL)["metadata"]["name"]
    assert name == submitted("grid_bsz", *LOCAL)["metadata"]["name"]
    assert name != submitted("grid_bsz", *LOCAL, "--seeds", "0-9")["metadata"]["name"]
    images = ("grid_betas", "--workload", "fashion_mnist_resnet101", "--component", "gpu")
    long_name = submitted(*images, *LOCAL)["metadata"]["name"]
    assert len(long_name) <= LONGEST_NAME
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", long_name)


@pytest.mark.parametrize(
    "sweep",
    [
        "grid_bsz_My.Photos_resnet8",
        "grid_bsz_kid's_resnet8",
        "grid_bsz_größe und_resnet8",
        "_1_hidden",
        "größe",
        "漢字",
        "grid_bsz_" + "a" * 30 + "." * 9 + "_resnet8",
        "A" * 200,
    ],
)
def test_any_sweep_has_a_name_that_kubernetes_takes(sweep: str) -> None:
    jobs = [{"spec": {"entrypoint": f"python -m orchestrator.launch run {name}"}} for name in (sweep, sweep.lower())]
    names = [_name(sweep, job) for job in jobs]
    for name in names:
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
        assert len(name) <= LONGEST_NAME
    assert (names[0] == names[1]) == (sweep == sweep.lower()), "jobs whose names become one are told apart"


@needs_kubectl
@pytest.mark.slow
def test_a_users_images_are_a_job_with_a_valid_name() -> None:
    images = [
        ("grid_bsz", "--workload", f"{name}_resnet8", "--component", "gpu", *LOCAL) for name in ("My.Pets", "my.pets")
    ]
    names = [submitted(*arguments)["metadata"]["name"] for arguments in images]
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"grid-bsz-my-pets-resnet8-[0-9a-f]{6}", name) for name in names)


@needs_kubectl
def test_the_image_is_this_commits_unless_one_is_given() -> None:
    sha = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    job = submitted("grid_bsz", "--overlay", "gke")
    images = {
        part["template"]["spec"]["containers"][0]["image"]
        for part in (job["spec"]["rayClusterSpec"]["headGroupSpec"], *groups(job).values())
    }
    (image,) = images
    if sha.returncode == 0:
        assert image.rpartition(":")[2] == sha.stdout[:12]
    given = submitted("grid_bsz", "--overlay", "gke", "--image", "registry.example/atlas:1")
    assert groups(given)["cpu"]["template"]["spec"]["containers"][0]["image"] == "registry.example/atlas:1"


@needs_kubectl
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("grid_bsz", "--overlay", "gk"), "unknown overlay 'gk'; did you mean 'gke'? (known: eks, gke, local)"),
        (("grid_bsz", *LOCAL, "--component", "gpus"), "unknown component 'gpus'; did you mean 'gpu'?"),
        (("grid_bs", *LOCAL), "unknown sweep 'grid_bs'"),
        (("grid_bsz", *LOCAL, "--set", "batch_size=0"), "batch_size"),
        (("grid_bsz", *LOCAL, "--out", "results"), "--out is a URI, or a path on a volume that all pods mount"),
        (("grid_bsz", *LOCAL, "--out", "s3:/bucket/x"), "got 's3:/bucket/x': did you mean 's3://bucket/x'?"),
        (("grid_bsz", *LOCAL, "--cpus-per-trial", "999"), "no worker group of overlay local has room for a pack"),
        (("grid_bsz", "--workload", "cifar10_resnet18", *LOCAL), "overlay local mounts no data sets"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], line: str, tmp_path: Path) -> None:
    refused = run_submit(*arguments, "--dry-run")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert line in refused.stderr
    assert refused.stdout == ""


@needs_kubectl
def test_components_with_objects_of_their_own_say_what_the_job_needs() -> None:
    queued = run_submit("grid_bsz", *LOCAL, "--component", "kueue", "--dry-run")
    assert queued.returncode == 0
    assert queued.stderr.startswith("needs ClusterQueue lambda-atlas, LocalQueue sweeps, ")
    (job,) = yaml.safe_load_all(queued.stdout)
    assert job["spec"]["suspend"] is True
    plain = submitted("grid_bsz", *LOCAL)["metadata"]["name"]
    assert job["metadata"]["name"] != plain, "another job of the same sweep"


@needs_kubectl
def test_a_sweep_in_a_queue_has_its_nodes_at_once_and_no_others() -> None:
    """Kueue admits the whole cluster: one that grows in its queues may be stranded (kueue#15399)."""
    queued = ("--overlay", "gke", "--component", "gpu", "--component", "gpu-spot", "--component", "kueue")
    whole = submitted("grid_bsz", *queued, "--seeds", "0-19")
    sizes = {name: (group["minReplicas"], group["replicas"]) for name, group in groups(whole).items()}
    num_nodes = int(option(entrypoint(whole), "--max-nodes"))
    assert sizes == {"cpu": (num_nodes, num_nodes), "gpu": (0, 0), "gpu-spot": (0, 0)}
    assert num_nodes > 1
    images = submitted("grid_bsz", "--workload", "cifar10_resnet18", *queued, "--max-nodes", "40")
    sizes = {name: (group["minReplicas"], group["replicas"]) for name, group in groups(images).items()}
    assert sizes == {"cpu": (0, 0), "gpu": (0, 0), "gpu-spot": (40, 40)}
    assert not whole["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"]


@pytest.mark.parametrize(("limit", "cpus"), [("4", 4), (4, 4), ("3500m", 4), ("500m", 1), ("1.5", 2)])
def test_a_pods_cpus_are_counted_as_ray_counts_them(limit: str | int, cpus: int) -> None:
    assert _cpus({"cpu": limit}) == cpus


def test_without_kubectl_it_says_so(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    git_only = tmp_path / "bin"
    git_only.mkdir()
    refused = run_submit("grid_bsz", *LOCAL, PATH=str(git_only))
    assert refused.returncode == 2
    assert refused.stderr == "error: kubectl is not on PATH: submit renders k8s/ and reaches the cluster with it\n"
    assert launch(folder, "plan", "small").returncode == 0


def run_submit(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return run_launch("submit", *arguments, cwd=Path.cwd(), env=environment(**more))


SERVER_VALIDATES = {
    "x-kubernetes-group-version-kind": {"group": "ray.io", "version": "v1", "kind": "RayJob"},
    "parameters": [{"name": "fieldValidation", "in": "query"}],
}


@contextmanager
def api_server(taken: list[dict[str, Any]]) -> Iterator[str]:
    """As much of a Kubernetes API as kubectl asks for when it creates a RayJob; they end up in `taken`."""
    group = {"name": "ray.io", "versions": [{"groupVersion": "ray.io/v1", "version": "v1"}]}
    known = {
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "groups": [{**group, "preferredVersion": group["versions"][0]}]},
        "/apis/ray.io/v1": {
            "kind": "APIResourceList",
            "groupVersion": "ray.io/v1",
            "resources": [{"name": "rayjobs", "kind": "RayJob", "namespaced": True, "verbs": ["create", "get"]}],
        },
        "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": []},
        "/openapi/v3": {"paths": {"apis/ray.io/v1": {"serverRelativeURL": "/openapi/v3/apis/ray.io/v1"}}},
        "/openapi/v3/apis/ray.io/v1": {"openapi": "3.0.0", "paths": {"/rayjobs": {"patch": SERVER_VALIDATES}}},
    }

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = known.get(self.path.partition("?")[0])
            self.answer(200 if found else 404, found or {"kind": "Status", "code": 404, "reason": "NotFound"})

        def do_POST(self) -> None:
            job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = job["metadata"]["name"]
            if name in {one["metadata"]["name"] for one in taken}:
                reason = {"reason": "AlreadyExists", "message": f'rayjobs.ray.io "{name}" already exists'}
                self.answer(409, {"kind": "Status", "apiVersion": "v1", "code": 409, "status": "Failure", **reason})
                return
            taken.append(job)
            self.answer(201, job)

        def answer(self, code: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@needs_kubectl
def test_kubectl_creates_the_job_once(tmp_path: Path) -> None:
    taken: list[dict[str, Any]] = []
    with api_server(taken) as address:
        config = tmp_path / "kubeconfig"
        config.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "test", "cluster": {"server": address}}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                    "users": [{"name": "test", "user": {}}],
                    "current-context": "test",
                }
            )
        )
        access = {"KUBECONFIG": str(config), "HOME": str(tmp_path)}
        created = run_submit("grid_bsz", *LOCAL, **access)
        assert created.returncode == 0, created.stderr
        again = run_submit("grid_bsz", *LOCAL, **access)
    (job,) = taken
    assert job == submitted("grid_bsz", *LOCAL)
    assert job["metadata"]["namespace"] == "lambda-atlas"
    assert created.stdout == f"rayjob.ray.io/{job['metadata']['name']} created\n"
    assert again.returncode == 2
    assert "already exists" in again.stderr
    assert again.stderr.count("\n") == 1
