"""Records on the worker where and with what a trial runs."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

from trainables.result import Provenance

NO_ENGINE = "none"
"""The engine of a trial that was given up before anything could train it."""

_PACKAGE = Path(__file__).resolve().parent


def provenance(engine: str, device: str = "cpu", num_threads: int = 1, device_name: str | None = None) -> Provenance:
    """The provenance of a trial that `engine` trains on `device` in this process.

    `device_name=None` is the name of the processor.
    """
    git_sha, git_dirty = _git_state()
    return Provenance(
        engine=engine,
        device=device,
        device_name=device_name or _processor_name(),
        num_threads=num_threads,
        hostname=socket.gethostname(),
        code_digest=code_digest(),
        git_sha=git_sha,
        git_dirty=git_dirty,
        package_version=_version("lambda-atlas") or "unknown",
        python_version=platform.python_version(),
        numpy_version=_version("numpy") or "unknown",
        numba_version=_version("numba"),
        torch_version=_version("torch"),
    )


def code_place() -> str:
    """Folder from which this process imports `trainables`."""
    return str(_PACKAGE)


@cache
def code_digest() -> str:
    """Hash of the source files of `trainables`; driver and workers run the same code only if it is equal."""
    return digest_of_sources(_PACKAGE)


def digest_of_sources(package: Path) -> str:
    """Hash of the source files of a package and its sub-packages, and of their paths in the package."""
    names = (path.relative_to(package) for path in package.rglob("*.py"))
    sha = hashlib.sha256()
    for name in sorted(name.as_posix() for name in names if "__pycache__" not in name.parts):
        sha.update(name.encode() + b"\0" + (package / name).read_bytes())
    return sha.hexdigest()[:16]


@cache
def _git_state() -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the checkout with this package; a container image sets LAMBDA_ATLAS_GIT_SHA instead."""
    if sha := os.environ.get("LAMBDA_ATLAS_GIT_SHA"):
        return sha, False
    try:
        if not (_PACKAGE.parent / ".git").exists():
            return None, None
        sha = _git("rev-parse", "HEAD").strip()
        return sha, bool(_git("status", "--porcelain", "--untracked-files=no").strip())
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(*arguments: str) -> str:
    place = str(_PACKAGE.parent)
    # Code that this process runs is trusted, whoever owns it; a user's git must not find the index locked by us.
    command = ["git", "--no-optional-locks", "-c", f"safe.directory={place}", "-C", place, *arguments]
    # GIT_DIR and its like, which git sets for hooks and aliases, would name the user's repository instead of the code's
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10, env=plain).stdout


@cache
def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


@cache
def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
