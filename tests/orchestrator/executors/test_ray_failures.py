"""What a launch does when processes of its Ray die or hang, and what is left when the launch itself is killed."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.executors.failures.pack_clock import PackClock
from orchestrator.executors.failures.ray_log import ray_logged_to
from tests.support.launching import (
    ROOT,
    checked,
    command,
    descendants,
    environment,
    kill_tree,
    make_folder,
    rows,
    start,
    traces,
    wait_for,
)

PLAIN = ("--no-figures", "--no-mlflow")
SAVES = (*PLAIN, "--checkpoint-seconds", "0.2")
COMMANDS = {
    "a worker": "ResourceTrainable",
    "the exchange": "PackExchange",
    "the raylet": "raylet/raylet",
    "the control service": "gcs_server",
    "the driver": "orchestrator.launch",
}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def find(process: subprocess.Popen[str], what: str) -> int:
    return next(pid for pid, line in descendants(process.pid) if COMMANDS[what] in line)


def in_training(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A launch of which some trials have saved states."""
    process = start(folder, *arguments, *SAVES)
    wait_for(lambda: list(folder.glob("results/states/*.npz")), process, seconds=240)
    return process


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_folder(tmp_path_factory.mktemp("undisturbed"))
    checked(folder, "longer", "--executor", "inline", *PLAIN)
    return folder / "results"


def check_undisturbed(folder: Path, process: subprocess.Popen[str], undisturbed: Path) -> str:
    """Assert that the launch ends with the rows of an undisturbed one, and says little; returns its messages."""
    stdout, stderr = process.communicate(timeout=280)
    assert process.returncode == 0, stdout + stderr
    assert "Traceback" not in stdout + stderr
    assert rows(folder / "results") == rows(undisturbed)
    assert traces(folder / "results") == traces(undisturbed)
    return stderr


SAID = {
    "a worker": "died: its trials go on elsewhere",
    "the exchange": "died: another one does so now",
    "the raylet": "Ray ended (its raylet was ended by SIGKILL): starting it again",
    "the control service": "Ray ended (its control service was ended by SIGKILL): starting it again",
}


@pytest.mark.slow
@pytest.mark.parametrize("what", SAID)
def test_the_sweep_goes_on_in_the_same_launch_when_ray_loses(what: str, tmp_path: Path, undisturbed: Path) -> None:
    folder = make_folder(tmp_path)
    process = in_training(folder, "longer")
    os.kill(find(process, what), signal.SIGKILL)
    messages = check_undisturbed(folder, process, undisturbed)
    said = SAID[what]
    (ours,) = (line for line in messages.splitlines() if said in line)
    assert what == "the exchange" or Path(re.split("; log: ", ours)[1]).exists()
    assert len(messages.splitlines()) < 10, messages


@pytest.mark.slow
@pytest.mark.parametrize("what", ["a worker", "the exchange"])
def test_what_hangs_is_given_up_after_the_limit(what: str, tmp_path: Path, undisturbed: Path) -> None:
    folder = make_folder(tmp_path)
    process = in_training(folder, "longer", "--stall-minutes", "0.5")
    stopped = find(process, what)
    os.kill(stopped, signal.SIGSTOP)
    messages = check_undisturbed(folder, process, undisturbed)
    assert ("no progress" in messages) == (what == "a worker"), messages
    assert not alive(stopped)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["the driver", "the whole process group"])
def test_nothing_is_left_five_seconds_after_a_kill_of(what: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    words = command("longer", "--set", "num_epochs=1000000000", *SAVES, "--module", "my_sweeps")
    process = subprocess.Popen(
        words, cwd=folder, env=environment(), stdout=-1, stderr=-1, text=True, start_new_session=True
    )
    try:
        wait_for(lambda: list(folder.glob("results/states/*.npz")), process, seconds=240)
        known = [process.pid, *(pid for pid, _ in descendants(process.pid))]
        if what == "the driver":
            os.kill(find(process, what), signal.SIGKILL)
        else:
            os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == (137 if what == "the driver" else -signal.SIGKILL), stdout + stderr
        deadline = time.monotonic() + 5
        while (left := [pid for pid in known if alive(pid)]) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left == []
    finally:
        kill_tree(process)


MARKED = """
import os, subprocess, sys
from orchestrator.process.reaper import MARK, reaped
with reaped(sys.argv[1]):
    command = ["/bin/sh", "-c", "env -i sleep 1000 & echo ray $$ $!; sleep 1000"]
    marked = {**os.environ, MARK: sys.argv[1]}
    one = subprocess.Popen(command, env=marked, start_new_session=True)
    sleep = ["sleep", "1000"]
    own, beside = subprocess.Popen(sleep, env=marked), subprocess.Popen(sleep, stdout=subprocess.DEVNULL)
    print("launch", own.pid, beside.pid, flush=True)
    input()
"""


@pytest.mark.parametrize("ending", ["killed", "ended"])
def test_the_reaper_ends_what_has_the_mark_and_its_session_but_not_the_launchs(ending: str, tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", MARKED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    of = {name: [int(pid) for pid in pids] for name, *pids in (holder.stdout.readline().split() for _ in range(2))}
    own, beside = of["launch"]
    pids = [*of["ray"], own]
    assert all(alive(pid) for pid in (*pids, beside))
    if ending == "killed":
        holder.kill()
    holder.communicate("\n")
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert alive(beside), "it belongs to whoever started the launch"
    os.kill(beside, signal.SIGKILL)


def test_a_pack_is_late_once_and_only_without_news() -> None:
    clock = PackClock(stall_seconds=0.05)
    clock.heard(["silent", "reporting", "ended"])
    clock.ended("ended")
    assert clock.stalled() == []
    late = []
    for _ in range(4):
        time.sleep(0.03)
        late += clock.stalled()
        clock.heard(["reporting"])
    assert late == ["silent"]


def test_no_pack_is_late_because_the_launch_itself_was_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = PackClock(stall_seconds=60)
    clock.heard(["frozen as well"])
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3600)
    assert clock.stalled() == []


def test_what_ray_says_goes_into_the_log_without_secrets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ray._private import worker

    log = tmp_path / "ray.log"
    with ray_logged_to(log):
        assert not log.exists()
        logging.getLogger("ray.tune").error("failed at %s", "postgresql://me:pl4nted@h/db")
        worker.print_to_stdstream({"lines": ["died, password='pl4nted'"], "pid": "raylet", "is_err": False})
    said = log.read_text()
    assert "failed at postgresql://***@h/db" in said
    assert "raylet: died" in said
    assert "pl4nted" not in said
    assert capsys.readouterr() == ("", "")
