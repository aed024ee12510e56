"""Each rule for manifests reports its fault when one thing is changed in a rendering that it accepts."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.manifest_rules import RULES, Rule, kuberay, names, security
from tests.support.manifests import COMPONENTS, Document, container, one, rendering, workers


def sweep(documents: list[Document]) -> Document:
    return one(documents, "RayJob")


def ray(documents: list[Document]) -> Document:
    return dig(sweep(documents), "spec", "rayClusterSpec")


def head(documents: list[Document]) -> Document:
    return dig(ray(documents), "headGroupSpec", "template", "spec")


def settings(documents: list[Document]) -> Document:
    return dig(one(documents, "ConfigMap"), "data")


def mlflow(documents: list[Document]) -> Document:
    return dig(one(documents, "Deployment"), "spec", "template", "spec")


def dig(document: Document, *names: str) -> Document:
    for name in names:
        document = document[name]
    return document


def remove(documents: list[Document], kind: str, name: str) -> None:
    documents.remove(one(documents, kind, name))


Change = Callable[[list[Document]], object]
VARIABLE = {"name": "RAY_enable_autoscaler_v2", "value": "1"}
BROKEN: list[tuple[Rule, str, Change]] = [
    (kuberay.ray_names_are_valid, "47", lambda d: sweep(d)["metadata"].update(name="g" * 48)),
    (kuberay.ray_names_are_valid, "DNS", lambda d: sweep(d)["metadata"].update(name="grid_bsz")),
    (kuberay.sweeps_end, "stays", lambda d: sweep(d)["spec"].update(shutdownAfterJobFinishes=False)),
    (kuberay.sweeps_end, "posted", lambda d: sweep(d)["spec"].update(submissionMode="K8sJobMode")),
    (kuberay.sweeps_end, "started again", lambda d: sweep(d)["spec"].update(backoffLimit=0)),
    (kuberay.clusters_grow, "autoscaler v2", lambda d: ray(d)["autoscalerOptions"].pop("version")),
    (kuberay.clusters_grow, "autoscaler v2", lambda d: ray(d).update(enableInTreeAutoscaling=False)),
    (kuberay.clusters_grow, "both", lambda d: head(d)["containers"][0].update(env=[VARIABLE])),
    (kuberay.clusters_grow, "minReplicas", lambda d: workers(d)[0].update(replicas=99)),
    (kuberay.ray_resources_are_said_once, "group", lambda d: ray(d)["headGroupSpec"].update(resources={"CPU": "0"})),
    (
        kuberay.ray_pods_do_not_restart,
        "cpu",
        lambda d: workers(d)[0]["template"]["spec"].update(restartPolicy="Always"),
    ),
    (
        kuberay.ray_is_new_enough,
        "2, 56",
        lambda d: (workers(d)[1].update(priority=1), ray(d).update(rayVersion="2.55.1")),
    ),
    (kuberay.stops_have_their_time, "after 3 s", lambda d: settings(d).pop("RAY_JOB_STOP_WAIT_TIME_S")),
    (
        kuberay.stops_have_their_time,
        "a node ends after 5 s",
        lambda d: settings(d).update(RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="5"),
    ),
    (
        kuberay.stops_have_their_time,
        "cpu: killed after 30 s",
        lambda d: settings(d).pop("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"),
    ),
    (kuberay.stops_have_their_time, "head: killed", lambda d: head(d).update(terminationGracePeriodSeconds=20)),
    (kuberay.ray_is_new_enough, "2, 5", lambda d: ray(d).pop("rayVersion")),
    (kuberay.no_gate_is_needed, "tlsOptions", lambda d: ray(d).update(tlsOptions={"enabled": True})),
    (kuberay.no_gate_is_needed, "rocksdb", lambda d: ray(d)["gcsFaultToleranceOptions"].update(backend="rocksdb")),
    (
        kuberay.fault_tolerance_is_the_operators,
        "beside",
        lambda d: head(d)["containers"][0].update(env=[{"name": "RAY_REDIS_ADDRESS", "value": "valkey:6379"}]),
    ),
    (kuberay.heads_run_no_trials, "CPUs", lambda d: ray(d)["headGroupSpec"]["rayStartParams"].clear()),
    (kuberay.gpu_groups_are_kept_for_gpu_packs, "gpu", lambda d: workers(d)[1].pop("labels")),
    (kuberay.sweeps_ask_for_nodes_that_may_come, "999", lambda d: said(d, r"--max-nodes \d+", "--max-nodes 999")),
    (kuberay.sweeps_ask_for_nodes_that_may_come, "0 of", lambda d: said(d, r"--max-nodes \d+", "")),
    (kuberay.results_are_shared, "head: /cache/results", lambda d: said(d, "/results", "/cache/results")),
    (kuberay.results_are_shared, "cpu: /results", lambda d: container(workers(d)[0])["volumeMounts"].pop()),
    (kuberay.caches_are_writable, "/home", lambda d: one(d, "ConfigMap")["data"].update(HOME="/home/atlas")),
    (kuberay.caches_are_writable, "/data", lambda d: container(workers(d)[0])["volumeMounts"].pop(0)),
    (kuberay.queues_lead_to_quota, "wait", lambda d: sweep(d)["spec"].pop("suspend")),
    (kuberay.queues_lead_to_quota, "grows", lambda d: sweep(d)["metadata"].pop("annotations")),
    (kuberay.queues_lead_to_quota, "flavor", lambda d: remove(d, "ResourceFlavor", "lambda-atlas")),
    (kuberay.queues_lead_to_quota, "ClusterQueue", lambda d: one(d, "LocalQueue")["spec"].update(clusterQueue="other")),
    (security.clusters_ask_for_a_token, "token", lambda d: ray(d).pop("authOptions")),
    (security.clusters_ask_for_a_token, "token", lambda d: ray(d).update(authOptions={})),
    (
        security.nothing_is_reached_from_outside,
        "mlflow",
        lambda d: one(d, "Service", "mlflow")["spec"].update(type="NodePort"),
    ),
    (security.nothing_is_reached_from_outside, "exposes", lambda d: one(d, "Service").update(kind="Ingress")),
    (
        security.nothing_is_reached_from_outside,
        "head",
        lambda d: ray(d)["headGroupSpec"].update(serviceType="LoadBalancer"),
    ),
    (
        security.nothing_is_reached_from_outside,
        "port of the node",
        lambda d: head(d)["containers"][0]["ports"][0].update(hostPort=6379),
    ),
    (security.network_is_closed, "denies", lambda d: remove(d, "NetworkPolicy", "default-deny")),
    (security.network_is_closed, "every peer", lambda d: one(d, "NetworkPolicy", "ray")["spec"]["ingress"][0].clear()),
    (security.pods_are_restricted, "root", lambda d: mlflow(d)["securityContext"].update(runAsUser=0)),
    (security.pods_are_restricted, "seccomp", lambda d: head(d)["securityContext"].pop("seccompProfile")),
    (security.pods_are_restricted, "autoscaler", lambda d: ray(d)["autoscalerOptions"].pop("securityContext")),
    (
        security.pods_are_restricted,
        "node",
        lambda d: mlflow(d)["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
    ),
    (security.the_namespace_enforces_it, "restricted", lambda d: one(d, "Namespace")["metadata"]["labels"].clear()),
    (
        security.only_heads_talk_to_kubernetes,
        "cpu",
        lambda d: workers(d)[0]["template"]["spec"].update(automountServiceAccountToken=True),
    ),
    (
        security.only_heads_talk_to_kubernetes,
        "head",
        lambda d: one(d, "ServiceAccount", "ray-head").update(automountServiceAccountToken=False),
    ),
    (security.no_service_is_an_environment, "mlflow", lambda d: mlflow(d).pop("enableServiceLinks")),
    (security.resources_are_bounded, "ray-worker", lambda d: container(workers(d)[0])["resources"].pop("limits")),
    (
        security.resources_are_bounded,
        "ray-head",
        lambda d: head(d)["containers"][0]["resources"]["requests"].update(cpu="2"),
    ),
    (security.resources_are_bounded, "cache", lambda d: head(d)["volumes"][1].update(emptyDir={"medium": ""})),
    (security.images_are_pinned, "latest", lambda d: head(d)["containers"][0].update(image="lambda-atlas:latest")),
    (
        security.images_are_pinned,
        "lambda-atlas",
        lambda d: mlflow(d)["containers"][0].update(image="host:5000/lambda-atlas"),
    ),
    (security.secrets_are_elsewhere, "among", lambda d: one(d, "ConfigMap").update(kind="Secret")),
    (
        security.secrets_are_elsewhere,
        "PGPASSWORD",
        lambda d: mlflow(d)["containers"][0]["env"].append({"name": "PGPASSWORD", "value": "x"}),
    ),
    (
        security.secrets_are_elsewhere,
        "postgresql://...",
        lambda d: mlflow(d)["containers"][0]["command"].append("postgresql://mlflow:x@database:5432/mlflow"),
    ),
    (
        security.secrets_are_elsewhere,
        "Valkey",
        lambda d: ray(d)["gcsFaultToleranceOptions"].update(redisPassword={"value": "x"}),
    ),
    (names.objects_say_what_they_are, "lacks", lambda d: one(d, "Service", "mlflow")["metadata"].pop("labels")),
    (names.objects_say_what_they_are, "RayJob only", lambda d: component(one(d, "ConfigMap"), "sweep")),
    (
        names.objects_say_what_they_are,
        "namespace other",
        lambda d: one(d, "Service")["metadata"].update(namespace="other"),
    ),
    (names.objects_say_what_they_are, "not exactly one", lambda d: remove(d, "RayJob", "grid-bsz")),
    (names.names_exist, "ServiceAccount ray-worker", lambda d: remove(d, "ServiceAccount", "ray-worker")),
    (names.names_exist, "PersistentVolumeClaim datasets", lambda d: remove(d, "PersistentVolumeClaim", "datasets")),
    (names.names_exist, "ConfigMap sweep-settings", lambda d: remove(d, "ConfigMap", "sweep-settings")),
    (names.names_exist, "PriorityClass", lambda d: remove(d, "PriorityClass", "lambda-atlas-worker")),
    (
        names.secrets_are_documented,
        "other",
        lambda d: ray(d)["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"].update(name="other"),
    ),
    (names.addresses_are_services, "mlflow:5000", lambda d: remove(d, "Service", "mlflow")),
    (names.addresses_are_services, "database:5432", lambda d: remove(d, "Service", "database")),
    (
        names.addresses_are_services,
        "valkey:6379",
        lambda d: one(d, "Service", "valkey")["spec"]["ports"][0].update(port=1),
    ),
    (names.selectors_match, "NetworkPolicy/database", lambda d: remove(d, "StatefulSet", "database")),
    (
        names.selectors_match,
        "PodDisruptionBudget/ray-head",
        lambda d: one(d, "PodDisruptionBudget")["spec"].update(selector={"matchLabels": {"ray.io/node-type": "heads"}}),
    ),
    (
        names.selectors_match,
        "Service/mlflow",
        lambda d: one(d, "Service", "mlflow")["spec"]["selector"].update({"app.kubernetes.io/component": "other"}),
    ),
    (names.mounts_are_volumes, "cache", lambda d: head(d)["volumes"].pop(1)),
]


def said(documents: list[Document], pattern: str, replacement: str) -> None:
    job = sweep(documents)
    job["spec"]["entrypoint"] = re.sub(pattern, replacement, job["spec"]["entrypoint"])


def component(document: Document, name: str) -> None:
    document["metadata"]["labels"]["app.kubernetes.io/component"] = name


@pytest.mark.parametrize(
    ("rule", "expected", "change"), BROKEN, ids=[f"{rule.__name__}-{expected}" for rule, expected, _ in BROKEN]
)
def test_a_rule_reports_its_fault(rule: Rule, expected: str, change: Change) -> None:
    documents = rendering("local", *COMPONENTS)
    assert [*rule(documents)] == []
    change(documents)
    found = [*rule(documents)]
    assert any(expected in fault for fault in found), found


def test_every_rule_is_seen_to_report() -> None:
    assert {rule for rule, _, _ in BROKEN} == {*RULES}
