"""Removes secrets from text that leaves the product: what it prints, logs, and stores in rows and tags.

No message needs to call it. It is applied where text leaves: `UserError` to its line, `TrialResult` to its traceback,
the MLflow view to its tags, and `guard_output` to everything that a process prints, logs or warns of.

Secrets are: what stands between `://` and `@`; the value of a parameter that is named as one (`secret_key=...`); and,
wherever it occurs, the value of an environment variable that is named as one (`MLFLOW_TRACKING_PASSWORD`,
`AWS_SECRET_ACCESS_KEY`, `..._TOKEN`), and a password in the URL of any environment variable or argument of the command.

Not covered:

- among the values that are searched for: plain words, small numbers (`atlas`, `batch_size`, `2026`), less than six
  characters, the path of a file that exists, and a password that is its user's name, as all are in ordinary text;
- among parameters: numbers of up to four digits, true, false and none, names such as `token_size` or `key_id`, and
  what follows `,`, `;`, `&` or `)` in a value without quotes; beside a blank (`password: hunter2`) all but words of six
  characters that are letters and digits, and what is quoted after `=`;
- in URLs, passwords that begin as `HOST:PORT/` goes on (`12/...`); in those of the environment, what follows a blank,
  a quote, a comma or a semicolon in a password;
- secrets that are only in files, that are encoded in other ways than in URLs and Python's texts, or that two writes
  share; and what others than this process's Python code write, as child processes do.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, TextIO
from urllib.parse import quote, quote_plus, unquote

MASK = "***"
"""Replaces a secret."""

_SHORTEST, _SHORTEST_PIECE = 6, 4
"""Fewest characters of a secret that is searched for in any text, and of a piece of a password: less is in any text."""

_UNMISTAKABLE = 12
"""Fewest characters of a secret that is searched for within words, too."""

_PLAIN = re.compile(r"(?!.{16})(?:[A-Za-z]?[a-z_-]*|[A-Z_-]*)|\d{0,7}")
"""A word or a small number: as a password it is weak, and masking it would mutilate other text."""

_WORDS = (
    r"(?:secret|passw|passphrase|(?<![^\W_])pass(?![\w.-])|credential|token(?!i|s\b|s_)|"
    r"(?:access|account|api|private|shared|encryption)[_-]?key)"
)
_NO_SECRETS = (
    r"(?:[_-]?(?:path|file|dir|folder|ur[il]|endpoint|name|mode|size|dim|len|length|count|num|type|limit|version)s?"
    r"|(?<!secret)[_-]ids?)"
)
"""How names end that tell where a secret is, or how long or of what kind."""
_SECRET_VARIABLE = re.compile(rf"{_WORDS}|(?:^|_)(?:key|pat|sas)$|_pwd$", re.IGNORECASE)
_ORDINARY_VARIABLE = re.compile(rf"(?:{_NO_SECRETS}|_credentials)$", re.IGNORECASE)

_SCHEME = r"(?P<kept>(?<![\w+.-])[a-z][\w+.-]{0,30}://)"
_PORT = r"\d{1,5}(?:[/\s'\",;)\]}]|$)"
_NO_PORT = r"(?!\[)[^\s/@:]*:(?!\d{1,5}(?!\w))"
_NAME = rf"(?![\w.-]{{0,120}}{_NO_SECRETS}(?![\w.-]))[\w.-]{{0,60}}{_WORDS}[\w.-]{{0,60}}"
_QUERY = rf"(?P<kept>[?&;](?:{_NAME}|[\w.-]{{0,60}}(?:pwd|key|signature|auth(?!or))[\w.-]{{0,60}}|sig|odbc_connect)=)"
_QUOTED = r"[bru]?(?:'[^'\n]+'|\"[^\"\n]+\")"
_UNQUOTED = r"[^\s'\"&,;)]"
_MIXED = rf"(?={_UNQUOTED}{{0,200}}(?<=\d))(?={_UNQUOTED}{{0,200}}(?<=[a-z]))"
_PLAIN_VALUE = r"(?:\d{1,4}(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+|true|false|none|null)(?![^\s&,;)\]}/'\"])"
_RULES = [
    re.compile(f"{rule}{value}", re.IGNORECASE)
    for rule, value in (
        # Up to the last @: a password may contain @, / or a quote that should have been encoded, a user's name an @.
        (_SCHEME, rf"[^\s/:'\",]{{0,1000}}:(?!{_PORT})\S{{0,1000}}(?=@)"),
        (r"(?P<kept>\bhttps?://)", r"[^\s/@'\",]+(?=@)"),
        # What is left, as s3://KEY:SECRET/path, but neither HOST:PORT nor an IPv6 address
        (_SCHEME, rf"{_NO_PORT}[^\s'\"]+"),
        (_QUERY, r"[^&\s'\"]+"),
        (rf"(?P<kept>(?<![\w.-]){_NAME}=)(?!{_PLAIN_VALUE})", rf"(?:{_QUOTED}|['\"]?{_UNQUOTED}+)"),
        # As in INI and YAML files, and in source: beside a blank not every word is a value.
        (rf"(?P<kept>(?<![\w.-]){_NAME} {{0,9}}= {{0,9}})(?!{_PLAIN_VALUE})", _QUOTED),
        (rf"(?P<kept>(?<![\w.-]){_NAME} {{0,9}}[:=] {{1,9}}['\"]?){_MIXED}", rf"{_UNQUOTED}{{6,}}"),
        (rf"(?P<kept>(['\"]){_NAME}\2: *(['\"]))", r"(?:(?!\3).)+(?=\3)"),
        (r"(?P<kept>\bauthorization['\"]?\s*[:=]\s*b?['\"]?(?:\w+ +)?|\bbearer +)", r"[^\s'\"]{8,}"),
    )
]
_PASSWORD_IN_URL = re.compile(rf"://(?P<user>[^\s/:'\",;]{{0,1000}}):(?!{_PORT})(?P<secret>[^\s,;\"']{{1,1000}})@")
_KEY_WITHOUT_AT = re.compile(rf"://{_NO_PORT}(?P<secret>[^\s@/,;\"']+)(?![^\s,;\"']{{0,1000}}@)")
_PARAMETER_IN_URL = re.compile(rf"{_QUERY}(?P<secret>[^&\s,;\"']+)", re.IGNORECASE)


def redacted(text: str) -> str:
    """The text with `***` for each secret in it; a text without any is returned as it is.

    Example:
        >>> from trainables.redaction import redacted
        >>> redacted("cannot reach postgresql://me:p@ss@db/runs?sslpassword=abc&connect_timeout=5")
        'cannot reach postgresql://***@db/runs?sslpassword=***&connect_timeout=5'
    """
    occurrences = _occurrences(_given())
    if occurrences is not None:
        text = occurrences.sub(MASK, text)
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


def unguarded(stream: TextIO) -> TextIO:
    """The stream behind a guard, for text that must be written as it is, and that the caller has checked."""
    guarded: TextIO = stream.guarded if isinstance(stream, _GuardedStream) else stream
    return guarded


class _Passing:
    """What a stream does not change of the one behind it; `io`'s own classes define these as doing nothing."""

    guarded: Any

    def flush(self) -> None:
        self.guarded.flush()

    def fileno(self) -> int:
        return int(self.guarded.fileno())

    def isatty(self) -> bool:
        return bool(self.guarded.isatty())

    def writable(self) -> bool:
        return True


class _GuardedStream(_Passing, io.TextIOBase):
    """Writes redacted text to another stream, and is otherwise as that."""

    def __init__(self, stream: TextIO) -> None:
        self.guarded = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.guarded, name)

    def write(self, text: str) -> int:
        self.guarded.write(text if text.isspace() else redacted(text))
        return len(text)

    @property
    def buffer(self) -> _GuardedBuffer:
        return _GuardedBuffer(self)

    @property
    def encoding(self) -> str | None:  # type: ignore[override]
        found: str | None = self.guarded.encoding  # None for a stream of text alone, such as io.StringIO
        return found

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        found: str | None = self.guarded.errors
        return found


class _GuardedBuffer(_Passing, io.BufferedIOBase):
    """Takes bytes of text for a guarded stream: its own buffer would lead around the guard."""

    def __init__(self, stream: _GuardedStream) -> None:
        self.guarded = stream

    def write(self, data: Any) -> int:
        written = bytes(data)
        self.guarded.write(written.decode(self.guarded.encoding or "utf-8", errors="replace"))
        return len(written)


def _given() -> tuple[tuple[str, str], ...]:
    """(name, value) of each environment variable, and of each argument of the command, which has no name."""
    # Not `items()`: it raises KeyError if another thread deletes a variable meanwhile.
    variables = [(name, os.environ.get(name, "").strip()) for name in list(os.environ)]
    return (*variables, *(("", argument) for argument in sys.argv[1:]))


@lru_cache(maxsize=1)
def _occurrences(given: tuple[tuple[str, str], ...]) -> re.Pattern[str] | None:
    """Matches the secrets among the given values as they are, percent-encoded or decoded, or as Python shows them."""
    secrets = {secret for name, value in given for secret in _secrets_of(name, value)}
    forms = {
        form
        for one in secrets
        for form in (one, unquote(one), quote(one, safe=""), quote_plus(one), repr(one)[1:-1])
        if len(form) >= _SHORTEST_PIECE
    }
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    anywhere = [re.escape(form) for form in longest_first if len(form) >= _UNMISTAKABLE]
    as_word = [re.escape(form) for form in longest_first if len(form) < _UNMISTAKABLE]
    if as_word:  # what ends %20, an escape sequence of a terminal or \\n is no part of a word
        start = r"(?:(?<![^\W_])|(?<=%[\dA-Fa-f]{2})|(?<=\dm)|(?<=\\[nrt]))"
        anywhere.append(rf"{start}(?:{'|'.join(as_word)})(?![^\W_])")
    return re.compile("|".join(anywhere)) if anywhere else None


def _secrets_of(name: str, value: str) -> Iterator[str]:
    """The secrets in the value of an environment variable, or of an argument, that are searched for in any text."""
    if _SECRET_VARIABLE.search(name) and not _ORDINARY_VARIABLE.search(name) and _is_searched_for(value):
        yield value
    if "://" in value:
        found = [*_PASSWORD_IN_URL.finditer(value), *_KEY_WITHOUT_AT.finditer(value)]
        for match in found:
            if match["secret"] != match.groupdict().get("user"):
                yield from _password_and_pieces(match["secret"])
        yield from (one["secret"] for one in _PARAMETER_IN_URL.finditer(value) if _is_searched_for(one["secret"]))


def _password_and_pieces(password: str) -> Iterator[str]:
    """A password of a URL, whole and in the pieces into which a library may cut it."""
    if _is_searched_for(password):
        yield password
    pieces = re.split(r"[@/:#?]", password)
    if len(pieces) > 1:
        yield from (piece for piece in pieces if _is_searched_for(piece, _SHORTEST_PIECE))


def _is_searched_for(value: str, shortest: int = _SHORTEST) -> bool:
    is_place = value.startswith(("/", "~")) and os.path.exists(os.path.expanduser(value))  # noqa: PTH110, PTH111
    return len(value) >= shortest and not is_place and not _PLAIN.fullmatch(value)
