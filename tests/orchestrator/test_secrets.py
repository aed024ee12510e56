"""No secret in anything that a launch prints, writes or sends: tests plant some, and search all that came out."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestrator.ledger.ledger import Ledger
from orchestrator.sweeps.registry import find_sweep
from tests.support.launching import environment, launch, run_launch
from trainables.provenance import provenance
from trainables.redaction import redacted, shows_secret
from trainables.result import Outcome, TrialResult

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
    ],
)
def test_text_without_a_secret_stays_as_it_is(text: str) -> None:
    assert redacted(text) == text
    assert not shows_secret(text)


def test_a_secret_of_the_environment_is_found_in_each_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", "to ke/n'x")
    monkeypatch.setenv("SERVICE_TOKEN_FILE", "/run/token")
    monkeypatch.setenv("SERVICE_URL", "db://me:first@second@host/x")
    text = "to ke/n'x, to%20ke%2Fn%27x in /run/token; cannot translate second, first@second, seconds"
    assert redacted(text) == "***, *** in /run/token; cannot translate ***, ***, seconds"


@pytest.mark.parametrize("part", ["a", "a.b-", "x://a:", "?secret"])
@pytest.mark.timeout(20)
def test_long_text_takes_no_long_time(part: str) -> None:
    assert redacted(part * 10_000)


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
        arguments = ("telling", "--no-mlflow", "--no-figures", "--out", "out")
        run = launch(folder, *arguments, RAY_TMPDIR=files, RAY_DEDUP_LOGS="0", **VARIABLES)
        assert run.returncode == 1, run.stderr
        assert "no connection: ***" in run.stderr
        check_nothing_shown(folder, run)
        check_nothing_shown(Path(files))


@pytest.mark.slow
def test_a_row_of_an_earlier_version_is_shown_without_its_secrets(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    config = find_sweep("grid_bsz").configs()[0]
    result = TrialResult(
        config=config,
        outcome=Outcome.FAILED,
        epochs_done=0,
        trace=(),
        data_digest=None,
        init_digest=None,
        order_digest=None,
        train_seconds=0.1,
        finished_at=1.0,
        provenance=provenance("reference"),
        error="RuntimeError: " + " ".join(SAID),
    )
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
    ],
    ids=["image", "setting"],
)
def test_a_job_with_a_secret_in_it_is_refused(folder: Path, given: tuple[str, str]) -> None:
    run = launch_submit(folder, *given)
    assert (run.returncode, run.stderr.count("\n"), run.stdout) == (2, 1, "")
    check_nothing_shown(folder, run)


def launch_submit(folder: Path, *given: str) -> subprocess.CompletedProcess[str]:
    words = ("submit", "grid_bsz", "--overlay", "gke", "--dry-run", *given)
    return run_launch(*words, cwd=folder, env=environment(**VARIABLES))


@pytest.mark.slow
def test_the_storage_of_an_optuna_export_is_named_without_its_password(folder: Path) -> None:
    small = {"dimension": 16, "noise_sparsity": 4, "num_filters": 2, "num_epochs": 1, "batch_size": "20,200"}
    sets = [part for name, value in small.items() for part in ("--set", f"{name}={value}")]
    ran = launch(folder, "map_wd", *sets, "--executor", "inline", "--no-mlflow", "--no-figures")
    assert ran.returncode == 0, ran.stderr
    storage = f"sqlite:///file:{folder}/optuna.db?uri=true&password={SECRET}"
    exported = launch(folder, "export-optuna", "map_wd", *sets, "--storage", storage)
    assert exported.returncode == 0, exported.stderr
    assert f"optuna   sqlite:///file:{folder}/optuna.db?uri=true&password=***" in exported.stdout
    refused = launch(folder, "export-optuna", "map_wd", *sets, "--storage", f"postgresql://u:{SECRET}@127.0.0.1:1/db")
    assert refused.returncode
    check_nothing_shown(folder, ran, exported, refused)
