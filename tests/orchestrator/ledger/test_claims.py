"""Claims keep drivers that share a ledger from training a trial twice, in folders and in object stores."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from orchestrator.errors import LedgerError
from orchestrator.ledger import liveness
from orchestrator.ledger.claims import Claims
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.storage import Storage
from tests.orchestrator.ledger.holders import ClaimsHolder
from tests.support.servers import ObjectStore, object_store

BEAT, SILENT = 0.2, 2.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.slow)])
def out(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder, or a new bucket, which this process can reach."""
    monkeypatch.setattr(liveness, "BEAT_SECONDS", BEAT)
    monkeypatch.setattr(liveness, "SILENT_SECONDS", SILENT)
    if request.param == "folder":
        return str(tmp_path)
    running: ObjectStore = request.getfixturevalue("store")
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    return running.make_bucket(f"claims-{time.monotonic_ns()}") + "/p"


def left(out: str) -> list[str]:
    """What drivers have left behind."""
    storage = Storage(out)
    return sorted(info.base_name for info in storage.infos(f"{storage.path}/.claims") if info.base_name)


def free_after(claims: Claims, trial_id: str) -> float:
    """Seconds until nobody else claims a trial."""
    started = time.monotonic()
    while trial_id in claims.others():
        assert time.monotonic() < started + 60
        time.sleep(BEAT / 2)
    return time.monotonic() - started


def test_a_trial_is_claimed_by_one_driver(out: str) -> None:
    one, other = Ledger(out).claims, Ledger(out).claims
    with one.held():
        with other.held():
            assert one.claim({"a", "b"}) == {"a", "b"}
            assert other.claim({"b", "c"}) == {"c"}
            assert one.claim({"b", "c", "d"}) == {"b", "d"}
            assert set(one.others()) == {"c"}
            assert set(other.others()) == {"a", "b", "d"}
            one.release({"a", "b"})
            assert free_after(other, "b") < 60
            assert other.claim({"b", "d"}) == {"b"}
        assert one.claim({"b", "c"}) == {"b", "c"}, "a driver that ended claims nothing"
    assert left(out) == []


def test_what_a_damaged_object_claims_is_not_known_and_stops_nobody(out: str) -> None:
    storage = Storage(out)
    for number, content in enumerate((b"", b"{", b"[1]", b'{"trials": null}')):
        storage.write(f"{storage.path}/.claims/damaged{number}.json", pa.py_buffer(content))
    claims = Ledger(out).claims
    with claims.held():
        assert claims.claim({"a"}) == {"a"}


def test_claims_that_are_rewritten_in_the_midst_of_a_look_are_seen(out: str) -> None:
    """An object grows and shrinks all the time; a store gives the beginning of one that grew while it was read."""
    one, other = Ledger(out).claims, Ledger(out).claims
    more = {f"trial{number}" for number in range(200)}
    until = time.monotonic() + 1.0

    def rewrite() -> None:
        while time.monotonic() < until:
            one.claim(more)
            one.release(more)
            one.claim({"a"})

    with one.held(), other.held(), ThreadPoolExecutor(1) as writer:
        assert one.claim({"a"}) == {"a"}
        rewriting = writer.submit(rewrite)
        while not rewriting.done():
            assert "a" in other.others()
        rewriting.result()


def test_a_killed_driver_claims_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock ends with it: nobody waits, and nobody takes a living driver for dead."""
    monkeypatch.setattr(liveness, "SILENT_SECONDS", 1000.0)
    killed = ClaimsHolder(str(tmp_path), "a", "b", beat=1000.0, silent=1000.0)
    assert killed.said == "a b"
    claims = Ledger(str(tmp_path)).claims
    with claims.held():
        assert claims.claim({"a", "c"}) == {"c"}
        killed.kill()
        assert claims.claim({"a"}) == {"a"}
    assert left(str(tmp_path)) == []


@pytest.mark.slow
def test_a_killed_driver_of_a_store_claims_nothing_once_it_was_silent(out: str) -> None:
    killed = ClaimsHolder(out, "a", beat=BEAT, silent=SILENT)
    assert killed.said == "a"
    claims = Ledger(out).claims
    with claims.held():
        assert claims.claim({"a"}) == set()
        killed.kill()
        waited = free_after(claims, "a")
        assert claims.claim({"a"}) == {"a"}
    if "://" in out:
        assert waited > SILENT / 2
        assert [name.rpartition(".")[2] for name in left(out)] == ["void"]


@pytest.mark.slow
def test_a_driver_that_was_stopped_finds_that_it_lost_its_claims(out: str) -> None:
    stopped = ClaimsHolder(out, "a", beat=BEAT, silent=SILENT)
    assert stopped.said == "a"
    assert stopped.ask() == ""
    claims = Ledger(out).claims
    with claims.held():
        assert claims.claim({"a"}) == set()
        stopped.stop()
        assert free_after(claims, "a") > SILENT / 2
        assert claims.claim({"a"}) == {"a"}
        stopped.go_on()
        assert "another launch took over its trials" in stopped.ask()
        assert claims.claim({"a"}) == {"a"}
        claims.check()
        stopped.end()
        assert claims.claim({"a"}) == {"a"}
    assert left(out) == []


def test_a_ledger_whose_driver_lost_its_claims_records_nothing(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    with ledger.claims.held():
        ledger.append([])
        (tmp_path / ".claims" / f"{ledger.driver_id}.void").touch()
        ledger.claims.others()
        with pytest.raises(LedgerError, match="took over its trials: it records nothing more"):
            ledger.append([])
        with pytest.raises(LedgerError, match="took over"):
            ledger.mark_pruned("two_layer_cnn", ["a"])
        with pytest.raises(LedgerError, match="took over"):
            ledger.claims.claim({"a"})
    assert left(str(tmp_path)) == []


def test_no_trial_is_held_by_two_drivers_at_once(out: str) -> None:
    """Several drivers claim and release from one small pool, at random times."""
    pool = [f"trial{number}" for number in range(12)]
    holders: dict[str, int] = {}
    num_held = [0] * 4
    guard = threading.Lock()
    until = time.monotonic() + 1.0

    def drive(number: int) -> None:
        chance = random.Random(number)
        claims = Ledger(out).claims
        with claims.held():
            while time.monotonic() < until or not num_held[number]:
                mine = claims.claim(chance.sample(pool, 3))
                with guard:
                    assert not mine & holders.keys(), "a trial has two drivers"
                    holders.update(dict.fromkeys(mine, number))
                num_held[number] += len(mine)
                time.sleep(chance.uniform(0, 0.01))
                with guard:
                    for trial_id in mine:
                        del holders[trial_id]
                claims.release(mine)

    with ThreadPoolExecutor(4) as drivers:
        for done in [drivers.submit(drive, number) for number in range(4)]:
            done.result()
    assert min(num_held) > 0
    assert left(out) == []
