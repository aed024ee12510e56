"""No secret in anything that a launch prints, writes or sends: tests plant some, and search all that came out."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestrator.ledger.ledger import Ledger
from orchestrator.sweeps.registry import find_sweep
from tests.support.launching import BRIEF_MAP, environment, kill_tree, launch, run_launch, start, wait_for
from tests.support.made_results import made_result
from tests.support.warm_python import run_python
from trainables.redaction import guard_output, redacted, shows_secret
from trainables.result import Outcome

SECRET = "pl4nted"
"""A part of every secret of these tests, so that one search finds what is left of any."""
VARIABLES = {
    "AWS_SECRET_ACCESS_KEY": f"{SECRET}/key+A",
    "MLFLOW_TRACKING_PASSWORD": f"p@ss '{SECRET}",
    "HF_TOKEN": f"hf_{SECRET}",
    "DATABASE_URL": f"mysql://me:{SECRET}C@db/x",
}
SAID = (
    *VARIABLES.values(),
    f"postgresql+psycopg2://u:p@{SECRET}/w#o:rd@h/db",
    f"https://bucket/x?X-Amz-Signature={SECRET}&list-type=2",
    repr({"secret_key": SECRET}),
    f"password={SECRET}",
)
LEAKY = f"""
import logging, sys, warnings

import torch

from orchestrator import Grid, Sweep, sweep
from trainables.names import register_optimizer

SAID = {SAID!r}

for name in ("leaky", "fine"):
    register_optimizer(
        name, is_coupled=True, has_moments=True, module=__name__, entries={{"torch": f"my_sweeps:{{name}}"}}
    )

def leaky(parameters, config, **variant):
    raise RuntimeError("no connection: " + " | ".join(SAID))

def fine(parameters, config, **variant):
    warnings.warn("warned: " + " | ".join(SAID))
    logging.getLogger("users").error("logged: %s", SAID)
    print("printed:", *SAID, file=sys.stderr)
    return torch.optim.SGD(parameters, lr=1e-3)

@sweep
def telling() -> Sweep:
    sizes = {{"num_train": 8, "num_test": 20, "dimension": 16, "noise_sparsity": 4, "num_filters": 2, "num_epochs": 2}}
    grid = Grid({{"leaky": {{}}, "fine": {{}}}}, {{"batch_size": (4,)}}, {{**sizes, "weight_decay": 0.0}})
    return Sweep("telling", "says all that it knows", (grid,), seeds=(0,))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder, with a sweep whose first trial raises what it knows, and whose second tells it in other ways."""
    (tmp_path / "my_sweeps.py").write_text(LEAKY)
    return tmp_path


def check_nothing_shown(folder: Path, *runs: subprocess.CompletedProcess[str]) -> None:
    """Assert that no output and no file has a secret; columns of Parquet files are read, as they are compressed."""
    for run in runs:
        assert SECRET not in run.stdout + run.stderr
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    assert [
        path for path in files if path.suffix == ".parquet" and SECRET in repr(pq.read_table(path).to_pylist())
    ] == []


# --- the rule ---


SHOWN = [
    ("postgresql+psycopg2://u:pw@h/db", "postgresql+psycopg2://***@h/db"),
    ("at postgresql://u:p@w/x:y#z?'@h:5/db, so", "at postgresql://***@h:5/db, so"),
    ("redis://:p%40w@h/0", "redis://***@h/0"),
    ("https://ghp_0123@github.com/x", "https://***@github.com/x"),
    ("'s3://KEY:SECRET@bucket/x'", "'s3://***@bucket/x'"),
    ("'s3://KEY:SEC/RET+/x' is", "'s3://***' is"),
    ("s3://b/x?region=r&secret_key=pw&a=b", "s3://b/x?region=r&secret_key=***&a=b"),
    ("https://a.net/b?sv=1&sig=pw%3D#f", "https://a.net/b?sv=1&sig=***"),
    ("{'user': 'me', 'db_password': 'p\"w'}", "{'user': 'me', 'db_password': '***'}"),
    ("host=h password='p w' user=me", "host=h password=*** user=me"),
    ("Authorization: Bearer 0123456789", "Authorization: Bearer ***"),
    ("postgresql://me@corp:s3cretpw@corp.net/db", "postgresql://***@corp.net/db"),
    ("mysql://a@b@c:pw@h:3306/db", "mysql://***@h:3306/db"),
    ("password = 'abcd'", "password = ***"),
    ('token="p w", x=1', "token=***, x=1"),
    ("password=b'abc'", "password=***"),
    ("password='abc", "password=***"),
    ("db_pass=abc, pass=d)", "db_pass=***, pass=***)"),
    ("password: hunter2, user: me", "password: ***, user: me"),
    ("api_key = hunter2", "api_key = ***"),
    ("password: 'hunter2'", "password: '***'"),
    ("token=12345; token=1x", "token=***; token=***"),
    ("secret_id=x1", "secret_id=***"),
]


@pytest.mark.parametrize(("text", "shown"), SHOWN, ids=range(len(SHOWN)))  # pytest puts ids into the environment
def test_a_secret_is_replaced_and_the_rest_kept(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown
    assert shows_secret(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000/#/experiments/1, http://[::1]:8080/x and ray://head:10001.",
        "postgresql://atlas@127.0.0.1:5432/db",
        "sqlite:////home/me@work/x.db and s3://bucket/a@b/c",
        "this cluster refuses this token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file",
        "num_tokens=5 tokenizer=bpe key=value author=me",
        "secretName: database, automountServiceAccountToken: false",
        "http://h:5000/x, http://h:5000, me@x.org and https://h:8080/wiki/grid_bsz/x me@x.org",
        "docker://registry:5000/team/results@sha256:0123456789ab",
        '{"url":"http://h:5000","user":"me@x.org"} {"url":"http://host","user":"me@x.org"}',
        "postgresql://atlas@127.0.0.1:5432/db?owner=me@x.org",
        "token_size=3; known: token_size, token_dim",
        "max_token_len=128 token_dim=64,128 token_ids=[15496] access_key_id=AKIA",
        "access_key=None, token=false) {password=null}",
        "/data/token=3/x.jpg secret_weight=1e-05 shared_key=.5",
        "unexpected token: 'x1', token: 12 of 123456, first pass: 1000000 images",
        "token = tokenizer.next()",
    ],
)
def test_text_without_a_secret_stays_as_it_is(text: str) -> None:
    assert redacted(text) == text
    assert not shows_secret(text)


def test_a_secret_of_the_environment_is_found_in_each_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", "to ke/n'x")
    monkeypatch.setenv("SERVICE_TOKEN_FILE", "/run/token")
    monkeypatch.setenv("SERVICE_URL", "db://me:first@sec0nd@host/x")
    text = "to ke/n'x, to%20ke%2Fn%27x, to+ke%2Fn%27x in /run/token; cannot translate sec0nd, first@sec0nd, sec0nds"
    assert redacted(text) == "***, ***, *** in /run/token; cannot translate ***, ***, sec0nds"


@pytest.mark.parametrize("name", ["DB_PASS", "PASS", "PAT", "GITHUB_PAT", "SORT_KEY", "HF_TOKEN"])
@pytest.mark.parametrize(
    ("value", "text", "shown"),
    [
        ("pl4nted\n", "said pl4nted, pl4nteds", "said ***, pl4nteds"),
        ("pl4nted", "\x1b[31mpl4nted\x1b[0m %20pl4nted 'a\\npl4nted'", "\x1b[31m***\x1b[0m %20*** 'a\\n***'"),
        ("pl4nted+twelve", "xpl4nted+twelvex", "x***x"),
        ("correcthorsebattery", "correcthorsebattery", "***"),
    ],
    ids=range(4),
)
def test_a_variable_named_as_a_secret_is_searched_for(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, text: str, shown: str
) -> None:
    monkeypatch.setenv(name, value)
    assert redacted(text) == shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://atlas:atlas@db/atlas"),
        ("DATABASE_URL", "postgresql://batch_2:batch_2@db/atlas"),
        ("DATABASE_URL", "postgresql://me:optimizer/atlas@db/x"),
        ("SORT_KEY", "optimizer"),
        ("PARTITION_KEY", "weight_decay"),
        ("DB_PASSWORD", "2026"),
        ("DB_PASSWORD", "ATLAS"),
        ("TOKEN_SIZE", "batch_2"),
        ("REGISTRY", "docker://registry:5000/team/results@sha256:0123456789ab"),
        ("WIKI", "https://h:8080/wiki/batch_2/optimizer me@x.org"),
        ("SERVICE", '{"url":"http://h:5000","user":"me@x.org"}'),
    ],
    ids=range(11),
)
def test_a_weak_or_ordinary_value_does_not_mutilate_text(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    text = "lambda-atlas, optimizer weight_decay batch_2 2026: ATLAS, team/results me, wiki, 5000"
    assert redacted(text) == text


def test_each_password_of_several_urls_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTS", '["redis://:pl4nted@h/0", "redis://me@corp:pl5nted@h/1"],s3://KEY:pl6nted/x')
    assert redacted("pl4nted, pl5nted and pl6nted") == "***, *** and ***"


@pytest.mark.parametrize("part", ["a", "a.b-", "x://a:", "?secret", "secret ", "token_size", "://a:b@", "password= "])
@pytest.mark.timeout(20)
def test_long_text_takes_no_long_time(part: str) -> None:
    assert redacted(part * 10_000)


def test_long_values_of_the_environment_cost_each_line_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRRORS", " ".join(f"https://mirror{i}:8080/x/{i}?a=b" for i in range(1500)))
    redacted("a line")
    began = time.perf_counter()
    for _ in range(20):
        redacted("a line")
    assert time.perf_counter() - began < 1.0


def test_another_thread_may_change_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`os.environ.items()` raises KeyError if a variable is deleted while it is read."""
    names = [f"ATLAS_{i}" for i in range(50)]
    is_done = threading.Event()

    def change() -> None:
        while not is_done.is_set():
            for name in names:
                os.environ[name] = "x"
            for name in names:
                os.environ.pop(name, None)

    thread = threading.Thread(target=change)
    previous = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread.start()
    try:
        for _ in range(500):
            assert redacted("password=x1") == "password=***"
    finally:
        is_done.set()
        thread.join()
        sys.setswitchinterval(previous)
    assert not set(names) & set(os.environ)


# --- streams ---


STREAMS = """
import sys
import click
from trainables.redaction import guard_output
before = sys.stdout
guard_output()
sys.stdout.reconfigure(line_buffering=True)
assert (sys.stdout.name, sys.stdout.mode, sys.stdout.line_buffering) == (before.name, before.mode, True)
assert sys.stdout.encoding == before.encoding and not sys.stdout.isatty()
print("printed", "password=pl4nted", end="\\n \\n")
click.echo(b"bytes password=pl4nted \\xff")
sys.stdout.buffer.write(memoryview(b"buffer password=pl4nted\\n"))
sys.stdout.writelines(["lines ", "password=pl4nted\\n"])
click.echo(b"error password=pl4nted", err=True)
try:
    sys.stdout.no_such_attribute
except AttributeError as error:
    print(error)
"""


def test_a_guarded_stream_is_as_an_ordinary_one(tmp_path: Path) -> None:
    run = run_python("-c", STREAMS, cwd=tmp_path, env=environment())
    assert run.returncode == 0, run.stderr
    assert run.stderr == "error password=***\n"
    assert run.stdout.splitlines() == [
        "printed password=***",
        " ",
        "bytes password=*** \ufffd",
        "buffer password=***",
        "lines password=***",
        "'_io.TextIOWrapper' object has no attribute 'no_such_attribute'",
    ]


def test_a_guarded_stream_of_text_alone_has_no_encoding_either() -> None:
    text = io.StringIO()
    with redirect_stdout(text):
        guard_output()
        assert sys.stdout.encoding is text.encoding is None
        print("│ password=pl4nted")
    assert text.getvalue() == "│ password=***\n"


# --- launches ---


@pytest.mark.parametrize("mlflow", ["--no-mlflow", pytest.param("--mlflow", marks=pytest.mark.slow)])
def test_a_launch_shows_no_secret_of_a_failing_trial_or_a_warning(folder: Path, mlflow: str) -> None:
    arguments = ("telling", "--executor", "inline", "--no-figures", "--out", "out", mlflow)
    first = launch(folder, *arguments, **VARIABLES)
    assert first.returncode == 1, first.stderr
    assert "no connection: ***" in first.stderr
    assert {"warned: ***", "printed: ***", "***"} <= set(re.findall(r"(?:\w+: )?\*\*\*", first.stderr))
    status = launch(folder, "status", "telling", "--out", "out", **VARIABLES)
    check_nothing_shown(folder, first, status)
    rows = Ledger(str(folder / "out")).trials("two_layer_cnn").to_pylist()
    assert [row["outcome"] for row in rows if row["error"] and "no connection: ***" in row["error"]] == ["failed"]


@pytest.mark.slow
def test_rays_workers_log_no_secret_of_a_failing_trial_or_a_warning(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="atlas-ray-", ignore_cleanup_errors=True) as files:
        endless = ("telling", "--set", "num_epochs=1000000000", "--no-mlflow", "--no-figures", "--out", "out")
        process = start(folder, *endless, RAY_TMPDIR=files, RAY_DEDUP_LOGS="0", **VARIABLES)
        try:  # Ray's files are there as long as the launch
            for said in (b"warned: ***", b"logged: ", b"printed: ***"):
                wait_for(lambda said=said: says_in_worker_log(Path(files), said), process, seconds=200)
            wait_for(lambda: any((folder / "out").rglob("*.parquet")), process)  # the failed trial's row
            check_nothing_shown(Path(files))
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=120)
        finally:
            kill_tree(process)
    assert process.returncode == 130, stderr
    check_nothing_shown(folder, subprocess.CompletedProcess(process.args, 130, stdout, stderr))


def says_in_worker_log(files: Path, said: bytes) -> bool:
    """Whether one of the files in which Ray keeps what its workers write has these words."""
    return any(said in path.read_bytes() for path in files.rglob("worker-*") if path.is_file())


@pytest.mark.slow
def test_a_row_of_an_earlier_version_is_shown_without_its_secrets(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    failed = made_result(find_sweep("grid_bsz").configs()[0], Outcome.FAILED)
    result = replace(failed, error="RuntimeError: " + " ".join(SAID))
    assert SECRET not in str(result.error)
    object.__setattr__(result, "error", "RuntimeError: no connection " + " ".join(SAID))
    Ledger(str(folder / "old")).append([result])
    status = launch(folder, "status", "grid_bsz", "--out", "old")
    assert "no connection ***" in status.stdout
    exported = launch(folder, "export-mlflow", "grid_bsz", "--out", "old", MLFLOW_TRACKING_URI="sqlite:///view.db")
    assert exported.returncode == 0, exported.stderr
    (folder / "old").rename(folder.with_name(f"{folder.name}-old"))
    check_nothing_shown(folder, status, exported)


@pytest.mark.parametrize(
    "tracking_uri",
    [
        f"http://me:{SECRET}@127.0.0.1:1",
        pytest.param(f"postgresql+psycopg2://u:p@{SECRET}/w:o#rd@127.0.0.1:1/db", marks=pytest.mark.slow),
    ],
    ids=["http", "postgresql"],
)
def test_a_tracking_server_that_fails_is_named_without_its_password(folder: Path, tracking_uri: str) -> None:
    settings = {"MLFLOW_TRACKING_URI": tracking_uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", **VARIABLES}
    arguments = ("grid_bsz", "--set", "num_epochs=1", "--set", "batch_size=200", "--seeds", "0", "--out", "out")
    run = launch(folder, *arguments, "--executor", "inline", "--no-figures", **settings)
    assert run.returncode == 0, run.stderr
    assert "MLflow: " in run.stdout
    assert f" ({tracking_uri.partition('//')[0]}//***@127.0.0.1:1" in run.stdout
    exported = launch(folder, "export-mlflow", *arguments, **settings)
    assert (exported.returncode, exported.stderr.count("\n")) == (2, 1)
    check_nothing_shown(folder, run, exported)


@pytest.mark.parametrize(
    ("command", "uri"),
    [
        ("grid_bsz", f"s3://bucket/x?secret_key={SECRET}"),
        ("plan grid_bsz", f"s3://KEY:{SECRET}/x"),
        ("status grid_bsz", f"s3://KEY:a/{SECRET}+b@bucket/x"),
        ("export-optuna map_wd", f"gs://me:{SECRET}@bucket/x"),
    ],
    ids=["run", "plan", "status", "export"],
)
def test_an_output_uri_with_a_secret_is_refused_without_it(folder: Path, command: str, uri: str) -> None:
    run = launch(folder, *command.split(), "--out", uri)
    assert (run.returncode, run.stderr.count("\n"), run.stdout) == (2, 1, "")
    check_nothing_shown(folder, run)


@pytest.mark.parametrize(
    "given",
    [
        ("--image", f"https://me:{SECRET}@registry/x:1"),
        ("--set", f"dataset=https://h/x?token={SECRET}"),
        ("--out", f"/mnt/{VARIABLES['HF_TOKEN']}"),
    ],
    ids=["image", "setting", "environment"],
)
def test_a_job_with_a_secret_in_it_is_refused(folder: Path, given: tuple[str, str]) -> None:
    run = launch_submit(folder, *given)
    assert (run.returncode, run.stderr.count("\n"), run.stdout) == (2, 1, "")
    check_nothing_shown(folder, run)


def test_a_job_is_printed_as_it_is(folder: Path) -> None:
    plain = launch_submit(folder)
    assert (plain.returncode, plain.stderr) == (0, "")
    assert "namespace: lambda-atlas" in plain.stdout
    weak = {"DATABASE_URL": "postgresql://atlas:atlas@db/atlas", "SORT_KEY": "optimizer", "DB_PASSWORD": "grid-bsz"}
    assert launch_submit(folder, **weak).stdout == plain.stdout


def launch_submit(folder: Path, *given: str, **more: str) -> subprocess.CompletedProcess[str]:
    words = ("submit", "grid_bsz", "--overlay", "gke", "--dry-run", *given)
    return run_launch(*words, cwd=folder, env=environment(**{**VARIABLES, **more}))


@pytest.mark.slow
def test_the_storage_of_an_optuna_export_is_named_without_its_password(folder: Path) -> None:
    (folder / "my_sweeps.py").write_text(BRIEF_MAP)
    small = {"dimension": 16, "noise_sparsity": 4, "num_filters": 2, "num_epochs": 1, "num_test": 20}
    cells = {"batch_size": "20,200", "weight_decay": "1e-4,1"}
    sets = [part for name, value in {**small, **cells}.items() for part in ("--set", f"{name}={value}")]
    ran = launch(folder, "brief_map", *sets, "--executor", "inline", "--no-mlflow", "--no-figures")
    assert ran.returncode == 0, ran.stderr
    storage = f"sqlite:///file:{folder}/optuna.db?uri=true&password={SECRET}"
    exported = launch(folder, "export-optuna", "brief_map", *sets, "--storage", storage)
    assert exported.returncode == 0, exported.stderr
    assert f"optuna   sqlite:///file:{folder}/optuna.db?uri=true&password=***" in exported.stdout
    refused = launch(
        folder, "export-optuna", "brief_map", *sets, "--storage", f"postgresql://u:{SECRET}@127.0.0.1:1/db"
    )
    assert refused.returncode
    check_nothing_shown(folder, ran, exported, refused)


SHELL = {
    "OLDPWD": "{folder}",
    "PWD": "{folder}",
    "INIT_PWD": "{folder}",
    "SSH_KEY": "{folder}",
    "PROJECT_TOKEN": "{folder}",
}
"""Variables as a shell and a CI set them, some of them named as secrets, to the folder that the user is in."""


@pytest.mark.parametrize("names", [("PWD",), tuple(SHELL)], ids=["a shell's", "all"])
def test_paths_are_shown_whole_whatever_the_environment_names_them(names: tuple[str, ...], folder: Path) -> None:
    """A shell's own PWD was taken for a password: each path that a launch printed began with ***."""
    variables = {name: SHELL[name].format(folder=folder) for name in names}
    arguments = ("grid_bsz", "--set", "num_epochs=1", "--set", "batch_size=200", "--seeds", "0", "--executor", "inline")
    done = launch(folder, *arguments, "--no-figures", **variables)
    assert done.returncode == 0, done.stderr
    assert f"parquet  {folder}/results/trials, {folder}/results/traces" in done.stdout
    assert f"sqlite:///{folder}/results/mlflow.db" in done.stdout
    assert "***" not in done.stdout + done.stderr
