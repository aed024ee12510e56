"""States of unfinished members survive kills, are found by any later driver, and are deleted once they are recorded."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from trainables.atomic_files import UNFINISHED
from trainables.packs.state_store import StateStore


def state(epoch: int) -> dict[str, np.ndarray]:
    return {"epoch": np.array(epoch), "weights": np.full((3, 2), epoch, np.float32), "engine": np.array("fused-cpu")}


def test_round_trip_keeps_dtypes_and_values(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path / "states"))
    store.save("p1", {"a": state(1), "b": state(2)})
    index = store.index()
    assert set(index) == {"a", "b"}
    loaded = store.load(index["b"], "b")
    assert loaded is not None
    assert set(loaded) == set(state(2))
    np.testing.assert_array_equal(loaded["weights"], state(2)["weights"])
    assert loaded["weights"].dtype == np.float32
    assert str(loaded["engine"]) == "fused-cpu"


def test_a_pack_keeps_one_file_and_the_last_state_wins(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path))
    store.save("p1", {"a": state(1)})
    store.save("p1", {"a": state(5)})
    assert len(list(tmp_path.glob("*.npz"))) == 1
    store.save("p2", {"a": state(3)})
    best = store.load(store.index()["a"], "a")
    assert best is not None
    assert int(best["epoch"]) == 3


def test_of_two_states_in_the_same_epoch_the_later_one_wins(tmp_path: Path) -> None:
    """An epoch of a large data set lasts hours, and a driver that was killed twice in it has left two packs' states."""
    store = StateStore(str(tmp_path))
    for pack_id, position in (("m", 100), ("z", 200), ("n", 300)):
        store.save(pack_id, {"t": {**state(3), "position": np.array(position)}})
    furthest = store.load(store.index()["t"], "t")
    assert furthest is not None
    assert int(furthest["position"]) == 300


def test_a_pack_named_like_the_start_of_another_keeps_out_of_its_files(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path))
    store.save("run-1", {"a": state(1)})
    store.save("run-12", {"b": state(1)})
    store.save("run-1", {"a": state(2)})
    assert set(store.index()) == {"a", "b"}


def test_files_go_when_all_their_members_are_recorded(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path))
    store.save("p1", {"a": state(1), "b": state(1)})
    store.collect({"a"})
    assert set(store.index()) == {"a", "b"}
    store.collect({"a", "b"})
    assert list(tmp_path.glob("*.npz")) == []


def test_of_a_stopped_trial_only_the_furthest_state_is_kept(tmp_path: Path) -> None:
    """A pack's last save outlives the pack, and has an earlier state of each of its members."""
    store = StateStore(str(tmp_path))
    store.save("run-1", {"a": state(1), "b": state(1)})
    store.save("a", {"a": state(3)})
    store.collect(set())
    assert len(list(tmp_path.glob("*.npz"))) == 2, "b has no other"
    store.save("b", {"b": state(3)})
    store.collect(set())
    assert sorted(path.name.partition(".")[0] for path in tmp_path.glob("*.npz")) == ["a", "b"]
    store.collect({"a"})
    assert set(store.index()) == {"b"}


def test_sizes_are_those_of_the_trials_own_files(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path))
    for name in ("a", "b", "c", "run-1"):
        store.save(name, {"a": state(1), name: state(2)})
    sizes = store.sizes({"a", "b", "d"})
    assert sizes == {name: next(tmp_path.glob(f"{name}.*")).stat().st_size for name in ("a", "b")}
    assert StateStore(str(tmp_path / "never")).sizes({"a"}) == {}


def test_a_damaged_file_counts_as_no_state(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path))
    store.save("p1", {"a": state(1)})
    (path,) = tmp_path.glob("*.npz")
    content = bytearray(path.read_bytes())
    place = content.index(np.full(6, 1, np.float32).tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert store.load(str(path), "a") is None
    path.write_bytes(content[:100])
    assert store.index() == {}
    assert store.load(str(path), "a") is None


def test_an_empty_save_drops_the_packs_file(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path))
    store.save("p1", {"a": state(1)})
    store.save("p1", {})
    assert store.index() == {}


def test_absent_folder_and_vanished_file(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path / "never"))
    assert store.index() == {}
    assert store.load(str(tmp_path / "never" / "x.npz"), "a") is None
    store.collect(set())


def test_a_writer_killed_at_any_moment_leaves_whole_files_only(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import numpy as np
        from trainables.packs.state_store import StateStore
        store = StateStore({str(tmp_path)!r})
        epoch = 0
        while True:
            epoch += 1
            store.save("p1", {{"a": {{"epoch": np.array(epoch), "weights": np.full(300_000, epoch, np.float32)}}}})
        """
    )
    store = StateStore(str(tmp_path))
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", program])
        deadline = time.monotonic() + 60
        while not store.index() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        process.kill()
        process.wait()
        loaded = store.load(store.index()["a"], "a")
        assert loaded is not None
        assert (loaded["weights"] == int(loaded["epoch"])).all()
    for leftover in tmp_path.glob(f"{UNFINISHED}*"):
        os.utime(leftover, (0, 0))
    at_work = tmp_path / f"{UNFINISHED}of-a-writer-at-work.npz.part"
    at_work.touch()
    store.collect({"a"})
    assert list(tmp_path.iterdir()) == [at_work]


def test_the_state_saved_last_counts_also_if_an_earlier_one_got_further(tmp_path: Path) -> None:
    """A trial that could not resume has started anew: its first states are of earlier epochs."""
    store = StateStore(str(tmp_path))
    store.save("first", {"a": state(epoch=50)})
    (damaged,) = tmp_path.glob("first.*")
    content = damaged.read_bytes()
    damaged.write_bytes(content.replace(b"weights", b"weighty"))
    store.save("second", {"a": state(epoch=10)})
    index = store.index()
    assert "second" in index["a"]
    store.collect(())
    assert store.index() == index
    assert store.load(index["a"], "a") is not None


def test_a_store_that_does_not_answer_is_no_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = StateStore(str(tmp_path))
    store.save("pack", {"a": state(epoch=1)})
    (path,) = tmp_path.glob("*.npz")
    path.rename(tmp_path / "kept")
    path.mkdir()  # opening it fails as a disk may
    with pytest.raises(OSError, match="directory"):
        store.index()
    store.collect(())
    assert path.is_dir()
    assert "could not be deleted" in caplog.text


@pytest.mark.parametrize("name", ["weights", "epoch"])
def test_a_sound_archive_of_other_numbers_is_not_used(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a program leaves it that unpacks, changes and packs again: the archive's own checksums fit."""
    store = StateStore(str(tmp_path))
    store.save("pack", {"a": state(epoch=3), "b": state(epoch=4)})
    (path,) = tmp_path.glob("*.npz")
    assert store.fault_of(str(path)) is None
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays[f"a/{name}"] = arrays[f"a/{name}"] + 1
    np.savez(path, **arrays)
    assert store.load(str(path), "a") is None
    assert store.load(str(path), "b") is not None
    assert caplog.text.count("trial a starts anew, its state in ") == 1
    assert store.fault_of(str(path)) == "its arrays are not those that were saved"
