"""Errors of the orchestrator; `UserError` is one clear line and exit code 2, anything else keeps its traceback."""

from trainables.errors import ConfigError, DataError, UserError, first_line, last_line, unknown_name


class LedgerError(UserError):
    """A results file is truncated or not ours; it is named and never overwritten."""


class SweepError(UserError):
    """A sweep does not exist, cannot be expanded as asked, or is being run by someone else."""


class ClusterError(UserError):
    """The Ray cluster asked for cannot be reached or started."""


class SubmitError(UserError):
    """A sweep cannot be made a job of a Kubernetes cluster, or the cluster does not take it."""


__all__ = [
    "ClusterError",
    "ConfigError",
    "DataError",
    "LedgerError",
    "SubmitError",
    "SweepError",
    "UserError",
    "first_line",
    "last_line",
    "unknown_name",
]
