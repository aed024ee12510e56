"""Runs `python -m ...`, `-c ...` or a script in a process forked from one that has already imported the product.

A launch of a few short trials takes six seconds of a core, nearly all of them for imports and for loading compiled
code. The forked process takes under one. It has its own folder, environment, output, exit code and random numbers, but
it shares the hash seed of its server, and at its end it does not clear its memory. Tests of signals, of kills, of what
an import loads, and one side of each comparison of two launches start an interpreter.

The processes of one test run share a server. It ends when none of them holds its lifeline open any more.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import json
import os
import random
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
_READ_AT_START = (
    "PYTHON",
    "LC_",
    "LANG",
    "NUMBA_",
    "OMP_",
    "OPENBLAS_",
    "MKL_",
    "MPL",
    "TZ",
    "TMP",
    "FORCE_COLOR",
    "TERMINAL_WIDTH",
    "LAMBDA_ATLAS_GIT_SHA",
)
"""Variables that Python, libraries or our own caches read once."""

_IMPORTED = (
    "alembic.command",
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_store",
    "optuna",
    # in the order of `launch.py`, which is that of `--help`
    "orchestrator.commands.run",
    "orchestrator.commands.show",
    "orchestrator.commands.export",
    "orchestrator.commands.data",
    "orchestrator.driver.exports",
    "orchestrator.driver.mlflow_export",
    "orchestrator.driver.run",
    "orchestrator.executors.inline",
    "orchestrator.figures.drawing",
    "orchestrator.mlflow_view.background",
    "orchestrator.mlflow_view.view",
    "orchestrator.report.map_tables",
    "orchestrator.report.paper_tables",
    "orchestrator.report.plan_table",
    "orchestrator.schedulers.grid",
    "orchestrator.schedulers.halving",
    "orchestrator.schedulers.map",
    "orchestrator.sweeps.named_grids",
    "orchestrator.sweeps.named_maps",
    "search_spaces.samplers.boundary",
    "search_spaces.samplers.tpe",
    "trainables.image_classifier.trial",
    "trainables.sign_agreement.workload",
)


def run_python(
    *words: str | Path, cwd: Path, env: Mapping[str, str], timeout: float = 280
) -> subprocess.CompletedProcess[str]:
    """Run `python *words` to its end; an environment that acts at start gets a new interpreter."""
    arguments = [str(word) for word in words]
    differs = {name for name in {*env, *os.environ} if env.get(name) != os.environ.get(name)}
    if env.get("PYTHONPATH") == str(ROOT):
        differs.discard("PYTHONPATH")
    if any(name.startswith(_READ_AT_START) for name in differs):
        return subprocess.run(
            [sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=timeout
        )
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        code = _forked(arguments, cwd, env, outputs=(out.fileno(), err.fileno()), timeout=timeout)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode().replace("\r\n", "\n"))
    return subprocess.CompletedProcess([sys.executable, *arguments], code, *texts)


def _forked(words: list[str], cwd: Path, env: Mapping[str, str], *, outputs: tuple[int, int], timeout: float) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(_server())
        request = json.dumps({"words": words, "cwd": str(cwd), "env": dict(env)}).encode()
        connection.settimeout(timeout)
        socket.send_fds(connection, [len(request).to_bytes(8, "big")], list(outputs))
        connection.sendall(request)
        with connection.makefile() as answers:
            group = int(answers.readline())
            try:
                return int(answers.readline())
            except BaseException as failure:  # whatever ends the wait ends the process, as in subprocess.run
                with suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
                if isinstance(failure, TimeoutError):
                    raise subprocess.TimeoutExpired(words, timeout) from None
                raise


@cache
def _server() -> str:
    """The address of this test run's server: the first process that needs it starts it."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder = Path(tempfile.gettempdir()) / f"warm-{run}"
    lifeline = folder / "lifeline"
    with _locked(folder):
        if not lifeline.exists():
            os.mkfifo(lifeline)
            command = [sys.executable, "-m", "tests.support.warm_python", str(folder)]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            server = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
            )
            os.open(lifeline, os.O_WRONLY)  # held to this process's end
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
        else:
            os.open(lifeline, os.O_WRONLY)
    return str(folder / "socket")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make the folder if it is not there, and hold its lock: no server starts or ends meanwhile."""
    path = folder / "lock"
    while True:
        folder.mkdir(exist_ok=True)
        with suppress(FileNotFoundError), ExitStack() as held:
            lock = held.enter_context(path.open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.samestat(path.stat(), os.fstat(lock.fileno())):  # else a server has ended and deleted it
                kept = held.pop_all()
                break
    with kept:
        yield


def _serve(folder: Path) -> dict[str, Any] | None:
    """Answer requests until the tests end; returns only in a forked process, with its request."""
    lifeline = os.open(folder / "lifeline", os.O_RDONLY)  # returns when the first process has opened it too
    _import_the_product()
    gc.collect()
    gc.freeze()  # a collection in a forked process would copy the memory that it shares
    signal.signal(signal.SIGCHLD, _reap)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(64)
        print("ready", flush=True)
        while True:
            readable, _, _ = select.select([listener, lifeline], [], [])
            if lifeline in readable:  # nobody writes into it: it was closed by all
                with _locked(folder):
                    if select.select([lifeline], [], [], 0)[0]:
                        shutil.rmtree(folder, ignore_errors=True)
                        os._exit(0)
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                os.close(lifeline)
                return _watched(connection)
            connection.close()


def _watched(connection: socket.socket) -> dict[str, Any] | None:
    """Fork the process, tell its group and its exit code; returns in the forked process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    header, outputs, _, _ = socket.recv_fds(connection, 8, 2)
    with connection.makefile("rb") as incoming:
        request: dict[str, Any] = json.loads(incoming.read(int.from_bytes(header, "big")))
    ready, go = os.pipe()
    pid = os.fork()
    if pid:
        os.read(ready, 1)  # the group exists
        _report(connection, pid)
    os.setsid()
    os.write(go, b"1")
    os.close(ready)
    os.close(go)
    connection.close()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in enumerate((nothing, *outputs)):
        os.dup2(source, target)
        os.close(source)
    return request


def _report(connection: socket.socket, pid: int) -> NoReturn:
    """Send the group and, once it has ended, the exit code; a client that has gone ends the group."""
    connection.sendall(f"{pid}\n".encode())
    ended = os.pidfd_open(pid)
    readable, _, _ = select.select([ended, connection], [], [])
    if ended not in readable:
        os.killpg(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(BrokenPipeError):
        connection.sendall(f"{code}\n".encode())
    os._exit(0)


def _reap(signal_number: int, frame: FrameType | None) -> None:
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def _import_the_product() -> None:
    for name in _IMPORTED:
        import_module(name)
    from trainables.contract import Member
    from trainables.registry import config_from_values, workload

    values = {"workload": "two_layer_cnn", "optimizer": "adam", "weight_decay": 1e-5, "batch_size": 2, "seed": 0}
    sizes = {"num_train": 4, "num_test": 4, "dimension": 20, "noise_sparsity": 4, "num_filters": 2, "num_epochs": 1}
    run = workload("two_layer_cnn").open([Member(config_from_values({**values, **sizes}), 1)])
    while not run.is_done:  # loads the compiled code
        run.advance(1.0)


def _main() -> None:
    request = _serve(Path(sys.argv[1]))
    assert request is not None
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        for number, mode, errors in ((0, "r", "strict"), (1, "w", "strict"), (2, "w", "backslashreplace"))
    )
    random.seed()
    np.random.seed()
    _end(_exit_code(partial(_run, request["words"])))


def _run(words: list[str]) -> None:
    """What `python *words` runs."""
    if words[0] == "-m":
        sys.path[0] = str(Path.cwd())
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.path[0] = ""
        sys.argv = ["-c", *words[2:]]
        main = ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(compile(words[1], "<string>", "exec"), vars(main))
    else:
        sys.path[0] = str(Path(words[0]).resolve().parent)
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def _exit_code(main: Callable[[], None]) -> int:
    """Call `main`, and treat what it raises as an interpreter does."""
    try:
        main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> None:
    """End as an interpreter does, but leave the memory as it is: to clear what a launch never used takes a second."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _main()
