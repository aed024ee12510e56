"""Measures one GPU in under eight minutes: `python -m tests.benchmarks.gpu [--out FILE] [--only NAME ...] [--dry]`.

Each part is a process with its own time limit, so that none can end the others; the most important parts run first.
Results are JSON lines in FILE; a table at the end names the card. `--dry` runs each part in miniature on the CPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.gpu.records import FILE_VARIABLE, read, say

SECONDS = 450
"""Limit of all parts together; the remaining parts are then skipped, and reported as skipped."""

_LEAST_SECONDS = 10
_SPOILS_OTHERS = ("cannot_be_recorded", "leave_no_memory", "do_not_fit", "does_not_fit")
"""Tests that measure a process's memory, or end its recordings: each has a process to itself."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A process: what it runs, and how long it may take."""

    name: str
    seconds: int
    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


def parts(is_dry: bool) -> Iterator[Part]:
    """All parts, the most important first; on a CPU one of each kind."""
    yield Part(name="environment", seconds=40, arguments=("environment",))
    if not is_dry:
        yield from _tests()
    yield Part(name="engine", seconds=60, arguments=("engine",))
    packs = [(size, precision, 1) for precision in ("bfloat16", "float32") for size in (16, 256, 1024)]
    packs += [(16, "bfloat16", 8), (256, "bfloat16", 8), (16, "float32", 8)]
    for batch_size, precision, num_members in packs if not is_dry else [(16, "float32", 2)]:
        yield _images(batch_size, precision, num_members)
    if not is_dry:
        yield _images(16, "bfloat16", 8, {"CUDA_DEVICE_MAX_CONNECTIONS": "32"})
    yield Part(name="ceilings", seconds=30, arguments=("ceilings",))
    for batch_size in (16, 1024) if not is_dry else (16,):
        yield Part(name="kernels", seconds=25, arguments=("kernels", str(batch_size), "bfloat16"))


def _images(batch_size: int, precision: str, num_members: int, environment: dict[str, str] | None = None) -> Part:
    arguments = ("images", str(batch_size), precision, str(num_members))
    return Part(name="images", seconds=25 + 2 * num_members, arguments=arguments, environment=environment or {})


def _tests() -> Iterator[Part]:
    """The tests that need a GPU: most of them side by side, some alone."""
    others = " and ".join(f"not {name}" for name in _SPOILS_OTHERS)
    yield Part(name="tests", seconds=120, arguments=("tests", others, "6"))
    for name in _SPOILS_OTHERS:
        yield Part(name="tests", seconds=45, arguments=("tests", name, "0"))


def main() -> None:
    """Run one part, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__)
    parser.add_argument("part", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"), help="file that gets the results")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="parts of these names")
    parser.add_argument("--dry", action="store_true", help="in miniature, on the CPU")
    parser.add_argument("--images", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        run_part(arguments.part, arguments.images, arguments.dry)
    else:
        run_all(arguments.out, arguments.only, arguments.dry)


def run_all(out: Path, only: list[str] | None, is_dry: bool) -> None:
    """All parts, each in a process; then the table."""
    os.environ[FILE_VARIABLE] = str(out.resolve())
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        from tests.benchmarks.gpu import image_packs

        image_packs.prepare(Path(folder), is_dry)
        for part in parts(is_dry):
            if only and part.name not in only:
                continue
            left = SECONDS - (time.monotonic() - started)
            if left < _LEAST_SECONDS:
                say(part.name, arguments=part.arguments, skipped="no time left")
                continue
            print(f"== {time.monotonic() - started:.0f} s: {' '.join(part.arguments)}", flush=True)
            # times on a shared CPU mean nothing: a dry run only shows that each part works
            limit = min(part.seconds, left) if not is_dry else SECONDS
            _run(part, limit, Path(folder), is_dry)
    print(f"== {time.monotonic() - started:.0f} s in all\n{table(read(out))}")


def _run(part: Part, seconds: float, folder: Path, is_dry: bool) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--images", str(folder), *part.arguments]
    command += ["--dry"] if is_dry else []
    try:
        code = subprocess.run(command, env={**os.environ, **part.environment}, timeout=seconds, check=False).returncode
    except subprocess.TimeoutExpired:
        say(part.name, arguments=part.arguments, failed=f"ran past {seconds:.0f} s")
    else:
        if code:
            say(part.name, arguments=part.arguments, failed=f"exit code {code}")


def run_part(part: list[str], folder: Path, is_dry: bool) -> None:
    """The part of that name in this process."""
    from tests.benchmarks.gpu import card, image_packs, synthetic

    name, *rest = part
    if name in ("images", "kernels"):
        image_packs.use(folder, is_dry)
    if name == "environment":
        card.environment(is_dry)
    elif name == "ceilings":
        card.ceilings(is_dry)
    elif name == "engine":
        synthetic.engine(is_dry)
    elif name == "images":
        image_packs.rate(int(rest[0]), rest[1], int(rest[2]), is_dry)
    elif name == "kernels":
        image_packs.kernels(int(rest[0]), rest[1], is_dry)
    elif name == "tests":
        run_tests(rest[0], rest[1])
    else:
        raise SystemExit(f"no part is named {name!r}")


def run_tests(which: str, num_processes: str) -> None:
    """The GPU tests that `-k` selects; one line counts them."""
    options = ["-o", "addopts=", "-p", "no:cacheprovider", "-q", "-ra", "-k", which]
    if num_processes != "0" and importlib.util.find_spec("xdist"):
        options += ["-n", num_processes, "--dist=load"]
    command = [sys.executable, "-m", "pytest", "tests/trainables/image_classifier/test_gpu.py", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout[-8000:], done.stderr[-2000:], flush=True)
    say("tests", which=which, exit_code=done.returncode, summary=done.stdout.strip().splitlines()[-1])


def table(results: list[dict[str, Any]]) -> str:
    """A line for each result, under the card's name."""
    lines = [f"{'part':<12} result"]
    for result in results:
        values = {name: value for name, value in result.items() if name not in ("part", "top")}
        lines.append(f"{result['part']:<12} " + ", ".join(f"{name} {_short(value)}" for name, value in values.items()))
    cards = [str(result["card"]) for result in results if "card" in result]
    return "\n".join([f"On: {', '.join(dict.fromkeys(cards)) or 'an unknown card'}", *lines])


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
