"""Compiles functions with numba, and keeps their code on disk where it can: a fault of that cache costs only time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

from trainables.machine.home import ensure_home

_logger = logging.getLogger(__name__)
ensure_home()


class _OptionalCache(FunctionCache):
    """Numba's cache of a function, without which the function is compiled again."""

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(signature, target_context)
        except Exception as fault:  # a damaged file may raise anything when it is unpickled
            _say_once(self.cache_path, f"cannot be read ({type(fault).__name__})")
            with suppress(OSError):
                self.flush()  # else it could not be saved either
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        try:
            super().save_overload(signature, result)
        except OSError as fault:
            _say_once(self.cache_path, f"cannot be written ({fault.strerror or fault})")


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile the decorated function by `numba.njit` with these options, cached on disk unless no folder is usable."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = njit(**options)(function)
        try:
            dispatcher._cache = _OptionalCache(function)  # what `cache=True` does with a FunctionCache
        except RuntimeError:
            _say_once("", "has no folder that can be written")
        return dispatcher

    return decorate


@cache
def _say_once(folder: str, fault: str) -> None:
    _logger.warning(
        "the cache of compiled code %s: every process compiles anew; NUMBA_CACHE_DIR names another folder",
        f"{folder} {fault}".strip(),
    )
