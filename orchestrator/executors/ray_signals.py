"""Keeps signals from Ray: its processes must live until packs have saved, and its C++ would end the launch."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from ray._private import services

_LARGEST_SIGACTION = 1024
"""More bytes than the C library's description of a handler has on any system."""
_UNHEEDED_SECONDS = 0.005


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Keep this process's handler of SIGTERM while it joins or leaves a cluster.

    Joining replaces the handler by one that prints a C++ stack and ends the process, leaving by the default one. Python
    sets handlers in its main thread only, and both are done in another.
    """
    library, kept = ctypes.CDLL(None), ctypes.create_string_buffer(_LARGEST_SIGACTION)
    library.sigaction(int(signal.SIGTERM), None, kept)
    is_over = threading.Event()

    def put_back() -> None:
        while not is_over.wait(_UNHEEDED_SECONDS):
            library.sigaction(int(signal.SIGTERM), kept, None)

    thread = threading.Thread(target=put_back, name="keep-handlers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
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
