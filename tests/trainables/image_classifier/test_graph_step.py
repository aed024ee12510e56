"""Steps that are recorded once and replayed train bitwise like eager ones: see `tests/support/recording.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

from tests.support.cases import rest_slow
from tests.support.image_trials import VARIANTS, Synchronizes, ended, make_config
from tests.support.images import image_folders
from tests.support.recording import RecordedOperations, recordings
from trainables.contract import Member, State
from trainables.image_classifier import device as image_device
from trainables.image_classifier import graph_step, trial
from trainables.image_classifier.config import ImageClassifierConfig
from trainables.image_classifier.models import initial_model
from trainables.image_classifier.trial import ImageTrainer
from trainables.packs.pack_run import MemberPackRun
from trainables.packs.trial_run import TrialRun
from trainables.result import Outcome, TrialResult

CPU = torch.device("cpu")
SHORT = {"num_epochs": 2}
FEW_IMAGES = {"num_train": 12, "num_test": 3, "batch_size": 5, "num_epochs": 1}
SMALL, LARGE = VARIANTS[:6], VARIANTS[6:]
KINDS = [
    *({**values, **SHORT, "precision": "float32"} for values in SMALL),
    *({**values, **SHORT, "precision": "bfloat16"} for values in SMALL),
    *({**values, **FEW_IMAGES, "precision": "float32"} for values in LARGE),
]


@pytest.fixture(autouse=True, scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with image_folders(tmp_path_factory.mktemp("images"), 16):
        yield


@pytest.fixture
def begun() -> Iterator[list[RecordedOperations]]:
    with recordings() as recorded:
        yield recorded


def pack(members: list[Member], engine: str, at_once: int = 1) -> MemberPackRun:
    return MemberPackRun(
        members, lambda member: TrialRun(member, ImageTrainer(member, engine, CPU, 1)), lambda _: at_once
    )


def trained(config: ImageClassifierConfig, engine: str, state: State | None = None) -> TrialResult:
    (result,) = ended(pack([Member(config, config.num_epochs, state)], engine)).values()
    assert result.error is None, result.error
    assert result.provenance.engine == engine
    return result


@pytest.mark.parametrize("values", rest_slow(KINDS, 2), ids=str)
def test_a_replayed_step_is_the_written_out_one(values: Mapping[str, Any], begun: list[RecordedOperations]) -> None:
    config = make_config(**values)
    replayed = trained(config, "graph-cuda")
    (recording,) = begun
    assert recording.num_replays == config.num_epochs * (config.num_train // config.batch_size)
    assert replayed.trace == trained(config, "eager-cpu").trace
    assert replayed.trace[-1].train_loss != replayed.trace[0].train_loss


def test_images_on_the_host_are_copied_for_each_replay(
    begun: list[RecordedOperations], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(augment_flip=True, augment_crop=2, **SHORT)
    wanted = trained(config, "eager-cpu")
    host = torch.device("cpu", 0)  # the same memory, another name than the device's
    image_device._device_images.cache_clear()
    monkeypatch.setattr(image_device, "home", lambda data, device: host)
    assert image_device.device_images(config, CPU).home == host != CPU
    ours = trained(config, "graph-cuda")
    image_device._device_images.cache_clear()
    assert begun[0].num_replays
    assert ours.trace == wanted.trace


@pytest.mark.parametrize("values", rest_slow(VARIANTS[:5]), ids=str)
def test_a_recorded_trial_goes_on_exactly_from_its_state(
    values: Mapping[str, Any], begun: list[RecordedOperations]
) -> None:
    config = make_config(**{**values, "num_epochs": 4})
    run = pack([Member(config, 2)], "graph-cuda")
    (cut,) = ended(run).values()
    assert cut.outcome is Outcome.UNFINISHED
    state = run.states()[config.trial_id]
    whole = trained(config, "graph-cuda")
    assert trained(config, "graph-cuda", state).trace == whole.trace
    assert [recording.num_replays for recording in begun] == [8, 16, 8]


@pytest.mark.slow
def test_recorded_trials_side_by_side_do_not_disturb_each_other(begun: list[RecordedOperations]) -> None:
    configs = [make_config(seed=seed, **values, **SHORT) for seed in (0, 1) for values in VARIANTS[:2]]
    members = [Member(config, config.num_epochs) for config in configs]
    together, alone = ended(pack(members, "graph-cuda", at_once=3)), ended(pack(members, "eager-cpu"))
    assert len(begun) == len(configs)
    assert max(result.provenance.side_by_side for result in together.values()) == 3
    assert {name: result.trace for name, result in together.items()} == {n: r.trace for n, r in alone.items()}


def test_a_step_that_asks_the_host_is_not_recorded_and_no_other_is_tried(
    begun: list[RecordedOperations], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(graph_step, "_recording_has_failed", False)
    config, next_config = make_config(**SHORT), make_config(seed=1, **SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(trial, "initial_model", lambda config: Synchronizes(initial_model(config)))
        (ours,) = ended(pack([Member(config, config.num_epochs)], "graph-cuda")).values()
    (after,) = ended(pack([Member(next_config, next_config.num_epochs)], "graph-cuda")).values()
    assert len(begun) == 1
    assert begun[0].num_replays == 0
    assert caplog.text.count("steps are not recorded") == 1
    for result, its_config in ((ours, config), (after, next_config)):
        assert result.provenance.engine == "eager-cpu"
        assert result.trace == trained(its_config, "eager-cpu").trace
