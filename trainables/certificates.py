"""Stop certificates: proofs of how a trial ends, so that it can be stopped before its last epoch, and their audits.

No certificate proves "learned": learned trials can still drift late in training.
"""

from __future__ import annotations

from enum import StrEnum

AUDITED_SHARE = 0.1
"""Share of the trials, chosen by the hash in their names, that run to their last epoch despite a certificate."""


class Certificate(StrEnum):
    """What proves how a trial ends."""

    WEIGHT_BOX = "weight_box"
    """No weight can leave a box in which the trial is stuck (`two_layer_cnn.stuck_box`)."""
    NON_FINITE = "non_finite"
    """A weight or the loss is no longer finite, so the trial has diverged."""


def is_audited(trial_id: str) -> bool:
    """Whether a trial must run to its last epoch; decided by its name alone, so that no outcome is favoured."""
    return int(trial_id, 16) / float(16 ** len(trial_id)) < AUDITED_SHARE


def may_end(trial_id: str, is_accepted: bool) -> bool:
    """Whether a certificate may end the trial early: its sweep accepts certificates, and the trial is not audited."""
    return is_accepted and not is_audited(trial_id)
