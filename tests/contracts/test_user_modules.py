"""A user's workload and optimizer, registered by their own modules alone, in real launches and fresh processes."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ledger.ledger import Ledger
from tests.contracts.toy.config import ToyConfig
from tests.support.examples import example_of
from tests.support.launching import ROOT, environment, rows, run_launch, traces
from tests.support.registration import TOYS, registered
from trainables.config import Optimizer
from trainables.contract import Workload
from trainables.errors import ConfigError
from trainables.packs.orders import MemberOrder, PackOrder
from trainables.registry import WORKLOADS, config_from_values, register_workload, workload
from trainables.result import Outcome

PLAIN = ("--no-mlflow", "--no-figures")
INLINE = ("--executor", "inline", *PLAIN)


@pytest.fixture(autouse=True)
def toys() -> Iterator[None]:
    with registered(*TOYS):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's current folder with the package `my_toys`, which can be imported only from there."""
    made: Path = tmp_path_factory.mktemp("user")
    (made / "my_toys").mkdir()
    for source in (ROOT / "tests/contracts/toy").glob("*.py"):
        (made / "my_toys" / source.name).write_text(source.read_text().replace("tests.contracts.toy", "my_toys"))
    return made


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_launch(*arguments, "--module", "my_toys.sweeps", cwd=folder, env=environment())


def checked(folder: Path, *arguments: str) -> str:
    done = launch(folder, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def inline(folder: Path) -> Path:
    """Results of the user's sweep, trained in the launch's own process."""
    checked(folder, "toys", "--executor", "inline", "--no-mlflow", "--out", str(folder / "inline"))
    return folder / "inline"


def test_a_users_workload_is_trained_recorded_and_drawn(inline: Path) -> None:
    found = rows(inline, "toy")
    assert len(found) == 12
    assert {row["optimizer"] for row in found.values()} == {"adam", "adamw", "toylion"}
    assert {row["outcome"] for row in found.values()} <= {Outcome.LEARNED, Outcome.UNDERFIT}
    assert all(point["gradient_norm"] > 0 for point in traces(inline, "toy"))
    assert (inline / "figures/toys/error_vs_batch_size.png").is_file()
    again = checked(inline.parent, "toys", *PLAIN, "--out", str(inline))
    assert "12 done, 0 to run" in again


@pytest.mark.slow
def test_a_users_workload_has_the_same_rows_on_ray(folder: Path, inline: Path) -> None:
    checked(folder, "run", "toys", *PLAIN, "--out", str(folder / "ray"))
    assert rows(folder / "ray", "toy") == rows(inline, "toy")
    assert traces(folder / "ray", "toy") == traces(inline, "toy")


@pytest.mark.slow
def test_a_module_that_workers_cannot_import_ends_the_launch_in_one_line(folder: Path, tmp_path: Path) -> None:
    """Here only the driver can import it; on a cluster no image would have it. Its first pack would wait for ever."""
    program = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\n"
        "from orchestrator.launch import main\n"
        "sys.argv = ['launch', 'run', 'toys', '--module', 'my_toys.sweeps', '--no-mlflow', '--no-figures']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(),
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: the cluster's nodes cannot load my_toys.workload:Toy (")
    assert "No module named 'my_toys'" in line


def test_a_users_optimizer_trains_a_workload_of_ours(folder: Path) -> None:
    checked(folder, "toy_rule", *INLINE, "--out", str(folder / "rule"))
    found = Ledger(str(folder / "rule")).trials("two_layer_cnn").to_pylist()
    engines = {row["optimizer"]: row["engine"] for row in found}
    assert engines == {"adam": "fused-cpu", "adamw": "fused-cpu", "toylion": "reference"}
    assert Outcome.FAILED not in {row["outcome"] for row in found}


def test_a_named_sweep_of_ours_trains_a_users_workload_by_its_setup(folder: Path) -> None:
    shown = checked(folder, "grid_bsz", "--workload", "toy", *INLINE, "--seeds", "0", "--out", str(folder / "setup"))
    assert shown.startswith("grid_bsz_toy: 6 trials, 0 done, 6 to run\n")
    assert len(rows(folder / "setup", "toy")) == 6
    done = launch(folder, "plan", "grid_wd", "--workload", "toy")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: workload toy has no grid_wd (it has: grid_bsz)\n"
    done = launch(folder, "plan", "grid_bsz", "--workload", "toyy")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown workload 'toyy'; did you mean 'toy'? (known: ")


def test_certificates_are_refused_without_a_bound(folder: Path) -> None:
    done = launch(folder, "toy_certified", *INLINE)
    assert done.returncode == 2
    assert done.stderr == (
        "error: toy_certified cannot accept certificates: optimizer 'toylion' has no entry for the largest update, "
        "which a certificate needs (known: adam, adamw, signsgd, signsgdw)\n"
    )


def test_planning_with_a_users_module_loads_nothing_heavy(folder: Path) -> None:
    program = (
        "import sys\n"
        "from orchestrator.commands.command_line import app\n"
        "app(['plan', 'toys', '--module', 'my_toys.sweeps'], standalone_mode=False)\n"
        "print([n for n in ('torch', 'ray', 'numba', 'mlflow', 'matplotlib') if n in sys.modules])\n"
    )
    assert in_fresh_process(program, folder).endswith("\n[]\n")


def in_fresh_process(program: str, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=folder, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


WORKER = """
import json, pickle, sys
order = pickle.load(open(sys.argv[1], "rb"))
known = "tests.contracts.toy.workload" in sys.modules
from trainables.packs.worker import PackWorker
worker, results = PackWorker(order), []
while not worker.is_done:
    results += [report.result for report in worker.step() if report.result is not None]
print(json.dumps([known, {result.trial_id: [result.outcome, result.error] for result in results}]))
"""


def tiny(**values: Any) -> ToyConfig:
    config = config_from_values({"workload": "toy", **example_of("toy").base, **values})
    assert isinstance(config, ToyConfig)
    return config


@pytest.mark.slow
def test_a_fresh_worker_opens_the_workload_and_the_optimizer_from_an_order_alone(tmp_path: Path) -> None:
    members = tuple(MemberOrder(tiny(optimizer=optimizer)) for optimizer in ("adam", "toylion"))
    order = PackOrder(pack_id="one", members=members, states_root=str(tmp_path / "states"), checkpoint_seconds=30.0)
    assert order.workload == "tests.contracts.toy.workload:Toy"
    (tmp_path / "order").write_bytes(pickle.dumps(order))
    known, results = json.loads(in_fresh_process(WORKER, tmp_path, str(tmp_path / "order")))
    assert not known, "the order's config alone does not import the workload"
    assert results.keys() == {member.config.trial_id for member in members}
    assert all(outcome != Outcome.FAILED and error is None for outcome, error in results.values())


def test_a_flat_config_of_a_fresh_process_names_the_workload_by_its_place(tmp_path: Path) -> None:
    """A worker of a user's own `tune.Tuner` gets such a config."""
    program = (
        "import json, sys; from trainables.registry import config_from_values, workload\n"
        "config = config_from_values(json.loads(sys.argv[1])); workload(config.workload); print(config.trial_id)"
    )
    values = {**example_of("toy").base, "workload": "tests.contracts.toy.workload:Toy"}
    assert in_fresh_process(program, tmp_path, json.dumps(values)).split() == [tiny().trial_id]


def test_an_optimizers_pickle_is_of_its_name_and_a_users_finds_its_module() -> None:
    adam = (
        b"\x80\x04\x95.\x00\x00\x00\x00\x00\x00\x00\x8c\x11trainables.config\x94\x8c\tOptimizer\x94\x93\x94\x8c\x04adam\x94"
        b"\x85\x94R\x94."
    )
    assert pickle.dumps(Optimizer.ADAM, 4) == adam, "as it was when Optimizer was an enum"
    assert pickle.loads(adam) is Optimizer.ADAM
    assert b"tests.contracts.toy.optimizer" in pickle.dumps(Optimizer("toylion"))
    assert pickle.loads(pickle.dumps(Optimizer("toylion"))) is Optimizer("toylion")


class Half(Workload):
    config_type = ToyConfig


def test_a_class_that_is_no_workload_is_refused_when_it_registers() -> None:
    with pytest.raises(ConfigError, match=r"^a workload named 'toy' is registered as tests\.contracts\.toy"):
        register_workload("toy")(Half)
    with pytest.raises(ConfigError, match=r"^workload 'half' lacks config, cost, .*devices, .*trace_point_type: see"):
        register_workload("half")(Half)
    with pytest.raises(ConfigError, match=r"^workload 'second' has configs of workload 'toy': give both one name$"):
        register_workload("second")(type(workload("toy")))
    assert not {"half", "second"} & set(WORKLOADS)


@pytest.mark.parametrize("place", ["no_such_module:Toy", "tests.contracts.toy.workload:Tyo"])
def test_a_place_where_nothing_lies_is_one_line(place: str) -> None:
    message = r"^cannot open '.*': (no module 'no_such_module' can be imported here|module '.*' has no 'Tyo')$"
    with pytest.raises(ConfigError, match=message):
        workload(place)
