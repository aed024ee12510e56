"""A thread that works on what others put into its inbox, and whose failure is raised where it is noticed."""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Generic, Self, TypeVar

_Item = TypeVar("_Item")


class InboxThread(ABC, Generic[_Item]):
    """Context manager: the thread runs `_work` from entering until leaving puts None into the inbox.

    An exception in the thread is raised by `check`, and on leaving.
    """

    def __init__(self, name: str) -> None:
        self._inbox: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @abstractmethod
    def _work(self) -> None:
        """Take items from the inbox until None comes."""

    def check(self) -> None:
        """Raise what stopped the thread."""
        if self._problem is not None:
            raise self._problem

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inbox.put(None)
        self._thread.join()
        if error is None:
            self.check()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as problem:
            self._problem = problem
