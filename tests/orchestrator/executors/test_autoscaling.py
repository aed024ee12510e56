"""Sweeps on a real Ray cluster that grows from zero nodes and shrinks again; its nodes are processes."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from orchestrator.executors.ray_capacity import GPU_NODES
from orchestrator.ledger.ledger import Ledger
from tests.support.clusters import AutoscaledCluster, NodeType, Watcher, autoscaled_cluster
from tests.support.launching import (
    ROOT,
    WORKLOAD,
    check_went_on,
    checked,
    half_done,
    kill_tree,
    launch,
    make_folder,
    plant_seconds,
    rows,
    start,
    traces,
    wait_for,
)

PLAIN = ("--no-figures", "--no-mlflow")
GRID = ("grid_bsz", "--set", "num_epochs=1000", *PLAIN)

PLACED = """
import json, os, time
from typing import Literal

from orchestrator.sweeps.value import Grid, Sweep
from orchestrator.sweeps.registry import sweep
from trainables.two_layer_cnn.config import TwoLayerCNNConfig
from trainables.registry import register_workload
from trainables.two_layer_cnn.workload import TwoLayerCNN

class PlacedConfig(TwoLayerCNNConfig):
    workload: Literal["placed"] = "placed"

@register_workload("placed")
class Placed(TwoLayerCNN):
    config_type = PlacedConfig
    devices = ("cuda", "cpu")  # its GPU is a number that Ray counts

    def open(self, members, device="cpu", engine=None, num_threads=1):
        import ray
        run = super().open(members, "cpu", engine, num_threads)
        note = {"node": ray.get_runtime_context().get_node_id(), "device": device, "begun": time.time()}
        advance = run.advance
        def advance_and_note(seconds):
            reports = advance(seconds)
            with open(f"PLACES/{os.getpid()}", "a") as file:
                print(json.dumps({**note, "until": time.time()}), file=file)
            return reports
        run.advance = advance_and_note
        return run

DECAYS = {"adam": {"weight_decay": 1e-5}, "adamw": {"weight_decay": 1e-2}}
BASE = {"num_test": 500, "num_epochs": 100, "batch_size": 2}

def of(name):
    return Sweep(name, "24 trials", (Grid(DECAYS, {}, BASE),), seeds=tuple(range(12)), workload="placed")

@sweep
def on_cpus() -> Sweep:
    return of("on_cpus")

@sweep
def on_gpus() -> Sweep:
    return of("on_gpus")
"""


def until(condition: Callable[[], bool], seconds: float) -> float:
    """Seconds until the condition holds; fails if it never does."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "waited too long"
        time.sleep(0.1)
    return time.monotonic() - began


@contextmanager
def beside(folder: Path, *arguments: str) -> Iterator[Future[str]]:
    """An inline launch of the same sweep: it trains while a cluster's processes start and wait."""
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(checked, folder, *arguments, "--executor", "inline")


@pytest.mark.slow
def test_a_sweep_grows_the_cluster_from_zero_survives_a_lost_node_and_leaves_it_empty(tmp_path: Path) -> None:
    inline, cloud = make_folder(tmp_path / "inline"), make_folder(tmp_path / "cloud")
    with (
        beside(inline, *GRID) as reference,
        autoscaled_cluster(cpu=NodeType({"CPU": 1}, most=3)) as cluster,
        Watcher(cluster) as watcher,
    ):
        until(lambda: bool(watcher.history), 60)
        assert watcher.workers() == []
        grow = ("--address", cluster.address, "--max-nodes", "3", "--checkpoint-seconds", "0.2")
        began = time.monotonic()
        process = start(cloud, *GRID, *grow, **cluster.environment)
        wait_for(lambda: len(watcher.workers()) == 3, process)
        grown = time.monotonic() - began
        wait_for(lambda: list(cloud.glob("results/states/*.npz")), process)
        lost = watcher.workers()[0]["NodeID"]
        cluster.kill_node(lost)
        stdout, stderr = process.communicate(timeout=250)
        ended = time.monotonic() - began
        assert process.returncode == 0, stdout + stderr
        shrunk = until(lambda: watcher.workers() == [], 60)
        assert max(len(nodes) for _, nodes in watcher.history) == 3
        assert lost not in {node["NodeID"] for node in watcher.history[-1][1]}
    reference.result()
    print(f"three nodes after {grown:.1f} s, end after {ended:.1f} s, no node {shrunk:.1f} s later")
    assert rows(cloud / "results") == rows(inline / "results")
    assert traces(cloud / "results") == traces(inline / "results")
    assert not list(cloud.glob("results/states/*"))


@pytest.mark.slow
def test_a_lost_head_costs_no_finished_trial_and_the_rest_goes_on_from_its_states(tmp_path: Path) -> None:
    inline, cloud = make_folder(tmp_path / "inline"), make_folder(tmp_path / "cloud")
    grid = ("longer", *PLAIN, "--checkpoint-seconds", "0.2")
    cpu = NodeType({"CPU": 1}, most=2)
    with beside(inline, *grid) as reference, autoscaled_cluster(cpu=cpu) as cluster:
        process = start(cloud, *grid, "--address", cluster.address, "--max-nodes", "2", **cluster.environment)
        wait_for(lambda: finished(cloud) and half_done(cloud / "results"), process)
        kill_tree(process)  # the driver runs on the head
    reference.result()
    before = finished(cloud)
    planted = plant_seconds(cloud / "results")
    with autoscaled_cluster(cpu=cpu) as cluster:
        checked(cloud, *grid, "--address", cluster.address, "--max-nodes", "2", **cluster.environment)
    after = finished(cloud)
    assert 0 < len(before) < len(after)
    check_went_on(cloud / "results", planted)
    assert {trial_id: after[trial_id] for trial_id in before} == before, "a finished trial was run again"
    assert rows(cloud / "results") == rows(inline / "results")
    assert traces(cloud / "results") == traces(inline / "results")


def finished(folder: Path) -> dict[str, float]:
    """The time at which each trial of the ledger ended."""
    trials = Ledger(str(folder / "results")).trials(WORKLOAD, columns=("trial_id", "finished_at"))
    return {row["trial_id"]: row["finished_at"] for row in trials.to_pylist()}


@pytest.mark.slow
def test_packs_land_on_their_kind_of_node_and_no_kind_idles_while_its_work_waits(tmp_path: Path) -> None:
    places = tmp_path / "places"
    places.mkdir()
    folder = tmp_path / "user"
    folder.mkdir()
    (folder / "my_sweeps.py").write_text(PLACED.replace("PLACES", str(places)))
    cpu = NodeType({"CPU": 1}, most=1, labels={"kind": "cpu"})
    # The GPU node has a spare CPU, which a CPU pack must not take.
    gpu = NodeType({"CPU": 2, "GPU": 1}, most=1, labels={"kind": "gpu", **GPU_NODES})
    with autoscaled_cluster(idle_seconds=60, cpu=cpu, gpu=gpu) as cluster, Watcher(cluster) as watcher:
        access = {**cluster.environment, "PYTHONPATH": f"{ROOT}:{folder}"}
        grow = ("--address", cluster.address, "--max-nodes", "1", *PLAIN)
        on_gpus = start(folder, "on_gpus", "--device", "cuda", "--out", "gpu", *grow, **access)
        on_cpus = start(folder, "on_cpus", "--device", "cpu", "--out", "cpu", *grow, **access)
        for process in (on_gpus, on_cpus):
            stdout, stderr = process.communicate(timeout=250)
            assert process.returncode == 0, stdout + stderr
        kinds = {node["NodeID"]: node["Labels"]["kind"] for _, nodes in watcher.history for node in nodes}
    notes = [json.loads(line) for path in places.iterdir() for line in path.read_text().splitlines()]
    assert {(note["device"], kinds[note["node"]]) for note in notes} == {("cuda", "gpu"), ("cpu", "cpu")}
    busy: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for note in notes:
        busy[note["node"]].append((note["begun"], note["until"]))
    for spans in busy.values():
        ends = sorted(spans)
        waits = [later - max(end for _, end in ends[: i + 1]) for i, (later, _) in enumerate(ends[1:])]
        assert max(waits) < 5, "a node had nothing to do while trials waited"
    spans = [(min(s)[0], max(e for _, e in s)) for s in busy.values()]
    assert all(first[0] < second[1] and second[0] < first[1] for first, second in pairwise(spans)), "one after another"


def test_more_nodes_need_a_cluster(tmp_path: Path) -> None:
    refused = launch(make_folder(tmp_path), "small", "--max-nodes", "3", *PLAIN)
    assert refused.returncode == 2
    assert refused.stderr == "error: --max-nodes is for a Ray cluster that can grow: give its --address as well\n"


def test_what_a_node_holds_is_of_nodes_that_come(tmp_path: Path) -> None:
    refused = launch(make_folder(tmp_path), "small", "--slots-per-node", "3", *PLAIN)
    assert refused.returncode == 2
    said = "--slots-per-node is how many packs a node of --max-nodes runs at once: give --max-nodes too"
    assert refused.stderr == f"error: {said}\n"


@pytest.fixture(scope="module")
def one_cpu() -> Iterator[AutoscaledCluster]:
    """A cluster that grows to one node of one CPU; first without any."""
    with autoscaled_cluster(cpu=NodeType({"CPU": 1}, most=1)) as cluster:
        yield cluster


@pytest.mark.slow
def test_a_cluster_without_room_is_one_line_unless_it_may_grow(one_cpu: AutoscaledCluster, tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    join = ("small", "--address", one_cpu.address, *PLAIN)
    refused = launch(folder, *join, **one_cpu.environment)
    checked(folder, *join, "--max-nodes", "1", **one_cpu.environment)
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: no node of the cluster has room for a trial (1 CPU); --max-nodes N lets the cluster grow\n"
    )


@pytest.mark.slow
def test_a_trial_that_no_node_type_holds_is_told_of(one_cpu: AutoscaledCluster, tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    with (folder / "my_sweeps.py").open("a") as module:
        module.write(
            "import orchestrator.executors.ray_capacity\norchestrator.executors.ray_capacity.LONELY_SECONDS = 2.0\n"
        )
    grow = ("--address", one_cpu.address, "--max-nodes", "1", "--cpus-per-trial", "2")
    process = start(folder, "small", *grow, *PLAIN, **one_cpu.environment)
    assert process.stderr is not None
    said = next(line for line in process.stderr if "no node" in line)
    kill_tree(process)
    assert said.startswith("no node has had room for a trial (2 CPU) for 2 s")


@pytest.mark.slow
def test_a_token_of_another_cluster_is_named(one_cpu: AutoscaledCluster, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0" * 64)
    strange = {**one_cpu.environment, "RAY_AUTH_TOKEN_PATH": str(token)}
    refused = launch(make_folder(tmp_path), "small", "--address", one_cpu.address, *PLAIN, **strange)
    assert refused.returncode == 2
    *rays, ours = refused.stderr.splitlines()
    assert ours.startswith(f"error: the Ray cluster at --address {one_cpu.address} refuses this token")
    assert all("gcs_client.cc" in line for line in rays), "more than Ray's own warnings"
