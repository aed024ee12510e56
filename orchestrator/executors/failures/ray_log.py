"""Keeps what Ray and Tune say about dead processes, hundreds of lines each time, in a file instead of the output."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray._private import worker

from trainables.redaction import redacted

LOG_NAME = "ray.log"
"""Name of the file in a launch's folder; it is there if anything was said, and outlives the launch."""

_logger = logging.getLogger("ray")


class _Redacting(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


@contextmanager
def ray_logged_to(path: Path) -> Iterator[None]:
    """Write into that file what Ray's and Tune's loggers, and Ray's processes, tell the user of this one."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(_Redacting("%(asctime)s %(name)s: %(message)s"))
    before = _logger.handlers, _logger.propagate, worker.print_to_stdstream
    _logger.handlers, _logger.propagate, worker.print_to_stdstream = [handler], False, _log_lines
    try:
        yield
    finally:
        _logger.handlers, _logger.propagate, worker.print_to_stdstream = before
        handler.close()


def _log_lines(data: Mapping[str, Any], *_: object, **__: object) -> None:
    _logger.warning("%s: %s", data.get("pid"), "\n".join(map(str, data["lines"])))
