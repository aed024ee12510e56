"""Counts evaluations until a boundary is known: `python -m tests.benchmarks.boundary [--field F] [--dim 2|3] ...`.

Analytic regions of the unit square and cube are read from binary outcomes, each flipped with probability `noise`, that
are asked for in batches of four. A method needs n evaluations if from n to the end of its budget the region that the
model sees has an intersection over union (IoU) of at least 0.95 with the truth on the grid (33 x 33 or 16 x 16 x 16).
All methods' points are judged by one model, `level_set.model.fit`. The budget is an eighth of the grid for `ours`, and
`--cap` times that for the others.

An optimizer has no boundary to look for: TPE and GPSampler minimize |P - 1/2|, P being that same model's after all
outcomes so far, recomputed at every batch. `knowing` is not a method but a bound on what can be expected under noise:
after the design its points lie evenly along the true boundary.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import create_trial
from scipy.spatial import KDTree
from scipy.stats import qmc

from search_spaces.level_set.model import fit
from search_spaces.samplers.boundary import STARTUP_PER_DIMENSION, propose_boundary
from trainables.provenance import provenance

Array = NDArray[np.float64]
Proposer = Callable[[Array, Array, int], Array]
"""From points (n, d), outcomes (n,) and a seed: the next batch (4, d)."""

BATCH = 4
TARGET = 0.95
FIELDS = ("band", "wedge", "disjoint")
SIDE = {2: 33, 3: 16}
CHECK_EVERY = {2: 8, 3: 32}
NEAR = 0.04
NOT_PEERS = ("ours", "knowing")


def is_inside(field: str, points: Array) -> NDArray[np.bool_]:
    """Truth at points (n, d): x is the logarithm of the batch size, y of the weight decay, z of the learning rate."""
    x, y = points[:, 0], points[:, 1]
    z = points[:, 2] - 0.5 if points.shape[1] == 3 else 0.0
    if field == "band":
        return (y > 0.35 - 0.15 * x + 0.2 * z) & (y < 0.75 - 0.25 * x**2 + 0.2 * z)
    if field == "wedge":
        return (y < 0.85 - 0.7 * x - 0.3 * z) & (y > 0.15 + 0.1 * x)
    if points.shape[1] == 2:
        ellipses = (((0.28, 0.3), (0.2, 0.14)), ((0.72, 0.72), (0.14, 0.2)))
    else:
        ellipses = (((0.3, 0.3, 0.3), (0.28, 0.24, 0.26)), ((0.7, 0.7, 0.65), (0.24, 0.28, 0.24)))
    return np.any([np.sum(((points - c) / np.array(r)) ** 2, axis=1) < 1 for c, r in ellipses], axis=0)


def ours(points: Array, outcomes: Array, seed: int) -> Array:
    """The search under test."""
    space = axes(points.shape[1])
    history = [
        (dict(zip(space, map(float, p), strict=True)), (float(y),)) for p, y in zip(points, outcomes, strict=True)
    ]
    return np.array([list(asked.values()) for asked in propose_boundary(space, history, (), BATCH, seed)])


def uniform(points: Array, outcomes: Array, seed: int) -> Array:
    """Independent points."""
    return np.random.default_rng([seed, len(points)]).random((BATCH, points.shape[1]))


def sobol(points: Array, outcomes: Array, seed: int) -> Array:
    """The next of a scrambled sequence."""
    done = len(points)
    sequence = qmc.Sobol(points.shape[1], rng=np.random.default_rng(seed))
    return sequence.random_base2((done + BATCH).bit_length())[done : done + BATCH]


def optimizer(make: Callable[[int], optuna.samplers.BaseSampler]) -> Proposer:
    """An Optuna sampler that minimizes |P - 1/2|."""

    def propose(points: Array, outcomes: Array, seed: int) -> Array:
        space = axes(points.shape[1])
        study = optuna.create_study(sampler=make(seed * 100_003 + len(points)))
        if len(points):
            away = np.abs(fit(points, outcomes, np.ones(len(points))).probability(points) - 0.5)
            for point, value in zip(points, away, strict=True):
                params = dict(zip(space, map(float, point), strict=True))
                study.add_trial(create_trial(value=float(value), params=params, distributions=space))
        return np.array([list(study.ask(space).params.values()) for _ in range(BATCH)])

    return propose


def knowing(field: str, dim: int) -> Proposer:
    """Points that fill a strip of `NEAR` to both sides of the true boundary, each the farthest from those before."""
    space = qmc.Sobol(dim, rng=np.random.default_rng(0)).random_base2(15)
    inside = is_inside(field, space)
    away = np.empty(len(space))
    for side in (inside, ~inside):
        away[side] = KDTree(space[~side]).query(space[side])[0]
    strip = space[away < NEAR]

    def propose(points: Array, outcomes: Array, seed: int) -> Array:
        if len(points) < STARTUP_PER_DIMENSION * dim:
            return sobol(points, outcomes, seed)
        chosen = points
        for _ in range(BATCH):
            farthest = strip[np.argmax(KDTree(chosen).query(strip)[0])]
            chosen = np.concatenate([chosen, farthest[None]])
        return chosen[-BATCH:]

    return propose


METHODS: dict[str, Callable[[str, int], Proposer]] = {
    "ours": lambda *_: ours,
    "knowing": knowing,
    "random": lambda *_: uniform,
    "sobol": lambda *_: sobol,
    "tpe": lambda *_: optimizer(
        lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
    ),
    "gp": lambda *_: optimizer(lambda seed: optuna.samplers.GPSampler(seed=seed)),
}


def axes(dim: int) -> dict[str, BaseDistribution]:
    """The unit cube."""
    return {"xyz"[k]: FloatDistribution(0.0, 1.0) for k in range(dim)}


def run(field: str, dim: int, noise: float, seed: int, method: str, budget: int) -> tuple[int | None, float, float]:
    """Evaluations needed (None: not within the budget), the IoU at its end, seconds for each proposed point."""
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, SIDE[dim])] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    truth, flips = is_inside(field, grid), np.random.default_rng([seed, 7])
    points, outcomes, seconds, checks = np.empty((0, dim)), np.empty(0), 0.0, []
    # peers, with their larger budgets, are judged at coarser steps: the model's cost is cubic
    propose = METHODS[method](field, dim)
    every = CHECK_EVERY[dim] if method in NOT_PEERS else 4 * CHECK_EVERY[dim]
    while len(points) < budget:
        started = time.perf_counter()
        batch = propose(points, outcomes, seed)
        seconds += time.perf_counter() - started
        told = is_inside(field, batch) ^ (flips.random(BATCH) < noise)
        points, outcomes = np.concatenate([points, batch]), np.append(outcomes, told)
        if len(points) % every == 0 or len(points) >= budget:
            seen = fit(points, outcomes, np.ones(len(points))).latent(grid)[0] > 0
            checks.append((len(points), float(np.sum(seen & truth) / np.sum(seen | truth))))
    needed = None
    for num, overlap in reversed(checks):
        if overlap < TARGET:
            break
        needed = num
    return needed, checks[-1][1], seconds / len(points)


def median_text(needed: list[int | None], budget: int) -> str:
    """Median and worst, '>' where it lies beyond the budget."""
    ranked = sorted(budget + 1 if n is None else n for n in needed)
    return " / ".join(f">{budget}" if n > budget else f"{n:.0f}" for n in (statistics.median(ranked), ranked[-1]))


def report(field: str, dim: int, noise: float, arguments: argparse.Namespace) -> None:
    """One line for each method, with the ratio of medians to the first one's."""
    eighth = SIDE[dim] ** dim // 8
    baseline = None
    for method in arguments.methods:
        budget = eighth if method in NOT_PEERS else round(arguments.cap * eighth)
        runs = [run(field, dim, noise, seed, method, budget) for seed in range(arguments.seeds)]
        needed, overlaps = [r[0] for r in runs], [r[1] for r in runs]
        median = statistics.median(budget + 1 if n is None else n for n in needed)
        baseline = (median, budget) if baseline is None else baseline
        ratio = f"{'>' if median > budget else ''}{median / baseline[0]:.1f}x" if baseline[0] <= baseline[1] else "-"
        print(
            f"{field:<9} {dim}  {noise:<5} {method:<7} {sum(n is not None for n in needed):>3}/{len(runs):<3} "
            f"{median_text(needed, budget):>13}  {ratio:>7}   {statistics.median(overlaps):.3f} / {min(overlaps):.3f}"
            f"  {1e3 * statistics.mean(r[2] for r in runs):>7.1f}",
            flush=True,
        )


def main() -> None:
    """Print the table, or the pieces of it that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--field", choices=FIELDS, nargs="+", default=FIELDS)
    parser.add_argument("--dim", type=int, choices=(2, 3), nargs="+", default=(2, 3))
    parser.add_argument("--noise", type=float, nargs="+", default=(0.0, 0.05))
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=tuple(METHODS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--cap", type=float, default=4.0, help="budget of the others, in eighths of the grid")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    where = provenance("none")
    versions = ", ".join(f"{name} {version(name)}" for name in ("optuna", "scipy", "numpy"))
    print(f"{where.device_name}, python {where.python_version}, {versions}; n = {arguments.seeds} seeds")
    print(f"{'field':<9} dim noise method  reached  median / worst  ratio   IoU median / worst  ms a point")
    for dim in arguments.dim:
        for field in arguments.field:
            for noise in arguments.noise:
                report(field, dim, noise, arguments)


if __name__ == "__main__":
    main()
