"""Stop certificates: reasons to end a trial before its last epoch, and the audits that check them.

"Learned" is never such a reason: late drifts exist.
"""

from __future__ import annotations

from enum import StrEnum

AUDITED_SHARE = 0.1
"""Share of the trials, chosen by the hash that names them, that run to their end whatever their certificate says."""


class Certificate(StrEnum):
    """What is known for sure of a trial's end."""

    WEIGHT_BOX = "weight_box"
    """No weight can leave a box in which the trial is stuck (`two_layer_cnn.stuck_box`)."""
    NON_FINITE = "non_finite"
    """A weight or the loss is no number any more, which is what diverged means."""


def is_audited(trial_id: str) -> bool:
    """Whether a trial is among those that run to their end: by its name, so by nothing that could favour an outcome."""
    return int(trial_id, 16) / float(16 ** len(trial_id)) < AUDITED_SHARE
