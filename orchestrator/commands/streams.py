"""Output streams that end no launch: what nobody reads, or a disk cannot hold, is not worth the trials in training."""

from __future__ import annotations

import errno
import io
import sys
from contextlib import suppress


class Outlet(io.FileIO):
    """A file descriptor that takes whatever is written, also if its pipe is closed or its disk full.

    `fault` is why something was lost; a closed pipe is none, since its reader wants no more.
    """

    fault: OSError | None = None

    def write(self, data: object) -> int:
        """Write what can be written; returns as if that were all."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno != errno.EPIPE:
                self.fault = error
            return memoryview(data).nbytes  # type: ignore[arg-type]


def forgive_output() -> Outlet | None:
    """Let this process print on without its reader, and in any encoding: one without ± or · shows `?`.

    Returns the outlet of standard output, or None if that is left as it is.
    """
    outlets = {}
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue
        stream.reconfigure(errors="replace")
        with suppress(OSError):  # a stream without a descriptor, as in a notebook, stays
            outlets[name] = outlet = Outlet(stream.fileno(), "w", closefd=False)
            stream.flush()
            forgiving = io.TextIOWrapper(
                io.BufferedWriter(outlet),
                encoding=stream.encoding,
                errors="replace",
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, forgiving)
    return outlets.get("stdout")
