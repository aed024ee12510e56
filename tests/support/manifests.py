"""Kubernetes manifests as tests see them: rendered by kubectl, walked by pod, checked against strict schemas."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.support.launching import ROOT

Document = dict[str, Any]
Documents = Sequence[Document]

K8S = ROOT / "k8s"
NAMESPACE = "lambda-atlas"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (K8S / "components").iterdir())
KUBERNETES_VERSIONS = ("1.31", "1.35")
CRDS_VARIABLE = "LAMBDA_ATLAS_TEST_CRDS"

RAY_KINDS = {"RayJob", "RayCluster"}
KUEUE_KINDS = {"ResourceFlavor", "ClusterQueue", "LocalQueue"}
CLUSTER_KINDS = {"Namespace", "PriorityClass", "ResourceFlavor", "ClusterQueue"}
"""Kinds whose objects lie in no namespace."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that an object describes, as the operator or Kubernetes will create it."""

    owner: str
    labels: dict[str, str]
    spec: dict[str, Any]
    containers: list[dict[str, Any]]
    """Init containers and, of a head, the autoscaler's among them."""
    claimed: frozenset[str] = frozenset()
    """Volumes that a StatefulSet adds."""

    @property
    def is_ray(self) -> bool:
        return "ray.io/is-ray-node" in self.labels

    @property
    def is_head(self) -> bool:
        return self.labels.get("ray.io/node-type") == "head"


def rendering(overlay: str, *components: str) -> list[Document]:
    """The documents of an overlay with components, as a copy that may be changed."""
    return copy.deepcopy(_rendered(f"overlays/{overlay}", components))


def development(*components: str) -> list[Document]:
    """The local platform and the cluster for development with components."""
    return rendering("local") + copy.deepcopy(_rendered("development", components))


@cache
def _rendered(folder: str, components: tuple[str, ...]) -> list[Document]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    with tempfile.TemporaryDirectory() as made:
        root = Path(made).resolve()
        kustomization = {
            "resources": [os.path.relpath(K8S / folder, root)],
            "components": [os.path.relpath(K8S / "components" / name, root) for name in components],
        }
        (root / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        done = subprocess.run(["kubectl", "kustomize", str(root)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def named(document: Document) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


def of_kind(documents: Documents, *kinds: str) -> list[Document]:
    return [document for document in documents if document["kind"] in kinds]


def one(documents: Documents, kind: str, name: str | None = None) -> Document:
    """The first document of that kind, and of that name if one is given."""
    return next(found for found in of_kind(documents, kind) if name in (None, found["metadata"]["name"]))


def workers(documents: Documents) -> list[Document]:
    """The worker groups of the sweep."""
    groups: list[Document] = one(documents, "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return groups


def container(group: Document) -> Document:
    """Ray's container in the pods of a group."""
    found: Document = group["template"]["spec"]["containers"][0]
    return found


def ray_clusters(documents: Documents) -> Iterator[tuple[str, dict[str, Any]]]:
    """(owner, RayCluster spec) of each RayJob and RayCluster."""
    for document in of_kind(documents, *RAY_KINDS):
        spec = document["spec"]
        yield named(document), spec["rayClusterSpec"] if document["kind"] == "RayJob" else spec


def pods(documents: Documents) -> list[Pod]:
    """Every pod that the documents describe."""
    found = []
    for document in of_kind(documents, "Deployment", "StatefulSet"):
        claimed = frozenset(claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", ()))
        found.append(_pod(named(document), document["spec"]["template"], {}, (), claimed))
    for owner, spec in ray_clusters(documents):
        head = spec["headGroupSpec"]
        found.append(_pod(f"{owner} head", head["template"], _ray_labels("head", head), [_autoscaler(spec)]))
        for group in spec["workerGroupSpecs"]:
            found.append(_pod(f"{owner} {group['groupName']}", group["template"], _ray_labels("worker", group)))
    return found


def _pod(
    owner: str,
    template: dict[str, Any],
    added: dict[str, str],
    more: Sequence[dict[str, Any]] = (),
    claimed: frozenset[str] = frozenset(),
) -> Pod:
    spec = template["spec"]
    labels = {**added, **template.get("metadata", {}).get("labels", {})}
    return Pod(owner, labels, spec, [*spec.get("initContainers", ()), *spec["containers"], *more], claimed)


def _ray_labels(node_type: str, group: dict[str, Any]) -> dict[str, str]:
    """Labels that the operator gives to a pod of the group."""
    return {"ray.io/is-ray-node": "yes", "ray.io/node-type": node_type, **group.get("labels", {})}


def _autoscaler(spec: dict[str, Any]) -> dict[str, Any]:
    """The container that the operator puts beside the head."""
    image = spec["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
    return {"name": "autoscaler", "image": image, **spec.get("autoscalerOptions", {})}


def environment_names(template: Document) -> set[str]:
    return {variable["name"] for found in template["spec"]["containers"] for variable in found.get("env", ())}


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a document."""
    if isinstance(value, dict):
        yield value
        value = [*value.values()]
    if isinstance(value, list):
        for item in value:
            yield from nodes(item)


def texts(documents: Documents) -> Iterator[str]:
    """Every text in the documents that may hold an address, images apart."""
    for node in nodes(list(documents)):
        for name, value in node.items():
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and name not in {"image", "newName"}:
                    yield text


def schema_faults(document: Document) -> list[str]:
    """The faults that a core kind's strict schema finds in a document."""
    return _schema_faults(json.dumps(document))


@cache
def _schema_faults(text: str) -> list[str]:
    """Cached by text, since most documents are in many renderings."""
    document = json.loads(text)
    faults = []
    for version in KUBERNETES_VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            faults.append(f"{named(document)} {'/'.join(map(str, error.absolute_path))}: {error.message}")
    return faults


def resource_faults(document: Document) -> list[str]:
    """The faults that a custom resource's schema, made strict, finds in it; skips the test without the schemas."""
    errors = _validators()[document["apiVersion"], document["kind"]].iter_errors(document)
    return [f"{named(document)} {'/'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


@cache
def _validators() -> dict[tuple[str, str], jsonschema.Draft202012Validator]:
    folder = os.environ.get(CRDS_VARIABLE)
    if not folder:
        pytest.skip(f"{CRDS_VARIABLE} names no folder with KubeRay's ray.io_*.yaml")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found = {}
    for plural in ("rayjobs", "rayclusters"):
        definition = yaml.load((Path(folder) / f"ray.io_{plural}.yaml").read_text(), Loader=loader)["spec"]
        for version in definition["versions"]:
            key = f"{definition['group']}/{version['name']}", definition["names"]["kind"]
            found[key] = jsonschema.Draft202012Validator(_strict(version["schema"]["openAPIV3Schema"]))
    return found


def _strict(schema: Any) -> Any:
    """A structural OpenAPI schema as a JSON schema that refuses fields it does not know."""
    if not isinstance(schema, dict):
        return schema
    strict = {name: value for name, value in schema.items() if not name.startswith("x-") and name != "nullable"}
    if "properties" in schema:
        strict["properties"] = {name: _strict(value) for name, value in schema["properties"].items()}
        if "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict["additionalProperties"] = False
    for name in ("items", "additionalProperties"):
        if name in schema:
            strict[name] = _strict(schema[name])
    if schema.get("x-kubernetes-int-or-string"):
        strict["type"] = ["integer", "string"]
    elif schema.get("nullable"):
        strict["type"] = [schema["type"], "null"]
    return strict
