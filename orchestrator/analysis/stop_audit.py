"""Estimates how often a stop certificate was wrong, from certified trials that were trained to their end anyway."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from orchestrator.ledger.standing import stopped_trials
from trainables.certificates import Certificate, is_audited
from trainables.result import SATISFYING, Outcome

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAudit:
    """The number of trials `stopped` for their certificate, and the results of certified trials that were not stopped.

    `audited` certified trials, chosen by their ids, were trained to their end, and `wrong` of them did not end stuck.
    `upper_bound` bounds the share of wrong certificates (exact one-sided 95% bound of Clopper and Pearson for this
    number of audits; 1 without audits). `others` were not chosen for an audit, but trained to their end by a sweep that
    accepts no certificates; `others_wrong` of them did not end stuck. They do not enter the bound.
    """

    stopped: int
    audited: int
    wrong: int
    upper_bound: float
    others: int = 0
    others_wrong: int = 0

    def line(self) -> str:
        """The audit in words."""
        found = f"{self.stopped} trials stopped for a certificate; "
        if self.audited:
            found += (
                f"of {self.audited} audits that ran to the end {self.wrong} were wrong "
                f"(a wrong-stop rate of at most {self.upper_bound:.2g}, {CONFIDENCE:.0%} confidence)"
            )
        else:
            found += "none has been audited yet"
        return found + (f"; of {self.others} others that ran on {self.others_wrong} were wrong" if self.others else "")


def stop_audit(trials: pd.DataFrame) -> StopAudit:
    """The audit of the ledger's trials, without those certified only at their last epoch, which show nothing."""
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    is_certified = (trials["certificate"] == Certificate.WEIGHT_BOX) & trials["outcome"].isin(SATISFYING)
    certified = trials[is_certified & (trials["certificate_epoch"] < trials["num_epochs"])]
    is_stopped = stopped_trials(certified)
    is_chosen = certified["trial_id"].map(is_audited).astype(bool)
    is_wrong = certified["outcome"] != Outcome.STUCK
    audits, others = certified[is_chosen & ~is_stopped], certified[~is_chosen & ~is_stopped]
    audited, wrong = len(audits), int(is_wrong[audits.index].sum())
    upper = 1.0
    if audited:
        bound = binomtest(wrong, audited, alternative="less").proportion_ci(CONFIDENCE, method="exact")
        upper = float(bound.high)
    return StopAudit(
        stopped=int(is_stopped.sum()),
        audited=audited,
        wrong=wrong,
        upper_bound=upper,
        others=len(others),
        others_wrong=int(is_wrong[others.index].sum()),
    )
