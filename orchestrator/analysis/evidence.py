"""Statistics that stay valid however often one looks: e-values, confidence sequences, verdicts on many cells.

Functions take arrays of counts and errors, and know nothing of trials. An e-value is nonnegative and, if its null
hypothesis is true, has expectation at most 1 at any stopping time, so that e >= 1/alpha has probability at most alpha
(Ville's inequality).
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
"""The four mutually exclusive claims, differences first: the last axis of e-values."""

_FALSE_SIDES = 2

PRIOR = 0.2
"""Both parameters of the beta prior over P; it has most mass near 0 and 1, so that seeds that all agree decide soon."""

_NUM_BETS = 32


def log_mixture(successes: ArrayLike, n: ArrayLike) -> Floats:
    """Log probability of one sequence of n results with that many successes, under P ~ Beta(PRIOR, PRIOR)."""
    wins, losses = np.asarray(successes) + PRIOR, np.asarray(n) - np.asarray(successes) + PRIOR
    return np.asarray(special.betaln(wins, losses) - special.betaln(PRIOR, PRIOR))


def log_e_above_half(successes: ArrayLike, n: ArrayLike) -> Floats:
    """Log e-value against P <= 1/2 from n results, each a success with probability P; swap outcomes for P >= 1/2.

    It is the mixture of likelihood ratios p : 1/2 over the half of the beta prior above 1/2 (Robbins 1970). Each ratio
    is a test supermartingale for every P <= 1/2, and so is their mixture: seeds may be added after a look at results.
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
    # P(p > 1/2) under the posterior; under the prior it is 1/2
    share_above = special.betaincc(successes + PRIOR, n - successes + PRIOR, 0.5)
    with np.errstate(divide="ignore"):
        return np.asarray(log_mixture(successes, n) + np.log(share_above) + (n + 1) * math.log(2))


@lru_cache(maxsize=100_000)
def proportion_interval(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Confidence sequence of a proportion P: the interval after n results; all n together cover P with `confidence`.

    It holds each P for which the beta mixture is at most 1 / (1 - confidence) times P's likelihood (Robbins 1970,
    method of mixtures). It always contains successes / n, and is [0, 1] for n = 0.
    """
    limit = math.log(1 / (1 - confidence))
    mixture = float(log_mixture(successes, n))

    def excess(p: float) -> float:
        log_likelihood = special.xlogy(successes, p) + special.xlog1py(n - successes, -p)
        return float(mixture - log_likelihood - limit)

    def end(outer: float) -> float:
        # the excess at 0 or 1 is infinite unless all results agree on it
        inner = successes / n
        near = outer + (inner - outer) * 1e-12
        return outer if excess(near) <= 0 else float(optimize.brentq(excess, near, inner, xtol=1e-12))

    return (end(0.0), end(1.0)) if n else (0.0, 1.0)


def bounded_mean_interval(
    values: ArrayLike, confidence: float, low: float = -1.0, high: float = 1.0
) -> tuple[Floats, Floats]:
    """Confidence sequence of the mean of values in [low, high]: its interval after the n values of the last axis.

    It is the hedged capital of Waudby-Smith & Ramdas (2024), each side at half the error probability. The fractions of
    the capital at stake are constant and averaged over a fixed grid, so the order of the values does not matter. It
    assumes nothing about their distribution, so it is wide for few values even if all are equal. It always contains
    the sample mean.
    """
    scaled = (np.asarray(values, dtype=np.float64) - low) / (high - low)
    if scaled.size and not (np.all(scaled >= 0) and np.all(scaled <= 1)):
        raise ValueError(f"values must lie in [{low}, {high}]")
    log_limit = math.log(2 / (1 - confidence))
    lower, upper = _lower_bound(scaled, log_limit), 1 - _lower_bound(1 - scaled, log_limit)
    return low + lower * (high - low), low + upper * (high - low)


def _lower_bound(unit: Floats, log_limit: float) -> Floats:
    """The mean at which the capital from betting that the values, in [0, 1], exceed it would just reach the limit."""
    below = np.zeros(unit.shape[:-1])
    above = unit.mean(axis=-1) if unit.shape[-1] else below  # at the sample mean no bet has gained anything
    for _ in range(40):
        middle = (below + above) / 2
        is_refuted = log_capital(unit, middle) >= log_limit
        below, above = np.where(is_refuted, middle, below), np.where(is_refuted, above, middle)
    return below


def log_capital(unit: ArrayLike, mean: ArrayLike) -> Floats:
    """Log of the capital won by betting that values in [0, 1], along the last axis, exceed `mean`; it falls in `mean`.

    It is the average of prod(1 - t + t * value / mean) over fractions t at Chebyshev nodes of the arcsine law.
    """
    fractions = (1 - np.cos((np.arange(_NUM_BETS) + 0.5) * math.pi / _NUM_BETS)) / 2
    gains = np.asarray(unit) / np.maximum(np.asarray(mean), 1e-300)[..., None]
    logs = np.log1p(fractions[:, None] * (gains[..., None, :] - 1)).sum(axis=-1)
    return np.asarray(special.logsumexp(logs, axis=-1) - math.log(_NUM_BETS))


def e_bh(log_e: Floats, family: float, alpha: float, granted: int = 0) -> NDArray[np.bool_]:
    """e-BH (Wang & Ramdas 2022): the largest set of k claims whose e-values all reach family / (alpha * (k + granted)).

    The expected share of false claims in the set is at most alpha, under any dependence, if the e-values of false
    claims sum to at most `family` in expectation. `granted` claims were found before, at thresholds at least as high.
    """
    order = np.argsort(-log_e, kind="stable")
    ranks = np.arange(1, len(log_e) + 1) + granted
    reached = np.flatnonzero(log_e[order] >= math.log(family / alpha) - np.log(ranks) if len(log_e) else [])
    found = np.zeros(len(log_e), dtype=np.bool_)
    found[order[: reached[-1] + 1 if len(reached) else 0]] = True
    return found


def log_e_values(num_works: Ints, n: Ints) -> Floats:
    """Log e-values [cell, claim] of the four `CLAIMS`; how many of n seeds work is given as [cell, (Adam, AdamW)].

    A claim has a side for each optimizer (works: P > 1/2, does not: P < 1/2) and is false if one side is false. The
    smaller of the sides' e-values is an e-value against that, however the halves of a pair depend on each other.
    """
    does, does_not = log_e_above_half(num_works, n), log_e_above_half(n - num_works, n)
    (adam, adamw), (no_adam, no_adamw) = does.T, does_not.T
    sides = ((adam, no_adamw), (no_adam, adamw), (adam, adamw), (no_adam, no_adamw))
    return np.stack([np.minimum(*pair) for pair in sides], axis=1)


def decide(log_e: Floats, alpha: float) -> NDArray[np.object_]:
    """Each cell's `Verdict` from log e-values [cell, claim] of all cells of the map.

    Differences (`only_adam`, `only_adamw`) are granted by e-BH among themselves; then `both` and `neither` by e-BH
    that counts the differences as found. So two statements hold at any moment at which one stops adding seeds:

    - Of all verdicts, and of the differences alone, at most a share alpha is false in expectation (FDR).
    - If no cell has a difference (P equal, or on the same side of 1/2), the probability that any look at the map grants
      any difference is at most alpha: one may stop at the first difference, and the FDR there is that probability.

    Each holds at the full level alpha, since the differences found only lower the second family's thresholds (they are
    self-consistent, Wang & Ramdas 2022). Both families count twice the number of cells, not four times: claims exclude
    each other, and the e-value of a false claim is at most the sum of the e-values of its cell's false sides. A cell
    has one false side for each optimizer (or both sides of an optimizer whose P is exactly 1/2). A verdict stays while
    only undecided cells get seeds, because the granted set still qualifies. More cells on the map, or seeds for a
    decided cell, may withdraw it.
    """
    differs, agrees = log_e[:, :2], log_e[:, 2:]
    family = _FALSE_SIDES * len(log_e)
    is_different = e_bh(differs.max(axis=1), family, alpha)
    is_alike = e_bh(np.where(is_different, -np.inf, agrees.max(axis=1)), family, alpha, int(is_different.sum()))
    claims = np.where(is_different, differs.argmax(axis=1), 2 + agrees.argmax(axis=1))
    return np.where(is_different | is_alike, np.array(CLAIMS, dtype=object)[claims], Verdict.UNDECIDED)


def can_be_decided(num_works: Ints, n: Ints, max_seeds: int, alpha: float) -> NDArray[np.bool_]:
    """Whether more seeds up to `max_seeds`, all in favour of one claim, could still grant it; counts are [cell, 2]."""
    more = np.maximum(max_seeds - n, 0)
    best = [
        log_e_values(num_works + more * np.array(to_works), n + more) for to_works in ((1, 0), (0, 1), (1, 1), (0, 0))
    ]
    strongest = np.stack([log_e[:, i] for i, log_e in enumerate(best)], axis=1).max(axis=1)
    return np.asarray(strongest >= math.log(least_evidence(alpha)))


def least_evidence(alpha: float) -> float:
    """The e-value that a verdict needs on a map of one cell, or if all cells are decided; otherwise it needs more."""
    return _FALSE_SIDES / alpha


def fewest_seeds(alpha: float) -> int:
    """The fewest seeds, all with equal results, that can decide a cell on a map of one cell or of decided cells."""
    n = 1
    while float(log_e_above_half(n, n)) < math.log(least_evidence(alpha)):
        n += 1
    return n


def evidence_needed(verdicts: NDArray[np.object_], alpha: float) -> Floats:
    """The e-value that one more cell needs for each of `CLAIMS`, given the verdicts already on the map."""
    num_differences, num_verdicts = np.isin(verdicts, CLAIMS[:2]).sum(), (verdicts != Verdict.UNDECIDED).sum()
    granted = np.array([num_differences, num_differences, num_verdicts, num_verdicts])
    return np.asarray(_FALSE_SIDES * len(verdicts) / alpha / (1 + granted))
