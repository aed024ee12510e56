"""Stop certificates: the proof holds against an adversary, certified trials end stuck, audits run to the end."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

from orchestrator.analysis.stop_audit import StopAudit, stop_audit
from orchestrator.driver.status import sweep_status
from orchestrator.ledger.ledger import Ledger
from orchestrator.schedulers.plan import ledger_of, plan_sweep
from orchestrator.sweeps.map_search import MapSearch
from orchestrator.sweeps.value import Grid, Sweep
from search_spaces.space import LogUniform
from tests.support.cases import rest_slow
from tests.support.launching import WORKLOAD
from trainables.certificates import AUDITED_SHARE, Certificate, is_audited
from trainables.config import make_config
from trainables.contract import Member, State
from trainables.outcome import STUCK_LOSS_TOLERANCE
from trainables.registry import config_from_values, workload
from trainables.result import SATISFYING, Outcome, TrialResult
from trainables.two_layer_cnn.config import TwoLayerCNNConfig
from trainables.two_layer_cnn.patch_data import patch_data
from trainables.two_layer_cnn.reference import network_outputs
from trainables.two_layer_cnn.state import initial_state
from trainables.two_layer_cnn.stuck_box import Radii, Reach, WeightBox, coupled_box, largest_step, stuck_box
from trainables.two_layer_cnn.trace import trace_epochs, weight_norm
from trainables.two_layer_cnn.trial import make_engine

SMALL: dict[str, Any] = {
    "workload": WORKLOAD,
    "learning_rate": 2e-4,
    "num_epochs": 1000,
    "num_train": 20,
    "num_test": 50,
    "dimension": 40,
    "noise_sparsity": 5,
    "num_filters": 4,
    "init_std": 0.05,
    "batch_size": 3,
    "seed": 0,
}
STUCK: list[dict[str, Any]] = [
    {"optimizer": "adam", "weight_decay": 1.0},
    {"optimizer": "adam", "weight_decay": 100.0, "bias_correction": False},
    {"optimizer": "signsgd", "weight_decay": 1.0},
    {"optimizer": "adamw", "weight_decay": 3000.0},
    {"optimizer": "signsgdw", "weight_decay": 3000.0},
]


def make(**values: Any) -> TwoLayerCNNConfig:
    config = config_from_values({**SMALL, **values})
    assert isinstance(config, TwoLayerCNNConfig)
    return config


def box_of(config: TwoLayerCNNConfig) -> WeightBox | None:
    return stuck_box(config, patch_data(config), weight_norm(initial_state(config).weights))


def run(config: TwoLayerCNNConfig, *, may_stop: bool, state: State | None = None) -> TrialResult:
    (report,) = workload(WORKLOAD).open([Member(config, config.num_epochs, state, may_stop=may_stop)]).advance(math.inf)
    assert report.result is not None
    assert report.result.error is None
    return report.result


def of_kind(values: dict[str, Any], *, audited: bool) -> TwoLayerCNNConfig:
    """The config with the first seed whose trial is, or is not, an audit."""
    return next(c for c in (make(**values, seed=seed) for seed in range(1000)) if is_audited(c.trial_id) == audited)


# --- the proof ---


class ConstantBounds:
    """A loss whose gradients are at most `gradient` (d,) everywhere, and on which every box is stuck."""

    def __init__(self, gradient: float, dimension: int) -> None:
        self._gradient = np.full(dimension, gradient)

    def is_stuck_within(self, radii: Radii, initial_norm: float) -> bool:
        return True

    def largest_gradient(self, radii: Radii) -> Radii:
        return self._gradient


def pasts(rng: np.random.Generator, num_steps: int, bound: float, growth: float) -> np.ndarray:
    """Gradients (steps, adversaries) before a weight enters the box: arbitrary, then those of the largest update."""
    steps = np.arange(num_steps) - num_steps
    columns = [rng.normal(size=num_steps) * bound * 10.0**power for power in range(-3, 4)]
    columns += [sign * growth**steps * bound * 10.0**power for power in range(-3, 6) for sign in (-1, 1)]
    return np.stack(columns, axis=1)


@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.999), (0.9, 0.95), (0.0, 0.5), (0.5, 0.9)])
@pytest.mark.parametrize("decay", [0.05, 300.0])
@pytest.mark.parametrize("bias_correction", [True, False])
@pytest.mark.parametrize("num_past", [1, 5, 3000])
def test_no_adversary_drives_a_weight_out_of_the_box(
    beta1: float, beta2: float, decay: float, bias_correction: bool, num_past: int
) -> None:
    betas = {"beta1": beta1, "beta2": beta2, "bias_correction": bias_correction, "epsilon": 1e-15}
    config = make(optimizer="adam", weight_decay=decay, precision="float64", **betas)
    step_size, rho = largest_step(config)
    bound, eta = 0.3 * decay * step_size, config.learning_rate
    box = coupled_box(config, ConstantBounds(bound, config.dimension), initial_norm=1.0)
    assert box is not None
    rng, inner, outer = np.random.default_rng(3), box.inner[0], box.outer[0]
    past = pasts(rng, num_past, bound, beta2 / max(beta1, 0.1))
    m, v = np.zeros(past.shape[1]), np.zeros(past.shape[1])
    for g in past:
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    w = np.where(m < 0, inner, -inner)  # on the edge, with all its momentum outward
    farthest = np.abs(w)
    for step in range(num_past + 1, num_past + 3000):
        # the loss pulls outward, as weakly and as strongly as it may, at random times inward
        h = -np.sign(w) * bound * rng.choice([0.0, 1.0, 1.0, 1.0, -1.0])
        g = h + decay * w
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        corrections = (1 - beta1**step, 1 - beta2**step) if bias_correction else (1.0, 1.0)
        update = m / corrections[0] / (np.sqrt(v / corrections[1]) + 1e-15)
        assert np.abs(eta * update).max() <= step_size * (1 + 1e-12)
        w = w - eta * update
        farthest = np.maximum(farthest, np.abs(w))
    assert farthest.max() <= outer
    if num_past == 3000:  # the worst past comes near what the proof allows, and far beyond where it began
        assert farthest.max() >= inner + 0.95 * step_size * rho / (1 - rho)


def test_the_largest_update_is_reached() -> None:
    """The bound c is tight: gradients that grow by beta2 / beta1 per step make an update of nearly this size."""
    config = make(optimizer="adam", weight_decay=1.0, bias_correction=False)
    step_size, _ = largest_step(config)
    m = v = 0.0
    for k in range(2000):
        g = (0.999 / 0.9) ** (k - 2000)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    assert config.learning_rate * m / math.sqrt(v) == pytest.approx(step_size, rel=1e-3)


@pytest.mark.parametrize("batch_size", rest_slow((1, 3, 20)))
def test_gradients_and_losses_within_radii_are_bounded(batch_size: int) -> None:
    config = make(optimizer="adam", weight_decay=1.0, batch_size=batch_size, activation_power=3, seed=4)
    data = patch_data(config)
    reach, rng = Reach(config, data), np.random.default_rng(0)
    x, labels = torch.from_numpy(data.train.dense(config.dimension)), torch.from_numpy(data.train.labels < 0).long()
    closest = largest_stuck = 0.0
    for trial in range(60):
        radii = rng.uniform(0, 0.4, config.dimension)
        bound = reach.largest_gradient(radii)
        corners = rng.choice([-1.0, 1.0], size=(2, config.num_filters, config.dimension))
        if trial % 3 == 0:  # weights along one sample: the worst that the bound thinks of
            corners[:] = np.sign(data.train.dense(config.dimension)[trial % 20].sum(axis=0))
        weights = torch.from_numpy(corners * radii).requires_grad_()
        batch = rng.permutation(config.num_train)[: config.num_train % batch_size or batch_size]
        outputs = network_outputs(weights, x[batch], config.activation_power)
        cross_entropy(outputs, labels[batch]).backward()
        assert weights.grad is not None
        found = weights.grad.abs().amax(dim=(0, 1)).numpy()
        assert (found <= bound + 1e-12).all()
        closest = max(closest, float((found / np.maximum(bound, 1e-12)).max()))
        norm = float(np.linalg.norm(corners * radii))
        for share in (0.05, 0.1, 0.15, 0.2, 1.0):  # the largest of these that counts as stuck is within its loss
            outputs = network_outputs(share * weights.detach(), x, config.activation_power)
            change = abs(float(cross_entropy(outputs, labels)) - math.log(2))
            is_stuck = reach.is_stuck_within(share * radii, initial_norm=1e9)
            assert not is_stuck or change <= STUCK_LOSS_TOLERANCE * math.log(2)
            largest_stuck = max(largest_stuck, change if is_stuck else 0.0)
        assert not reach.is_stuck_within(radii, initial_norm=2 * norm)
    assert closest > 0.3  # a bound that is far off would certify nothing
    assert largest_stuck > 0.05 * STUCK_LOSS_TOLERANCE
    assert reach.is_stuck_within(np.full(config.dimension, 1e-3), initial_norm=1.0)


@pytest.mark.parametrize(
    ("engine_name", "values"), [("reference", STUCK[1]), *(("fused-cpu", values) for values in STUCK)]
)
def test_a_certified_trial_stays_in_its_box_and_ends_stuck(engine_name: str, values: dict[str, Any]) -> None:
    config = make(**values, num_epochs=400)
    box = box_of(config)
    assert box is not None
    engine, state = make_engine(engine_name, config, patch_data(config)), initial_state(config)
    certified_at = None
    for epoch in trace_epochs(config.num_epochs):
        engine.train(state, epoch)
        if certified_at is None and box.holds(state):
            certified_at = epoch
        if certified_at is not None:
            assert (np.abs(state.weights).max(axis=1) <= box.outer).all()
    assert certified_at is not None
    assert 0 < certified_at < config.num_epochs
    result = run(config, may_stop=False)
    assert result.outcome is Outcome.STUCK
    assert (result.certificate, result.epochs_done) == (Certificate.WEIGHT_BOX, 400)


@pytest.mark.parametrize(
    "values",
    [
        {"optimizer": "adam", "weight_decay": 0.0},
        {"optimizer": "adam", "weight_decay": 1e-3},
        {"optimizer": "adamw", "weight_decay": 10.0},
        {"optimizer": "adamw", "weight_decay": 1e5},
        {"optimizer": "adam", "weight_decay": 1.0, "learning_rate": 1e-2},
        {"optimizer": "adam", "weight_decay": 1.0, "epsilon": 1e-20},
    ],
    ids=["no-decay", "small-decay", "small-decoupled", "unstable", "large-steps", "tiny-epsilon"],
)
def test_no_box_without_a_proof(values: dict[str, Any]) -> None:
    assert box_of(make(**values)) is None


def test_the_papers_setting_is_certified_where_adam_is_far_beyond_its_edge() -> None:
    """At eta = 5e-5 and B = 2 from lambda = 0.5 on; below that, Adam's box would contain a network that trains."""
    for decay, is_certified in ((0.3, False), (0.5, True), (1000.0, True)):
        config = make_config(
            TwoLayerCNNConfig, {"optimizer": "adam", "weight_decay": decay, "batch_size": 2, "seed": 0}
        )
        assert isinstance(config, TwoLayerCNNConfig)
        assert (box_of(config) is not None) == is_certified


# --- stopping ---


@pytest.mark.parametrize("values", STUCK)
def test_a_certified_trial_stops_early_unless_it_is_an_audit(values: dict[str, Any]) -> None:
    stopped = run(of_kind(values, audited=False), may_stop=True)
    assert (stopped.outcome, stopped.certificate) == (Outcome.STUCK, Certificate.WEIGHT_BOX)
    assert stopped.epochs_done == stopped.certificate_epoch == stopped.trace[-1].epoch < 1000
    assert stopped.outcome in SATISFYING
    audit = run(of_kind(values, audited=True), may_stop=True)
    assert (audit.outcome, audit.certificate, audit.epochs_done) == (Outcome.STUCK, Certificate.WEIGHT_BOX, 1000)
    assert audit.certificate_epoch is not None
    assert audit.certificate_epoch < 1000


def test_a_trial_that_may_not_stop_runs_to_its_end_with_its_certificate() -> None:
    config = of_kind(STUCK[0], audited=False)
    stopped, whole = run(config, may_stop=True), run(config, may_stop=False)
    assert whole.epochs_done == 1000
    assert (whole.certificate, whole.certificate_epoch) == (stopped.certificate, stopped.certificate_epoch)
    assert whole.trace[: len(stopped.trace)] == stopped.trace


def test_a_trial_that_learns_has_no_certificate() -> None:
    result = run(make(optimizer="adam", weight_decay=1e-3, learning_rate=5e-3, init_std=0.1), may_stop=True)
    assert result.epochs_done == 1000
    assert (result.certificate, result.certificate_epoch) == (None, None)
    assert result.outcome is not Outcome.STUCK


def test_a_stop_does_not_depend_on_kills() -> None:
    config = of_kind(STUCK[0], audited=False)
    whole = run(config, may_stop=True)
    rng, state = random.Random(1), None
    result = None
    while result is None:  # each slice trains an epoch at least, however slow the machine is
        pack = workload(WORKLOAD).open([Member(config, config.num_epochs, state, may_stop=True)])
        (report,) = pack.advance(rng.uniform(0, 1e-3))
        state, result = pack.states()[config.trial_id], report.result
    assert (result.epochs_done, result.trace) == (whole.epochs_done, whole.trace)
    assert (result.certificate, result.certificate_epoch) == (whole.certificate, whole.certificate_epoch)


def test_a_state_beyond_its_certificate_gives_the_row_of_the_stop() -> None:
    config = of_kind(STUCK[0], audited=False)
    pack = workload(WORKLOAD).open([Member(config, 700)])
    pack.advance(math.inf)
    resumed, whole = run(config, may_stop=True, state=pack.states()[config.trial_id]), run(config, may_stop=True)
    assert (resumed.epochs_done, resumed.trace) == (whole.epochs_done, whole.trace)
    assert whole.epochs_done < 700


def test_a_certified_trial_that_diverges_all_the_same_is_a_wrong_stop() -> None:
    """If weights become nan after the certificate, an error in the proof or the machine must not stay unnoticed."""
    config = of_kind(STUCK[0], audited=True)
    pack = workload(WORKLOAD).open([Member(config, 700, None, may_stop=True)])
    pack.advance(math.inf)
    state = dict(pack.states()[config.trial_id])
    assert state["certificate_epoch"] > 0
    state["weights"] = np.full_like(state["weights"], np.nan)
    result = run(config, may_stop=True, state=state)
    assert (result.outcome, result.certificate) == (Outcome.DIVERGED, Certificate.WEIGHT_BOX)
    audit = stop_audit(pd.DataFrame([result.trial_row()]))
    assert (audit.stopped, audit.audited, audit.wrong) == (0, 1, 1)


def test_a_stopped_state_goes_on_where_the_end_is_asked_for() -> None:
    config = of_kind(STUCK[0], audited=False)
    pack = workload(WORKLOAD).open([Member(config, config.num_epochs, None, may_stop=True)])
    pack.advance(math.inf)
    gone_on = run(config, may_stop=False, state=pack.states()[config.trial_id])
    undisturbed = run(config, may_stop=False)
    assert (gone_on.epochs_done, gone_on.trace) == (1000, undisturbed.trace)
    assert gone_on.certificate_epoch == undisturbed.certificate_epoch


def test_a_tenth_of_all_trials_are_audits() -> None:
    num_audits = sum(is_audited(make(optimizer="adam", weight_decay=1.0, seed=seed).trial_id) for seed in range(5000))
    assert abs(num_audits - 5000 * AUDITED_SHARE) < 5 * math.sqrt(5000 * AUDITED_SHARE * (1 - AUDITED_SHARE))


def test_a_diverged_trial_says_so() -> None:
    result = run(make(optimizer="signsgd", weight_decay=0.0, learning_rate=1e30), may_stop=True)
    assert (result.outcome, result.certificate) == (Outcome.DIVERGED, Certificate.NON_FINITE)
    assert result.certificate_epoch == result.epochs_done


# --- rows ---


NUM_SEEDS = 30


def stuck_sweep(name: str, **more: Any) -> Sweep:
    base = {key: value for key, value in SMALL.items() if key not in ("workload", "seed")}
    grid = Grid({"adam": {"weight_decay": 1.0}, "adamw": {"weight_decay": 1e-3}}, {}, base)
    return Sweep(name, "some stuck trials", (grid,), seeds=tuple(range(NUM_SEEDS)), **more)


def finish(sweep: Sweep, ledger: Ledger) -> int:
    """Run what the plan asks for; returns the number of trials that ran."""
    tasks, _ = plan_sweep(sweep, ledger).scheduler.advance()
    configs = [task.config for task in tasks]
    ledger.append([run(config, may_stop=sweep.accepts_certificates) for config in configs])  # type: ignore[arg-type]
    return len(configs)


def test_a_certified_row_settles_a_trial_for_those_who_accept_it(tmp_path: Any) -> None:
    lenient, strict = stuck_sweep("lenient", accepts_certificates=True), stuck_sweep("strict")
    ledger = ledger_of(lenient, str(tmp_path))
    assert finish(lenient, ledger) == 2 * NUM_SEEDS
    assert plan_sweep(lenient, ledger).is_complete
    rows = ledger.trials(WORKLOAD).to_pandas()
    stopped = rows[rows["epochs_done"] < rows["num_epochs"]]
    assert set(stopped["optimizer"]) == {"adam"}
    assert set(stopped["trial_id"]) == {i for i in rows["trial_id"][rows["optimizer"] == "adam"] if not is_audited(i)}
    assert 10 < len(stopped) < NUM_SEEDS
    strict_ledger = ledger_of(strict, str(tmp_path))
    assert plan_sweep(strict, strict_ledger).num_pending == len(stopped)
    assert sweep_status(strict, strict_ledger).outcomes["stuck"] == NUM_SEEDS - len(stopped)
    assert finish(strict, strict_ledger) == len(stopped)
    for sweep in (lenient, strict):
        assert plan_sweep(sweep, ledger_of(sweep, str(tmp_path))).is_complete
    rows = ledger.trials(WORKLOAD).to_pandas()
    assert (rows["epochs_done"] == rows["num_epochs"]).all()
    assert len(rows) == 2 * NUM_SEEDS


def test_the_row_that_ran_to_its_end_stands_whoever_wrote_it_when(tmp_path: Any) -> None:
    config = of_kind(STUCK[0], audited=False)
    stopped, whole = run(config, may_stop=True), run(config, may_stop=False)
    for case, (first, second) in enumerate(((stopped, whole), (whole, stopped))):
        root = str(tmp_path / str(case))
        drivers = Ledger(root, "a"), Ledger(root, "b")
        drivers[0].append([replace(first, finished_at=1.0)])
        drivers[1].append([replace(second, finished_at=2.0)])
        for compacted in ((), drivers[:1], drivers):
            for driver in compacted:
                driver.compact()
            (row,) = drivers[0].trials(WORKLOAD, columns=("epochs_done", "certificate")).to_pylist()
            assert row == {"epochs_done": 1000, "certificate": "weight_box"}
            assert drivers[1].traces(WORKLOAD)["epoch"].to_pylist()[-1] == 1000


def test_a_stopped_row_hides_nothing_from_those_who_do_not_accept_it(tmp_path: Any) -> None:
    """A failed row of a strict sweep stays, with its attempt and its error, also after compaction."""
    config, root = of_kind(STUCK[0], audited=False), str(tmp_path)
    stopped = run(config, may_stop=True)
    failed = replace(stopped, outcome=Outcome.FAILED, attempt=2, error="Traceback: no", certificate=None)
    lenient, strict = Ledger(root, "a"), Ledger(root, "b", accept_certificates=False)
    lenient.append([stopped])
    assert strict.trials(WORKLOAD).num_rows == strict.traces(WORKLOAD).num_rows == 0
    strict.append([failed])
    for compacted in ((), (strict,), (lenient, strict)):
        for ledger in compacted:
            ledger.compact()
        assert (strict.settled(WORKLOAD), strict.failed(WORKLOAD)) == (set(), {config.trial_id})
        assert strict.attempts(WORKLOAD) == {config.trial_id: 2}
        assert (lenient.settled(WORKLOAD), lenient.failed(WORKLOAD)) == ({config.trial_id}, set())
        assert strict.trials(WORKLOAD, columns=("error",)).to_pylist() == [{"error": "Traceback: no"}]


def test_a_map_stops_what_is_stuck_and_says_how_that_was_checked(tmp_path: Any) -> None:
    space = {"weight_decay": LogUniform(1.0, 100.0)}
    search = MapSearch({"adam": space}, rounds=8, per_round=4)
    base = {key: value for key, value in SMALL.items() if key not in ("workload", "seed")}
    sweep = Sweep("mapped", "a map", (Grid({"adam": {}}, {}, base),), search=search, accepts_certificates=True)
    ledger = Ledger(str(tmp_path))
    scheduler = plan_sweep(sweep, ledger).scheduler
    tasks, _ = scheduler.advance()
    while tasks:
        results = [run(task.config, may_stop=True) for task in tasks]  # type: ignore[arg-type]
        ledger.append(results)
        tasks, _ = scheduler.advance(results)
    assert plan_sweep(sweep, ledger).is_complete
    trials = ledger.trials(WORKLOAD).to_pandas()
    audit = stop_audit(trials)
    assert audit.stopped + audit.audited == len(trials) == 32
    assert audit.stopped == sum(not is_audited(i) for i in trials["trial_id"])
    assert audit.wrong == 0
    assert f"{audit.stopped} trials stopped for a certificate" in audit.line()


# --- the audit's numbers ---


AUDITED, OTHER = "0" * 16, "f" * 16


def certified_rows(num_stopped: int, audits: list[str], others: list[str] | None = None) -> pd.DataFrame:
    rows = [(OTHER, "weight_box", 10, "stuck", 10)] * num_stopped
    rows += [(AUDITED, "weight_box", 10, outcome, 100) for outcome in audits]
    rows += [(OTHER, "weight_box", 10, outcome, 100) for outcome in others or []]
    rows += [(AUDITED, "weight_box", 100, "stuck", 100)] * 3  # certified at the end, where it cannot be wrong
    rows += [(AUDITED, None, None, "learned", 100), (AUDITED, "non_finite", 3, "diverged", 3)]
    rows += [(AUDITED, "weight_box", 10, "unfinished", 50)]
    columns = ["trial_id", "certificate", "certificate_epoch", "outcome", "epochs_done"]
    return pd.DataFrame(rows, columns=columns).assign(num_epochs=100)


def test_the_wrong_stop_rate_has_the_exact_upper_bound() -> None:
    assert stop_audit(certified_rows(7, [])) == StopAudit(stopped=7, audited=0, wrong=0, upper_bound=1.0)
    clean = stop_audit(certified_rows(90, ["stuck"] * 10))
    assert (clean.stopped, clean.audited, clean.wrong) == (90, 10, 0)
    assert clean.upper_bound == pytest.approx(1 - 0.05 ** (1 / 10))
    wrong = stop_audit(certified_rows(0, ["stuck"] * 9 + ["learned"]))
    assert (wrong.audited, wrong.wrong) == (10, 1)
    p = wrong.upper_bound  # P(at most one of ten is wrong) = 5%
    assert (1 - p) ** 10 + 10 * p * (1 - p) ** 9 == pytest.approx(0.05)
    assert "of 10 audits that ran to the end 1 were wrong (a wrong-stop rate of at most 0.39" in wrong.line()


def test_trials_that_nobody_chose_for_an_audit_enter_no_bound_but_are_told() -> None:
    audit = stop_audit(certified_rows(5, ["stuck"], ["stuck"] * 50 + ["diverged"]))
    assert (audit.audited, audit.upper_bound) == (1, pytest.approx(0.95))
    assert (audit.others, audit.others_wrong) == (51, 1)
    assert audit.line().endswith("; of 51 others that ran on 1 were wrong")
