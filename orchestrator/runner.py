"""Runs a sweep: plan - ledger -> packs -> executor -> ledger, views. The only place where they meet."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal

from orchestrator.errors import SweepError, unknown_name
from orchestrator.executor import Executor, InlineExecutor
from orchestrator.lease import lease
from orchestrator.ledger import Ledger
from orchestrator.plan import Plan, ledger_of, plan_sweep
from orchestrator.show import figure_folder, show
from orchestrator.storage import PATIENCE_SECONDS
from orchestrator.sweep import Sweep
from orchestrator.training import Training
from trainables.gpu import gpu_is_here
from trainables.registry import workload
from trainables.result import Outcome
from trainables.state_store import StateStore

if TYPE_CHECKING:
    from orchestrator.mlflow_view import BackgroundView

EXECUTORS = ("ray", "inline")
AUTO = "auto"
"""The fastest kind of device that is there and that the workload trains on."""
PLAIN_WIDTH = 1000
"""Characters of a line where standard output is a file or a pipe: no table is folded there."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How and where a sweep runs; device and CPUs change numbers by rounding, nothing else changes any."""

    out: str
    executor: str = "ray"
    address: str | None = None
    max_trials: int | None = None
    mlflow: bool = True
    figures: bool = True
    checkpoint_seconds: float = 30.0
    device: str = AUTO
    cpus_per_trial: int = 1
    max_nodes: int | None = None
    slots_per_node: int | None = None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a launch did: trials `planned`, `already_done` before it, `finished` and `failed` in it, all outcomes.

    `errors` counts the failed ones by the last line of what they ended with, the most frequent first.
    """

    planned: int
    already_done: int
    finished: int
    failed: int
    outcomes: Mapping[str, int]
    interrupted: bool
    errors: Mapping[str, int]


def run_sweep(sweep: Sweep, options: RunOptions) -> RunSummary:
    """Run what is missing, then show the table, draw the figures and bring MLflow up to date."""
    console = _console()
    if options.executor not in EXECUTORS:
        raise SweepError(unknown_name("executor", options.executor, EXECUTORS))
    if options.max_nodes is not None and (options.address is None or options.executor != "ray"):
        raise SweepError("--max-nodes is for a Ray cluster that can grow: give its --address as well")
    if options.slots_per_node is not None and options.max_nodes is None:
        raise SweepError("--slots-per-node says what the nodes of --max-nodes hold: give that as well")
    if options.address is not None and options.executor == "inline":
        raise SweepError("--address names a Ray cluster, and --executor inline runs in this process: give one of them")
    if options.figures or sweep.best_over:  # the best values are chosen by the errors that figures show
        _check_figures(sweep)
    device = _device(sweep, options)
    ledger = ledger_of(sweep, options.out)
    ledger.check_writable()
    options = replace(options, out=ledger.root)
    with lease(options.out, sweep.name):
        plan = plan_sweep(sweep, ledger, options.max_trials)
        _announce(console, plan)
        with _connected(plan, options, device) as executor, _mlflow(sweep, options) as view:
            if view is not None:
                _catch_up(view, plan, ledger)
            ledger.wait_for_store(PATIENCE_SECONDS)
            outcomes, interrupted = Counter[str](), False
            if executor is not None:
                training = Training(plan, ledger, executor, view, states_root(options.out), options.checkpoint_seconds)
                outcomes, interrupted = training.run(console)
            ledger.compact()
            now = plan if executor is None else plan_sweep(sweep, ledger)
            if not now.is_complete:
                console.print(
                    f"{now.num_done} of {now.num_trials} trials done: what follows is of a part of the sweep",
                    highlight=False,
                )
            figures = show(plan, ledger, console, with_figures=options.figures)
            _tell_states(console, now, states_root(options.out))
            if view is not None:
                _finish_view(view, now, figures, console)
    return RunSummary(
        planned=plan.num_trials,
        already_done=plan.num_done,
        finished=outcomes.total(),
        failed=outcomes[Outcome.FAILED],
        outcomes=outcomes,
        interrupted=interrupted,
        errors=_errors_of_launch(sweep, ledger) if outcomes[Outcome.FAILED] else {},
    )


def export_mlflow(sweep: Sweep, out: str) -> int:
    """Write every trial of the sweep that the ledger has and MLflow lacks; returns their number."""
    from orchestrator.mlflow_view import MlflowView, default_tracking_uri

    ledger = ledger_of(sweep, out)
    out = ledger.root
    plan = plan_sweep(sweep, ledger)
    trial_ids = {config.trial_id for config in plan.configs}
    recorded = _rows(ledger, sweep, trial_ids)  # a broken ledger is named before MLflow is touched
    view = MlflowView(default_tracking_uri(out), sweep.name, sweep.title)
    present = view.present()
    missing = [row for row in recorded[0] if row["trial_id"] not in present]
    num_written = view.add(missing, recorded[1])
    folder = figure_folder(out, sweep)
    view.add_artifacts(sorted(folder.glob("*.p*")) if folder.is_dir() else [])
    view.close(finished=plan.is_complete)
    return num_written


@dataclass(frozen=True, slots=True)
class SweepStatus:
    """How far a sweep is by its results: outcomes of its trials, and each failed one's last error line."""

    total: int
    settled: int
    outcomes: Mapping[str, int]
    errors: Mapping[str, str]


def sweep_status(sweep: Sweep, ledger: Ledger) -> SweepStatus:
    """Read a sweep's state from the ledger."""
    plan = plan_sweep(sweep, ledger)
    trial_ids = {config.trial_id for config in plan.configs}
    rows = ledger.trials(sweep.workload, trial_ids=trial_ids, columns=("trial_id", "outcome", "error")).to_pylist()
    errors = {row["trial_id"]: _last_line(row["error"]) for row in rows if row["error"]}
    outcomes = Counter(row["outcome"] for row in rows)
    return SweepStatus(plan.num_trials, plan.num_done, dict(outcomes.most_common()), errors)


def _errors_of_launch(sweep: Sweep, ledger: Ledger) -> dict[str, int]:
    """How many trials of this ledger's driver ended with each error."""
    rows = ledger.trials(sweep.workload, columns=("driver_id", "error")).to_pylist()
    lines = Counter(_last_line(row["error"]) for row in rows if row["error"] and row["driver_id"] == ledger.driver_id)
    return dict(lines.most_common())


def _last_line(error: str) -> str:
    return error.strip().splitlines()[-1]


def states_root(out: str) -> str:
    """Where half-done members' states lie under an output folder."""
    return f"{out if '://' in out else Path(out).resolve()}/states"


def _console() -> Console:
    """Standard output; wide enough for the result table where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)


def _announce(console: Console, plan: Plan) -> None:
    console.print(
        f"{plan.sweep.name}: {plan.num_trials} trials, {plan.num_done} done, {plan.num_pending} to run",
        highlight=False,
    )
    if plan.stale_rows:
        version = workload(plan.sweep.workload).config_type.numeric_version
        console.print(
            f"{plan.stale_rows} rows of {plan.sweep.workload} were made by another version than {version}: "
            "they stay in the ledger and are not used",
            highlight=False,
        )


def _tell_states(console: Console, plan: Plan, root: str) -> None:
    """What trials that stopped early keep on disk: of large networks it is most of what a search leaves."""
    open_trials = {config.trial_id for config in plan.configs} - plan.settled
    sizes = StateStore(root).sizes(open_trials) if open_trials else {}
    if sizes:
        size = decimal(sum(sizes.values()))
        console.print(
            f"states   {len(sizes)} pruned or unfinished trials keep {size} in {root}: deleting those files only means "
            "that such a trial would start anew",
            highlight=False,
            soft_wrap=True,
        )


def _check_figures(sweep: Sweep) -> None:
    """Before anything is trained: they are drawn when all is done."""
    if sweep.figures:
        from orchestrator import figures

        figures.check(sweep)


def _device(sweep: Sweep, options: RunOptions) -> str | None:
    """The kind of device to train on; None: what the cluster has. Raises `SweepError` for one that is not there."""
    here = options.executor == "inline" or options.address is None
    cores = os.cpu_count() or 1
    if here and options.cpus_per_trial > cores:
        raise SweepError(f"--cpus-per-trial is at most the {cores} cores of this machine, got {options.cpus_per_trial}")
    able = workload(sweep.workload).devices
    if options.device == AUTO:
        if "cuda" not in able:
            return "cpu"
        return ("cuda" if gpu_is_here() else "cpu") if here else None
    if options.device not in able:
        raise SweepError(f"{sweep.workload} trains on {' or '.join(able)}: unknown device {options.device!r}")
    if options.device == "cuda" and here and not gpu_is_here():
        raise SweepError("--device cuda: this machine has no GPU that torch can use")
    return options.device


@contextmanager
def _connected(plan: Plan, options: RunOptions, device: str | None) -> Iterator[Executor | None]:
    """The executor, started only if there is something to run."""
    if plan.is_complete:
        yield None
    elif options.executor == "inline":
        yield InlineExecutor(device or "cpu", options.cpus_per_trial)
    else:
        from orchestrator.ray_cluster import Cluster

        cluster = Cluster(options.address)
        try:
            from orchestrator.ray_executor import RayExecutor  # imports Tune while Ray starts

            yield RayExecutor(
                states_root(options.out),
                cluster,
                device,
                options.cpus_per_trial,
                options.max_nodes,
                options.slots_per_node,
            )
        finally:
            cluster.close()


def _mlflow(sweep: Sweep, options: RunOptions) -> AbstractContextManager[BackgroundView | None]:
    if not options.mlflow:
        return nullcontext(None)
    from orchestrator.mlflow_view import BackgroundView, default_tracking_uri

    return BackgroundView(default_tracking_uri(options.out), sweep.name, sweep.title)


def _catch_up(view: BackgroundView, plan: Plan, ledger: Ledger) -> None:
    """What earlier launches recorded and MLflow lacks: it was down, or its database was deleted."""
    view.catch_up(lambda present: _rows(ledger, plan.sweep, plan.settled - present))


def _finish_view(view: BackgroundView, plan: Plan, figures: Sequence[Path], console: Console) -> None:
    view.finish(figures, finished=plan.is_complete)
    if view.problem is not None:
        console.print(
            f"{view.problem}: `launch export-mlflow` with this launch's sweep and options fills it in later",
            highlight=False,
        )
    else:
        uri = shlex.quote(view.tracking_uri)
        console.print(f"mlflow   mlflow ui --backend-store-uri {uri}", highlight=False, markup=False, soft_wrap=True)


def _rows(
    ledger: Ledger, sweep: Sweep, trial_ids: Collection[str]
) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """Rows and traces of these trials as the ledger has them."""
    if not trial_ids:
        return [], {}
    rows = ledger.trials(sweep.workload, trial_ids=trial_ids).to_pylist()
    traces: dict[str, list[dict[str, Any]]] = {}
    for point in ledger.traces(sweep.workload, trial_ids=trial_ids).to_pylist():
        traces.setdefault(point["trial_id"], []).append(point)
    return rows, traces
