"""Makes a sweep a RayJob on Kubernetes: renders an overlay of `k8s/`, and changes its job to run this sweep."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import SubmitError, unknown_name
from orchestrator.ledger.storage import check_uri
from orchestrator.sweeps.value import Sweep
from trainables.redaction import redacted, shows_secret
from trainables.registry import workload

K8S = Path(__file__).resolve().parents[2] / "k8s"
LONGEST_NAME = 47
"""Most characters that the operator accepts in a RayJob's name."""
_GPU = "nvidia.com/gpu"
_SHA_DIGITS = 12

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A sweep, and where it is to run.

    `arguments` are those arguments of `launch run` that say what to run. `num_trials` is how many trials that is, None
    where only the cluster can tell. `max_nodes`, `out` and `image` are the overlay's where they are None; the image's
    tag is then the commit of this checkout.
    """

    sweep: Sweep
    arguments: tuple[str, ...]
    num_trials: int | None
    overlay: str
    components: tuple[str, ...] = ()
    cpus_per_trial: int = 1
    max_nodes: int | None = None
    out: str | None = None
    image: str | None = None


def run_arguments(name: str, sets: Sequence[str], seeds: str | None, workload_name: str | None) -> tuple[str, ...]:
    """The arguments that say what to run, as `launch run` takes them in the job."""
    options = [("--set", text) for text in sets] + [("--seeds", seeds), ("--workload", workload_name)]
    return (name, *(word for option, value in options if value for word in (option, value)))


def job_of(submission: Submission) -> Document:
    """The RayJob that runs the sweep; raises `SubmitError` if overlay or component are unknown or cannot run it.

    It also raises `SubmitError` if an argument, or the overlay, shows a secret: so would the job, to everybody who may
    look at it.
    """
    for given in (*submission.arguments, submission.image or ""):
        if shows_secret(given):
            raise SubmitError(
                f"{given}: a job shows its arguments, so give no password in it; let the overlay name a Secret instead"
            )
    job = _only_job(render(submission.overlay, submission.components))
    if workload(submission.sweep.workload).reads_data_sets and not _has_data(job):
        raise SubmitError(
            f"overlay {submission.overlay} mounts no data sets: add --component gpu or gpu-spot, which do"
        )
    groups = list(_groups(job, submission))
    if not groups:
        raise SubmitError(f"no worker group of overlay {submission.overlay} has room for a pack of this sweep")
    slots = max(num for _, num in groups)
    most = submission.max_nodes or sum(group["maxReplicas"] for group, _ in groups)
    useful = most if submission.num_trials is None else math.ceil(submission.num_trials / slots)
    num_nodes = max(1, min(most, useful))
    for group, _ in groups:
        group["maxReplicas"] = min(num_nodes, submission.max_nodes or group["maxReplicas"])
    if not job["spec"]["rayClusterSpec"].get("enableInTreeAutoscaling"):
        _fill(job, [group for group, _ in groups], num_nodes)
    out = submission.out or _out_of(job)
    check_uri(out)
    if "://" not in out and not out.startswith("/"):
        raise SubmitError(f"--out is a URI, or a path on a volume that all pods mount, got {out!r}")
    job["spec"]["entrypoint"] = shlex.join(
        [
            *("python", "-m", "orchestrator.launch", "run", *submission.arguments, "--address", "auto", "--out", out),
            *("--device", _device(submission), "--cpus-per-trial", str(submission.cpus_per_trial)),
            *("--max-nodes", str(num_nodes), "--slots-per-node", str(slots)),
        ]
    )
    for container in _containers(job):
        container["image"] = submission.image or _image_of_checkout(container["image"])
    job["metadata"]["name"] = _name(submission.sweep.name, job)
    _check_shows_no_secret(as_yaml(job))
    return job


def _check_shows_no_secret(text: str) -> None:
    """Raises `SubmitError` with the first line of a job that shows a secret, or one of this process's environment."""
    for line in text.splitlines():
        if redacted(line) != line:
            raise SubmitError(f"the job shows a secret to everybody who may look at it: {line.strip()}")


def render(overlay: str, components: Sequence[str] = ()) -> list[Document]:
    """The documents of an overlay with these components, as `kubectl kustomize` renders them."""
    for kind, name in (("overlay", overlay), *(("component", one) for one in components)):
        known = sorted(path.parent.name for path in K8S.glob(f"{kind}s/*/kustomization.yaml"))
        if not known:
            raise SubmitError(
                "the manifests in k8s/ are not beside this package: submit from a clone of the repository"
            )
        if name not in known:
            raise SubmitError(unknown_name(kind, name, known))
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: os.path.relpath(K8S / name, Path(folder).resolve()) for name in ("overlays", "components")}
        kustomization = {
            "resources": [f"{paths['overlays']}/{overlay}"],
            "components": [f"{paths['components']}/{name}" for name in components],
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return list(yaml.safe_load_all(_kubectl("kustomize", folder)))


def needs(overlay: str, components: Sequence[str]) -> list[str]:
    """Objects that the components add beside the job; they must exist in the cluster before it starts."""
    plain = {_named(document) for document in render(overlay)}
    return sorted({_named(document) for document in render(overlay, components)} - plain)


def _named(document: Document) -> str:
    return f"{document['kind']} {document['metadata']['name']}"


def create(job: Document) -> str:
    """Create the job in kubectl's current cluster; returns what kubectl says."""
    return _kubectl("create", "-f", "-", text=as_yaml(job)).strip()


def as_yaml(job: Document) -> str:
    """The job as YAML, as kubectl reads it."""
    return str(yaml.safe_dump(job, sort_keys=False, width=120))


def _kubectl(*arguments: str, text: str = "") -> str:
    if shutil.which("kubectl") is None:
        raise SubmitError("kubectl is not on PATH: submit renders k8s/ and reaches the cluster with it")
    done = subprocess.run(["kubectl", *arguments], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SubmitError(f"kubectl {arguments[0]}: {' '.join(done.stderr.split())}")
    return done.stdout


def _only_job(documents: Sequence[Document]) -> Document:
    (job,) = (document for document in documents if document["kind"] == "RayJob")
    return job


def _groups(job: Document, submission: Submission) -> Iterator[tuple[Document, int]]:
    """Worker groups that can run the sweep's packs, each with how many packs one node runs at once."""
    device = _device(submission)
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        num_gpus = int(limits.get(_GPU, 0))
        slots = num_gpus if device == "cuda" else 0 if num_gpus else _cpus(limits) // submission.cpus_per_trial
        if slots:
            yield group, slots


def _fill(job: Document, usable: Sequence[Document], num_nodes: int) -> None:
    """Give a cluster that does not grow all its nodes at once, those of a higher priority first, and no others."""
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        group["minReplicas"] = group["replicas"] = 0
    for group in sorted(usable, key=lambda group: -group.get("priority", 0)):
        group["minReplicas"] = group["replicas"] = min(num_nodes, group["maxReplicas"])
        num_nodes -= group["replicas"]


def _cpus(limits: Document) -> int:
    """CPUs that Ray sees in a pod: it rounds thousandths up to whole ones."""
    text = str(limits["cpu"])
    return math.ceil(float(text.removesuffix("m")) / (1000 if text.endswith("m") else 1))


def _has_data(job: Document) -> bool:
    """Whether the head, which reads the images' digest, mounts a volume of data sets."""
    volumes = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    return any(volume["name"] == "datasets" and "emptyDir" not in volume for volume in volumes)


def _device(submission: Submission) -> str:
    has_gpus = any(name.startswith("gpu") for name in submission.components)
    return "cuda" if has_gpus and "cuda" in workload(submission.sweep.workload).devices else "cpu"


def _out_of(job: Document) -> str:
    """Where the overlay's own entrypoint puts results."""
    words = shlex.split(job["spec"]["entrypoint"])
    for word, following in pairwise([*words, ""]):
        if word == "--out" or word.startswith("--out="):
            return word.partition("=")[2] or following
    raise SubmitError("the overlay's entrypoint has no --out: give one")


def _containers(job: Document) -> Iterator[Document]:
    """The containers that run this product's image."""
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]["containers"][0]


def _image_of_checkout(image: str) -> str:
    """The overlay's image with this checkout's commit as tag; unchanged outside a checkout, or if it has a digest."""
    done = subprocess.run(
        ["git", "-C", str(K8S.parent), "rev-parse", f"--short={_SHA_DIGITS}", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or "@" in image:
        return image
    folder, slash, name = image.rpartition("/")
    return f"{folder}{slash}{name.partition(':')[0]}:{done.stdout.strip()}"


def _name(sweep: str, job: Document) -> str:
    """The sweep's name and a digest of the job: the same command, submitted twice, gives one name.

    Kubernetes takes small letters, digits and -, and a letter first. The digest also tells names apart that become one.
    """
    digest = hashlib.sha256(json.dumps(job["spec"], sort_keys=True).encode()).hexdigest()[:6]
    words = re.sub(r"[^a-z0-9]+", "-", sweep.lower()).lstrip("-0123456789")
    return f"{words[: LONGEST_NAME - 7].rstrip('-') or 'sweep'}-{digest}"
