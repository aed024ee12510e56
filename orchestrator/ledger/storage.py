"""Accesses a folder or an object store: reports its failures in one line, and waits for outages to end."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential

from orchestrator.errors import LedgerError, first_line
from orchestrator.process.stopping import requested
from trainables.atomic_files import is_abandoned, is_absent, open_root, write_whole
from trainables.redaction import shows_secret

STORE_REMEDY = (
    "set the object store's address and keys in the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, "
    "GOOGLE_APPLICATION_CREDENTIALS, ...)"
)

PATIENCE_SECONDS = 900.0
"""How long a running sweep waits for an unavailable store: workers train on, the driver keeps the results."""

_STORE_ERROR = re.compile(r"AWS Error (?P<kind>\w+).*? operation:\s*(?P<text>.*?)(?: \(Request ID.*)?$")
_GOOGLE_ERROR = re.compile(
    r"google::cloud::Status\((?P<kind>\w+): (?:.*underlying error message was: |.*last message of )?(?P<text>.*?)"
    r"(?: error_info=.*)?[})]*$"
)
_MISSPELT = re.compile(r"\s*(?P<scheme>s3[an]?|gs|gcs|abfss?|hdfs)(?::[\\/]*|/{2,})(?P<path>.*)", re.IGNORECASE)
"""What was meant as the URI of a store."""
_SCHEMES = ("s3://", "gs://", "gcs://", "abfs://", "abfss://", "hdfs://")
_OTHER_NAMES = {"s3a": "s3", "s3n": "s3"}
_AWAY = re.compile(
    "NETWORK_CONNECTION|UNAVAILABLE|SLOW_DOWN|THROTTLING|REQUEST_TIMEOUT|INTERNAL_FAILURE|DEADLINE_EXCEEDED|status 5"
)
"""Texts of object stores for temporary failures."""
_LONGEST_WAIT_SECONDS = 10.0
_LOOK_SECONDS = 0.2
_FAILURES = (OSError, pa.ArrowException)
"""What pyarrow raises when a request fails: of Azure's stores also its general exception."""

_unanswered: dict[str, Exception] = {}
"""Stores that did not answer this process after it was asked to stop, and their last failure."""
_logger = logging.getLogger(__name__)
_T = TypeVar("_T")


class Storage:
    """The folder or object-store URI that contains a ledger; raises `LedgerError` if it cannot be opened.

    `root` is its name, `path` its path in the file system `files`. Requests that an object store does not answer are
    repeated for `patience_seconds`, which may be changed at any time, or until a signal asks the launch to stop.
    """

    def __init__(self, root: str) -> None:
        self.root, self.files, self.path = resolve(root)
        self.patience_seconds = 0.0

    def patiently(self, request: Callable[[], _T]) -> _T:
        """The request's result. The request must be repeatable: it is repeated while the store does not answer.

        Once a signal has asked to stop, a store that does not answer is asked no more: each request takes seconds.
        """
        if requested() and (failure := _unanswered.get(self.root)) is not None:
            raise failure
        asking = Retrying(
            retry=retry_if_exception(lambda error: not self.is_local and bool(_AWAY.search(str(error)))),
            stop=lambda state: bool(requested()) or (state.seconds_since_start or 0.0) >= self.patience_seconds,
            wait=wait_exponential(max=_LONGEST_WAIT_SECONDS),
            sleep=_sleep_unless_stopped,
            before_sleep=self._say_waiting,
            reraise=True,
        )
        try:
            return asking(request)
        except _FAILURES as error:
            if requested() and not self.is_local and _AWAY.search(str(error)):
                _unanswered[self.root] = error
            raise

    def _say_waiting(self, state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None and (error := state.outcome.exception()):
            minutes = self.patience_seconds / 60
            _logger.warning("%s: %s; retrying for up to %.0f minutes", self.root, reason(error), minutes)

    @property
    def is_local(self) -> bool:
        """Whether this is a local folder, which has locks and renames."""
        return isinstance(self.files, pafs.LocalFileSystem)

    def write(self, path: str, content: pa.Buffer, *, is_lasting: bool = True) -> None:
        """Create or replace a file, whole or not at all; raises `LedgerError` if that fails.

        A local file that is not lasting is written faster, and may be damaged if the power fails.
        """
        try:
            self.patiently(lambda: write_whole(self.files, path, content, is_lasting=is_lasting))
        except _FAILURES as error:
            raise self._fault("write to", path.rpartition("/")[0], error) from None

    def read(self, path: str) -> bytes | None:
        """A small file's content, None if it does not exist; raises `LedgerError` if it cannot be read."""

        def content() -> bytes:
            with self.files.open_input_stream(path) as file:
                return bytes(file.read())

        try:
            return self.patiently(content)
        except _FAILURES as error:
            if is_absent(error):
                return None
            raise self._fault("read", path, error) from None

    def exists(self, path: str) -> bool:
        """Whether a file exists; raises `LedgerError` if that cannot be read."""
        try:
            return bool(self.patiently(lambda: self.files.get_file_info(path)).type != pafs.FileType.NotFound)
        except _FAILURES as error:
            raise self._fault("read", path, error) from None

    def delete(self, path: str) -> None:
        """Delete a file; raises `LedgerError` if that fails."""
        try:
            self.patiently(lambda: self.files.delete_file(path))
        except _FAILURES as error:
            if is_absent(error):  # an earlier request was done, but its answer was lost
                return
            raise self._fault("delete", path, error) from None

    def delete_abandoned(self, folder: str) -> None:
        """Delete the files in a local folder, and in those below it, that killed writers have not finished."""
        if self.is_local:
            for info in self.infos(folder, recursive=True):
                if is_abandoned(info):
                    self.delete(info.path)

    def infos(self, folder: str, *, recursive: bool = False) -> list[pafs.FileInfo]:
        """The contents of a folder; empty if it does not exist. Raises `LedgerError` if the bucket does not exist."""
        selector = pafs.FileSelector(folder, allow_not_found=True, recursive=recursive)
        try:
            infos = self.patiently(lambda: self.files.get_file_info(selector))
            if not infos and self.files.type_name == "s3":
                self._check_bucket()
        except _FAILURES as error:
            raise self._fault("list", folder, error) from None
        return infos

    def list(self, folder: str, file_type: pafs.FileType) -> list[str]:
        """Sorted paths of that type in a folder, without hidden ones."""
        if self.is_local:
            way = [folder, folder.rpartition("/")[0], self.path]
            blocking = [i.path for i in self.files.get_file_info(way) if i.type == pafs.FileType.File]
            if blocking:
                raise LedgerError(f"{blocking[0]} is a file where a folder belongs; move it away")
        infos = self.infos(folder)
        return sorted(i.path for i in infos if i.type == file_type and not i.base_name.startswith((".", "_")))

    def _check_bucket(self) -> None:
        """Raise `LedgerError` if the bucket does not exist: its listing would be empty."""
        bucket = self.path.partition("/")[0]
        if self.files.get_file_info(bucket).type == pafs.FileType.NotFound:
            raise LedgerError(f"cannot list {self.root}: bucket {bucket!r} does not exist")

    def _fault(self, action: str, folder: str, error: Exception) -> LedgerError:
        remedy = "choose another output folder" if self.is_local else STORE_REMEDY
        return LedgerError(f"cannot {action} {self.root}{folder.removeprefix(self.path)} ({reason(error)}); {remedy}")


def _sleep_unless_stopped(seconds: float) -> None:
    """Sleep; no longer once a signal asks to stop, which must not take minutes."""
    deadline = time.monotonic() + seconds
    while not requested() and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, _LOOK_SECONDS))


def resolve(root: str) -> tuple[str, pafs.FileSystem, str]:
    """A folder or URI as (absolute name, file system, path in it)."""
    if not root.strip():
        raise LedgerError("an output folder or URI is needed, got an empty name")
    check_uri(root)
    try:
        root = root if "://" in root else str(Path(root).expanduser().absolute())
        files, path = open_root(root)
    except (OSError, ValueError, RuntimeError, pa.ArrowException) as error:
        raise LedgerError(
            f"cannot open {root} ({reason(error)}); give a folder or a URI such as s3://bucket/path"
        ) from None
    path = path.rstrip("/")
    return path if isinstance(files, pafs.LocalFileSystem) else root.rstrip("/"), files, path


def check_uri(root: str) -> None:
    """Check that a URI has a bucket and a path only: results, states and figures are under it, and it is printed.

    A misspelt URI would be a folder: `s3:/bucket/path` is one named `s3:` in the current folder.
    """
    if (misspelt := _MISSPELT.fullmatch(root)) is not None and not root.startswith(_SCHEMES):
        scheme = misspelt["scheme"].lower()
        right = f"{_OTHER_NAMES.get(scheme, scheme)}://{misspelt['path']}"
        raise LedgerError(f"a URI starts as s3://bucket or gs://bucket, got {root!r}: did you mean {right!r}?")
    if "://" not in root:
        return
    try:
        uri = urlsplit(root)
    except ValueError as error:
        raise LedgerError(
            f"{root} is no URI ({reason(error)}); give a folder or a URI such as s3://bucket/path"
        ) from None
    if not uri.netloc and uri.scheme != "file":
        raise LedgerError(f"{root} names no bucket; give a folder or a URI such as s3://bucket/path")
    if shows_secret(root):
        raise LedgerError(f"{root}: a URI is printed, so give no password in it; {STORE_REMEDY}")
    if uri.query or uri.fragment:
        raise LedgerError(f"{root}: an output URI ends with its path, without ? or #; {STORE_REMEDY}")


def is_store_fault(error: BaseException) -> bool:
    """Whether the error is an object store's answer, and not about a file's contents."""
    return bool(_STORE_ERROR.search(str(error)) or _GOOGLE_ERROR.search(str(error)))


def reason(error: BaseException) -> str:
    """What the system or a library says, in one line."""
    number = getattr(error, "errno", None)
    text = (os.strerror(number) if number else first_line(error)).rstrip(". ")
    said = _STORE_ERROR.search(text) or _GOOGLE_ERROR.search(text)
    return f"{said['kind']}: {said['text']}".rstrip(": ") if said else text
