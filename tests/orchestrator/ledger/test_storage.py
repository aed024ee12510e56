"""Names of folders and stores: what is refused, with the right spelling, and what may be a folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.errors import LedgerError
from orchestrator.ledger.storage import Storage
from tests.support.servers import free_port


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ("s3:/bucket/x", "s3://bucket/x"),
        ("s3//bucket", "s3://bucket"),
        ("S3://bucket", "s3://bucket"),
        ("s3:bucket", "s3://bucket"),
        (" s3://bucket", "s3://bucket"),
        ("s3a://bucket/x", "s3://bucket/x"),
        ("GS:/bucket", "gs://bucket"),
        ("abfs:/container", "abfs://container"),
    ],
)
def test_a_misspelt_uri_is_no_folder(given: str, right: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LedgerError, match=r"^a URI starts as s3://bucket or gs://bucket, got ") as refused:
        Storage(given)
    assert str(refused.value).endswith(f"got {given!r}: did you mean {right!r}?")


@pytest.mark.parametrize("name", ["s3", "s3/results", "gs-results", "results/s3:/x", "my s3", "a:b"])
def test_a_folder_may_have_such_a_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Storage(name).root == str(tmp_path / name)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            "~nobody-of-that-name/results",
            "cannot open ~nobody-of-that-name/results (Could not determine home directory)",
        ),
        ("s3://[x", "s3://[x is no URI (Invalid IPv6 URL)"),
        ("https://bucket/x", "cannot open https://bucket/x (Unrecognized filesystem type in URI: https://bucket/x)"),
        ("file://host/x", "cannot open file://host/x (Unsupported hostname in non-Windows local URI: "),
    ],
)
def test_what_cannot_be_opened_is_one_line(given: str, line: str) -> None:
    with pytest.raises(LedgerError) as refused:
        Storage(given)
    assert str(refused.value).startswith(line)
    assert len(str(refused.value).splitlines()) == 1


def test_a_current_folder_that_was_deleted_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(LedgerError, match=r"^cannot open results \(No such file or directory\)"):
        Storage("results")


@pytest.mark.slow
def test_googles_store_without_a_network_is_one_line_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://127.0.0.1:{free_port()}")

    def check(request: Callable[[Storage], object]) -> None:
        begun = time.monotonic()
        with pytest.raises(
            LedgerError, match=r"^cannot (list|read) gs://.* \(UNAVAILABLE: [^()]*\(?\)?.*\); set the "
        ) as said:
            request(Storage("gs://bucket/x"))
        assert time.monotonic() - begun < 30
        assert len(str(said.value)) < 300
        assert "error_info" not in str(said.value)

    with ThreadPoolExecutor() as pool:  # each waits for its retries
        list(pool.map(check, (lambda storage: storage.infos("bucket/x"), lambda storage: storage.exists("bucket/x"))))


@pytest.mark.slow
def test_azures_store_without_keys_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LedgerError, match=r"^cannot list abfs://") as said:
        Storage("abfs://container@account.invalid/x").infos("container/x")
    assert len(str(said.value).splitlines()) == 1
