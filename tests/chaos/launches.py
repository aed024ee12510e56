"""Launches in processes of their own, whose every descendant can be found, struck and waited for."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.launching import command, environment, heed_signals
from tests.support.processes import Process, kill_marked, marked

MARK = "LAMBDA_ATLAS_CHAOS"
"""The environment variable by which the processes of a launch are found."""
MODULE = ("--module", "tests.chaos.sweeps")
SAVES = ("--checkpoint-seconds", "0.3")
_WAIT_SECONDS = 0.01
_FAULTLESS = ("--executor", "inline", "--no-mlflow", "--no-figures")


class Folder:
    """A temporary folder of its own: results, a log of all launches, and the temporary folder of those."""

    def __init__(self, path: Path, token: str) -> None:
        self.path, self.token = path, token
        self.out, self.log, self.temporary = path / "out", path / "log", path / "tmp"
        self.temporary.mkdir(parents=True)

    def durable(self) -> set[str]:
        """Names of the files that hold results and states: no two are equal, however often a trial is saved."""
        return self.recorded() | {str(path) for path in self.out.glob("states/*.npz")}

    def recorded(self) -> set[str]:
        """Names of the files that hold results, which drivers write."""
        return {str(path) for path in self.out.glob("t*/*/part-*")}

    def temporary_names(self) -> set[str]:
        """What lies in the temporary folder of the launches."""
        return {path.name for path in self.temporary.iterdir()}

    def is_writing(self) -> bool:
        """Whether a file is being written now, or was when its writer was killed."""
        hidden = any(any(self.out.glob(pattern)) for pattern in ("t*/*/.tmp-*", "states/.tmp-*"))
        return hidden or (self.out / "mlflow.db-journal").exists()


class Launch:
    """A running launch of one sweep under Ray; its output goes to the folder's log through a pipe."""

    def __init__(self, folder: Folder, sweep: str, *arguments: str, **more: str) -> None:
        self.folder, self.sweep = folder, sweep
        self.mark = f"{MARK}={folder.token}-{secrets.token_hex(4)}"
        temporary = str(folder.temporary)
        words = command(sweep, *MODULE, *SAVES, "--out", str(folder.out), "--no-figures", *arguments)
        self._left_by_others = folder.temporary_names()
        self._known: set[str] | None = None
        self.began = time.monotonic()
        self._process = subprocess.Popen(
            words,
            cwd=folder.path,
            env=environment(
                **{MARK: self.mark.partition("=")[2], "TMPDIR": temporary, "RAY_TMPDIR": temporary, **more}
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=heed_signals,
            start_new_session=True,
        )
        threading.Thread(target=self._write_log, daemon=True).start()

    @property
    def returncode(self) -> int | None:
        """Exit code of the process that was started; None while it runs."""
        return self._process.poll()

    def processes(self) -> list[Process]:
        """All its processes that still run."""
        return marked(self.mark)

    @property
    def has_begun(self) -> bool:
        """Whether it was seen with its folder for Ray's files: one with nothing to train has none, and deletes none."""
        return self._known is not None

    def made_progress(self) -> bool:
        """Whether it has recorded or saved something, or ended well.

        Until it has its folder for Ray's files, the dying workers of an earlier launch may be saving states.
        """
        if self._known is None and self.folder.temporary_names() - self._left_by_others:
            self._known = self.folder.durable()
        return self.returncode == 0 or (self._known is not None and bool(self.folder.durable() - self._known))

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether the condition came true before the launch ended, or that time had passed."""
        deadline = time.monotonic() + seconds
        while self.returncode is None and time.monotonic() < deadline:
            if condition():
                return True
            time.sleep(_WAIT_SECONDS)
        return False

    def kill(self) -> None:
        """SIGKILL for the whole launch."""
        kill_marked(self.mark)
        self._process.wait()

    def _write_log(self) -> None:
        assert self._process.stdout is not None
        with self.folder.log.open("ab") as log:
            log.write(f"\n===== {time.strftime('%H:%M:%S')} {self.sweep} {self.mark}\n".encode())
            log.flush()
            for line in self._process.stdout:
                log.write(line)
                log.flush()


def run_undisturbed(folder: Folder, sweeps: tuple[str, ...]) -> None:
    """Run the sweeps at the same time, without Ray and without faults; raises if one fails."""
    launches = [Launch(folder, sweep, *_FAULTLESS) for sweep in sweeps]
    for launch in launches:
        launch.wait_for(lambda: False, 600)
        assert launch.returncode == 0, folder.log.read_text()


def remove(folder: Path, token: str) -> None:
    """End all processes, and delete the folder."""
    kill_marked(f"{MARK}={token}")
    shutil.rmtree(folder, ignore_errors=True)
