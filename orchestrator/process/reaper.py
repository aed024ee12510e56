"""Ends what is left of a local Ray whose launch is gone, however that ended: a script, and what starts it.

Most of Ray's processes end with their launch, but its agents first try for a minute to tell it that they will. The
reaper is a small process in a session of its own, so that it outlives a process group that is killed. It waits until
the pipe from the launch is closed. If the launch was killed, it deletes the launch's folder once nobody writes into it.
The script itself imports only what Python has.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "LAMBDA_ATLAS_RAY_OF"
"""Environment variable of a local Ray's processes; its value is the launch's folder."""
ALIVE, TOLD_OF = "alive", "told-of"
"""Files in a launch's folder: one is locked until the launch ends, however it ends; one asks to keep the folder."""
_GRACE_SECONDS, _ROUNDS, _ROUND_SECONDS = 1.0, 20, 0.2
_LOG_SECONDS = 1.0
"""In which the parent of a launch that Ray has ended asks to keep its logs."""
_ENDED = b"."


@contextmanager
def reaped(folder: str) -> Iterator[None]:
    """Have the processes with this `MARK` killed after the block, or when this process has ended."""
    if sys.platform != "linux":
        yield
        return
    command = [sys.executable, "-I", "-S", __file__, folder, str(os.getsid(0))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, cwd="/") as reaper:
        try:
            yield
        finally:
            assert reaper.stdin is not None
            with suppress(BrokenPipeError):
                reaper.stdin.write(_ENDED)
                reaper.stdin.close()


def delete_unlocked(folder: Path) -> None:
    """Delete a launch's folder, its lock last, unless a process still holds that or writes into the folder."""
    import fcntl

    with suppress(OSError), (folder / ALIVE).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        delete(folder)


def delete(folder: Path) -> None:
    """Delete a launch's folder, its lock last: a later launch tries again if dying processes still write into it."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != ALIVE:
            path.unlink(missing_ok=True)
    if [path.name for path in folder.iterdir()] == [ALIVE]:
        shutil.rmtree(folder, ignore_errors=True)


def _marked(folder: str, session_of_launch: int) -> list[int]:
    """Processes of that launch's Ray: those with the mark, and all of their sessions, but for the launch's own."""
    mark = f"{MARK}={folder}".encode()
    sessions: dict[int, list[int]] = {}
    marked: list[tuple[int, int]] = []
    for entry in os.listdir("/proc"):  # noqa: PTH208
        with suppress(OSError, ValueError, IndexError), open(f"/proc/{entry}/stat") as stat:  # noqa: PTH123
            state, _, _, session, *_ = stat.read().rpartition(")")[2].split()
            if state == "Z":
                continue
            sessions.setdefault(int(session), []).append(int(entry))
            with open(f"/proc/{entry}/environ", "rb") as environment:  # noqa: PTH123
                if mark in environment.read().split(b"\0"):
                    marked.append((int(entry), int(session)))
    of_ray = {session for _, session in marked} - {session_of_launch}
    return [*(pid for session in of_ray for pid in sessions[session]), *(pid for pid, at in marked if at not in of_ray)]


def _main(folder: str, session_of_launch: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    was_killed = sys.stdin.buffer.read() != _ENDED
    _end_processes(folder, session_of_launch)
    if was_killed:
        time.sleep(_LOG_SECONDS)
        if not Path(folder, TOLD_OF).exists():
            delete_unlocked(Path(folder))


def _end_processes(folder: str, session_of_launch: int) -> None:
    ends = time.monotonic() + _GRACE_SECONDS
    while _marked(folder, session_of_launch) and time.monotonic() < ends:
        time.sleep(_ROUND_SECONDS / 4)
    for _ in range(_ROUNDS):
        found = _marked(folder, session_of_launch)
        if not found:
            return
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_ROUND_SECONDS)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
