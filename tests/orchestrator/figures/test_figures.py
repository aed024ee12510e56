"""The figures show the tables' numbers, whatever is missing, and give the same files each time."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from orchestrator.analysis.cells import cell_summary, is_measured
from orchestrator.errors import ConfigError, UserError
from orchestrator.figures.drawing import check, draw, drawn
from orchestrator.figures.error_curves import PAPER_DECAY_SCALE
from orchestrator.figures.legend import place_legend
from orchestrator.figures.registry import FigureInput
from orchestrator.figures.style import LOOKS, STYLE, number_text, symbol
from orchestrator.sweeps.value import Grid, Sweep
from tests.orchestrator.analysis.test_cells import make_result, tables
from tests.support.launching import environment, run_launch
from trainables.config import Optimizer

Tables = tuple[pd.DataFrame, pd.DataFrame]


GRID = Sweep("of_a_grid", "", ())


def given(trials: pd.DataFrame, traces: pd.DataFrame, chosen: Sequence[str] = ()) -> FigureInput:
    return FigureInput(trials, traces, GRID, chosen)


def figure_of(name: str, trials: pd.DataFrame, traces: pd.DataFrame, chosen: Sequence[str] = ()) -> Figure:
    """The figure that a sweep of that grid draws from these trials."""
    figure = drawn(name, given(trials, traces, chosen))
    assert figure is not None
    return figure


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    """Warnings of matplotlib and numpy fail a test: they mean that a figure does not show the data."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def sweep(tmp_path: Path) -> Tables:
    """Both optimizers over batch sizes and decays, three seeds, with stuck, diverged, underfit and failed trials."""
    results = []
    for seed in range(3):
        for size in (2, 100):
            for decay in (0.0, 1e-5, 1e-3):
                error = 0.0 if size == 2 else 0.6 + 0.1 * seed
                for optimizer in ("adam", "adamw"):
                    outcome = "memorized" if error else "learned"
                    results.append(make_result(optimizer, decay, size, seed, test_error=error, outcome=outcome))
            results.append(make_result("adam", 0.1, size, seed, test_error=0.3 * seed, outcome="stuck"))
            results.append(make_result("adamw", 0.1, size, seed, test_error=math.nan, outcome="diverged"))
            results.append(make_result("adamw", 0.03, size, seed, test_error=0.4, train_error=0.1, outcome="underfit"))
    results.append(make_result("adam", 0.03, 2, 0, test_error=0.99, outcome="failed"))
    return tables(results, tmp_path)


@pytest.fixture
def few(sweep: Tables) -> Tables:
    """A few cells of each kind."""
    trials, traces = sweep
    return trials[
        (trials["weight_decay"] == 1e-5) | ((trials["weight_decay"] == 0.1) & (trials["batch_size"] == 2))
    ], traces


def only(frames: Tables, **values: object) -> Tables:
    """The trials with these values; the traces stay whole."""
    trials, traces = frames
    return trials[np.logical_and.reduce([trials[name] == value for name, value in values.items()])], traces


def error_bars(axes: Axes) -> dict[str, ErrorbarContainer]:
    return {str(c.get_label()): c for c in axes.containers if isinstance(c, ErrorbarContainer)}


def means(container: ErrorbarContainer) -> np.ndarray:
    return np.asarray(container.lines[0].get_xydata())


def bar_lengths(container: ErrorbarContainer) -> list[float]:
    """Half lengths of the bars that are drawn."""
    segments = [np.asarray(segment) for segment in container.lines[2][0].get_segments()]
    halves = [(segment[1, 1] - segment[0, 1]) / 2 for segment in segments if len(segment) == 2]
    return [half for half in halves if math.isfinite(half)]


def points(axes: Axes, marker: str) -> set[tuple[float, float]]:
    """The single seeds drawn with `marker`."""
    lines = [line for line in axes.get_lines() if line.get_label() == "_seeds" and line.get_marker() == marker]
    return {(float(x), float(y)) for line in lines for x, y in line.get_xydata()}


def texts(figure: Figure) -> str:
    found = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    return "\n".join(found)


def test_fields_that_an_optimizer_does_not_read(tmp_path: Path) -> None:
    results = [make_result("adam", 1e-3, 2, 0, beta1=beta1) for beta1 in (0.5, 0.8)]
    results.append(make_result("signsgd", 1e-3, 2, 0))
    frames = tables(results, tmp_path)
    titles = [line for line in texts(figure_of("feature_and_noise", *frames)).splitlines() if "beta_1" in line]
    assert [line.partition(",")[0] for line in titles if r"$\beta_1$ = none" in line] == ["SignSGD"]
    assert len(titles) == 3
    assert "SignSGD" not in texts(figure_of("error_vs_betas", *frames)), "it has no betas, and stands in no panel"


def test_batch_sizes_are_named_where_there_is_room(tmp_path: Path) -> None:
    sizes = [*range(1, 13), 20, 39, 40]
    frames = tables([make_result("adam", 1e-3, size, 0) for size in sizes], tmp_path)
    with rc_context(STYLE):
        figure = figure_of("error_vs_batch_size", *frames)
        figure.draw_without_rendering()
    names = [tick for tick in figure.axes[-1].get_xticklabels() if tick.get_text()]
    boxes = [name.get_window_extent() for name in names]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    assert {"1", "2", "4", "20", "40"} <= {name.get_text() for name in names}
    assert list(figure.axes[-1].get_xticks()) == sizes


def test_one_batch_size_stands_in_the_middle(tmp_path: Path) -> None:
    frames = tables([make_result(o, 1e-3, 4, seed) for o in ("adam", "adamw") for seed in (0, 1)], tmp_path)
    figure = figure_of("error_vs_batch_size", *frames)
    assert figure.axes[-1].get_xlim() == (2, 8)


@pytest.mark.parametrize(("decays", "named"), [((0.02, 0.03, 0.05), 2), ((0.01234567, 0.01234568, 0.0), 3)])
def test_decays_between_powers_of_ten_are_named(tmp_path: Path, decays: tuple[float, ...], named: int) -> None:
    frames = tables([make_result("adam", decay, 2, 0) for decay in decays], tmp_path)
    figure = figure_of("error_vs_weight_decay", *frames)
    figure.draw_without_rendering()
    assert len([tick for tick in figure.axes[0].get_xticklabels() if tick.get_text()]) == named


def test_error_vs_batch_size_draws_mean_std_and_every_seed(sweep: Tables) -> None:
    trials, traces = only(sweep, optimizer="adam", weight_decay=1e-5)
    figure = figure_of("error_vs_batch_size", trials, traces)
    upper, lower = figure.axes
    cells = cell_summary(trials, ["batch_size"])
    for axes, error in ((upper, "test_error"), (lower, "train_error")):
        (container,) = error_bars(axes).values()
        np.testing.assert_allclose(means(container), cells[["batch_size", f"{error}_mean"]], rtol=1e-12)
        np.testing.assert_allclose(bar_lengths(container), cells[f"{error}_std"], atol=1e-12)
    assert points(upper, "o") == set(zip(trials["batch_size"].astype(float), trials["test_error"], strict=True))
    assert list(error_bars(upper)) == [r"Adam, $\lambda$ = $10^{-5}$"]
    assert upper.get_xscale() == "log"
    assert "mean ± std over 3 seeds" in texts(figure)


def test_error_vs_batch_size_has_one_line_for_each_optimizer_and_decay(sweep: Tables) -> None:
    trials, traces = sweep
    chosen = trials[trials["weight_decay"].isin([0.0, 1e-5])]
    upper, _ = figure_of("error_vs_batch_size", chosen, traces).axes
    names = [rf"{name}, $\lambda$ = {decay}" for name in ("Adam", "AdamW") for decay in ("0", "$10^{-5}$")]
    assert list(error_bars(upper)) == names
    colours = {container.lines[0].get_color() for container in error_bars(upper).values()}
    assert len(colours) == len(names)


@pytest.mark.parametrize("field", [{}, {"noise_sparsity": (50, 100)}, {"activation_power": (3, 4)}])
def test_a_value_chosen_at_each_point_tells_no_lines_apart(field: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    best = iter((1e-3, 1e-4) * 16)  # another rate at every point
    (name, values) = next(iter(field.items()), ("num_epochs", (100,)))
    results = [
        make_result(optimizer, decay, size, seed, test_error=0.01 * size, **{name: value, "learning_rate": rate})
        for optimizer in ("adam", "adamw")
        for decay in (1e-5, 1e-2)
        for value in values
        for size, rate in zip((2, 20), best, strict=False)
        for seed in range(2)
    ]
    upper, lower = figure_of("error_vs_batch_size", *tables(results, tmp_path), ("learning_rate",)).axes
    for axes in (upper, lower):
        assert len(error_bars(axes)) == 4 * len(values)
        for label, container in error_bars(axes).items():
            assert len(means(container)) == 2, "one line over both batch sizes"
            assert r"\eta" not in label
            assert r"\sigma_p" not in label, "it follows from s, which is there"
            assert label.count("=") == (2 if field else 1)


def test_a_value_that_varies_at_one_point_tells_lines_apart_unless_it_is_chosen(tmp_path: Path) -> None:
    results = [make_result("adam", 1e-5, size, 0, learning_rate=rate) for size in (2, 20) for rate in (1e-3, 1e-4)]
    upper, _ = figure_of("error_vs_batch_size", *tables(results, tmp_path)).axes
    assert [label.partition(", ")[2] for label in error_bars(upper)] == [
        r"$\lambda$ = $10^{-5}$, $\eta$ = $10^{-4}$",
        r"$\lambda$ = $10^{-5}$, $\eta$ = 0.001",
    ]


@pytest.mark.parametrize(("num_lines", "length"), [(3, 10), (8, 30), (8, 80), (40, 25), (3, 400)])
def test_the_legend_lies_within_the_figure_and_leaves_room_for_the_panels(num_lines: int, length: int) -> None:
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.8), dpi=200)
        panel = figure.subplots()
        place_legend(figure, [Line2D([], [], label=f"{i} " + "n" * length) for i in range(num_lines)])
        figure.draw_without_rendering()
    (legend,) = figure.legends
    inside, page = legend.get_window_extent(), figure.bbox
    assert page.x0 <= inside.x0 < inside.x1 <= page.x1
    assert page.y0 <= inside.y0 < inside.y1 <= page.y1
    assert panel.get_window_extent().y1 <= inside.y0
    assert panel.get_window_extent().height > 0.5 * 4.8 * figure.dpi


def test_error_vs_weight_decay_draws_three_positions_of_the_same_errors(sweep: Tables) -> None:
    trials, traces = sweep
    figure = figure_of("error_vs_weight_decay", trials, traces)
    assert len(figure.axes) == 6  # two batch sizes, three columns
    settled = trials[(trials["batch_size"] == 100) & (trials["outcome"] != "failed")]
    for column, name in enumerate(("given", "paper", "step")):
        for optimizer, label in (("adam", "Adam"), ("adamw", "AdamW")):
            own = settled[settled["optimizer"] == optimizer]
            scale = {"given": 1.0, "paper": 1.0 / PAPER_DECAY_SCALE if optimizer == "adamw" else 1.0, "step": 5e-5}[
                name
            ]
            cells = cell_summary(own, ["weight_decay"])
            drawn = means(error_bars(figure.axes[3 + column])[label])
            np.testing.assert_allclose(drawn[:, 0], cells["weight_decay"] * scale, rtol=1e-12)
            np.testing.assert_allclose(drawn[:, 1], cells["test_error_mean"], rtol=1e-12)
    assert "B$ = 100, $T$ = $10^{4}$" in figure.axes[3].get_ylabel()
    assert all(axes.get_xscale() == "symlog" and axes.get_xlim()[0] < 0 for axes in figure.axes)


def test_stuck_and_diverged_seeds_are_marked_and_stand_in_no_mean(sweep: Tables) -> None:
    trials, traces = sweep
    axes = figure_of("error_vs_weight_decay", trials, traces).axes[0]
    assert sorted(points(axes, "x")) == [(0.1, 0.0), (0.1, pytest.approx(0.3)), (0.1, pytest.approx(0.6))]
    assert {x for x, _ in points(axes, "^")} == {0.1}
    assert all(y > 1 for _, y in points(axes, "^"))
    for label in ("Adam", "AdamW"):
        drawn = means(error_bars(axes)[label])
        assert np.isnan(drawn[drawn[:, 0] == 0.1, 1]).all()
    assert {text.get_text() for text in axes.texts} == {"Adam stuck", "AdamW diverged"}
    spans = [patch.get_extents().transformed(axes.transData.inverted()) for patch in axes.patches]
    # half-way to the neighbours on the logarithmic axis: 1e-3 for Adam, 0.03 for AdamW
    assert sorted(span.x0 for span in spans) == [pytest.approx(0.01), pytest.approx(math.sqrt(0.003))]
    assert all(span.x1 > 0.1 for span in spans)
    assert 0.99 not in {round(y, 6) for _, y in points(axes, "o")}  # the failed trial


def test_feature_and_noise_draws_the_traces_means_and_ranges(sweep: Tables) -> None:
    trials, traces = sweep
    chosen = trials[(trials["optimizer"] == "adam") & (trials["weight_decay"] == 1e-5)]
    figure = figure_of("feature_and_noise", chosen, traces)
    panels = [axes for axes in figure.axes if axes.get_lines()]
    assert len(panels) == 4  # large batch first; products above, errors below
    for panel, size, extreme in ((0, 100, "min"), (1, 2, "max")):
        ids = chosen[chosen["batch_size"] == size]["trial_id"]
        own = traces[traces["trial_id"].isin(ids)].groupby("epoch")
        upper, lower = panels[panel], panels[panel + 2]
        outcome = "3 memorized" if size == 100 else "3 learned"
        assert [text.get_text() for text in upper.texts] == [f"{outcome}; noise: {extreme} over samples"]
        assert f"$B$ = {size}" in upper.get_title()
        drawn = [line for line in upper.get_lines() if not line.get_label().startswith("_")]
        names = [
            f"{kind}_{side}" for kind in ("feature_learning", f"noise_{extreme}") for side in ("positive", "negative")
        ]
        for line, name in zip(drawn, names, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), own[name].mean().index)
            np.testing.assert_allclose(line.get_ydata(), own[name].mean(), rtol=1e-12)
        for line, name in zip(lower.get_lines(), ("train_loss", "train_error", "test_error"), strict=True):
            np.testing.assert_allclose(line.get_ydata(), own[name].mean(), rtol=1e-12)
        band = upper.collections[0].get_paths()[0].vertices
        assert band[:, 1].min() == own["feature_learning_positive"].min().min()
        assert band[:, 1].max() == own["feature_learning_positive"].max().max()


def test_a_figure_in_place_survives_a_failing_write(sweep: Tables, tmp_path: Path) -> None:
    (tmp_path / "error_vs_batch_size.png").mkdir()  # the rename fails
    with pytest.raises(OSError, match=r"error_vs_batch_size\.png"):
        draw("error_vs_batch_size", given(*sweep), tmp_path)
    assert not list(tmp_path.glob("*.tmp"))
    assert not list(tmp_path.glob(".*.tmp"))


def test_an_unknown_figure_is_one_clear_line(sweep: Tables, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown figure 'error_vs_batchsize'; did you mean 'error_vs_batch_size'\?"):
        draw("error_vs_batchsize", given(*sweep), tmp_path)


@pytest.mark.parametrize(
    ("name", "workload", "line"),
    [
        ("phase_diagram", "two_layer_cnn", "phase_diagram is a figure of maps, and named is not a map (it can have: "),
        ("sign_agreement", "two_layer_cnn", "sign_agreement shows large_share, same_sign_large, "),
        ("feature_and_noise", "image_classifier", "feature_and_noise shows train_error_positive, "),
        (
            "error_vs_sparsity",
            "image_classifier",
            "error_vs_sparsity shows noise_sparsity, noise_std, which trials of image",
        ),
        ("top5_error_vs_betas", "two_layer_cnn", "top5_error_vs_betas shows test_top5_error, which trials of two_lay"),
        ("precise_errors_vs_betas", "two_layer_cnn", "unknown figure 'precise_errors_vs_betas'; did you mean 'error_"),
    ],
)
def test_a_figure_that_a_sweep_cannot_have_is_one_clear_line(name: str, workload: str, line: str) -> None:
    with pytest.raises(UserError) as refusal:
        check(Sweep("named", "", (), figures=(name,), workload=workload))
    assert str(refusal.value).startswith(line)
    assert "\n" not in str(refusal.value)


def test_an_optimizer_without_a_look_is_refused_with_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Sweep("named", "", (Grid({"adam": {}, "signsgdw": {}}),), figures=("error_vs_batch_size",))
    check(sweep)
    monkeypatch.delitem(LOOKS, Optimizer.SIGNSGDW)
    with pytest.raises(ConfigError, match="optimizer 'signsgdw' has no entry for its look in figures"):
        check(sweep)
    check(replace(sweep, figures=()))


def test_traces_of_another_workload_are_refused_in_one_line(sweep: Tables) -> None:
    trials, traces = sweep
    with pytest.raises(UserError, match="these lack feature_learning_negative"):
        figure_of("feature_and_noise", trials, traces.drop(columns="feature_learning_negative"))


def test_the_measured_trials_are_those_with_plain_or_hollow_marks(sweep: Tables) -> None:
    trials, traces = only(sweep, batch_size=2, optimizer="adamw")
    axes = figure_of("error_vs_weight_decay", trials, traces).axes[0]
    counted = trials[is_measured(trials)]
    assert points(axes, "o") == set(zip(counted["weight_decay"], counted["test_error"], strict=True))


@pytest.mark.slow
def test_a_users_matplotlib_settings_change_no_figure(few: Tables, tmp_path: Path) -> None:
    (plain,) = (path.read_bytes() for path in draw("error_vs_batch_size", given(*few), tmp_path, "a note")[:1])
    settings = {"text.usetex": True, "font.family": "no such font", "savefig.bbox": "tight", "figure.dpi": 33}
    with rc_context({**settings, "axes.facecolor": "black", "mathtext.fontset": "cm", "lines.linewidth": 9}):
        (same,) = (path.read_bytes() for path in draw("error_vs_batch_size", given(*few), tmp_path, "a note")[:1])
    assert same == plain


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MATPLOTLIBRC", "text.usetex: True\nfont.family: serif\nsavefig.transparent: True\n"),
        ("MPLBACKEND", "module://matplotlib_inline.no_such_backend"),
        ("MPLBACKEND", "nonsense"),
    ],
)
def test_a_launch_draws_whatever_matplotlibs_environment(name: str, value: str, tmp_path: Path) -> None:
    if name == "MATPLOTLIBRC":
        (tmp_path / "user.rc").write_text(value)
        value = str(tmp_path / "user.rc")
    brief = ("grid_bsz", "--set", "batch_size=100,200", "--set", "num_epochs=2", "--seeds", "0", "--executor", "inline")
    drawn = []
    for more in ({}, {name: value}):
        done = run_launch(*brief, "--no-mlflow", cwd=tmp_path, env=environment(**more))
        assert (done.returncode, done.stderr) == (0, "")
        drawn.append({path.name: path.read_bytes() for path in tmp_path.glob("results/figures/grid_bsz/*")})
    assert drawn[0]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("text", [r"kid$^_$s", "US$", "a$b", "$$$"])
def test_a_users_text_is_no_formula(text: str, tmp_path: Path) -> None:
    figure = Figure()
    for label in (number_text(text), f"{symbol('weight_decay')} = 1, data set = {number_text(text)}"):
        figure.text(0, 0, label)
    figure.savefig(tmp_path / "figure.png")  # raises for a formula that is none
