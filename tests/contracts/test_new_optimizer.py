"""What refuses an optimizer that is registered without entries: it never silently gets another rule's numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.errors import SweepError
from orchestrator.figures.style import look_of
from orchestrator.sweeps.overrides import parse_setting
from orchestrator.sweeps.value import Grid, Sweep
from tests.support.registration import TOYS, registered
from trainables.config import Optimizer
from trainables.contract import Member
from trainables.errors import ConfigError
from trainables.names import OPTIMIZER_TRAITS, OptimizerTraits, register_optimizer
from trainables.optimizers import make_optimizer
from trainables.registry import config_from_values, workload
from trainables.sign_agreement.comparison import AdamSteps
from trainables.two_layer_cnn.config import TwoLayerCNNConfig
from trainables.two_layer_cnn.patch_data import patch_data
from trainables.two_layer_cnn.state import initial_state
from trainables.two_layer_cnn.stuck_box import largest_step, stuck_box
from trainables.two_layer_cnn.trace import weight_norm
from trainables.two_layer_cnn.trial import make_engine

SIZES: dict[str, Any] = {
    "learning_rate": 2e-4,
    "num_epochs": 1000,
    "num_train": 20,
    "num_test": 50,
    "dimension": 40,
    "noise_sparsity": 5,
    "num_filters": 4,
    "init_std": 0.05,
    "batch_size": 3,
}
KINDS = [OptimizerTraits(is_coupled, has_moments) for is_coupled in (True, False) for has_moments in (True, False)]
DECAYS = {True: 1.0, False: 3000.0}
"""Weight decays at which the optimizers of today are certified, coupled and decoupled."""


@pytest.fixture(params=KINDS, ids=str)
def lion(request: pytest.FixtureRequest) -> Iterator[Optimizer]:
    """A fifth optimizer, registered with its traits only."""
    kind = request.param
    with registered():
        yield register_optimizer("lion", is_coupled=kind.is_coupled, has_moments=kind.has_moments, module=__name__)


def config_of(optimizer: Optimizer) -> TwoLayerCNNConfig:
    decay = DECAYS[optimizer.is_coupled]
    values = {**SIZES, "workload": "two_layer_cnn", "optimizer": optimizer, "weight_decay": decay, "seed": 0}
    config = config_from_values(values)
    assert isinstance(config, TwoLayerCNNConfig)
    return config


def has_box(config: TwoLayerCNNConfig) -> bool:
    return stuck_box(config, patch_data(config), weight_norm(initial_state(config).weights)) is not None


@pytest.mark.parametrize("optimizer", list(Optimizer))
def test_the_optimizers_of_today_have_all_of_it(optimizer: Optimizer) -> None:
    config = config_of(optimizer)
    assert has_box(config)
    for engine in ("fused-cpu", "reference"):
        state = initial_state(config)
        make_engine(engine, config, patch_data(config)).train(state, 1)
    assert look_of(optimizer).name.lower() == optimizer


def test_a_new_optimizer_never_has_a_certificate(lion: Optimizer) -> None:
    config = config_of(lion)
    assert not has_box(config)
    with pytest.raises(ConfigError, match=r"^optimizer 'lion' has no entry for the largest update"):
        largest_step(config)


def test_a_sweep_with_an_optimizer_that_nothing_trains_is_refused_before_training(lion: Optimizer) -> None:
    with pytest.raises(ConfigError) as refusal:
        Sweep("plain", "", (Grid({"lion": {"weight_decay": 1.0}}, {}, SIZES),), seeds=(0,)).configs()
    assert str(refusal.value) == (
        f"plain: optimizer 'lion' has no update rule: its register_optimizer in {__name__} needs "
        'entries={"torch": "module:function"}'
    )


def test_an_entry_that_is_no_place_or_leads_nowhere_is_refused_before_training(lion: Optimizer) -> None:
    kind = {"is_coupled": lion.is_coupled, "has_moments": lion.has_moments}
    for place in ("", ":lion", "lion", "./lion.py:lion", 7):
        with pytest.raises(ConfigError, match=r"^entry 'torch' of optimizer 'lion' must be 'module:name', got "):
            register_optimizer("lion", **kind, module=__name__, entries={"torch": place})  # type: ignore[dict-item]
    register_optimizer("lion", **kind, module=__name__, entries={"torch": "no_such_package.lion:Lion"})
    with pytest.raises(ConfigError) as refusal:
        Sweep("plain", "", (Grid({"lion": {"weight_decay": 1.0}}, {}, SIZES),), seeds=(0,)).configs()
    assert str(refusal.value) == (
        "plain: optimizer 'lion' has its update rule in no_such_package.lion, which cannot be imported"
    )


class Momentum(torch.optim.SGD):
    """Keeps a buffer that engines do not know of."""

    def __init__(self, params: Any, config: TwoLayerCNNConfig, **variant: Any) -> None:
        super().__init__(params, lr=config.learning_rate, momentum=0.9)


class NewTensors(torch.optim.Optimizer):
    """Puts a new tensor in the place of the one that the engine saves."""

    def __init__(self, params: Any, config: TwoLayerCNNConfig, **variant: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for w in self.param_groups[0]["params"]:
            self.state[w]["exp_avg"] = 0.9 * self.state[w]["exp_avg"] + w.grad


@pytest.mark.parametrize(("rule", "kept"), [("Momentum", "momentum_buffer"), ("NewTensors", "exp_avg")])
def test_a_rule_whose_state_no_engine_saves_fails_its_trial(lion: Optimizer, rule: str, kept: str) -> None:
    """Its numbers would depend on when the engine stopped and resumed."""
    kind = {"is_coupled": lion.is_coupled, "has_moments": lion.has_moments}
    register_optimizer("lion", **kind, module=__name__, entries={"torch": f"{__name__}:{rule}"})
    run = workload("two_layer_cnn").open([Member(config_of(lion), 1)])
    reports = [report for _ in range(3) for report in run.advance(1.0)]
    (error,) = [str(report.result.error) for report in reports if report.result is not None]
    assert error.splitlines()[-1] == (
        f"trainables.errors.ConfigError: optimizer 'lion' keeps its state in {kept}: engines save exp_avg and "
        "exp_avg_sq only, and a rule must update these tensors in place"
    )


def test_a_users_workload_refuses_it_as_well(lion: Optimizer) -> None:
    with registered(*TOYS):
        register_optimizer("lion", is_coupled=True, has_moments=True, module=__name__)
        base = {"num_epochs": 2, "learning_rate": 1e-2, "batch_size": 4}
        toys = Sweep("toys", "", (Grid({"lion": {"weight_decay": 1.0}}, {}, base),), seeds=(0,), workload="toy")
        with pytest.raises(ConfigError, match=r"^toys: optimizer 'lion' has no update rule: "):
            toys.configs()


def test_a_sweep_that_asks_for_its_certificates_is_refused_before_training(lion: Optimizer) -> None:
    kind = {"is_coupled": lion.is_coupled, "has_moments": lion.has_moments}
    register_optimizer("lion", **kind, module=__name__, entries={"torch": f"{__name__}:NothingThatPlanningOpens"})
    grid = Grid({"lion": {"weight_decay": 1.0}}, {}, SIZES)
    assert len(Sweep("plain", "", (grid,), seeds=(0,)).configs()) == 1
    with pytest.raises(ConfigError) as refusal:
        Sweep("certified", "", (grid,), seeds=(0,), accepts_certificates=True).configs()
    assert str(refusal.value) == (
        "certified cannot accept certificates: optimizer 'lion' has no entry for the largest update, which a "
        "certificate needs (known: adam, adamw, signsgd, signsgdw)"
    )


def test_no_engine_trains_it_by_another_rule(lion: Optimizer) -> None:
    config = config_of(lion)
    with pytest.raises(ConfigError, match=r"^optimizer 'lion' has no entry for an update in the fused engine"):
        make_engine("fused-cpu", config, patch_data(config))
    with pytest.raises(ConfigError, match=r"^optimizer 'lion' has no entry for an update rule in torch"):
        make_optimizer(config, [torch.zeros(2, requires_grad=True)])


def test_its_updates_are_not_compared_as_adams(lion: Optimizer) -> None:
    config = config_of(lion)
    moments = np.zeros((40, 8)), np.zeros((40, 8))
    with pytest.raises(ConfigError, match="only steps of adam and adamw can be compared, got optimizer lion"):
        AdamSteps(config, patch_data(config), initial_state(config).weights, moments, 0)
    values = {**config.model_dump(exclude={"workload"}), "workload": "sign_agreement"}
    with pytest.raises(ConfigError, match="sign_agreement compares adam or adamw with sign descent, got lion"):
        config_from_values(values)


def test_no_figure_draws_it_without_a_look(lion: Optimizer) -> None:
    with pytest.raises(ConfigError, match=r"^optimizer 'lion' has no entry for its look in figures"):
        look_of(lion)


def test_a_look_that_is_none_is_refused(lion: Optimizer) -> None:
    kind = {"is_coupled": lion.is_coupled, "has_moments": lion.has_moments}
    register_optimizer("lion", **kind, module=__name__, entries={"look": f"{__name__}:SIZES"})
    with pytest.raises(ConfigError, match=r"^the look of optimizer 'lion' must be a Look, got \{"):
        look_of(lion)


def test_a_workload_takes_the_fastest_engine_that_has_the_members_rule(lion: Optimizer) -> None:
    """The engine is chosen for each member: Adam in the same pack is trained as always."""
    members = [Member(config_of(optimizer), 1) for optimizer in (lion, Optimizer.ADAM)]
    run, results = workload("two_layer_cnn").open(members), {}
    while not run.is_done:
        results.update({r.result.config.optimizer: r.result for r in run.advance(1.0) if r.result is not None})
    assert results[Optimizer.ADAM].provenance.engine == "fused-cpu"
    assert results[lion].provenance.engine == "reference"
    last_line = str(results[lion].error).splitlines()[-1]
    assert last_line.startswith("trainables.errors.ConfigError: optimizer 'lion' has no entry for an update rule in to")


def test_its_name_may_be_no_others(lion: Optimizer) -> None:
    kind = {"is_coupled": True, "has_moments": True}
    with pytest.raises(ConfigError, match=r"^an optimizer named 'adam' is registered by lambda-atlas itself: choose"):
        register_optimizer("adam", **kind, module=__name__)
    with pytest.raises(ConfigError, match=rf"^an optimizer named 'lion' is registered by {__name__}: choose"):
        register_optimizer("lion", **kind, module="another")
    with pytest.raises(ConfigError, match=r"^an optimizer's name is a small letter, .* digits and _, got 'Li on'$"):
        register_optimizer("Li on", **kind, module=__name__)
    assert register_optimizer("lion", **kind, module=__name__) is lion, "its own module may say it again"


def test_an_unknown_name_is_refused_with_the_nearest_of_all(lion: Optimizer) -> None:
    with pytest.raises(SweepError) as refusal:
        parse_setting("optimizer=lino", TwoLayerCNNConfig)
    assert str(refusal.value) == (
        "unknown optimizer 'lino'; did you mean 'lion'? (known: adam, adamw, lion, signsgd, signsgdw)"
    )
    assert parse_setting("optimizer=lion", TwoLayerCNNConfig)[1] == (lion,)


def test_an_optimizer_without_traits_is_no_optimizer(lion: Optimizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(OPTIMIZER_TRAITS, lion)
    values = {**SIZES, "workload": "two_layer_cnn", "optimizer": "lion", "weight_decay": 1.0, "seed": 0}
    with pytest.raises(ConfigError, match=r"^optimizer 'lion' has no entry for whether its decay is coupled"):
        config_from_values(values)
