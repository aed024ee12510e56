"""The manifests as kubectl renders them: valid, safe, without loose ends; and each rule for them reports its fault."""

from __future__ import annotations

import re
from itertools import chain

import pytest
import yaml
from typer.testing import CliRunner

from orchestrator.commands.command_line import app
from orchestrator.sweeps.registry import find_sweep
from tests.manifest_rules import faults
from tests.support.launching import ROOT
from tests.support.manifests import (
    COMPONENTS,
    K8S,
    KUEUE_KINDS,
    OVERLAYS,
    RAY_KINDS,
    Document,
    container,
    development,
    of_kind,
    one,
    pods,
    ray_clusters,
    rendering,
    resource_faults,
    schema_faults,
    workers,
)
from tests.support.readmes import parsed

CHOICES = [(), *((name,) for name in COMPONENTS), tuple(COMPONENTS)]
RENDERINGS = [(overlay, *components) for overlay in OVERLAYS for components in CHOICES]
README = (K8S / "README.md").read_text()

every_rendering = pytest.mark.parametrize("parts", RENDERINGS, ids="+".join)


@every_rendering
def test_no_rule_is_broken(parts: tuple[str, ...]) -> None:
    assert faults(rendering(*parts)) == []


@every_rendering
def test_core_kinds_are_valid(parts: tuple[str, ...]) -> None:
    core = [found for found in rendering(*parts) if found["kind"] not in RAY_KINDS | KUEUE_KINDS]
    assert len(core) > 15
    assert [*chain.from_iterable(map(schema_faults, core))] == []


@every_rendering
def test_custom_resources_are_valid(parts: tuple[str, ...]) -> None:
    (job,) = of_kind(rendering(*parts), *RAY_KINDS)
    assert resource_faults(job) == []


@pytest.mark.parametrize("components", [(), ("gcs-fault-tolerance",)], ids="+".join)
def test_the_cluster_for_development_is_valid(components: tuple[str, ...]) -> None:
    documents = development(*components)
    assert faults(documents) == []
    (cluster,) = of_kind(documents, "RayCluster")
    assert ("gcsFaultToleranceOptions" in cluster["spec"]) == bool(components)
    assert resource_faults(cluster) == []


def test_schemas_refuse_unknown_fields() -> None:
    documents = rendering("local")
    sweep(documents)["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["colour"] = "red"
    one(documents, "Deployment")["spec"]["replica"] = 1
    assert "replica" in schema_faults(one(documents, "Deployment"))[0]
    (fault,) = resource_faults(sweep(documents))
    assert "colour" in fault


def test_every_pod_is_seen() -> None:
    found = pods(rendering("gke", *COMPONENTS))
    owners = {pod.owner.partition(" ")[2] or pod.owner for pod in found}
    assert owners == {
        "Deployment/mlflow",
        "StatefulSet/database",
        "StatefulSet/valkey",
        "head",
        "cpu",
        "gpu",
        "gpu-spot",
    }
    assert {container["name"] for pod in found for container in pod.containers} == {
        *("autoscaler", "migrate", "mlflow", "postgresql", "ray-head", "ray-worker", "valkey"),
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_gpu_groups_are_the_cpu_group_on_other_nodes(overlay: str) -> None:
    cpu, *others = workers(rendering(overlay, "gpu", "gpu-spot"))
    assert cpu["groupName"] == "cpu"
    assert {group["groupName"] for group in others} == {"gpu", "gpu-spot"}
    for group in others:
        assert container(group)["image"] == container(cpu)["image"]
        assert container(group)["volumeMounts"] == container(cpu)["volumeMounts"]
        claims = [volume.get("persistentVolumeClaim") for volume in group["template"]["spec"]["volumes"]]
        assert {"claimName": "datasets", "readOnly": True} in claims
    assert "datasets" not in str(cpu["template"]["spec"]["volumes"][0].get("persistentVolumeClaim"))


@pytest.mark.parametrize(
    ("overlay", "label"), [("gke", "cloud.google.com/gke-spot"), ("eks", "karpenter.sh/capacity-type")]
)
def test_heads_stay_off_spot_nodes(overlay: str, label: str) -> None:
    head = sweep(rendering(overlay, *COMPONENTS))["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    required = head["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    asked = {
        e["key"]: (e["operator"], e.get("values")) for t in required["nodeSelectorTerms"] for e in t["matchExpressions"]
    }
    assert asked[label] in [("DoesNotExist", None), ("In", ["on-demand"])]


def test_what_a_submitted_sweep_changes_is_in_one_place() -> None:
    for overlay in OVERLAYS:
        job = sweep(rendering(overlay))
        images = {container["image"] for pod in pods([job]) for container in pod.containers}
        assert len(images) == 1
        assert "lambda-atlas:" in images.pop()
        assert job["spec"]["entrypoint"].count("--out ") == 1


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_submitted_sweep_breaks_no_rule(overlay: str) -> None:
    documents = rendering(overlay, "gpu", "gpu-spot")
    components = ["--component", "gpu", "--component", "gpu-spot"]
    done = CliRunner().invoke(app, ["submit", "grid_wd", "--overlay", overlay, *components, "--dry-run"])
    assert done.exit_code == 0, done.output
    documents[documents.index(sweep(documents))] = yaml.safe_load(done.output)
    assert faults(documents) == []
    assert resource_faults(sweep(documents)) == []


def test_ray_is_one_version() -> None:
    (constrained,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    for documents in (*(rendering(overlay) for overlay in OVERLAYS), development()):
        assert {spec["rayVersion"] for _, spec in ray_clusters(documents)} == {constrained}
    assert "-c constraints.txt" in (K8S / "Dockerfile").read_text()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_entrypoint_is_a_launch(overlay: str) -> None:
    command, parameters = parsed(sweep(rendering(overlay))["spec"]["entrypoint"])
    assert command == "run"
    assert find_sweep(parameters["name"]).num_trials == 70
    assert parameters["address"] == "auto"
    assert parameters["max_nodes"] >= 1
    assert parameters["out"].startswith(("gs://", "s3://", "/"))


# The README


def test_each_folder_in_the_readme_renders() -> None:
    folders = re.findall(r"kubectl (?:apply|kustomize|delete) (?:-k )?(k8s/[\w/-]+)", README)
    assert {*folders} >= {"k8s/overlays/local", "k8s/development"}
    for folder in folders:
        kind, _, name = folder.removeprefix("k8s/").partition("/")
        assert development() if kind == "development" else rendering(name)


def test_the_readme_pins_the_operator_and_names_every_part() -> None:
    for line in re.findall(r"^helm (?:install|upgrade) .+", README.replace("\\\n", " "), flags=re.MULTILINE):
        assert re.search(r"--version 1\.7\.0\b", line)
        (values,) = re.findall(r"--values (\S+)", line)
        assert (ROOT / values).is_file()
        assert "--namespace kuberay-system" in line
    assert "helm install" in README
    for part in (*OVERLAYS, *COMPONENTS):
        assert f"`{part}`" in README


def test_the_readme_says_what_local_needs() -> None:
    found = pods(rendering("local"))
    most = {group["groupName"]: group["maxReplicas"] for group in workers(rendering("local"))}
    needs = {"cpu": 0.0, "memory": 0.0}
    for pod in found:
        for main in (c for c in pod.containers if c["name"] != "migrate"):
            for name in needs:
                needs[name] += quantity(main["resources"]["limits"][name]) * most.get(pod.owner.split()[-1], 1)
    assert f"{needs['cpu']:g} CPUs and {needs['memory'] / 2**30:g} GiB" in README


def quantity(text: str) -> float:
    ((number, unit),) = re.findall(r"([\d.]+)(\w*)", text)
    return float(number) * {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}[unit]


def sweep(documents: list[Document]) -> Document:
    return one(documents, "RayJob")
