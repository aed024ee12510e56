"""Rules for what KubeRay's operator accepts, and what it needs to run a sweep to its end."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from orchestrator.process.stopping import DRAIN_SECONDS, SAVE_SECONDS
from tests.support.manifests import Document, Documents, environment_names, named, of_kind, pods, ray_clusters

QUEUE = "kueue.x-k8s.io/queue-name"
RAY_JOB_STOP_SECONDS, RAY_NODE_STOP_SECONDS, KUBERNETES_GRACE_SECONDS = 3.0, 30.0, 30.0
"""The defaults."""
PRIVATE_FOLDERS = ("HOME", "LAMBDA_ATLAS_CACHE", "MPLCONFIGDIR", "NUMBA_CACHE_DIR")


def ray_names_are_valid(documents: Documents) -> Iterator[str]:
    for document in of_kind(documents, "RayJob", "RayCluster"):
        most = 47 if document["kind"] == "RayJob" else 53
        if not re.fullmatch(rf"[a-z]([-a-z0-9]{{0,{most - 2}}}[a-z0-9])?", document["metadata"]["name"]):
            yield f"{named(document)}: not a DNS label of at most {most} characters"


def sweeps_end(documents: Documents) -> Iterator[str]:
    for job in of_kind(documents, "RayJob"):
        spec = job["spec"]
        if not spec.get("shutdownAfterJobFinishes"):
            yield f"{named(job)}: the cluster stays, and the operator refuses ttlSecondsAfterFinished and suspend"
        if spec.get("submissionMode") != "HTTPMode" or "submitterPodTemplate" in spec or "clusterSelector" in spec:
            yield f"{named(job)}: not posted by the operator"
        if spec.get("backoffLimit", 0) < 1:
            yield f"{named(job)}: a driver that fails is not started again"


def clusters_grow(documents: Documents) -> Iterator[str]:
    """Except in Kueue's queues: it loses jobs that grow (kueue#15399) and counts their pods wrongly (kueue#11977)."""
    is_queued = any(of_kind(documents, "ClusterQueue")) or any(map(_waits, of_kind(documents, "RayJob")))
    for owner, spec in ray_clusters(documents):
        if bool(spec.get("enableInTreeAutoscaling")) is is_queued:
            yield f"{owner}: {'grows in a queue' if is_queued else 'without autoscaler v2'}"
        if spec.get("autoscalerOptions", {}).get("version") != "v2":
            yield f"{owner}: not Ray's autoscaler v2"
        if "RAY_enable_autoscaler_v2" in environment_names(spec["headGroupSpec"]["template"]):
            yield f"{owner}: both autoscalerOptions.version and RAY_enable_autoscaler_v2"
        for group in spec["workerGroupSpecs"]:
            least = group["replicas"] if is_queued else 0
            if not least == group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
                yield f"{owner} {group['groupName']}: not {least} = minReplicas <= replicas <= maxReplicas"
        if is_queued and not any(group["replicas"] for group in spec["workerGroupSpecs"]):
            yield f"{owner}: no worker, and no way to get one"


def ray_resources_are_said_once(documents: Documents) -> Iterator[str]:
    for owner, spec in ray_clusters(documents):
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & {*group["rayStartParams"]}:
                yield f"{owner}: resources in rayStartParams and in the group"


def ray_pods_do_not_restart(documents: Documents) -> Iterator[str]:
    for pod in pods(documents):
        if pod.is_ray and pod.spec.get("restartPolicy") != "Never":
            yield f"{pod.owner}: restartPolicy is not Never"


def stops_have_their_time(documents: Documents) -> Iterator[str]:
    """A launch that is stopped may use all of its seconds, and a node the packs' ones, before anything is killed."""
    (settings,) = (found["data"] for found in of_kind(documents, "ConfigMap"))
    until_killed = float(settings.get("RAY_JOB_STOP_WAIT_TIME_S", RAY_JOB_STOP_SECONDS))
    node = float(settings.get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", RAY_NODE_STOP_SECONDS))
    if until_killed <= DRAIN_SECONDS:
        yield f"Ray kills a launch after {until_killed:g} s that may take {DRAIN_SECONDS:g}"
    if node <= SAVE_SECONDS:
        yield f"a node ends after {node:g} s, and its packs may take {SAVE_SECONDS:g}"
    for pod in pods(documents):
        grace = pod.spec.get("terminationGracePeriodSeconds", KUBERNETES_GRACE_SECONDS)
        if pod.is_ray and grace <= max(node, DRAIN_SECONDS):
            yield f"{pod.owner}: killed after {grace:g} s"


def ray_is_new_enough(documents: Documents) -> Iterator[str]:
    for owner, spec in ray_clusters(documents):
        version = tuple(map(int, spec.get("rayVersion", "0.0").split(".")[:2]))
        needed = (2, 56) if any(group.get("priority") for group in spec["workerGroupSpecs"]) else (2, 52)
        if version < needed:
            yield f"{owner}: rayVersion is below {needed}"


def no_gate_is_needed(documents: Documents) -> Iterator[str]:
    for owner, spec in ray_clusters(documents):
        gated = {"networkPolicy", "tlsOptions", "historyServerOptions"} & {*spec}
        if gated or spec.get("gcsFaultToleranceOptions", {}).get("backend") == "rocksdb":
            yield f"{owner}: a feature that is off by default: {gated or 'rocksdb'}"


def fault_tolerance_is_the_operators(documents: Documents) -> Iterator[str]:
    for owner, spec in ray_clusters(documents):
        if "gcsFaultToleranceOptions" not in spec:
            continue
        set_twice = {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"} & environment_names(
            spec["headGroupSpec"]["template"]
        )
        if set_twice or "redis-password" in spec["headGroupSpec"]["rayStartParams"]:
            yield f"{owner}: Valkey's address or password is set beside gcsFaultToleranceOptions"


def heads_run_no_trials(documents: Documents) -> Iterator[str]:
    for owner, spec in ray_clusters(documents):
        if spec["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
            yield f"{owner}: the head has CPUs for trials"


def gpu_groups_are_kept_for_gpu_packs(documents: Documents) -> Iterator[str]:
    for owner, spec in ray_clusters(documents):
        for group in spec["workerGroupSpecs"]:
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            labelled = group.get("labels", {}).get("lambda-atlas/device") == "cuda"
            if ("nvidia.com/gpu" in limits) != labelled:
                yield f"{owner} {group['groupName']}: a GPU and the label lambda-atlas/device do not go together"


def sweeps_ask_for_nodes_that_may_come(documents: Documents) -> Iterator[str]:
    for job in of_kind(documents, "RayJob"):
        words = shlex.split(job["spec"]["entrypoint"])
        asked = int(words[words.index("--max-nodes") + 1]) if "--max-nodes" in words else 0
        most = sum(group["maxReplicas"] for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"])
        if not 1 <= asked <= most:
            yield f"{named(job)}: --max-nodes {asked} of {most}"


def results_are_shared(documents: Documents) -> Iterator[str]:
    """Results and saved states lie where every pod of the sweep sees them."""
    for job in of_kind(documents, "RayJob"):
        words = shlex.split(job["spec"]["entrypoint"])
        out = words[words.index("--out") + 1] if "--out" in words else "results"
        if out.startswith(("gs://", "s3://")):
            continue
        for pod in pods([job]):
            claims = {volume["name"] for volume in pod.spec["volumes"] if "persistentVolumeClaim" in volume}
            mounts = pod.spec["containers"][0]["volumeMounts"]
            if not any(m["name"] in claims and m["mountPath"] == out and not m.get("readOnly") for m in mounts):
                yield f"{pod.owner}: {out} is not shared"


def caches_are_writable(documents: Documents) -> Iterator[str]:
    (settings,) = (found["data"] for found in of_kind(documents, "ConfigMap"))
    for pod in pods(documents):
        if not pod.is_ray:
            continue
        empty = {volume["name"] for volume in pod.spec["volumes"] if "emptyDir" in volume}
        for container in pod.containers:
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            folders = ["/tmp", *(settings[name] for name in PRIVATE_FOLDERS)]
            for folder in folders:
                if not any(name in empty and f"{folder}/".startswith(f"{at}/") for at, name in mounts.items()):
                    yield f"{pod.owner} {container['name']}: {folder} is not in an emptyDir"
        if settings["LAMBDA_ATLAS_DATA"] not in [m["mountPath"] for m in pod.spec["containers"][0]["volumeMounts"]]:
            yield f"{pod.owner}: {settings['LAMBDA_ATLAS_DATA']} is no mount"


def queues_lead_to_quota(documents: Documents) -> Iterator[str]:
    flavors = {found["metadata"]["name"] for found in of_kind(documents, "ResourceFlavor")}
    queues = {found["metadata"]["name"]: found["spec"] for found in of_kind(documents, "ClusterQueue")}
    local = {found["metadata"]["name"]: found["spec"]["clusterQueue"] for found in of_kind(documents, "LocalQueue")}
    for name, spec in queues.items():
        for group in spec["resourceGroups"]:
            for flavor in group["flavors"]:
                quota = [resource["name"] for resource in flavor["resources"] if resource["nominalQuota"]]
                if flavor["name"] not in flavors or quota != group["coveredResources"]:
                    yield f"ClusterQueue/{name}: no flavor {flavor['name']}, or other resources than covered"
    yield from (f"LocalQueue/{name}: no ClusterQueue {queue}" for name, queue in local.items() if queue not in queues)
    for job in of_kind(documents, "RayJob") if queues else ():
        if job["metadata"]["labels"].get(QUEUE) not in local or not _waits(job):
            yield f"{named(job)}: does not wait in a queue"
        if "kueue.x-k8s.io/elastic-job" in job["metadata"].get("annotations", {}):
            yield f"{named(job)}: is elastic, which Kueue's open faults forbid"


def _waits(job: Document) -> bool:
    return QUEUE in job["metadata"]["labels"] and bool(job["spec"].get("suspend"))
