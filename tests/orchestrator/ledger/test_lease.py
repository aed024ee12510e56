"""The lock of a sweep in a folder: who holds it, what is in its way, and file systems without locks."""

from __future__ import annotations

import errno
import os
import pwd
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.errors import LedgerError, SweepError
from orchestrator.ledger import liveness
from orchestrator.ledger.lease import lease
from tests.orchestrator.ledger.holders import Holder
from tests.support.launching import environment, run_launch


def holder(out: Path, kind: str) -> Holder:
    """A process that has answered: the next one comes later."""
    made = Holder(str(out), kind, beat=0.2, silent=5.0)
    assert made.said
    return made


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A folder whose `sweep` this process runs."""
    with lease(str(tmp_path), "sweep"):
        yield tmp_path


def test_the_holder_of_a_lock_is_named_with_the_file(held: Path) -> None:
    with pytest.raises(SweepError) as refused, lease(str(held), "sweep"):
        pass
    user = pwd.getpwuid(os.getuid()).pw_name
    assert re.fullmatch(
        rf"sweep 'sweep' is being run into '{held}' by process {os.getpid()} of {user} on {socket.gethostname()} "
        r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d: wait for it, stop it, or give another --out "
        rf"\(it holds {held}/\.leases/sweep\.lock; delete that only if no such process runs any more\)",
        str(refused.value),
    )
    with lease(str(held), "another"):
        pass


@pytest.mark.parametrize("content", ["", "alive", "[1]", "{}", '"text"'])
def test_a_lock_that_does_not_say_who_holds_it_is_held_by_another_process(held: Path, content: str) -> None:
    """Locks of earlier versions are empty."""
    (held / ".leases" / "sweep.lock").write_text(content)
    with pytest.raises(SweepError, match="by another process: wait for it"), lease(str(held), "sweep"):
        pass


def test_a_lock_that_was_left_behind_holds_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        with lease(str(tmp_path), "sweep"):
            pass
        assert "pid" in (tmp_path / ".leases" / "sweep.lock").read_text()


def make_file(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("")


def make_folder(path: Path) -> None:
    path.mkdir(parents=True)


def make_pipe(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)


def make_broken_link(path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(path.parent / "no" / "such" / "folder")


@pytest.mark.parametrize(
    ("name", "make", "line"),
    [
        (".leases", make_file, r"^{}/\.leases is a file where a folder belongs; move it away$"),
        (".leases/sweep.lock", make_folder, r"^cannot open the lock {}/\.leases/sweep\.lock \(Is a directory\); move "),
        (".leases/sweep.lock", make_pipe, r"^cannot open the lock {}/\.leases/sweep\.lock \("),
        (".leases/sweep.lock", make_broken_link, r"^cannot open the lock {}/\.leases/sweep\.lock \(No such file"),
    ],
)
def test_what_is_in_the_place_of_a_lock_is_one_line(name: str, make: object, line: str, tmp_path: Path) -> None:
    assert callable(make)
    make(tmp_path / name)
    with pytest.raises(LedgerError, match=line.format(tmp_path)) as refused, lease(str(tmp_path), "sweep"):
        pass
    assert len(str(refused.value).splitlines()) == 1


def test_a_launch_says_what_is_in_its_way(tmp_path: Path) -> None:
    make_file(tmp_path / "results" / ".leases")
    done = run_launch("grid_bsz", "--executor", "inline", "--no-mlflow", cwd=tmp_path, env=environment())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path}/results/.leases is a file where a folder belongs; move it away\n"


def test_a_file_system_without_locks_has_leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(liveness, "SILENT_SECONDS", 5.0)
    for code in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):

        def flock(*_: object, code: int = code) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr("fcntl.flock", flock)
        with ExitStack() as stack:
            stack.enter_context(lease(str(tmp_path), "sweep"))
            (own,) = (tmp_path / ".leases" / "sweep").iterdir()
            with pytest.raises(SweepError, match=rf"by process {os.getpid()} of .*it holds {own};"):
                stack.enter_context(lease(str(tmp_path), "sweep"))
        assert list((tmp_path / ".leases" / "sweep").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["locks", "ENOSYS"])
def test_a_killed_driver_holds_nothing(kind: str, tmp_path: Path) -> None:
    first, second = holder(tmp_path, kind), holder(tmp_path, kind)
    assert first.said == "held"
    assert f"by process {first.process.pid} of " in second.said
    first.kill()
    third = holder(tmp_path, kind)
    assert third.said == "held"
    third.end()
    second.end()
