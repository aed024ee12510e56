"""Imports matplotlib before any other module here does: settings of a user's may forbid it, which it says badly."""

from __future__ import annotations

import logging

from orchestrator.errors import UserError, first_line

_said: list[str] = []


def _keep(record: logging.LogRecord) -> bool:
    """Keep what matplotlib says of settings, and print nothing: figures do not depend on them."""
    _said.append(record.getMessage())
    return False


_logger = logging.getLogger("matplotlib")
_logger.addFilter(_keep)
try:
    import matplotlib  # noqa: F401
except Exception as error:  # whatever the settings break
    raise UserError(
        f"matplotlib cannot be imported: {' '.join([*_said, first_line(error)])}: mend its settings (matplotlibrc, "
        "MATPLOTLIBRC, MPLCONFIGDIR), or leave figures out with --no-figures"
    ) from error
finally:
    _logger.removeFilter(_keep)
