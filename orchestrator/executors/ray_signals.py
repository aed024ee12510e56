"""Keeps signals from Ray: its processes must live until packs have saved, and its C++ would end the launch."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from ray._private import services

_LARGEST_SIGACTION = 1024
"""More bytes than the C library's description of a handler has on any system."""


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Keep this process's handler of SIGTERM: connecting to Ray replaces it by one that prints a C++ stack and kills.

    Python sets handlers in its main thread only, and connecting is done in another.
    """
    library, kept = ctypes.CDLL(None), ctypes.create_string_buffer(_LARGEST_SIGACTION)
    library.sigaction(int(signal.SIGTERM), None, kept)
    try:
        yield
    finally:
        library.sigaction(int(signal.SIGTERM), kept, None)


@contextmanager
def own_session() -> Iterator[None]:
    """Start Ray's processes in sessions of their own: a terminal's signals reach all processes of the launch's one."""
    before = services.ConsolePopen
    services.ConsolePopen = partial(before, start_new_session=True)
    try:
        yield
    finally:
        services.ConsolePopen = before
