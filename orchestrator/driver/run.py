"""Runs a sweep: plans it, has an executor train the trials that the ledger lacks, and shows the results."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal

from orchestrator.driver.device import chosen_device
from orchestrator.driver.loop import Training
from orchestrator.driver.mlflow_export import recorded
from orchestrator.driver.options import RunOptions, RunSummary, check_place
from orchestrator.driver.status import errors_of
from orchestrator.errors import LedgerError
from orchestrator.executors.executor import Executor
from orchestrator.executors.registry import ExecutorSettings, connected
from orchestrator.ledger.lease import lease
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.storage import PATIENCE_SECONDS
from orchestrator.process import stopping
from orchestrator.report.show import check_figure_folder, show
from orchestrator.report.text import plain_console
from orchestrator.schedulers.plan import Plan, ledger_of, plan_sweep
from orchestrator.sweeps.value import Sweep
from trainables.machine.home import ensure_home
from trainables.packs.state_store import StateStore
from trainables.redaction import redacted
from trainables.registry import workload
from trainables.result import Outcome

if TYPE_CHECKING:
    from orchestrator.mlflow_view.background import BackgroundView

PLAIN_WIDTH = 1000
"""Characters of a line where standard output is a file or a pipe: no table is folded there."""


def run_sweep(sweep: Sweep, options: RunOptions) -> RunSummary:
    """Run the trials of a sweep that its results lack, then print its tables, draw its figures and update MLflow.

    It writes to `options.out`: results as Parquet under `trials` and `traces`, states of trials in training, figures,
    and an MLflow database. A launch that was killed can be repeated: it trains only what is missing, and resumes
    trials from their saved states.

    Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 end the training within `stopping.DRAIN_SECONDS`, with the states of all trials
    saved; no tables or figures follow, and the summary says `interrupted`. In a program of yours this holds in its main
    thread; afterwards its own handler, unless of Ctrl-C, is called, which by default ends the program.

    Args:
        sweep: What to run.
        options: How and where to run it.

    Returns:
        How many trials were planned, done before, finished and failed, with their outcomes and last error lines.

    Raises:
        SweepError: Options contradict each other, or another process runs this sweep into the same `out`.
        ConfigError: A trial breaks a rule of its workload.
        DataError: Images are missing or corrupt.
        LedgerError: `out` cannot be read or written.
        ClusterError: The Ray cluster cannot be reached or has no room for a trial.
        UserError: The sweep names a figure that is unknown, or that it cannot have. It is the base class of the above.
        KeyboardInterrupt: A signal came before or after the training.

    Example:
        >>> from orchestrator import Grid, RunOptions, Sweep, run_sweep
        >>> arms = {"adam": {"weight_decay": 1e-5}, "adamw": {"weight_decay": 1e-2}}
        >>> grid = Grid(arms, axes={"batch_size": (20, 200)}, base={"num_epochs": 5})
        >>> sizes = Sweep("sizes", "Error against batch size", (grid,), seeds=(0,))
        >>> options = RunOptions(out="results", executor="inline", mlflow=False, figures=False)
        >>> summary = run_sweep(sizes, options)
        sizes: 4 trials, 0 done, 4 to run
        ...
        >>> summary.finished, summary.failed
        (4, 0)
    """
    ensure_home()  # before Ray, numba and matplotlib are imported, which ask for it
    with stopping.heeded():
        return _run(sweep, options)


def _run(sweep: Sweep, options: RunOptions) -> RunSummary:
    console = _console()
    check_place(options)
    if options.figures or sweep.best_over:  # the best values are chosen by the errors that figures show
        _check_figures(sweep)
    device = chosen_device(sweep, options)
    ledger = ledger_of(sweep, options.out)
    ledger.check_writable()
    options = replace(options, out=ledger.root)
    if options.figures and sweep.figures:
        check_figure_folder(options.out, sweep)
    with lease(options.out, sweep.name):
        plan = plan_sweep(sweep, ledger, options.max_trials)
        _announce(console, plan)
        with _connected(plan, options, device) as executor, _mlflow(sweep, options, ledger) as view:
            if view is not None:  # earlier launches may have met no MLflow, or it was deleted since
                view.catch_up(plan.settled | _pruned(plan, ledger))
            ledger.wait_for_store(PATIENCE_SECONDS)
            outcomes, interrupted = Counter[str](), False
            settled, failed = set[str](), set[str]()
            if executor is not None:
                training = _training(plan, ledger, executor, view, options)
                outcomes, interrupted = training.run(console)
                settled, failed = training.settled, training.failed
            if not interrupted:
                now = _conclude(plan, ledger, view, options, console)
            elif view is not None:
                _finish_view(view, (), console, finished=False)
        if not interrupted:
            _check_kept(plan.settled | settled, now, options.out)
    return _summary(plan, ledger, outcomes, failed, interrupted)


def _pruned(plan: Plan, ledger: Ledger) -> set[str]:
    """The trials that this sweep's search has stopped early, as far as it has asked for them."""
    if plan.sweep.search is None:
        return set()
    return ledger.pruned(plan.sweep.workload).intersection(config.trial_id for config in plan.configs)


def _conclude(plan: Plan, ledger: Ledger, view: BackgroundView | None, options: RunOptions, console: Console) -> Plan:
    """Show what the ledger has after the training; returns the plan of what is left."""
    ledger.compact()
    now = plan if plan.is_complete else plan_sweep(plan.sweep, ledger)
    figures = _show(now, plan, ledger, options, console)
    if view is not None:
        _finish_view(view, figures, console, finished=now.is_complete)
    return now


def _summary(plan: Plan, ledger: Ledger, outcomes: Counter[str], failed: Set[str], interrupted: bool) -> RunSummary:
    return RunSummary(
        planned=plan.num_trials,
        already_done=plan.num_done,
        finished=outcomes.total(),
        failed=outcomes[Outcome.FAILED],
        outcomes=outcomes,
        interrupted=interrupted,
        errors=errors_of(plan.sweep, ledger, failed) if failed else {},
    )


def _check_kept(settled: Set[str], now: Plan, out: str) -> None:
    """Raise `LedgerError` if results that this launch recorded or found are no longer there: it is no success."""
    lost = len(settled - now.settled)
    if lost:
        raise LedgerError(
            f"{lost} trials that were recorded in {out} are gone: something deleted or moved their files; "
            "the same command trains them again"
        )


def _training(
    plan: Plan, ledger: Ledger, executor: Executor, view: BackgroundView | None, options: RunOptions
) -> Training:
    return Training(
        plan,
        ledger,
        executor,
        view,
        states_root=states_root(options.out),
        checkpoint_seconds=options.checkpoint_seconds,
    )


def _show(now: Plan, plan: Plan, ledger: Ledger, options: RunOptions, console: Console) -> list[Path]:
    """Print the tables, draw the figures and name the saved states; `now` is the plan after the launch's training."""
    if not now.is_complete:
        console.print(
            f"{now.num_done} of {now.num_trials} trials done: what follows shows a part of the sweep", highlight=False
        )
    figures = show(plan, ledger, console, with_figures=options.figures)
    _tell_states(console, now, states_root(options.out))
    return figures


def states_root(out: str) -> str:
    """Where the saved states of unfinished trials lie, under an output folder or URI."""
    return f"{out if '://' in out else Path(out).resolve()}/states"


def _console() -> Console:
    """Standard output; wide enough for the result table where it is not a terminal."""
    console = plain_console()
    return console if console.is_terminal else plain_console(PLAIN_WIDTH)


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
    """Say what trials that stopped early keep on disk: with large networks this is most of what a search leaves."""
    open_trials = {config.trial_id for config in plan.configs} - plan.settled
    sizes = StateStore(root).sizes(open_trials) if open_trials else {}
    if sizes:
        size = decimal(sum(sizes.values()))
        console.print(
            f"states   {len(sizes)} pruned or unfinished trials keep {size} in {root}: without those files such a "
            "trial would start from its beginning",
            highlight=False,
            soft_wrap=True,
        )


def _check_figures(sweep: Sweep) -> None:
    """Check before training that the sweep can have its figures: they are drawn at the end."""
    if sweep.figures:
        from orchestrator.figures import drawing

        drawing.check(sweep)


def _connected(plan: Plan, options: RunOptions, device: str | None) -> AbstractContextManager[Executor | None]:
    """The executor, started only if there is something to run."""
    if plan.is_complete:
        return nullcontext(None)
    settings = ExecutorSettings(
        states_root=states_root(options.out),
        device=device,
        cpus_per_trial=options.cpus_per_trial,
        address=options.address,
        max_nodes=options.max_nodes,
        slots_per_node=options.slots_per_node,
        stall_seconds=60 * options.stall_minutes,
    )
    return connected(options.executor, settings)


def _mlflow(sweep: Sweep, options: RunOptions, ledger: Ledger) -> AbstractContextManager[BackgroundView | None]:
    if not options.mlflow:
        return nullcontext(None)
    from orchestrator.mlflow_view.background import BackgroundView
    from orchestrator.mlflow_view.connection import default_tracking_uri

    load = partial(recorded, ledger, sweep.workload)
    return BackgroundView(default_tracking_uri(options.out), sweep.name, sweep.title, load)


def _finish_view(view: BackgroundView, figures: Sequence[Path], console: Console, *, finished: bool) -> None:
    view.finish(figures, finished=finished)
    if view.problem is not None:
        console.print(
            f"{view.problem}: `launch export-mlflow` with this launch's sweep and options writes what is missing",
            highlight=False,
        )
    else:
        uri = shlex.quote(redacted(view.tracking_uri))
        console.print(f"mlflow   mlflow ui --backend-store-uri {uri}", highlight=False, markup=False, soft_wrap=True)
