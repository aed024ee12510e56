"""Removes secrets from text that leaves the product: what it prints, logs, and stores in rows and tags.

No message needs to call it. It is applied where text leaves: `UserError` to its line, `TrialResult` to its traceback,
the MLflow view to its tags, and `guard_output` to everything that a process prints, logs or warns of.

Secrets are: what stands between `://` and `@`; the value of a parameter that is named as one (`secret_key=...`); and,
wherever it occurs, the value of an environment variable that is named as one (`MLFLOW_TRACKING_PASSWORD`,
`AWS_SECRET_ACCESS_KEY`, `..._TOKEN`), and a password in the URL of any environment variable or argument of the command.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import TextIO
from urllib.parse import quote, unquote

MASK = "***"
"""Replaces a secret."""

_SHORTEST, _SHORTEST_PIECE = 6, 4
"""Fewest characters of a secret that is searched for in any text, and of a piece of a password: less is in any text."""

_WORDS = (
    r"(?:secret|passw|passphrase|credential|token(?!i|s\b|s_)|"
    r"(?:access|account|api|private|shared|encryption)[_-]?key)"
)
_SECRET_VARIABLE = re.compile(rf"{_WORDS}|_key$|_pwd$|_pat$|_sas$", re.IGNORECASE)
_NAMES_A_PLACE = re.compile(r"_(?:path|file|dir|folder|url|uri|endpoint|name|mode|credentials)$", re.IGNORECASE)

_SCHEME = r"(?P<kept>(?<![\w+.-])[a-z][\w+.-]{0,30}://)"
_NO_PORT = r"(?!\[)[^\s/@:]*:(?!\d{1,5}(?!\w))"
_NAME = rf"[\w.-]{{0,60}}{_WORDS}[\w.-]{{0,60}}"
_QUERY = rf"(?P<kept>[?&;](?:{_NAME}|[\w.-]{{0,60}}(?:pwd|key|signature|auth(?!or))[\w.-]{{0,60}}|sig|odbc_connect)=)"
_RULES = [
    re.compile(f"{rule}{value}", re.IGNORECASE)
    for rule, value in (
        # Up to the last @: a password may contain @, / or a quote that should have been encoded.
        (_SCHEME, r"[^\s/@:]{0,1000}:\S{0,1000}(?=@)"),
        (r"(?P<kept>\bhttps?://)", r"[^\s/@]+(?=@)"),
        # What is left, as s3://KEY:SECRET/path, but neither HOST:PORT nor an IPv6 address
        (_SCHEME, rf"{_NO_PORT}[^\s'\"]+"),
        (_QUERY, r"[^&\s'\"]+"),
        (rf"(?P<kept>(?<![\w.-]){_NAME}=)", r"(?:'[^']+'|\"[^\"]+\"|[^\s'\"&]+)"),
        (rf"(?P<kept>(['\"]){_NAME}\2: *(['\"]))", r"(?:(?!\3).)+(?=\3)"),
        (r"(?P<kept>\bauthorization['\"]?\s*[:=]\s*b?['\"]?(?:\w+ +)?|\bbearer +)", r"[^\s'\"]{8,}"),
    )
]
_PASSWORD_IN_URL = re.compile(r"://[^/@:]*:(?P<secret>.+)@", re.DOTALL)
_KEY_WITHOUT_AT = re.compile(rf"://{_NO_PORT}(?P<secret>[^@/]+)(?!.*@)")
_PARAMETER_IN_URL = re.compile(rf"{_QUERY}(?P<secret>[^&]+)", re.IGNORECASE)


def redacted(text: str) -> str:
    """The text with `***` for each secret in it; a text without any is returned as it is.

    Example:
        >>> from trainables.redaction import redacted
        >>> redacted("cannot reach postgresql://me:p@ss@db/runs?sslpassword=abc&connect_timeout=5")
        'cannot reach postgresql://***@db/runs?sslpassword=***&connect_timeout=5'
    """
    given = frozenset(_given_secrets())
    if given:
        text = _occurrences(given).sub(MASK, text)
    for rule in _RULES:
        text = rule.sub(rf"\g<kept>{MASK}", text)
    return text


def shows_secret(text: str) -> bool:
    """Whether a secret is seen in the text itself: credentials in a URL, or a parameter that is named as a secret."""
    return any(rule.search(text) for rule in _RULES)


def guard_output() -> None:
    """Redact from now on whatever Python code of this process writes to standard output and standard error."""
    if not isinstance(sys.stdout, _GuardedStream):
        sys.stdout = _GuardedStream(sys.stdout)
    if not isinstance(sys.stderr, _GuardedStream):
        sys.stderr = _GuardedStream(sys.stderr)


class _GuardedStream(io.TextIOBase):
    """Writes redacted text to another stream. It has no `buffer`: that would lead around it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redacted(text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream.errors


def _given_secrets() -> Iterator[str]:
    """The secrets in this process's environment and arguments that are long enough to be searched for."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _SECRET_VARIABLE.search(name) and not _NAMES_A_PLACE.search(name):
            yield value
        if "://" in value:
            yield from _secrets_of_url(value)
    for argument in sys.argv[1:]:
        if "://" in argument:
            yield from _secrets_of_url(argument)


def _secrets_of_url(url: str) -> Iterator[str]:
    """Its password, whole and in the pieces into which a library may cut it, and its secret parameters."""
    password = _PASSWORD_IN_URL.search(url) or _KEY_WITHOUT_AT.search(url)
    if password is not None:
        yield from (piece for piece in re.split(r"[@/:#?]", password["secret"]) if len(piece) >= _SHORTEST_PIECE)
    found = [*([password] if password else ()), *_PARAMETER_IN_URL.finditer(url)]
    yield from (one["secret"] for one in found if len(one["secret"]) >= _SHORTEST)


@lru_cache(maxsize=4)
def _occurrences(secrets: Collection[str]) -> re.Pattern[str]:
    """Matches each of the secrets as it is, percent-encoded or decoded, or as Python shows it; not within a word."""
    shown = {form for one in secrets for form in (one, unquote(one), quote(one, safe=""), repr(one)[1:-1])}
    longest_first = sorted(filter(None, shown), key=lambda form: (-len(form), form))
    return re.compile(rf"(?<![^\W_])(?:{'|'.join(map(re.escape, longest_first))})(?![^\W_])")
