"""Rules for what must not be exposed, unbounded or readable."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.support.manifests import Documents, named, of_kind, pods, ray_clusters, texts

_SECRET_NAME = re.compile("PASSWORD|TOKEN|SECRET|CREDENTIAL|ACCESS_KEY", re.IGNORECASE)


def clusters_ask_for_a_token(documents: Documents) -> Iterator[str]:
    for owner, spec in ray_clusters(documents):
        if spec.get("authOptions", {}).get("mode") != "token":
            yield f"{owner}: no token authentication"


def nothing_is_reached_from_outside(documents: Documents) -> Iterator[str]:
    for document in documents:
        if document["kind"] in {"Ingress", "Gateway", "HTTPRoute", "Route"}:
            yield f"{named(document)}: exposes a service"
        if document["kind"] == "Service" and {"type", "externalIPs"} & {*document["spec"]}:
            yield f"{named(document)}: not a plain ClusterIP service"
    for owner, spec in ray_clusters(documents):
        if {"enableIngress", "serviceType", "headService"} & {*spec["headGroupSpec"]}:
            yield f"{owner}: the head's service is exposed"
    for pod in pods(documents):
        ports = [port for container in pod.containers for port in container.get("ports", ())]
        if any("hostPort" in port for port in ports) or pod.spec.get("hostNetwork"):
            yield f"{pod.owner}: a port of the node"


def network_is_closed(documents: Documents) -> Iterator[str]:
    closed = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    policies = of_kind(documents, "NetworkPolicy")
    if closed not in [policy["spec"] for policy in policies]:
        yield "no policy denies everything"
    for policy in policies:
        for allowed in (*policy["spec"].get("ingress", ()), *policy["spec"].get("egress", ())):
            if not ({"from", "to"} & {*allowed}):
                yield f"{named(policy)}: allows every peer"


def pods_are_restricted(documents: Documents) -> Iterator[str]:
    for pod in pods(documents):
        security = pod.spec.get("securityContext", {})
        if not security.get("runAsNonRoot") or not security.get("runAsUser"):
            yield f"{pod.owner}: may run as root"
        if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{pod.owner}: no seccomp profile"
        if {"hostPID", "hostIPC"} & {*pod.spec} or any("hostPath" in volume for volume in pod.spec.get("volumes", ())):
            yield f"{pod.owner}: reaches into its node"
        for container in pod.containers:
            held = container.get("securityContext")
            if held != {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }:
                yield f"{pod.owner} {container['name']}: security context is {held}"


def the_namespace_enforces_it(documents: Documents) -> Iterator[str]:
    for namespace in of_kind(documents, "Namespace"):
        if namespace["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{named(namespace)}: pods need not be restricted"


def only_heads_talk_to_kubernetes(documents: Documents) -> Iterator[str]:
    accounts = {document["metadata"]["name"]: document for document in of_kind(documents, "ServiceAccount")}
    for pod in pods(documents):
        account = accounts.get(pod.spec.get("serviceAccountName", ""), {})
        default = account.get("automountServiceAccountToken", True)
        if pod.spec.get("automountServiceAccountToken", default) != pod.is_head:
            yield f"{pod.owner}: has a token for Kubernetes, or lacks it"


def no_service_is_an_environment(documents: Documents) -> Iterator[str]:
    for pod in pods(documents):
        if pod.spec.get("enableServiceLinks") is not False:
            yield f"{pod.owner}: finds variables such as MLFLOW_PORT"


def resources_are_bounded(documents: Documents) -> Iterator[str]:
    for pod in pods(documents):
        for container in pod.containers:
            held = container.get("resources", {})
            if not {"cpu", "memory"} <= {*held.get("limits", {})} or held.get("requests") != held["limits"]:
                yield f"{pod.owner} {container['name']}: requests are not limits of cpu and memory"
        for volume in pod.spec.get("volumes", ()):
            if volume.get("emptyDir", {}).get("sizeLimit") is None and volume.get("emptyDir"):
                yield f"{pod.owner}: {volume['name']} has no limit"


def images_are_pinned(documents: Documents) -> Iterator[str]:
    for pod in pods(documents):
        for container in pod.containers:
            _, _, tag = container["image"].rpartition("/")[2].partition(":")
            if not re.fullmatch(r"\d+\.\d+(\.\d+)?(-\w+)?|[0-9a-f]{12}", tag):
                yield f"{pod.owner} {container['name']}: image {container['image']} has no version and no commit"


def secrets_are_elsewhere(documents: Documents) -> Iterator[str]:
    for secret in of_kind(documents, "Secret"):
        yield f"{named(secret)}: a secret among the manifests"
    for pod in pods(documents):
        for container in pod.containers:
            for variable in container.get("env", ()):
                if _SECRET_NAME.search(variable["name"]) and "secretKeyRef" not in variable.get("valueFrom", {}):
                    yield f"{pod.owner}: {variable['name']} is not from a secret"
    for text in texts(documents):
        if re.search(r"://[^/@\s]*:[^/@\s]*@", text):
            yield f"a password in {text.partition('://')[0]}://..."
    for owner, spec in ray_clusters(documents):
        if "value" in spec.get("gcsFaultToleranceOptions", {}).get("redisPassword", {}):
            yield f"{owner}: Valkey's password is not from a secret"
