"""Gives a process without a usable home folder a place for its caches, as in a container that runs as any user."""

from __future__ import annotations

import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path

_logger = logging.getLogger(__name__)


def ensure_home() -> None:
    """Let caches go into a private temporary folder if the user's home folder cannot be written; says so in one line.

    Libraries ask for the home folder when they are imported, and fail without one or create a folder named `~`; so this
    is called before. Processes that this one starts inherit the choice.
    """
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 (Path.home() raises where this returns "~")
    is_there = home.is_absolute() and home.is_dir()
    if is_there and (os.access(home, os.W_OK | os.X_OK) or "XDG_CACHE_HOME" in os.environ):
        return
    with suppress(OSError):  # without any folder to write, caches are left out
        folder = private_folder()
        if is_there:  # it may hold the user's settings and credentials
            os.environ["XDG_CACHE_HOME"] = str(folder / ".cache")
        else:
            os.environ["HOME"] = str(folder)
        _logger.warning("the home folder %s cannot be written: caches are in %s", home, folder)


def private_folder() -> Path:
    """A folder in the temporary one that this user alone can enter, the same for all of the user's processes."""
    folder = Path(tempfile.gettempdir()) / f"lambda-atlas-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if (found.st_mode, found.st_uid) == (0o40700, os.getuid()):
        return folder
    return Path(tempfile.mkdtemp(prefix=f"{folder.name}-"))  # the name is another user's: nothing of theirs is read
