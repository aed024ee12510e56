"""Checks that verdicts, intervals and exponents are wrong as rarely as they claim: `python -m tests.benchmarks.claims`.

- Maps of 500 cells without any difference, each through the whole loop (look, add seeds where undecided, look again):
  the share of maps in which no look grants a difference (at least 95%), and the false share of verdicts (at most 5%).
- Maps with differences: the share of cells decided rightly, and the seeds that took.
- Intervals: how often they hold the truth at the look where one stops, and at all looks (at least 93%).
- Exponents of simulated scaling laws, from trials on a grid and trials placed by the fit so far (at least 93%).

`--maps` and `--laws` make it shorter. Chance of a simulation: a share of 95% of 1,000 has a standard error of 0.7%.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy  # type: ignore[import-untyped]
from numpy.typing import NDArray
from scipy import special

from orchestrator.analysis.claims import ClaimRule, seeds_to_add
from orchestrator.analysis.evidence import (
    CLAIMS,
    Verdict,
    bounded_mean_interval,
    decide,
    log_e_values,
    proportion_interval,
)
from orchestrator.analysis.scaling import ScalingFit, fit_scaling

Floats = NDArray[np.float64]
NUM_CELLS = 500
RULE = ClaimRule()
LOOKS = (8, 12, 18, 27, 32)


def main() -> None:
    """Print every share with its n."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=1000)
    parser.add_argument("--laws", type=int, default=1000)
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores, python {platform.python_version()}, ", end="")
    print(f"numpy {np.__version__}, scipy {scipy.__version__}, pandas {pd.__version__}; {RULE}")
    benches: tuple[Callable[[], None], ...] = (
        lambda: bench_null_maps(args.maps),
        lambda: bench_power(max(1, args.maps // 20)),
        bench_proportions,
        bench_differences,
        lambda: bench_exponents(args.laws),
    )
    for bench in benches:
        started = time.perf_counter()
        bench()
        print(f"  ({time.perf_counter() - started:.0f} s)\n", flush=True)


@dataclass(frozen=True)
class Run:
    """One map through the loop: last verdicts, seeds of each cell, and whether any look granted a difference."""

    verdicts: NDArray[np.object_]
    num_seeds: NDArray[np.int64]
    had_difference: bool
    num_withdrawn: int


def run_map(p: Floats, correlation: float, rng: np.random.Generator, rule: ClaimRule = RULE) -> Run:
    """Look, add seeds, look again, until no cell gets any more; `p` is [cell, 2], the chance to work.

    `correlation` is that of the normal scores behind the two halves of a pair.
    """
    scores = rng.standard_normal((2, len(p), rule.max_seeds))
    scores[1] = correlation * scores[0] + np.sqrt(1 - correlation**2) * scores[1]
    is_working = special.ndtr(scores) < p.T[:, :, None]
    totals = np.concatenate([np.zeros((2, len(p), 1), int), is_working.cumsum(axis=2)], axis=2)
    claims = pd.DataFrame({"num_seeds": np.zeros(len(p), int), "verdict": Verdict.UNDECIDED})
    had_difference, num_withdrawn = False, 0
    while True:
        n = claims["num_seeds"].to_numpy()
        num_works = np.stack([half[np.arange(len(p)), n] for half in totals], axis=1)
        before = claims["verdict"].to_numpy()
        verdicts = decide(log_e_values(num_works, np.stack([n, n], axis=1)), rule.alpha)
        num_withdrawn += int(((before != verdicts) & (before != Verdict.UNDECIDED)).sum())
        had_difference |= bool(np.isin(verdicts, CLAIMS[:2]).any())
        columns = {"n_adam": n, "n_adamw": n, "works_adam": num_works[:, 0], "works_adamw": num_works[:, 1]}
        claims = claims.assign(verdict=verdicts, **columns)
        more = seeds_to_add(claims, rule)
        if not more.any():
            return Run(verdicts, n, had_difference, num_withdrawn)
        claims["num_seeds"] += more


def false_share(run: Run, p: Floats) -> tuple[float, float]:
    """Share of false verdicts, among all verdicts and among the differences; a side is false also at P = 1/2."""
    adam_works = np.isin(run.verdicts, (Verdict.ONLY_ADAM, Verdict.BOTH))
    adamw_works = np.isin(run.verdicts, (Verdict.ONLY_ADAMW, Verdict.BOTH))
    stated = np.stack([adam_works, adamw_works], axis=1)
    is_false = np.where(stated, p <= 0.5, p >= 0.5).any(axis=1)
    shares = [is_false[np.isin(run.verdicts, claims)] for claims in (CLAIMS, CLAIMS[:2])]
    return float(shares[0].mean() if len(shares[0]) else 0), float(shares[1].mean() if len(shares[1]) else 0)


def null_laws(rng: np.random.Generator) -> Iterator[tuple[str, Callable[[], Floats], float]]:
    """Names, draws of P in each cell, and correlations of the halves of a pair."""

    def mostly_sure() -> Floats:
        sure = rng.integers(0, 2, NUM_CELLS).astype(float)
        return np.where(rng.random(NUM_CELLS) < 0.9, sure, 0.5)

    yield "P = 1/2", lambda: np.full(NUM_CELLS, 0.5), 0.0
    yield "P = 1/2, halves alike", lambda: np.full(NUM_CELLS, 0.5), 0.8
    yield "P = 1/2, halves opposite", lambda: np.full(NUM_CELLS, 0.5), -1.0
    yield "P ~ U(0, 1)", lambda: rng.random(NUM_CELLS), 0.0
    yield "P in {0, 1}, a tenth 1/2", mostly_sure, 0.0
    yield "the same, halves opposite", mostly_sure, -1.0


def bench_null_maps(num_maps: int) -> None:
    """Maps in which both optimizers have the same chance in every cell."""
    print(f"No difference anywhere: {num_maps} maps of {NUM_CELLS} cells, whole loop with added seeds")
    print(
        f"  {'law':<26} {'no difference granted':>22} {'FDR':>8} {'decided':>8} {'seeds a cell':>13} {'withdrawn':>10}"
    )
    rng = np.random.default_rng(1)
    for name, law, correlation in null_laws(rng):
        rows = []
        for _ in range(num_maps):
            p = np.repeat(law()[:, None], 2, axis=1)
            run = run_map(p, correlation, rng)
            decided = (run.verdicts != Verdict.UNDECIDED).mean()
            share, _ = false_share(run, p)
            rows.append((not run.had_difference, share, decided, run.num_seeds.mean(), run.num_withdrawn))
        clean, fdr, decided, seeds, withdrawn = np.mean(rows, axis=0)
        print(f"  {name:<26} {clean:>22.1%} {fdr:>8.2%} {decided:>8.1%} {seeds:>13.1f} {withdrawn:>10.0f}", flush=True)


def bench_power(num_maps: int) -> None:
    """Maps in which a share of cells differs and the others work, or not, for both with the same chances."""
    print(f"A difference in some cells: {num_maps} maps of {NUM_CELLS} cells, the others alike with the same chances")
    heads = (
        f"{'cells':>6} {'decided rightly':>16} {'others rightly':>15} {'seeds':>6} {'FDR':>7} {'of differences':>15}"
    )
    print(f"  {'P':<13} {heads}")
    rng = np.random.default_rng(2)
    for high in (1.0, 0.95, 0.9, 0.8):
        for share in (0.1, 0.5):
            rows = []
            for _ in range(num_maps):
                differs = np.arange(NUM_CELLS) < share * NUM_CELLS
                adam = np.where(differs | (rng.random(NUM_CELLS) < 0.5), high, 1 - high)
                p = np.stack([adam, np.where(differs, 1 - high, adam)], axis=1)
                run = run_map(p, 0.0, rng)
                alike = np.where(adam > 0.5, Verdict.BOTH, Verdict.NEITHER)
                rightly = run.verdicts == np.where(differs, Verdict.ONLY_ADAM, alike)
                seeds = run.num_seeds[differs].mean()
                rows.append((rightly[differs].mean(), rightly[~differs].mean(), seeds, *false_share(run, p)))
            power, others, seeds, fdr, fdr_differences = np.mean(rows, axis=0)
            law = f"({high:g}, {1 - high:.2g})"
            found = f"{share:>6.0%} {power:>16.1%} {others:>15.1%} {seeds:>6.1f} {fdr:>7.2%} {fdr_differences:>15.2%}"
            print(f"  {law:<13} {found}", flush=True)


def bench_proportions(num_runs: int = 10_000) -> None:
    """Intervals of P(works), looked at after every seed up to 32, stopped where 1/2 is excluded."""
    print(f"Intervals of P(works), 95%, a look after every seed up to {LOOKS[-1]}; {num_runs} runs each")
    print(f"  {'P':>5} {'at stopping':>12} {'at all looks':>13} {'mean width at stopping':>23} {'at 32':>7}")
    rng = np.random.default_rng(3)
    last = LOOKS[-1]
    table = np.full((last + 1, last + 1, 2), np.nan)
    for n in range(1, last + 1):
        table[n, : n + 1] = [proportion_interval(k, n, RULE.confidence) for k in range(n + 1)]
    for p in (0.0, 0.02, 0.1, 0.3, 0.5, 0.8, 0.95):
        totals = (rng.random((num_runs, last)) < p).cumsum(axis=1)
        low, high = np.moveaxis(table[np.arange(1, last + 1), totals], -1, 0)
        report_coverage(f"{p:>5}", low, high, p, (low > 0.5) | (high < 0.5))


def bench_differences(num_runs: int = 1000) -> None:
    """Intervals of the mean paired difference, at the rule's looks, stopped where 0 is excluded."""
    print(f"Intervals of the mean difference of error, 95%, looks after {LOOKS} pairs; {num_runs} runs each")
    heads = f"{'at stopping':>12} {'at all looks':>13} {'mean width at stopping':>23} {'at 32':>7}"
    print(f"  {'law of a difference':<26} {heads}")
    rng = np.random.default_rng(4)
    size = (num_runs, LOOKS[-1])
    laws = {
        "0 always": (np.zeros(size), 0.0),
        "normal, std 0.02": (rng.normal(0, 0.02, size).clip(-1, 1), 0.0),
        "uniform on [-1, 1]": (rng.uniform(-1, 1, size), 0.0),
        "-1 or 1, evenly": (rng.choice([-1.0, 1.0], size), 0.0),
        "1 in one of 20, else 0": ((rng.random(size) < 0.05).astype(float), 0.05),
        "1 in 19 of 20, else 0": ((rng.random(size) < 0.95).astype(float), 0.95),
        "0.5 + Beta(2, 2) / 2": (0.5 + rng.beta(2, 2, size) / 2, 0.75),
    }
    for name, (values, mean) in laws.items():
        ends = [bounded_mean_interval(values[:, :n], RULE.confidence) for n in LOOKS]
        low, high = (np.stack(side, axis=1) for side in zip(*ends, strict=True))
        report_coverage(f"{name:<26}", low, high, mean, (low > 0) | (high < 0))


def report_coverage(name: str, low: Floats, high: Floats, truth: float, is_enough: NDArray[np.bool_]) -> None:
    """One line for intervals [run, look]; a run stops at its first look that is enough, or at the last."""
    is_enough[:, -1] = True
    runs, stop = np.arange(len(low)), is_enough.argmax(axis=1)
    holds, width = (low <= truth) & (truth <= high), high - low
    at_stop, always = holds[runs, stop].mean(), holds.all(axis=1).mean()
    print(
        f"  {name} {at_stop:>12.1%} {always:>13.1%} {width[runs, stop].mean():>23.2f} {width[:, -1].mean():>7.2f}",
        flush=True,
    )


@dataclass(frozen=True)
class Law:
    """A true scaling law; lambda_max = 10^threshold * x^k for x in [0.1, 10]."""

    k: float
    threshold: float
    width: float
    lapse: float

    def works(self, log_x: Floats, log_decay: Floats, rng: np.random.Generator) -> NDArray[np.bool_]:
        """One result for each draw."""
        p = special.ndtr((self.threshold + self.k * log_x - log_decay) / self.width)
        return np.asarray(rng.random(len(log_x)) < self.lapse + (1 - 2 * self.lapse) * p)


def bench_exponents(num_laws: int) -> None:
    """95% intervals of the exponent and of the threshold at x = 3, for laws and numbers of draws at random."""
    print(f"Exponents: {num_laws} laws each, k in {{1, 2}}, width 0.03-0.3 decade, lapse 0 or 0.01, 30-100 draws")
    heads = f"{'k held':>8} {'median width':>13} {'threshold held':>15} {'median width':>13} {'least points':>13}"
    print(f"  {'draws':<10} {heads}")
    designs: dict[str, Callable[[Law, int, np.random.Generator], ScalingFit]] = {
        "grid": on_grid,
        "adaptive": adaptively,
    }
    for design, fitted in designs.items():
        rng = np.random.default_rng(5)
        rows, where = [], []
        for _ in range(num_laws):
            law = Law(
                rng.choice([1, 2]), rng.uniform(-4.5, -3.5), 10 ** rng.uniform(-1.52, -0.52), rng.choice([0, 0.01])
            )
            num_draws = int(rng.integers(30, 101))
            fit = fitted(law, num_draws, rng)
            k, threshold = fit.exponent(), fit.threshold(3.0)
            k_holds = k.low <= law.k <= k.high
            holds = threshold.low <= law.threshold + law.k * np.log10(3) <= threshold.high
            rows.append((k_holds, k.high - k.low, holds, threshold.high - threshold.low, fit.num_effective))
            where.append((law.width < 0.1, num_draws < 65, law.lapse == 0))
        held, width, t_held, t_width, points = np.array(rows, dtype=float).T
        k_text = f"{held.mean():>8.1%} {np.median(width):>13.2f}"
        print(f"  {design:<10} {k_text} {t_held.mean():>15.1%} {np.median(t_width):>13.2f} {points.min():>13.0f}")
        parts = zip(("width < 0.1", "< 65 draws", "no lapses"), np.array(where).T, strict=True)
        print(
            "    k held: " + ", ".join(f"{n} {held[at].mean():.1%}, else {held[~at].mean():.1%}" for n, at in parts),
            flush=True,
        )


def on_grid(law: Law, num_draws: int, rng: np.random.Generator) -> ScalingFit:
    """Five x, and at each an even grid over five decades of lambda."""
    log_x = np.resize(np.linspace(-1, 1, 5), num_draws)
    log_decay = np.linspace(-6.5, -1.5, -(-num_draws // 5)).repeat(5)[:num_draws]
    return fit_scaling(10**log_x, 10**log_decay, law.works(log_x, log_decay, rng))


def adaptively(law: Law, num_draws: int, rng: np.random.Generator) -> ScalingFit:
    """Twenty draws anywhere, then rounds of twenty near the threshold of the fit so far, at x anywhere."""
    log_x, log_decay, works = np.array([]), np.array([]), np.array([], dtype=bool)
    fit = None
    while len(log_x) < num_draws:
        size = min(20, num_draws - len(log_x))
        new_x, new_decay = rng.uniform(-1, 1, size), rng.uniform(-6.5, -1.5, size)
        if fit is not None:
            band = fit.threshold(10**new_x)
            spread = np.maximum((band.high - band.low) / 4, fit.width().value)
            new_decay = band.value + spread * rng.standard_normal(size)
        log_x, log_decay = np.concatenate([log_x, new_x]), np.concatenate([log_decay, new_decay])
        works = np.concatenate([works, law.works(new_x, new_decay, rng)])
        fit = fit_scaling(10**log_x, 10**log_decay, works)
    assert fit is not None
    return fit


if __name__ == "__main__":
    main()
