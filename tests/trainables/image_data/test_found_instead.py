"""What is said where images are looked for and something else is found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.trainables.image_data.test_images import (
    file_of,
    in_turn,
    noise,
    refused,
    small_set,
    write_cifar10,
    write_tree,
)
from trainables.image_data.selection import Selection


@pytest.mark.parametrize(
    ("places", "said"),
    [
        (["Train/a/0.png", "Test/a/0.png"], "found Test (test is looked for), Train (train is looked for)"),
        (["training/a/0.png", "testing/a/0.png"], "found testing (test is looked for), training (train is looked for)"),
        (["training_set/a/0.png"], "found training_set (train is looked for)"),
        (["my_train.parquet", "my_test.parquet"], "found my_test.parquet (test.parquet is looked for), my_train."),
        (["cifar-10-batches-bin/data_batch_1.bin"], "found cifar-10-batches-bin (cifar-10-batches-py is looked for)"),
        (["fashionmnist/raw/x"], "found fashionmnist (FashionMNIST is looked for)"),
        (["train-images.idx3-ubyte"], "found train-images.idx3-ubyte (train-images-idx3-ubyte is looked for)"),
        (["train.zip", "readme.md"], "train.zip has to be unpacked there"),
        (["images.tar.gz", ".cache/x"], "images.tar.gz has to be unpacked there"),
        (["x/train/a/0.png", "x/test/a/0.png"], "the images are one folder too deep, in x: move the content of that"),
        (["x/cifar-10-batches-py/data_batch_1"], "the images are one folder too deep, in x: move the content of that"),
        (["x/data/train-00000-of-00002.parquet"], "the images are one folder too deep, in x: move the content of that"),
        (["a/0.png", "b/0.png"], "found a/ with 0.png, b/ with 0.png"),
        (["train/0.png", "train/1.png", "train/2.png"], "found train/ with 0.png, 1.png and 1 more"),
        (["train/0000.parquet"], "found train/ with 0000.parquet"),
        ([f"{i}.png" for i in range(5)], "found 0.png, 1.png, 2.png and 2 more"),
        ([".DS_Store"], "the folder is empty"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_there_is_said_with_what_is_looked_for(data: Path, places: list[str], said: str) -> None:
    for place in places:
        path = data / "own" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file_of(noise(1)[0]))
    text = refused(Selection("own"))
    assert text.startswith(f"no images of 'own' in {data / 'own'} ({said}")
    assert "put them there as torchvision's folder, as train*.parquet and test*.parquet or as train/CLASS/ and" in text


@pytest.mark.parametrize(("name", "said"), [("dev", "dev/ with "), ("Test", "Test (test is looked for)")])
def test_where_only_the_test_images_are_missing_what_is_there_is_said(data: Path, name: str, said: str) -> None:
    for split in ("train", name):
        write_tree(data / "own" / split, [file_of(image) for image in noise(8)], in_turn(8))
    text = f"{data / 'own'} has class folders in train/ but none in test or val or validation or valid/: found {said}"
    assert refused(Selection("own")).startswith(text)
    small_set(data, "shards")
    (data / "shards" / "test.parquet").rename(data / "shards" / f"{name}.parquet")
    assert f": found {name}.parquet" in refused(Selection("shards"))


@pytest.mark.parametrize("name", ["own", "other"])
def test_a_data_folder_that_is_itself_a_data_set_is_said(
    data: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_set(data)
    monkeypatch.setenv("LAMBDA_ATLAS_DATA", str(data / "own"))
    assert f"({data / 'own'} itself holds images: its parent folder is the one to name)" in refused(Selection(name))
    shutil.rmtree(data / "own")
    small_set(data)
    monkeypatch.setenv("LAMBDA_ATLAS_DATA", str(data))
    write_cifar10(data, noise(10, 32, 32), in_turn(10, 10), noise(10, 32, 32), in_turn(10, 10))
    assert "itself holds images" not in refused(Selection("another")), "data sets of torchvision may lie there"
