"""What a person sees of a running sweep, on a terminal and in a log file."""

from __future__ import annotations

import io
import re
import threading

import pytest
from rich.console import Console

from orchestrator.driver import progress
from orchestrator.driver.progress import ProgressDisplay
from trainables.result import Outcome


def log_file() -> Console:
    return Console(file=io.StringIO(), width=80)


def terminal() -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=True)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_log_file_gets_no_line_for_each_trial_and_one_at_the_end() -> None:
    console = log_file()
    with ProgressDisplay("grid_bsz", 100, 40, 60.0, console) as display:
        for _ in range(40):
            display.trial_done(Outcome.LEARNED, 1.0)
        for _ in range(20):
            display.trial_done(Outcome.MEMORIZED, 1.0)
    (line,) = text(console).splitlines()
    assert line.startswith("grid_bsz: 100/100 trials · 40 learned, 20 memorized · ")
    assert line.endswith(" elapsed")


def test_a_log_file_gets_lines_in_between_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_LINE_SECONDS", 0.0)
    console = log_file()
    with ProgressDisplay("grid_bsz", 4, 0, 4.0, console) as display:
        display.partial(1.0)
        display.trial_done(Outcome.STUCK, 1.0)
    first, second, _ = text(console).splitlines()
    assert re.fullmatch(r"grid_bsz: 0/4 trials · [\d:]+ elapsed · about [\d:]+ left", first)
    assert re.fullmatch(r"grid_bsz: 1/4 trials · 1 stuck · [\d:]+ elapsed · about [\d:]+ left", second)


def test_the_share_of_a_running_trial_is_not_counted_again_when_it_ends() -> None:
    console = terminal()
    display = ProgressDisplay("grid_bsz", 2, 0, 4.0, console)
    display.partial(1.5)
    display.trial_done(Outcome.LEARNED, 2.0)
    (task,) = display._bar.tasks
    assert (task.completed, task.total) == (2.0, 4.0)


def test_a_terminal_shows_a_bar_and_keeps_the_last_line() -> None:
    console = terminal()
    with ProgressDisplay("grid_bsz", 2, 0, 2.0, console) as display:
        display.trial_done(Outcome.DIVERGED, 1.0)
        display.trial_done(Outcome.LEARNED, 1.0)
    shown = text(console)
    assert "━" in shown
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).splitlines()[-1]
    assert last.strip().startswith("grid_bsz: 2/2 trials · 1 diverged, 1 learned · ")


@pytest.mark.parametrize("make", [log_file, terminal])
def test_a_state_is_one_line_however_long_and_is_no_markup(make: type[Console]) -> None:
    console = make()
    title = "sweep of [a/path] " + "word " * 60 + "end"
    with ProgressDisplay(title, 1, 0, 1.0, console):
        pass
    assert any(f"{title}: 0/1 trials" in line for line in text(console).splitlines())


def test_threads_may_report_at_once() -> None:
    console = terminal()
    with ProgressDisplay("many", 4000, 0, 4000.0, console) as display:

        def report() -> None:
            for _ in range(500):
                display.trial_done(Outcome.LEARNED, 1.0)
                display.partial(0.5)

        threads = [threading.Thread(target=report) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert "4000/4000 trials · 4000 learned" in text(console)


def test_a_sweep_with_nothing_to_run_has_a_display_too() -> None:
    console = log_file()
    with ProgressDisplay("grid_bsz", 70, 70, 0.0, console):
        pass
    assert text(console).startswith("grid_bsz: 70/70 trials · ")


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599.7, "1:00:00"), (90_061, "25:01:01")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert progress._duration(seconds) == shown


def test_a_search_that_asks_for_more_has_more_trials_in_all_and_keeps_what_is_done() -> None:
    console = terminal()
    with ProgressDisplay("map_wd", 2, 0, 2.0, console) as display:
        display.trial_done(Outcome.LEARNED, 1.0)
        display.expect(5, 4.0)
        (task,) = display._bar.tasks
        assert (task.completed, task.total) == (1.0, 5.0)
    assert "map_wd: 1/5 trials" in text(console)


@pytest.mark.parametrize("title", ["grid_bsz_a[/b]_resnet8", "[red]kid[/red]", "[bold"])
def test_a_sweeps_name_is_no_markup(title: str) -> None:
    console = terminal()
    with ProgressDisplay(title, 1, 0, 1.0, console) as display:
        display.trial_done(Outcome.LEARNED, 1.0)
    assert title in text(console)
