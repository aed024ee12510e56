"""Connects a launch to a Ray cluster: the one at an address, or one that it starts on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from orchestrator.executors.executor import Executor
from orchestrator.executors.failures.ray_log import LOG_NAME, ray_logged_to
from orchestrator.executors.ray_cluster import Cluster, default_environment
from orchestrator.executors.ray_folder import launch_folder
from orchestrator.executors.registry import ExecutorSettings
from orchestrator.process.parent import tell
from orchestrator.process.reaper import reaped


@contextmanager
def connect(settings: ExecutorSettings) -> Iterator[Executor]:
    """An executor on the cluster. On exit the launch disconnects; a cluster that it started is stopped."""
    with (
        launch_folder(kept=(LOG_NAME,)) as folder,
        reaped(str(folder)),
        closing(Cluster(settings.address, folder)) as cluster,
    ):
        from orchestrator.executors.ray_tune import TUNE_SETTINGS, RayExecutor  # imports Tune while Ray starts

        cluster.wait()
        tell("log", str(folder / LOG_NAME))
        with default_environment(TUNE_SETTINGS), ray_logged_to(folder / LOG_NAME):
            yield RayExecutor(
                settings.states_root,
                cluster,
                folder,
                settings.device,
                cpus_per_trial=settings.cpus_per_trial,
                max_nodes=settings.max_nodes,
                slots_per_node=settings.slots_per_node,
                stall_seconds=settings.stall_seconds,
            )
