"""Our READMEs as tests see them: listed by name, with their commands, snippets and links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from orchestrator.commands.command_line import app
from tests.support.launching import ROOT

NAMES = (
    "README.md",
    "k8s/README.md",
    "orchestrator/README.md",
    "orchestrator/sweeps/README.md",
    "search_spaces/README.md",
    "tests/benchmarks/README.md",
    "tests/benchmarks/gpu/README.md",
    "trainables/README.md",
)
TEXTS = {name: (ROOT / name).read_text() for name in NAMES}
LAUNCH = ("python", "-m", "orchestrator.launch")

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language."""
    return [code for found, code in _BLOCK.findall(text) if found == language]


def shell_lines(text: str) -> list[str]:
    """The lines of a README's shell blocks, continued ones joined."""
    joined = (block.replace("\\\n", " ") for block in blocks(text, "bash"))
    return [line for block in joined for line in block.splitlines() if line.strip()]


def inline_code(text: str) -> list[str]:
    """Code between backticks outside of blocks, on one line each."""
    return [" ".join(code.split()) for code in _INLINE.findall(_BLOCK.sub("", text))]


def commands(*beginning: str) -> list[str]:
    """Every command of any README that begins with these words, in a block or in a sentence, each once."""
    given = [words(line) for text in TEXTS.values() for line in (*shell_lines(text), *inline_code(text))]
    found = (shlex.join(command[at:]) for command in given for at in _places(command, beginning))
    return list(dict.fromkeys(found))


def words(line: str) -> list[str]:
    """A shell line as words, without its comment; nothing for code that is not a shell line."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []


def _places(command: list[str], beginning: tuple[str, ...]) -> Iterator[int]:
    size = len(beginning)
    return (
        at for at in range(len(command)) if tuple(command[at : at + size]) == beginning and len(command) > at + size
    )


def parsed(line: str) -> tuple[str, dict[str, Any]]:
    """The command and the parameters that the real command line makes of `python -m orchestrator.launch ...`."""
    given = shlex.split(line)
    assert tuple(given[:3]) == LAUNCH
    known: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    name, *rest = given[3:] if given[3] in known else ["run", *given[3:]]
    return name, known[name].make_context(name, rest).params


def links(name: str) -> Iterator[tuple[Path, str]]:
    """The file and the heading of each link or image of a README that leads to a file of this repository."""
    for link in _LINK.findall(_INLINE.sub("", _BLOCK.sub("", TEXTS[name]))):
        path, _, heading = link.partition("#")
        if "://" not in link:
            yield ((ROOT / name).parent / path).resolve() if path else ROOT / name, heading


def headings(text: str) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", _BLOCK.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
