"""Small launches in the environments that users have: the same rows in each, and nothing else in anybody's folders."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ledger.ledger import Ledger
from tests.support.launching import ROOT, SWEEPS, WORKLOAD, checked, command, environment, rows
from tests.support.product_copy import copy_product, patch
from tests.support.warm_python import run_python
from trainables.provenance import digest_of_sources

PLAIN = ("--no-figures", "--no-mlflow")
INLINE = ("--executor", "inline", *PLAIN)
ODD_NAME = 'kid\'s [b]ü 50% "x" $HOME'
ANY_USER = 12345


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is special about a launch: its folder, variables (None: not set), the words before it, and so on."""

    cwd: Path | None = None
    variables: Mapping[str, str | None] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    python: str = sys.executable
    options: tuple[str, ...] = PLAIN
    says: tuple[str, ...] = ()
    out: Path | None = None


def users_folder(folder: Path) -> Path:
    """A folder with a module of sweeps, of which only `small` is run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my_sweeps.py").write_text(SWEEPS.replace("NUM_EPOCHS", "30"))
    return folder


@pytest.fixture(scope="module")
def plain_rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The rows of the launch in the environment of the tests."""
    folder = users_folder(tmp_path_factory.mktemp("plain"))
    checked(folder, "small", *INLINE)
    return rows(folder / "results")


def without_versions(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rows without what names the interpreter and the installation."""
    return {
        trial_id: {name: value for name, value in row.items() if name not in ("python_version", "package_version")}
        for trial_id, row in found.items()
    }


@pytest.fixture
def folder() -> Iterator[Path]:
    """The user's folder, below folders that any user can enter, which pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="launches-", ignore_cleanup_errors=True) as parent:
        Path(parent).chmod(0o755)
        yield users_folder(Path(parent) / "user")


def _odd_names(folder: Path) -> Case:
    odd = folder / ODD_NAME
    odd.mkdir()
    shutil.copy(folder / "my_sweeps.py", odd)
    (odd / "temporary").mkdir()
    return Case(
        cwd=odd,
        out=odd / f"results of {ODD_NAME}",
        variables={"TMPDIR": str(odd / "temporary"), "XDG_CACHE_HOME": str(odd / "cache"), "NUMBA_CACHE_DIR": None},
        options=("--no-figures",),
    )


def _package_not_writable(folder: Path) -> Case:
    variables = {**_read_only_copy(folder), **_no_caches(folder), "HOME": "/dev/null"}
    return Case(variables=variables, says=("home folder /dev/null cannot be written",))


def _no_home(folder: Path) -> Case:
    return Case(variables={**_no_caches(folder), "HOME": "/nowhere"}, says=("home folder /nowhere cannot be written",))


def _any_user(folder: Path) -> Case:
    """As `docker run --user`: a user without an entry, a home that is the root folder, a package of root's."""
    python = f"/usr/bin/python3.{sys.version_info.minor}"
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    user = ("setpriv", f"--reuid={ANY_USER}", f"--regid={ANY_USER}", "--clear-groups")
    if os.getuid() != 0 or not shutil.which("setpriv") or not Path(python).exists():
        pytest.skip(f"needs root, setpriv and {python}")
    variables = {"PYTHONPATH": packages, "PYTHONDONTWRITEBYTECODE": "1"}
    if subprocess.run(
        [*user, python, "-c", "import numba"], env=variables, capture_output=True, check=False
    ).returncode:
        pytest.skip(f"needs packages in a folder that any user can enter, not {packages}")
    (folder / "results").mkdir()
    (folder / "results").chmod(0o777)
    copy = _read_only_copy(folder)["PYTHONPATH"]
    variables["PYTHONPATH"] = f"{copy}:{packages}"
    return Case(
        before=user,
        python=python,
        variables={**variables, **_no_caches(folder), "HOME": "/"},
        options=INLINE,
        says=("home folder / cannot be written",),
    )


def _no_caches(folder: Path) -> dict[str, str | None]:
    """Nothing that says where caches go, and a temporary folder of its own."""
    temporary = folder / "temporary"
    temporary.mkdir()
    temporary.chmod(0o777)
    return {"TMPDIR": str(temporary), "NUMBA_CACHE_DIR": None, "PYTHONPYCACHEPREFIX": None, "XDG_CACHE_HOME": None}


def _of_cron(folder: Path) -> Case:
    """As cron runs it: in another working directory, without a terminal and with the smallest alphabet."""
    (folder / "elsewhere").mkdir()
    alphabet = {"LC_ALL": "C", "LANG": None, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    return Case(
        cwd=folder / "elsewhere",
        before=("setsid", "--wait", "sh", "-c", 'exec "$@" <&-', "sh"),
        variables={**alphabet, "TERM": None, "COLUMNS": None},
    )


def _of_a_batch_system(folder: Path) -> Case:
    """As a job of a batch system: on one CPU, with a long TMPDIR of its own, and with proxies."""
    long = folder / ("long" * 30)
    long.mkdir()
    names = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "grpc_proxy")
    proxies = {**dict.fromkeys(names, "http://127.0.0.1:9"), "no_proxy": None, "NO_PROXY": None}
    cpu = str(min(os.sched_getaffinity(0)))
    return Case(before=("taskset", "-c", cpu), variables={**proxies, "TMPDIR": str(long)})


def _own_mlflow(folder: Path) -> Case:
    (folder / "theirs").mkdir()
    uri = f"sqlite:///{folder}/theirs/mlflow.db"
    run = {"MLFLOW_RUN_ID": "0" * 32, "MLFLOW_EXPERIMENT_NAME": "theirs", "MLFLOW_EXPERIMENT_ID": "77"}
    return Case(
        variables={"MLFLOW_TRACKING_URI": uri, "MLFLOW_REGISTRY_URI": uri, **run},
        options=("--executor", "inline", "--no-figures"),
    )


CASES: dict[str, Callable[[Path], Case]] = {
    "blanks, unicode, brackets and quotes in every path": _odd_names,
    "a package that cannot be written": _package_not_writable,
    "no home": _no_home,
    "any user": _any_user,
    "another working directory, no terminal, LC_ALL=C": _of_cron,
    "one CPU, a long TMPDIR, proxies": _of_a_batch_system,
    "a user's MLflow settings": _own_mlflow,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_launch_trains(name: str, folder: Path, plain_rows: Mapping[str, Mapping[str, Any]]) -> None:
    case = CASES[name](folder)
    out = case.out or folder / "results"
    variables = {"PYTHONPATH": str(ROOT), **case.variables}
    kept = {key: value for key, value in environment().items() if key not in variables}
    kept |= {key: value for key, value in variables.items() if value is not None}
    kept["PYTHONPATH"] += f":{folder}"
    _, *words = command("small", "--module", "my_sweeps", *case.options, "--out", str(out))
    done = subprocess.run(
        [*case.before, case.python, *words],
        cwd=case.cwd or folder,
        env=kept,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert without_versions(rows(out)) == without_versions(plain_rows)
    assert all(said in done.stderr for said in case.says)
    assert done.stderr.count("\n") == len(case.says), done.stderr
    assert not list(folder.rglob("~"))


@pytest.mark.slow
def test_under_uv_run_in_a_clone_rows_name_its_commit(tmp_path: Path) -> None:
    """Ray looks for an ancestor with the command line `uv run`, and would give workers a copy of the current folder."""
    clone = users_folder(copy_product(tmp_path))
    (clone / "run").write_text('"$@"; exit $?\n')
    (clone / ".gitignore").write_text("results\n")
    git = ("git", "-c", "user.name=Test", "-c", "user.email=test@example.org")
    for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "clone")):
        subprocess.run([*git, *words], cwd=clone, check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True, check=True).stdout
    done = subprocess.run(
        ["bash", "-c", 'exec -a uv bash run "$@"', "bash", *command("small", "--module", "my_sweeps", *PLAIN)],
        cwd=clone,
        env={name: value for name, value in environment().items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = Ledger(str(clone / "results")).trials(WORKLOAD).to_pylist()
    assert {(row["git_sha"], row["git_dirty"]) for row in found} == {(head.strip(), False)}


def _read_only_copy(folder: Path) -> dict[str, str]:
    """A copy of the product in which no compiled code can be kept, not even by root."""
    copy = copy_product(folder / "copy")
    for package in {path.parent for path in copy.rglob("*.py")}:
        (package / "__pycache__").write_text("")
    return {"PYTHONPATH": str(copy)}


@pytest.mark.slow
@pytest.mark.parametrize("other", ["changed", "equal", "empty"])
def test_an_installed_launch_in_another_checkout(other: str, tmp_path: Path) -> None:
    """Ray lets workers import from the current folder first, a console script does not."""
    installed, checkout = copy_product(tmp_path / "installed"), tmp_path / "checkout"
    if other == "empty":
        (checkout / "trainables").mkdir(parents=True)
        (checkout / "trainables" / "__init__.py").touch()
    else:
        copy_product(checkout)
    if other == "changed":
        patch(checkout / "trainables/two_layer_cnn/trace.py", "test_error=_mean(test_wrong)", "test_error=0.777")
    users_folder(checkout)
    script = tmp_path / "bin" / "launch"
    script.parent.mkdir()
    script.write_text("from orchestrator.launch import main\nmain()\n")
    done = subprocess.run(
        [sys.executable, str(script), "small", "--module", "my_sweeps", *PLAIN],
        cwd=checkout,
        env=environment(PYTHONPATH=f"{installed}:{checkout}"),
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    found = rows(checkout / "results")
    if other == "equal" or (other == "empty" and done.returncode == 0):  # workers passed over the empty one
        assert done.returncode == 0, done.stderr
        assert len(found) == 12
        assert {row["code_digest"] for row in found.values()} == {digest_of_sources(installed / "trainables")}
        return
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert " import other code (" in done.stderr or "does not run on the workers" in done.stderr
    assert other == "empty" or all(str(place / "trainables") in done.stderr for place in (checkout, installed))
    assert found == {}


NOWHERE_TO_PRINT = """
import os, sys
def closed_pipe():
    read, write = os.pipe()
    os.close(read)
    return write
outlets = {"closed pipe": closed_pipe, "full disk": lambda: os.open("/dev/full", os.O_WRONLY)}
sys.stdout = outlet = os.fdopen(outlets[sys.argv[1]](), "w")  # held: it would be closed when another takes its place
sys.argv = ["launch", *sys.argv[2:]]
from orchestrator.launch import main
main()
"""


@pytest.mark.parametrize("outlet", ["closed pipe", "full disk"])
def test_a_launch_goes_on_when_nobody_can_read_it(outlet: str, tmp_path: Path) -> None:
    folder = users_folder(tmp_path)
    arguments = ("small", "--module", "my_sweeps", *INLINE, "--max-trials", "2")
    done = run_python("-c", NOWHERE_TO_PRINT, outlet, *arguments, cwd=folder, env=environment())
    assert (done.returncode, done.stderr) == (0, "")
    assert len(rows(folder / "results")) == 2
    refused = run_python("-c", NOWHERE_TO_PRINT, outlet, "no_such_sweep", cwd=folder, env=environment())
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")


@pytest.mark.parametrize("arguments", [("list",), pytest.param(("--help",), marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize(
    ("outlet", "code", "line"),
    [
        ("full disk", 1, "error: standard output was not written to its end: No space left on device\n"),
        ("closed pipe", 0, ""),
    ],
)
def test_a_command_that_is_no_launch_says_that_it_could_not_print(
    outlet: str, code: int, line: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = run_python("-c", NOWHERE_TO_PRINT, outlet, *arguments, cwd=tmp_path, env=environment())
    assert (done.returncode, done.stderr) == (code, line)


def test_a_command_that_fails_and_cannot_print_keeps_its_exit_code(tmp_path: Path) -> None:
    done = run_python("-c", NOWHERE_TO_PRINT, "full disk", "plan", "no_such_sweep", cwd=tmp_path, env=environment())
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, "nothing was printed, so nothing was lost"


ON_ONE_CPU = """
import os, sys
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
sys.argv = ["launch", *sys.argv[1:]]
from orchestrator.launch import main
main()
"""


def test_a_launch_on_one_cpu_counts_one(tmp_path: Path) -> None:
    folder = users_folder(tmp_path)
    small = ("small", "--module", "my_sweeps")
    planned = run_python("-c", ON_ONE_CPU, "plan", *small, cwd=folder, env=environment())
    assert planned.returncode == 0, planned.stderr
    assert "minutes on 1 cores" in planned.stdout
    refused = run_python("-c", ON_ONE_CPU, *small, "--cpus-per-trial", "2", cwd=folder, env=environment())
    assert refused.returncode == 2
    assert refused.stderr == "error: --cpus-per-trial is at most the 1 CPUs that this process may use, got 2\n"
