"""Names, texts and numbers are what they were when they were recorded: see `record.py` for how, and when to renew them.

Names and texts are compared to the letter, always. Numbers are compared to the bit on the processor and versions of the
record; elsewhere outcomes are equal, floats near, and a search's later asks, which follow from them, its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.golden import results, texts, workloads
from tests.golden.launches import plain_environment
from tests.golden.product import LAUNCH, config_names
from tests.golden.results import Row
from tests.golden.workloads import GRIDS, NAMES, RECORDED, SEARCHES, SLOWER_ENGINE, Findings

RECORDED_NAMES: dict[str, Any] = results.load_json(NAMES)
RECORDED_TEXTS = texts.load(texts.RECORDED)
TO_THE_BIT = results.circumstances() == results.load_json(workloads.MADE_ON)
WITHIN = None if TO_THE_BIT else results.NEAR


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return texts.said(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("golden")
    workloads.run_all(made)
    return made


@pytest.fixture(scope="module")
def found(folder: Path) -> Findings:
    return workloads.findings(folder)


def recorded_rows(name: str) -> dict[str, Row]:
    return {row["trial_id"]: row for row in results.load_rows(RECORDED / f"{name}-trials.parquet")}


def recorded_traces(name: str) -> dict[str, list[Row]]:
    return results.load_traces(RECORDED / f"{name}-traces.parquet")


# --- texts ---


@pytest.mark.parametrize("command", texts.TEXTS)
def test_a_text_is_what_it_was(command: str, said: dict[str, str]) -> None:
    assert said[command] == RECORDED_TEXTS[command]


def test_every_recorded_text_is_compared() -> None:
    assert RECORDED_TEXTS.keys() == set(texts.TEXTS)


def test_a_real_command_says_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-m", LAUNCH, "plan", "--help"]
    done = subprocess.run(
        command, cwd=tmp_path, env=plain_environment(), capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout == RECORDED_TEXTS["plan --help"]


# --- names ---


def test_every_recorded_config_has_its_name() -> None:
    recorded = RECORDED_NAMES["trials"]
    assert {trial_id: config_names(json.loads(names["json"])) for trial_id, names in recorded.items()} == recorded


def test_the_named_sweeps_have_their_trials_in_their_order() -> None:
    assert workloads.named_sweeps() == RECORDED_NAMES["sweeps"]


@pytest.mark.parametrize("name", GRIDS)
def test_a_sweep_runs_its_trials(name: str, found: Findings) -> None:
    wanted = recorded_rows(name).keys()
    assert found.rows[name].keys() == wanted
    assert workloads.trial_names(found).items() >= {one: RECORDED_NAMES["trials"][one] for one in wanted}.items()


def test_files_have_their_columns(folder: Path) -> None:
    columns = workloads.columns(folder)
    assert columns.keys() == RECORDED_NAMES["files"].keys()
    for name, described in RECORDED_NAMES["files"].items():
        assert columns[name] == described, name


# --- numbers ---


@pytest.mark.parametrize("name", GRIDS)
def test_a_sweep_has_its_numbers(name: str, found: Findings) -> None:
    within = results.NEAR_OF_NETWORK if name == "pictures" and not TO_THE_BIT else WITHIN
    results.assert_rows_equal(found.rows[name], recorded_rows(name), within)
    results.assert_traces_equal(found.traces[name], recorded_traces(name), within)


def test_the_slower_engine_has_its_numbers(found: Findings) -> None:
    slower = workloads.train_by_slower_engine(found.rows["rules"])
    results.assert_rows_equal(slower.rows[SLOWER_ENGINE], recorded_rows(SLOWER_ENGINE), WITHIN)
    results.assert_traces_equal(slower.traces[SLOWER_ENGINE], recorded_traces(SLOWER_ENGINE), WITHIN)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_asks_what_it_asked(name: str, found: Findings) -> None:
    recorded = results.load_json(RECORDED / f"{name}-asks.json")
    results.assert_asks_equal(found.asks[name], recorded, WITHIN)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_has_its_numbers(name: str, found: Findings) -> None:
    """On another processor, those of the trials that it asks for on both are compared."""
    rows, traces = recorded_rows(name), recorded_traces(name)
    if TO_THE_BIT:
        assert found.rows[name].keys() == rows.keys()
    shared = found.rows[name].keys() & rows.keys()
    assert shared
    if not TO_THE_BIT:  # the errors of all trials decide which are promoted after a rung
        shared = {one for one in shared if found.rows[name][one]["epochs_done"] == rows[one]["epochs_done"]}
    results.assert_rows_equal(found.rows[name], {one: rows[one] for one in shared}, WITHIN)
    results.assert_traces_equal(found.traces[name], {one: traces[one] for one in shared}, WITHIN)
