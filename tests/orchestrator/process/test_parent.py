"""The process above a launch: what it answers to each end of the launch, and to signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.process.parent import MOST_STARTS, NOT_TRAINING
from tests.support.launching import ROOT

LAUNCH = """
import os, signal, sys, time
from pathlib import Path
from orchestrator.process import parent as parent

before = os.getpid()
parent.watch(sys.argv[2:])
with open("starts", "a") as file:
    file.write(f"{os.getpid() != before}\\n")
starts = len(Path("starts").read_text().split())
exec(sys.argv[1])
"""
GOES_ON = "parent.tell('standing', str(starts)); starts < 6 and {}"


def begin(folder: Path, body: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, body, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def starts(folder: Path) -> list[str]:
    return (folder / "starts").read_text().split()


@pytest.mark.parametrize(
    ("body", "code", "num_starts", "said"),
    [
        ("sys.exit(3)", 3, 1, ""),
        ("1 / 0", 1, 1, "ZeroDivisionError"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, 1, "was killed"),
        ("os.kill(os.getpid(), signal.SIGTERM)", 143, 1, ""),
        ("os._exit(130)", 130, 1, ""),
        (GOES_ON.format("os._exit(1)"), 0, 6, "Ray ended (exit code 1): starting it again"),
        (GOES_ON.format("os.abort()"), 0, 6, "Ray ended (SIGABRT): starting it again"),
        (GOES_ON.format("parent.start_anew('its raylet died')"), 0, 6, "Ray ended (its raylet died): starting"),
        ("os._exit(1)", 2, MOST_STARTS, f"error: Ray ended {MOST_STARTS} times without progress"),
        ("parent.tell('standing', 'x'); os._exit(1)", 2, MOST_STARTS, "error: Ray ended"),
        ("parent.tell('standing', str(min(starts, 3))); os._exit(1)", 2, 2 + MOST_STARTS, "error: Ray ended"),
    ],
)
def test_each_end_of_a_launch_has_its_answer(body: str, code: int, num_starts: int, said: str, tmp_path: Path) -> None:
    process = begin(tmp_path, body, "run", "grid_bsz")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert starts(tmp_path) == ["True"] * num_starts
    assert said in stderr
    lines = [line for line in stderr.splitlines() if line.startswith(("Ray ended", "error:"))]
    assert len(lines) == num_starts - (code == 0) or num_starts == 1


@pytest.mark.parametrize(
    "arguments",
    [["plan", "grid_bsz"], ["grid_bsz", "--executor", "inline"], ["run", "x", "--executor=inline"], ["--help"], []],
)
def test_what_trains_nothing_under_ray_has_no_parent(arguments: list[str], tmp_path: Path) -> None:
    begin(tmp_path, "", *arguments).communicate(timeout=60)
    assert starts(tmp_path) == ["False"]


def test_the_commands_that_train_nothing_are_all_known() -> None:
    from orchestrator.commands import command_line  # noqa: F401
    from orchestrator.sweeps.reserved import RESERVED

    assert RESERVED - {"run"} == NOT_TRAINING


WAITS = """
def told(number, frame):
    print(signal.Signals(number).name, flush=True)
    sys.exit(128 + number)
for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(one, told)
print(os.getpid(), flush=True)
while True:
    time.sleep(0.05)  # a signal that comes just before a sleep does not shorten it
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_are_passed_on(name: str, tmp_path: Path) -> None:
    process = begin(tmp_path, WAITS, "grid_bsz")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.Signals[name])
    stdout, _ = process.communicate(timeout=60)
    assert stdout == f"{name}\n"
    assert process.returncode == 128 + signal.Signals[name]


def test_a_launch_whose_parent_is_killed_is_asked_to_stop(tmp_path: Path) -> None:
    process = begin(tmp_path, WAITS, "grid_bsz")
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    assert process.stdout.readline() == "SIGTERM\n"
    process.communicate(timeout=60)
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_launch_that_is_lost_while_it_is_stopped_is_not_started_again(tmp_path: Path) -> None:
    body = "signal.signal(signal.SIGTERM, lambda *_: os._exit(1)); print(flush=True)\nwhile True: time.sleep(0.05)"
    process = begin(tmp_path, body, "x")
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert stderr == "interrupted by SIGTERM: the same command resumes from what was saved last\n"
    assert len(starts(tmp_path)) == 1
