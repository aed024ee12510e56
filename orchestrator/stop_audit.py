"""How often a stop certificate was wrong, by the certified trials that ran to their end all the same."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from trainables.certificates import Certificate
from trainables.result import SATISFYING, Outcome

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class StopAudit:
    """Trials `stopped` for their certificate, and those `audited`: certified, but trained to their last epoch.

    `wrong` ones of these did not end stuck: a share of at most `upper_bound` (exact one-sided 95% bound by Clopper and
    Pearson; 1 without audits).
    """

    stopped: int
    audited: int
    wrong: int
    upper_bound: float

    def line(self) -> str:
        """The audit in words."""
        found = f"{self.stopped} trials stopped for a certificate; "
        if not self.audited:
            return f"{found}none was audited yet"
        return (
            f"{found}of {self.audited} audits that ran to the end {self.wrong} were wrong "
            f"(a wrong-stop rate of at most {self.upper_bound:.2g}, {CONFIDENCE:.0%} confidence)"
        )


def stop_audit(trials: pd.DataFrame) -> StopAudit:
    """Of rows of the ledger's trials."""
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    certified = trials[(trials["certificate"] == Certificate.WEIGHT_BOX) & trials["outcome"].isin(SATISFYING)]
    ran_to_end = certified["epochs_done"] >= certified["num_epochs"]
    audited = int(ran_to_end.sum())
    wrong = int((certified["outcome"][ran_to_end] != Outcome.STUCK).sum())
    upper = 1.0
    if audited:
        bound = binomtest(wrong, audited, alternative="less").proportion_ci(CONFIDENCE, method="exact")
        upper = float(bound.high)
    return StopAudit(int((~ran_to_end).sum()), audited, wrong, upper)
