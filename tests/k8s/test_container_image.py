"""The image's Dockerfile, as far as it can be checked without building it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support.launching import ROOT, environment
from tests.support.manifests import K8S, OVERLAYS, pods, rendering

DOCKERFILE = (K8S / "Dockerfile").read_text()
PACKAGES = sorted(
    name.rstrip("*")
    for name in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"][
        "include"
    ]
)


def test_hadolint_has_nothing_against_it() -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, str(K8S / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_base_is_pinned_to_the_byte_and_is_a_supported_python() -> None:
    outside = re.findall(r"^FROM (\S+:\S+)", DOCKERFILE, flags=re.MULTILINE)
    assert len(outside) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}", outside[0])
    assert "lib/python3.11/site-packages" in DOCKERFILE


def test_code_comes_after_the_dependencies() -> None:
    install = DOCKERFILE.index("pip install -c constraints.txt '.[cluster]'")
    copied = {package: DOCKERFILE.index(f"COPY {package} {package}") for package in PACKAGES}
    assert min(copied.values()) > install
    assert DOCKERFILE.index("ARG GIT_SHA") > max(copied.values())


def test_the_context_is_what_is_copied() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    words = " ".join(re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, flags=re.MULTILINE)).split()
    assert let_in == {*words}
    assert {*PACKAGES} < let_in
    assert all((ROOT / name).exists() for name in let_in)


def test_it_runs_as_the_manifests_do() -> None:
    (user,) = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, flags=re.MULTILINE)
    (folder,) = re.findall(r"^WORKDIR (/cache)$", DOCKERFILE, flags=re.MULTILINE)
    for pod in (pod for overlay in OVERLAYS for pod in pods(rendering(overlay)) if pod.is_ray):
        security = pod.spec["securityContext"]
        assert (str(security["runAsUser"]), str(security["runAsGroup"])) == user
        assert folder in [mount["mountPath"] for mount in pod.spec["containers"][0]["volumeMounts"]]


def test_its_commit_is_in_every_row() -> None:
    (variable,) = re.findall(r"(\w+)=\$GIT_SHA\b", DOCKERFILE.partition("LABEL")[0])
    code = "from trainables.provenance import provenance; print(provenance('engine').git_sha)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(**{variable: "0123abc"}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "0123abc"


@pytest.mark.slow
def test_the_project_installs_before_its_packages_are_there(tmp_path: Path) -> None:
    """The layer of dependencies has those of the project, and none of its code."""
    early, late = tmp_path / "early", tmp_path / "late"
    for folder in (early, late):
        folder.mkdir()
        shutil.copy(ROOT / "pyproject.toml", folder)
    for name in ("README.md", "LICENSE"):
        (early / name).touch()
        shutil.copy(ROOT / name, late)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, late / package, ignore=shutil.ignore_patterns("__pycache__"))
    before, after = wheel(early), wheel(late)
    assert requirements(before) == requirements(after) != []
    assert {name.partition("/")[0] for name in before.namelist()} == {"lambda_atlas-0.1.0.dist-info"}
    assert {name.partition("/")[0] for name in after.namelist()} == {"lambda_atlas-0.1.0.dist-info", *PACKAGES}


def wheel(folder: Path) -> zipfile.ZipFile:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("*.whl")
    return zipfile.ZipFile(made)


def requirements(of: zipfile.ZipFile) -> list[str]:
    (name,) = (name for name in of.namelist() if name.endswith("/METADATA"))
    return re.findall(r"^Requires-Dist: (.+)$", of.read(name).decode(), flags=re.MULTILINE)
