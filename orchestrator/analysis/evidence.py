"""Evidence that stays valid however often one looks: e-values, confidence sequences, verdicts corrected over cells.

Values are arrays of counts and errors; nothing here knows of trials. An e-value is nonnegative with expectation at most
1 where its null hypothesis is true, at any stopping time, so that e >= 1/alpha has probability at most alpha (Ville's
inequality).
"""

from __future__ import annotations

import math
from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special  # type: ignore[import-untyped]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Verdict(StrEnum):
    """What is claimed of a cell: which optimizers work in it, each for more than half of all seeds."""

    ONLY_ADAM = "only_adam"
    ONLY_ADAMW = "only_adamw"
    BOTH = "both"
    NEITHER = "neither"
    UNDECIDED = "undecided"


CLAIMS = (Verdict.ONLY_ADAM, Verdict.ONLY_ADAMW, Verdict.BOTH, Verdict.NEITHER)
"""The four that exclude each other, differences first: the last axis of e-values."""

_FALSE_SIDES = 2

PRIOR = 0.2
"""Both parameters of the beta prior over P: near its ends, so that seeds that all agree decide soon."""

_NUM_BETS = 32


def log_mixture(successes: ArrayLike, n: ArrayLike) -> Floats:
    """Log of the chance of each exact sequence of draws, n with that many successes, under P ~ Beta(PRIOR, PRIOR)."""
    wins, losses = np.asarray(successes) + PRIOR, np.asarray(n) - np.asarray(successes) + PRIOR
    return np.asarray(special.betaln(wins, losses) - special.betaln(PRIOR, PRIOR))


def log_e_above_half(successes: ArrayLike, n: ArrayLike) -> Floats:
    """Log e-value against P <= 1/2 from n draws, each a success with chance P; against P >= 1/2 by swapping outcomes.

    The mixture of likelihood ratios p : 1/2 over the half of the beta prior above 1/2 (Robbins 1970). Each ratio is a
    test supermartingale for every P <= 1/2, and so is their mixture: seeds may be added after a look at the results.
    """
    wins, draws = np.broadcast_arrays(np.asarray(successes), np.asarray(n))
    log_e = np.empty(wins.shape)
    for size in np.unique(draws):
        log_e[draws == size] = _log_e_of_size(int(size))[wins[draws == size]]
    return log_e


@lru_cache(maxsize=10_000)
def _log_e_of_size(n: int) -> Floats:
    """`log_e_above_half` for 0 to n successes."""
    successes = np.arange(n + 1)
    # P(p > 1/2) under the posterior; the prior's own is 1/2
    share_above = special.betaincc(successes + PRIOR, n - successes + PRIOR, 0.5)
    with np.errstate(divide="ignore"):
        return np.asarray(log_mixture(successes, n) + np.log(share_above) + (n + 1) * math.log(2))


@lru_cache(maxsize=100_000)
def proportion_interval(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Confidence sequence of a proportion: the interval after n draws; all of them hold P at once with `confidence`.

    The P whose likelihood the beta mixture does not exceed 1 / (1 - confidence) times (Robbins 1970, method of
    mixtures). It always holds successes / n, and is [0, 1] for n = 0.
    """
    limit = math.log(1 / (1 - confidence))
    mixture = float(log_mixture(successes, n))

    def excess(p: float) -> float:
        log_likelihood = special.xlogy(successes, p) + special.xlog1py(n - successes, -p)
        return float(mixture - log_likelihood - limit)

    def end(outer: float) -> float:
        # an end's excess is infinite unless all draws agree on it
        inner = successes / n
        near = outer + (inner - outer) * 1e-12
        return outer if excess(near) <= 0 else float(optimize.brentq(excess, near, inner, xtol=1e-12))

    return (end(0.0), end(1.0)) if n else (0.0, 1.0)


def bounded_mean_interval(
    values: ArrayLike, confidence: float, low: float = -1.0, high: float = 1.0
) -> tuple[Floats, Floats]:
    """Confidence sequence of the mean of values in [low, high]: its interval after the n values of the last axis.

    The hedged capital of Waudby-Smith & Ramdas (2024), each side at half the error, with constant fractions of the
    capital at stake, averaged over a fixed grid: so the order of the values does not matter. No assumption on their
    distribution, so it is wide for few values even where they are all alike. It always holds the sample mean.
    """
    scaled = (np.asarray(values, dtype=np.float64) - low) / (high - low)
    if scaled.size and not (np.all(scaled >= 0) and np.all(scaled <= 1)):
        raise ValueError(f"values must lie in [{low}, {high}]")
    log_limit = math.log(2 / (1 - confidence))
    lower, upper = _lower_bound(scaled, log_limit), 1 - _lower_bound(1 - scaled, log_limit)
    return low + lower * (high - low), low + upper * (high - low)


def _lower_bound(unit: Floats, log_limit: float) -> Floats:
    """The mean at which betting that the values of the last axis, in [0, 1], are larger would just reach the limit."""
    below = np.zeros(unit.shape[:-1])
    above = unit.mean(axis=-1) if unit.shape[-1] else below  # at the sample mean no bet has gained
    for _ in range(40):
        middle = (below + above) / 2
        is_refuted = log_capital(unit, middle) >= log_limit
        below, above = np.where(is_refuted, middle, below), np.where(is_refuted, above, middle)
    return below


def log_capital(unit: ArrayLike, mean: ArrayLike) -> Floats:
    """Log of the capital won by betting that values in [0, 1], along the last axis, exceed `mean`; decreasing in it.

    The average over fractions t of prod(1 - t + t * value / mean), at Chebyshev nodes of the arcsine law in t.
    """
    fractions = (1 - np.cos((np.arange(_NUM_BETS) + 0.5) * math.pi / _NUM_BETS)) / 2
    gains = np.asarray(unit) / np.maximum(np.asarray(mean), 1e-300)[..., None]
    logs = np.log1p(fractions[:, None] * (gains[..., None, :] - 1)).sum(axis=-1)
    return np.asarray(special.logsumexp(logs, axis=-1) - math.log(_NUM_BETS))


def e_bh(log_e: Floats, family: float, alpha: float, granted: int = 0) -> NDArray[np.bool_]:
    """e-BH (Wang & Ramdas 2022): the largest set of k claims whose e-values all reach family / (alpha * (k + granted)).

    The false share of the set is at most alpha in expectation, under any dependence, if the e-values of false claims
    sum to at most `family` in expectation. `granted` claims were found before, at thresholds at least as high.
    """
    order = np.argsort(-log_e, kind="stable")
    ranks = np.arange(1, len(log_e) + 1) + granted
    reached = np.flatnonzero(log_e[order] >= math.log(family / alpha) - np.log(ranks) if len(log_e) else [])
    found = np.zeros(len(log_e), dtype=np.bool_)
    found[order[: reached[-1] + 1 if len(reached) else 0]] = True
    return found


def log_e_values(num_works: Ints, n: Ints) -> Floats:
    """Log e-values [cell, claim] of the four `CLAIMS`, from how many of n seeds work: [cell, 2], Adam's and AdamW's.

    A claim has a side for each optimizer (works: P > 1/2, does not: P < 1/2) and is false where one side is false;
    the lesser of the sides' e-values is an e-value against that, however the halves of a pair depend on each other.
    """
    does, does_not = log_e_above_half(num_works, n), log_e_above_half(n - num_works, n)
    (adam, adamw), (no_adam, no_adamw) = does.T, does_not.T
    sides = ((adam, no_adamw), (no_adam, adamw), (adam, adamw), (no_adam, no_adamw))
    return np.stack([np.minimum(*pair) for pair in sides], axis=1)


def decide(log_e: Floats, alpha: float) -> NDArray[np.object_]:
    """Each cell's `Verdict` from log e-values [cell, claim] of all cells of the map.

    Differences (`only_adam`, `only_adamw`) are granted by e-BH among themselves; `both` and `neither` then by e-BH
    that counts them as found. So two things hold at any moment at which one stops adding seeds:

    - of all verdicts, and of the differences alone, at most a share alpha is false in expectation (FDR);
    - where no cell has a difference (P equal, or on the same side of 1/2), the chance that any look at the map grants
      any difference is at most alpha: the moment of the first one is a moment to stop at, and its FDR is that chance.

    Both levels hold in full, since the second family's thresholds only fall by the first's finds (they are
    self-consistent, Wang & Ramdas 2022). Both families are twice the number of cells, not four times: claims exclude
    each other, and the e-value of a false one is at most the sum of its cell's false sides' e-values, of which there
    is one for each optimizer (or both of one whose P is 1/2 exactly). A verdict stays while only undecided cells get
    seeds: the granted set still qualifies. More cells on the map, or seeds for a decided cell, may withdraw it.
    """
    differs, agrees = log_e[:, :2], log_e[:, 2:]
    family = _FALSE_SIDES * len(log_e)
    is_different = e_bh(differs.max(axis=1), family, alpha)
    is_alike = e_bh(np.where(is_different, -np.inf, agrees.max(axis=1)), family, alpha, int(is_different.sum()))
    claims = np.where(is_different, differs.argmax(axis=1), 2 + agrees.argmax(axis=1))
    return np.where(is_different | is_alike, np.array(CLAIMS, dtype=object)[claims], Verdict.UNDECIDED)


def can_be_decided(num_works: Ints, n: Ints, max_seeds: int, alpha: float) -> NDArray[np.bool_]:
    """Whether seeds up to `max_seeds` that all favour one claim could still grant it; counts are [cell, 2]."""
    more = np.maximum(max_seeds - n, 0)
    best = [
        log_e_values(num_works + more * np.array(to_works), n + more) for to_works in ((1, 0), (0, 1), (1, 1), (0, 0))
    ]
    strongest = np.stack([log_e[:, i] for i, log_e in enumerate(best)], axis=1).max(axis=1)
    return np.asarray(strongest >= math.log(least_evidence(alpha)))


def least_evidence(alpha: float) -> float:
    """The e-value that a verdict takes on a map of one cell, or where all are decided; elsewhere it takes more."""
    return _FALSE_SIDES / alpha


def fewest_seeds(alpha: float) -> int:
    """The fewest seeds, all alike, that can decide a cell, on a map of one cell or where all cells are decided."""
    n = 1
    while float(log_e_above_half(n, n)) < math.log(least_evidence(alpha)):
        n += 1
    return n


def evidence_needed(verdicts: NDArray[np.object_], alpha: float) -> Floats:
    """The e-value that one more cell takes for each of `CLAIMS`, beside the verdicts already given on the map."""
    num_differences, num_verdicts = np.isin(verdicts, CLAIMS[:2]).sum(), (verdicts != Verdict.UNDECIDED).sum()
    granted = np.array([num_differences, num_differences, num_verdicts, num_verdicts])
    return np.asarray(_FALSE_SIDES * len(verdicts) / alpha / (1 + granted))
