"""Every figure draws settled trials alone, the same picture of the same rows, or is refused before training."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.artist import Artist
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from orchestrator.analysis.error_rates import PLAIN
from orchestrator.driver.options import RunOptions
from orchestrator.driver.run import run_sweep
from orchestrator.errors import SweepError, UserError
from orchestrator.figures import drawing
from orchestrator.figures.drawing import check, draw, drawn
from orchestrator.figures.registry import FIGURES, FigureInput, figure
from orchestrator.sweeps.map_search import MapSearch
from orchestrator.sweeps.map_trials import BOUNDARY, CLAIM, seed_trial
from orchestrator.sweeps.value import Grid, Sweep
from search_spaces.space import LogUniform
from tests.support.examples import example_of
from tests.support.images import image_folders
from tests.support.made_results import frames, made_result
from tests.support.registration import TOYS, registered
from trainables.config import TrialConfig
from trainables.registry import WORKLOADS, workload
from trainables.result import SATISFYING, Outcome, TrialResult

Tables = tuple[pd.DataFrame, pd.DataFrame]

DPI = 30
SPACE = {"weight_decay": LogUniform(1e-4, 1e2), "init_std": LogUniform(1e-3, 1e-1)}


def grid_of(name: str) -> Sweep:
    """Both optimizers at two batch sizes, of the workload's tiny trials."""
    base = {k: v for k, v in example_of(name).base.items() if k not in {"optimizer", "batch_size", "seed"}}
    grid = Grid({"adam": {}, "adamw": {}}, {"batch_size": (2, 8)}, base)
    return Sweep(f"of_{name}", "", (grid,), seeds=(0, 1, 2), workload=name)


def a_map() -> Sweep:
    base = {k: v for k, v in example_of("two_layer_cnn").base.items() if k not in {"optimizer", "seed", *SPACE}}
    axes = {"weight_decay": (1e-3, 1e-1), "init_std": (1e-2, 1e-1)}
    search = MapSearch({"adam": SPACE, "adamw": SPACE}, scaling="init_std")
    return Sweep("a_map", "", (Grid({"adam": {}, "adamw": {}}, axes, base),), search=search)


with registered(*TOYS):
    SWEEPS = {one.name: one for one in (*map(grid_of, WORKLOADS), a_map())}
    CASES = [(f, s) for f, spec in FIGURES.items() for s, one in SWEEPS.items() if spec.fault_of(one) is None]
    NAMES = list(FIGURES)
    PLAIN_NAMES = [name for name, spec in FIGURES.items() if spec.error == PLAIN]
FIRST = {name: next(sweep for figure, sweep in CASES if figure == name) for name in NAMES}
"""Of each figure a sweep that may have it."""
OTHERS = [(name, sweep) for name, sweep in CASES if name not in PLAIN_NAMES or FIRST[name] != sweep]


@pytest.fixture(autouse=True, scope="module")
def around(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with image_folders(tmp_path_factory.mktemp("images"), 8), registered(*TOYS):
        yield


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    """A warning of matplotlib or numpy is a figure that shows something else than the data."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def configs_of(sweep: Sweep) -> list[TrialConfig]:
    """Some trials of the sweep, in its order."""
    if sweep.search is None:
        return list(sweep.configs())
    middles = [{k: v for k, v in cell.items() if k not in SPACE} for cell in sweep.cells()[::4]]
    places = [{name: axis.at(share) for name, axis in SPACE.items()} for share in (0.2, 0.5, 0.9)]
    points = [{**cell, **place} for cell in middles for place in places]
    claims = [seed_trial(sweep, cell, replicate, CLAIM) for replicate in range(3) for cell in sweep.cells()]
    return claims + [seed_trial(sweep, point, 0, BOUNDARY) for point in points]


@cache
def settled_results(name: str) -> list[TrialResult]:
    """Of a sweep in progress: learned, memorized, and one each of the others that settle."""
    results = [made_result(config) for config in configs_of(SWEEPS[name])]
    odd = [Outcome.STUCK, Outcome.DIVERGED, Outcome.UNDERFIT]
    outcomes = odd + [result.outcome for result in results[len(odd) :]]
    return [replace(result, outcome=outcome) for result, outcome in zip(results, outcomes, strict=True)]


@cache
def unsettled_results(name: str) -> list[TrialResult]:
    """Of the same sweep: pruned, unfinished and failed trials with numbers that nobody could overlook."""
    sweep = SWEEPS[name]
    results = settled_results(name)
    odd = (Outcome.PRUNED, Outcome.UNFINISHED, Outcome.FAILED)
    values = [{**results[i].config.model_dump(), "seed": 100 + i, "weight_decay": 30.0} for i in range(len(odd))]
    return [
        made_result(workload(sweep.workload).config(value), outcome, scale=1.7)
        for value, outcome in zip(values, odd, strict=True)
    ]


def given(sweep: str, tables: Tables) -> FigureInput:
    return FigureInput(*(table.copy() for table in tables), SWEEPS[sweep])


def picture(name: str, tables: Tables) -> bytes | None:
    """The pixels of the figure; None where it draws nothing."""
    made = drawn(name, given(FIRST[name], tables))
    if made is None:
        return None
    buffer = io.BytesIO()
    made.savefig(buffer, format="rgba", dpi=DPI)
    return buffer.getvalue()


def content(name: str, tables: Tables) -> list[str]:
    """Everything that the figure shows, before it is laid out: each line, mark, region and text with its numbers."""
    made = drawn(name, given(FIRST[name], tables))
    return [] if made is None else [found for artist in made.findobj() for found in _shown(artist)]


def _shown(artist: Artist) -> Iterator[str]:
    if isinstance(artist, Text):
        yield artist.get_text()
    elif isinstance(artist, Line2D):
        yield f"{artist.get_color()} {np.asarray(artist.get_xydata()).tolist()}"
    elif isinstance(artist, Collection):
        paths = [path.vertices.tolist() for path in artist.get_paths()]
        colours, values = artist.get_facecolor(), artist.get_array()
        yield f"{paths} {np.asarray(artist.get_offsets()).tolist()} {colours} {np.asarray(values).tolist()}"
    elif isinstance(artist, Patch):
        yield f"{artist.get_facecolor()} {artist.get_path().vertices.tolist()} {artist.get_patch_transform()}"


def shuffled(tables: Tables) -> Tables:
    trials, traces = tables
    return trials.sample(frac=1, random_state=0), traces.sample(frac=1, random_state=0)


def check_settled_trials_alone(name: str) -> None:
    """Whatever order rows come in, and whatever else the launch has not settled, the picture is of settled trials."""
    settled, unsettled = settled_results(FIRST[name]), unsettled_results(FIRST[name])
    found = content(name, frames(settled))
    assert found
    assert content(name, shuffled(frames([*unsettled, *settled]))) == found
    assert content(name, frames(settled[::2])) != found, "every settled trial counts"


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_it_draws_settled_trials_alone_the_same_in_any_order(name: str) -> None:
    check_settled_trials_alone(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sweep"), [case for case in CASES if case not in FIRST.items() or case[0] not in PLAIN_NAMES]
)
def test_it_draws_every_sweep_that_may_have_it_and_leaves_the_rows_as_they_are(name: str, sweep: str) -> None:
    tables = frames([*settled_results(sweep), *unsettled_results(sweep)])
    one = given(sweep, tables)
    assert isinstance(drawn(name, one), Figure)
    for before, after in zip(tables, (one.trials, one.traces), strict=True):
        pd.testing.assert_frame_equal(before, after)


@pytest.mark.parametrize("name", NAMES)
def test_it_draws_nothing_where_nothing_is_settled(name: str, tmp_path: Path) -> None:
    tables = frames(unsettled_results(FIRST[name]))
    assert drawn(name, given(FIRST[name], tables)) is None
    assert draw(name, given(FIRST[name], tables), tmp_path / "figures") == []
    assert not (tmp_path / "figures").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN_NAMES)
class TestWhateverIsSettled:
    """A figure lays out what there is, be it a single trial or no number at all; `None` is for nothing to draw."""

    def test_one_trial(self, name: str) -> None:
        trials, traces = frames(settled_results(FIRST[name]))
        found = picture(name, (trials.iloc[-1:], traces))
        assert len(set(found or b"")) > 10, "more than an empty page"

    def test_no_numbers(self, name: str) -> None:
        trials, traces = frames(settled_results(FIRST[name]))
        measured = [column for column in traces.columns if column not in {"trial_id", "epoch"}]
        trials = trials.assign(**dict.fromkeys(measured, np.nan), outcome="diverged")
        found = picture(name, (trials, traces.assign(**dict.fromkeys(measured, np.inf))))
        assert len(set(found or b"")) > 10

    def test_all_stuck(self, name: str) -> None:
        trials, traces = frames(settled_results(FIRST[name]))
        assert content(name, (trials.assign(outcome="stuck"), traces))

    def test_an_optimizer_without_moments_and_without_decay(self, name: str) -> None:
        trials, traces = frames(settled_results(FIRST[name]))
        trials = trials.assign(optimizer="signsgdw", weight_decay=0.0, beta1=np.nan, beta2=np.nan, epsilon=np.nan)
        is_about_them = name in {"error_vs_betas", "phase_diagram", "scaling"}
        assert bool(content(name, (trials, traces))) != is_about_them


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_that_cannot_have_it_is_refused_before_training(name: str, tmp_path: Path) -> None:
    refused = {sweep for sweep in SWEEPS if (name, sweep) not in CASES}
    assert refused
    for sweep in refused:
        wanted = replace(SWEEPS[sweep], figures=(name,))
        with pytest.raises(UserError) as refusal:
            run_sweep(wanted, RunOptions(out=str(tmp_path / "out"), executor="inline", mlflow=False))
        assert str(refusal.value).startswith(name)
        assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()
    check(replace(SWEEPS[FIRST[name]], figures=(name,)))


def test_every_figure_is_of_maps_or_of_others() -> None:
    maps = {name for name, sweep in CASES if sweep == "a_map"}
    others = {name for name, sweep in CASES if sweep != "a_map"}
    assert maps == {"phase_diagram", "scaling"}
    assert maps | others == set(NAMES)
    assert not maps & others


@pytest.mark.parametrize("name", ["error_vs_batch_size", "gradients"])
def test_it_is_written_as_png_and_pdf_the_same_each_time(name: str, tmp_path: Path) -> None:
    one = given(FIRST[name], frames(settled_results(FIRST[name])))
    folders = tmp_path / "a" / "figures", tmp_path / "b"
    first, second = (draw(name, one, folder) for folder in folders)
    assert first == [folders[0] / f"{name}.png", folders[0] / f"{name}.pdf"]
    assert sorted(path.name for path in folders[0].iterdir()) == [f"{name}.pdf", f"{name}.png"]
    height, width, _ = imread(first[0]).shape
    assert min(height, width) >= 800
    assert first[1].read_bytes().startswith(b"%PDF-")
    assert first[1].read_bytes().rstrip().endswith(b"%%EOF")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert b"CreationDate" not in first[1].read_bytes()


# --- a user's own: `test_user_modules.py` launches a sweep with it ---


def test_a_users_figure_cannot_take_the_name_of_another() -> None:
    def gradients(given: FigureInput) -> Figure | None:
        return None

    with pytest.raises(SweepError, match=r"^a figure named 'gradients' is registered by tests\.contracts\.toy\.figure"):
        figure()(gradients)


def test_a_figure_may_write_into_its_rows_which_are_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    def writing(one: FigureInput) -> Figure:
        one.trials["weight_decay"] *= 2
        one.traces["gradient_norm"] = 0.0
        return Figure()

    monkeypatch.setitem(FIGURES, "gradients", replace(FIGURES["gradients"], function=writing))
    test_it_draws_every_sweep_that_may_have_it_and_leaves_the_rows_as_they_are("gradients", "of_toy")


# --- figures that break the contract ---


@pytest.mark.parametrize("name", ["gradients", "error_vs_batch_size"])
def test_unsettled_trials_that_are_drawn_are_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "SATISFYING", SATISFYING | {Outcome.PRUNED, Outcome.UNFINISHED})
    with pytest.raises(AssertionError):
        check_settled_trials_alone(name)


def test_a_figure_that_is_another_each_time_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counting(one: FigureInput) -> Figure:
        calls.append(len(calls))
        made = Figure()
        made.text(0.5, 0.5, f"{len(calls)}")
        return made

    monkeypatch.setitem(FIGURES, "gradients", replace(FIGURES["gradients"], function=counting))
    with pytest.raises(AssertionError):
        check_settled_trials_alone("gradients")
