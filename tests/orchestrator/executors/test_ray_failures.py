"""What a launch does when processes of its Ray die or hang, and what goes on when the launch itself is killed."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest

from orchestrator.executors.failures.lost_worker import import_fault, why_ended
from orchestrator.executors.failures.pack_clock import PackClock
from orchestrator.executors.failures.ray_log import ray_logged_to
from orchestrator.ledger.ledger import Ledger
from tests.support.launching import (
    WORKLOAD,
    check_went_on,
    checked,
    descendants,
    make_folder,
    plant_seconds,
    rows,
    session,
    traces,
    wait_for,
)
from tests.support.processes import is_running
from trainables.machine.cpus import usable_cpus

PLAIN = ("--no-figures", "--no-mlflow")
SAVES = (*PLAIN, "--checkpoint-seconds", "0.2")
TWO_AT_ONCE = ("--cpus-per-trial", str(max(1, usable_cpus() // 2)))
"""As many as run on two cores: on more, all would end before the last fault."""
COMMANDS = {
    "a worker": "ResourceTrainable",
    "the exchange": "PackExchange",
    "the raylet": "raylet/raylet",
    "the control service": "gcs_server",
    "the driver": "orchestrator.launch",
}


def find_all(process: subprocess.Popen[str], what: str) -> list[int]:
    return [pid for pid, line in descendants(process.pid) if COMMANDS[what] in line]


def find(process: subprocess.Popen[str], what: str) -> int:
    return find_all(process, what)[0]


def whole_rows(results: Path) -> dict[str, dict[str, Any]]:
    """Rows with all columns, provenance included, by trial_id."""
    return {row["trial_id"]: row for row in Ledger(str(results)).trials(WORKLOAD).to_pylist()}


def saved_since(folder: Path, then: float) -> bool:
    """Whether a trial has saved its state since that time."""
    for state in folder.glob("results/states/*.npz"):
        with suppress(FileNotFoundError):  # deleted with its trial's end
            if state.stat().st_mtime > then:
                return True
    return False


def started(folder: Path, *arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """A launch of `longer` that leads a session, with what it says in files."""
    return session(folder, "longer", *SAVES, *arguments, "--module", "my_sweeps")


def said(folder: Path) -> str:
    return (folder / "stderr").read_text()


def wait_for_training(folder: Path, process: subprocess.Popen[str]) -> None:
    """Until a worker of the launch has saved a state."""
    then = time.time()
    wait_for(lambda: saved_since(folder, then) and find_all(process, "a worker"), process, seconds=240)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_folder(tmp_path_factory.mktemp("undisturbed"))
    checked(folder, "longer", "--executor", "inline", *PLAIN)
    return folder / "results"


def check_ends_well(folder: Path, process: subprocess.Popen[str], undisturbed: Path) -> None:
    """Assert that the launch ends with the results of an undisturbed one, and without a traceback."""
    assert process.wait(timeout=200) == 0
    assert "Traceback" not in said(folder) + (folder / "stdout").read_text()
    assert rows(folder / "results") == rows(undisturbed)
    assert traces(folder / "results") == traces(undisturbed)


@pytest.mark.slow
def test_what_hangs_is_given_up_after_the_limit(tmp_path: Path, undisturbed: Path) -> None:
    """The exchange, and when another one passes reports on, a worker."""
    folder = make_folder(tmp_path)
    with started(folder, *TWO_AT_ONCE, "--stall-minutes", "0.5") as process:
        wait_for_training(folder, process)
        exchange = find(process, "the exchange")
        os.kill(exchange, signal.SIGSTOP)
        wait_for(lambda: not is_running(exchange), process)
        wait_for_training(folder, process)
        assert "no progress" not in said(folder)
        worker = find(process, "a worker")
        os.kill(worker, signal.SIGSTOP)
        check_ends_well(folder, process, undisturbed)
    assert "no progress" in said(folder)
    assert not is_running(worker)


SAID = {
    "the raylet": "Ray ended (its raylet was ended by SIGKILL): starting it again",
    "the control service": "Ray ended (its control service was ended by SIGKILL): starting it again",
    "a worker": "died: its trials go on elsewhere",
    "the exchange": "died: another one does so now",
}


@pytest.mark.slow
def test_the_sweep_goes_on_in_the_same_launch_when_ray_loses_one_process_after_another(
    tmp_path: Path, undisturbed: Path
) -> None:
    folder = make_folder(tmp_path)
    with started(folder, *TWO_AT_ONCE) as process:
        for what, words in SAID.items():
            wait_for_training(folder, process)
            os.kill(find(process, what), signal.SIGKILL)
            wait_for(lambda words=words: words in said(folder), process)
        check_ends_well(folder, process, undisturbed)
    messages = said(folder).splitlines()
    for what, words in SAID.items():
        (ours,) = (line for line in messages if words in line)
        assert what == "the exchange" or Path(re.split("; log: ", ours)[1]).exists()
    assert len(messages) < 10, messages


@pytest.mark.slow
def test_the_same_command_goes_on_from_what_an_ended_one_saved(tmp_path: Path, undisturbed: Path) -> None:
    """After Ctrl-C, SIGKILL to the driver and to the whole process group; at last, all workers are killed."""
    folder = make_folder(tmp_path)
    results = folder / "results"
    plantings = []

    one_by_one = ("--cpus-per-trial", str(os.cpu_count()))  # so that some are finished while others are not
    with started(folder, *one_by_one) as process:
        wait_for(lambda: rows(results), process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert "the same command resumes" in said(folder)
    assert "Traceback" not in said(folder)
    finished = whole_rows(results)
    assert 0 < len(finished) < 6
    plantings.append(plant_seconds(results))

    for what, code in (("the driver", 137), ("the whole process group", -signal.SIGKILL)):
        with started(folder, *TWO_AT_ONCE) as process:
            wait_for_training(folder, process)
            known = [process.pid, *(pid for pid, _ in descendants(process.pid))]
            if what == "the driver":
                os.kill(find(process, what), signal.SIGKILL)
            else:
                os.killpg(process.pid, signal.SIGKILL)
            assert process.wait(timeout=60) == code
            deadline = time.monotonic() + 5
            while (left := [pid for pid in known if is_running(pid)]) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert left == []
        plantings.append(plant_seconds(results))

    with started(folder, *TWO_AT_ONCE) as process:
        wait_for_training(folder, process)
        workers = find_all(process, "a worker")  # all of them: nothing tells which one owns the state
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        stopped = time.time()
        planted = plant_seconds(results)
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        check_ends_well(folder, process, undisturbed)
    after = whole_rows(results)
    went_on = {trial_id for trial_id, row in after.items() if row["finished_at"] > stopped}  # others had ended before
    plantings.append({trial_id: epochs for trial_id, epochs in planted.items() if trial_id in went_on})
    assert any(after[trial_id]["attempt"] > 1 for trial_id in plantings[-1]), "no killed worker had a trial"
    check_went_on(results, *plantings)
    assert {trial_id: row for trial_id, row in after.items() if trial_id in finished} == finished
    assert not list(results.glob("states/*.npz"))
    assert "0 to run" in checked(folder, "longer", *PLAIN)


HEADLINE = "Failure # 1 (occurred at 2026-11-28)\n"


@pytest.mark.parametrize(
    ("written", "why", "not_imported"),
    [
        (None, "its worker ended", None),
        ("", "its worker ended", None),
        (HEADLINE, "its worker ended", None),
        (
            f"{HEADLINE}It died.\nWorker exit detail: Exits with code 2. Some common causes include: many",
            "its worker died: Exits with code 2.",
            None,
        ),
        (f"{HEADLINE}Its node was lost.\nThe actor never ran - it was cancelled", "Its node was lost.", None),
        (f"{HEADLINE}Traceback:\nModuleNotFoundError: no x", "Traceback:\nModuleNotFoundError: no x", "no x"),
        (f"{HEADLINE}ImportError: lost\nValueError: it follows", "ImportError: lost\nValueError: it follows", None),
    ],
)
def test_why_a_worker_ended(written: str | None, why: str, not_imported: str | None, tmp_path: Path) -> None:
    file = tmp_path / "error.txt"
    if written is not None:
        file.write_text(written)
    found = why_ended(str(file))
    assert found == why
    fault = import_fault(found)
    assert fault is None if not_imported is None else fault is not None and fault.endswith(f": {not_imported}")


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
