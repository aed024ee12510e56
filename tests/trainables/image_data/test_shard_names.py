"""Parquet files by their names: which split they are of, and what of it is missing or there twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.trainables.image_data.test_images import file_of, forget, in_turn, noise, refused, write_parquet
from trainables.image_data.images import manifest
from trainables.image_data.selection import Selection
from trainables.image_data.shard_names import split_files

TEST = ["test-00000-of-00001"]
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def write(folder: Path, names: Sequence[str]) -> None:
    """Eight images in each file."""
    for i, name in enumerate(names):
        write_parquet(folder / f"{name}.parquet", [file_of(image) for image in noise(8, seed=i)], in_turn(8))


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["train-00000-of-00003", "train-00002-of-00003", *TEST], "lacks train-00001-of-00003.parquet: complete the"),
        (["train-00002-of-00003", *TEST], "lacks train-00000-of-00003.parquet, train-00001-of-00003.parquet: "),
        (["train-00007-of-00009", *TEST], "train-00002-of-00009.parquet and 5 more: complete the folder"),
        (["train", "test-00000-of-00002"], "lacks test-00001-of-00002.parquet: complete the folder"),
        (["train", "val_0_of_2"], "lacks val_1_of_2.parquet: complete the folder"),
        (["train-00001-of-00002-0a1b2c3d", *TEST], "lacks train-00000-of-00002.parquet: complete the folder"),
        (["train-0-of-20240101", *TEST], "lacks train-1-of-20240101.parquet, train-2-of-20240101.parquet, train-3-of-"),
        (["train-0-of-20240101", *TEST], "train-3-of-20240101.parquet and 20240097 more: complete the folder"),
        (["train-0-of-999999999999999999999", *TEST], " and 999999999999999999995 more: complete the folder"),
        (["train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002", *TEST], "train images in two"),
        (["train", "train-00000-of-00001", *TEST], "the train images in two versions (train-00000-of-00001.parquet, "),
        (["train-00000-of-00001-0a1b2c3d", "train-00000-of-00001-4e5f6a7b", *TEST], "the same shard of train twice ("),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("is_cached", [False, True])
def test_a_missing_or_second_shard_is_named(data: Path, names: Sequence[str], what: str, is_cached: bool) -> None:
    folder = data / "own" / "data"
    if is_cached:  # the images of the same split are decoded already
        write(folder, ["train", "test"])
        manifest(Selection("own"))
        for path in folder.iterdir():
            path.unlink()
        forget()
    write(folder, names)
    text = refused(Selection("own"))
    assert text.startswith(f"{folder} ")
    assert what in text


@pytest.mark.parametrize(
    "names",
    [
        ["train", "test"],
        ["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"],
        ["train-00001-of-00002", "train-00002-of-00002", "test"],
        ["train-00000-of-00001-b513d9e388d56453", "validation-00000-of-00001-e1c6ab2f7a07b4e8"],
        ["train-00000-of-00001.snappy", "test-00000-of-00001.snappy"],
        ["train-0", "train-1", "train-5", "val-0"],
        ["train0", "train_part_1", "valid.0"],
        ["train0of2", "train1of2", "test_shard0of1"],
        [f"train-{SHA256}", "test"],
        ["train-00000-3f2504e0-4f89-41d3-9a0c-0305e82c3301-c000.snappy", "test_0001"],
    ],
    ids=str,
)
def test_usual_names_of_shards_are_those_of_their_split(data: Path, names: Sequence[str]) -> None:
    write(data / "own", names)
    held = manifest(Selection("own"))
    assert held.num_train == 8 * len([name for name in names if name.startswith("train")])
    assert held.num_test == 8


@pytest.mark.parametrize(
    "other",
    [
        "train_augmented-00000-of-00001",
        "trainval-00000-of-00001",
        "train-clean",
        "training",
        "train-00000-of-00001 (1)",
        "train-00000-of-00001 copy",
        "test_hard-00000-of-00001",
        "testing",
        "train--0",
        "train-",
    ],
)
def test_other_splits_are_left_out_and_named(data: Path, other: str, caplog: pytest.LogCaptureFixture) -> None:
    write(data / "own" / "data", ["train-00000-of-00001", *TEST, other])
    held = manifest(Selection("own"))
    assert (held.num_train, held.num_test) == (8, 8)
    (said,) = caplog.records
    assert said.getMessage() == f"files left out of 'own': 1 of no split (data/{other}.parquet)"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", [f"{SHA256}_orig", "0" * 150 + "_orig", "-".join(["0000"] * 40) + "_orig"], ids=len)
def test_a_long_name_of_another_split_is_told_at_once(name: str, tmp_path: Path) -> None:
    (tmp_path / f"train-{name}.parquet").touch()
    assert split_files(tmp_path, "train") == []


def test_val_is_not_mixed_with_validation(data: Path) -> None:
    write(data / "own", ["train", "val", "validation", "valid-0"])
    assert manifest(Selection("own")).num_test == 8
