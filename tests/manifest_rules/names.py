"""Rules for labels, names, addresses and selectors: each must refer to something that exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.support.manifests import CLUSTER_KINDS, K8S, NAMESPACE, Documents, Pod, named, nodes, of_kind, pods, texts

COMPONENT = "app.kubernetes.io/component"
_ADDRESS = re.compile(r"(?:[a-z+0-9]+://(?:[^@/\s]*@)?)?([a-z][a-z-]*):(\d+)")


def objects_say_what_they_are(documents: Documents) -> Iterator[str]:
    for document in documents:
        labels = document["metadata"].get("labels", {})
        if COMPONENT not in labels or labels.get("app.kubernetes.io/part-of") != "lambda-atlas":
            yield f"{named(document)}: lacks {COMPONENT} or part-of"
        if (labels.get(COMPONENT) == "sweep") != (document["kind"] == "RayJob"):
            yield f"{named(document)}: {COMPONENT} is `sweep` for a RayJob only"
        namespace = document["metadata"].get("namespace")
        if namespace != (None if document["kind"] in CLUSTER_KINDS else NAMESPACE):
            yield f"{named(document)}: in namespace {namespace}"
    if len(of_kind(documents, "RayJob")) != 1:
        yield "not exactly one RayJob"


def names_exist(documents: Documents) -> Iterator[str]:
    there = {(document["kind"], document["metadata"]["name"]) for document in documents}
    for pod in pods(documents):
        for kind, name in _references(pod):
            if (kind, name) not in there:
                yield f"{pod.owner}: no {kind} {name}"


def secrets_are_documented(documents: Documents) -> Iterator[str]:
    documented = re.findall(r"create secret generic (\S+) --from-literal=(\w+)=", (K8S / "README.md").read_text())
    asked = [found["secretKeyRef"] for found in nodes(documents) if "secretKeyRef" in found]
    for secret in asked:
        if (secret["name"], secret["key"]) not in documented:
            yield f"secret {secret['name']}: {secret['key']} is not in the README"


def addresses_are_services(documents: Documents) -> Iterator[str]:
    services = {
        (service["metadata"]["name"], str(port["port"]))
        for service in of_kind(documents, "Service")
        for port in service["spec"]["ports"]
    }
    for text in texts(documents):
        for part in text.split(","):
            found = _ADDRESS.match(part)
            if found and found[1] != "localhost" and found.groups() not in services:
                yield f"no service {found[1]}:{found[2]}"


def selectors_match(documents: Documents) -> Iterator[str]:
    labels = [pod.labels for pod in pods(documents)]
    for owner, selector in _selectors(documents):
        wanted = selector.get("matchLabels", {})
        if not any(wanted.items() <= pod.items() for pod in labels):
            yield f"{owner}: no pod has {wanted}"


def mounts_are_volumes(documents: Documents) -> Iterator[str]:
    for pod in pods(documents):
        volumes = [volume["name"] for volume in pod.spec.get("volumes", ())] + sorted(pod.claimed)
        mounted = {mount["name"] for container in pod.containers for mount in container.get("volumeMounts", ())}
        if sorted(volumes) != sorted(mounted):
            yield f"{pod.owner}: volumes {sorted(volumes)}, mounted {sorted(mounted)}"


def _references(pod: Pod) -> Iterator[tuple[str, str]]:
    """(kind, name) of the objects that a pod needs, secrets apart."""
    yield "ServiceAccount", pod.spec.get("serviceAccountName", "default")
    yield "PriorityClass", pod.spec.get("priorityClassName", "")
    for volume in pod.spec.get("volumes", ()):
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
    for container in pod.containers:
        for source in container.get("envFrom", ()):
            yield "ConfigMap", source["configMapRef"]["name"]


def _selectors(documents: Documents) -> Iterator[tuple[str, dict[str, Any]]]:
    """(owner, selector) of every object that selects pods of this namespace."""
    for document in of_kind(documents, "Service"):
        yield named(document), {"matchLabels": document["spec"]["selector"]}
    for document in of_kind(documents, "PodDisruptionBudget"):
        yield named(document), document["spec"]["selector"]
    for document in of_kind(documents, "NetworkPolicy"):
        yield named(document), document["spec"]["podSelector"]
        for found in nodes(document["spec"]):
            if "podSelector" in found and "policyTypes" not in found and "namespaceSelector" not in found:
                yield named(document), found["podSelector"]
