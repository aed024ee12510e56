"""The orchestrator's exceptions.

Commands print a `UserError` as one line and exit with code 2; any other exception keeps its traceback.
"""

from trainables.errors import ConfigError, DataError, UserError, first_line, last_line, unknown_name


class LedgerError(UserError):
    """Results cannot be read or written; a truncated or foreign file is named and never overwritten."""


class StoreError(LedgerError):
    """A file cannot be read because its disk or store does not give it, whatever is in it."""


class SweepError(UserError):
    """A sweep does not exist, cannot be expanded as asked, or is being run by another process."""


class ClusterError(UserError):
    """The Ray cluster cannot be reached, started or used by this launch."""


class RayEndedError(ClusterError):
    """Ray ended while a launch used it; `how` says in a few words what happened."""

    def __init__(self, how: str) -> None:
        super().__init__(f"Ray ended ({how}): the same command goes on from here, with a new one")
        self.how = how


class SubmitError(UserError):
    """A sweep cannot be submitted as a job of a Kubernetes cluster, or the cluster rejects the job."""


__all__ = [
    "ClusterError",
    "ConfigError",
    "DataError",
    "LedgerError",
    "RayEndedError",
    "SubmitError",
    "SweepError",
    "UserError",
    "first_line",
    "last_line",
    "unknown_name",
]
