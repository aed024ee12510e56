"""Images of every layout: exact pixels, subsets, the cache under kills and races, a one-line message for each fault."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from trainables.errors import DataError
from trainables.image_data import cache
from trainables.image_data import images as image_data
from trainables.image_data.cache import ImageData, Manifest
from trainables.image_data.decoding import channel_statistics, choose
from trainables.image_data.images import manifest, open_images
from trainables.image_data.selection import Selection
from trainables.image_data.sources import download, find_images

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
needs_fashion = pytest.mark.skipif(
    not DEBIAN_FASHION.is_dir(), reason=f"{DEBIAN_FASHION} is missing (Debian's package dataset-fashion-mnist)"
)
IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def forget() -> None:
    """Clear what the process has cached, as in a new process."""
    image_data._manifest.cache_clear()
    image_data._open_images.cache_clear()


def is_intact(held: Manifest) -> bool:
    """Whether the cache holds exactly the content of that manifest."""
    entries = [entry for entry, other in cache.entries(cache.cache_root(), held.dataset) if other == held]
    return any(cache.is_whole(entry, held) and cache.intact_images(entry, held) for entry in entries)


def opened(selection: Selection) -> ImageData:
    return open_images(selection, manifest(selection).digest)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


def refused(selection: Selection) -> str:
    return refusal(lambda: manifest(selection))


def cached(dataset: str) -> list[Path]:
    """The cache's files of a data set, without the locks."""
    folder = cache.cache_root() / dataset
    return sorted(path for path in folder.iterdir() if path.suffix != ".lock") if folder.is_dir() else []


def noise(count: int, height: int = 8, width: int = 8, channels: int = 3, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), np.uint8)


def in_turn(count: int, num_classes: int = 4) -> Labels:
    return np.arange(count) % num_classes


def file_of(pixels: Pixels, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(content, kind)
    return content.getvalue()


def write_parquet(
    path: Path,
    contents: Sequence[bytes | None],
    labels: Labels,
    image: str = "img",
    label: str = "label",
    row_group_size: int | None = None,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # a table that is still mapped keeps the old file
    cells = [{"bytes": content, "path": None} for content in contents]
    pq.write_table(pa.table({image: cells, label: pa.array(labels)}), path, row_group_size=row_group_size)


def parquet_set(folder: Path, train: Pixels, train_labels: Labels, test: Pixels, test_labels: Labels) -> None:
    write_parquet(folder / "train.parquet", [file_of(image) for image in train], train_labels)
    write_parquet(folder / "test.parquet", [file_of(image) for image in test], test_labels)


def small_set(data: Path, name: str = "own", seed: int = 0) -> Selection:
    """40 training and 20 test images of 8 pixels in four classes, as Parquet."""
    parquet_set(data / name, noise(40, seed=seed), in_turn(40), noise(20, seed=seed + 1), in_turn(20))
    return Selection(name)


def write_tree(folder: Path, contents: Sequence[bytes], labels: Labels, suffix: str = "png") -> None:
    """Write class folders whose files sort in the given order."""
    for i, (content, label) in enumerate(zip(contents, labels, strict=True)):
        path = folder / f"n{label:04d}" / f"{i:05d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def planes(images: Pixels) -> Pixels:
    """CIFAR's rows: red, green and blue plane one after another."""
    rows: Pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return rows


def write_cifar10(folder: Path, train: Pixels, train_labels: Labels, test: Pixels, test_labels: Labels) -> None:
    batches = folder / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    files = {f"data_batch_{i + 1}": part for i, part in enumerate(np.array_split(np.arange(len(train)), 5))}
    for name, rows in files.items():
        content = {"data": planes(train[rows]), "labels": train_labels[rows].tolist()}
        (batches / name).write_bytes(pickle.dumps(content))
    (batches / "test_batch").write_bytes(pickle.dumps({"data": planes(test), "labels": test_labels.tolist()}))
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))


def write_idx(folder: Path, arrays: Sequence[npt.NDArray[np.uint8]], packed: Sequence[str] = ()) -> None:
    folder.mkdir(parents=True)
    for name, array in zip(IDX_FILES, arrays, strict=True):
        content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
        if name in packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


def small_idx() -> list[npt.NDArray[np.uint8]]:
    labels = in_turn(40).astype(np.uint8)
    return [noise(40, 28, 28, 1)[..., 0], labels, noise(20, 28, 28, 1, seed=1)[..., 0], labels[:20]]


def other_process(program: str) -> subprocess.Popen[str]:
    modules = "from trainables.image_data.images import manifest\nfrom trainables.image_data.selection import Selection"
    lines = f"{modules}\n{program}"
    return subprocess.Popen([sys.executable, "-c", lines], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


# torchvision's folders


def test_cifar10_folder_gives_the_pixels_and_labels_as_written(data: Path) -> None:
    train, test = noise(100, 32, 32), noise(20, 32, 32, seed=1)
    labels = np.random.default_rng(2).permutation(in_turn(100, 10))
    write_cifar10(data / "tiny_cifar", train, labels, test, in_turn(20, 10))
    held = opened(Selection("tiny_cifar"))
    assert np.array_equal(held.train_images, train)
    assert np.array_equal(held.train_labels, labels)
    assert np.array_equal(held.test_images, test)
    assert np.array_equal(held.test_labels, in_turn(20, 10))
    assert held.manifest.class_names == tuple(f"class {i}" for i in range(10))
    assert (held.manifest.num_classes, held.manifest.image_size, held.manifest.channels) == (10, 32, 3)


def test_cifar100_folder_gives_the_fine_labels(data: Path) -> None:
    train, test, labels = noise(200, 32, 32), noise(100, 32, 32, seed=1), in_turn(200, 100)
    batches = data / "tiny_cifar100" / "cifar-100-python"
    batches.mkdir(parents=True)
    for name, images, fine in (("train", train, labels), ("test", test, labels[:100])):
        content = {"data": planes(images), "fine_labels": fine.tolist(), "coarse_labels": (fine // 5).tolist()}
        (batches / name).write_bytes(pickle.dumps(content))
    (batches / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"fine {i}" for i in range(100)]}))
    held = opened(Selection("tiny_cifar100"))
    assert np.array_equal(held.train_images, train)
    assert np.array_equal(held.train_labels, labels)
    assert np.array_equal(held.test_images, test)
    assert held.manifest.num_classes == 100
    assert held.manifest.class_names[99] == "fine 99"


@pytest.mark.parametrize("place", ["cifar10", "."])
def test_other_files_under_the_published_name_are_refused(data: Path, place: str) -> None:
    write_cifar10(data / place, noise(100, 32, 32), in_turn(100, 10), noise(20, 32, 32), in_turn(20, 10))
    text = refused(Selection("cifar10"))
    assert "data_batch_1" in text
    assert "not the published file of cifar10" in text
    assert "under another name than cifar10" in text


@pytest.mark.parametrize("name", ["cifar10", "tiny_cifar"])
def test_missing_cifar_files_are_named(data: Path, name: str) -> None:
    write_cifar10(data / name, noise(100, 32, 32), in_turn(100, 10), noise(20, 32, 32), in_turn(20, 10))
    for file in ("data_batch_3", "batches.meta"):
        (data / name / "cifar-10-batches-py" / file).unlink()
    assert "lacks data_batch_3, batches.meta: " in refused(Selection(name))


def test_a_folder_of_an_own_data_set_in_the_data_root_itself_is_not_taken_for_another(data: Path) -> None:
    write_cifar10(data, noise(100, 32, 32), in_turn(100, 10), noise(20, 32, 32), in_turn(20, 10))
    assert "unknown data set 'tiny'" in refused(Selection("tiny"))


def test_torn_and_uneven_pickles_are_refused(data: Path) -> None:
    write_cifar10(data / "torn", noise(100, 32, 32), in_turn(100, 10), noise(20, 32, 32), in_turn(20, 10))
    batch = data / "torn" / "cifar-10-batches-py" / "data_batch_2"
    whole = batch.read_bytes()
    batch.write_bytes(whole[: len(whole) // 2])
    assert "the images of 'torn' in " in refused(Selection("torn"))
    batch.write_bytes(pickle.dumps({"data": planes(noise(20, 32, 32)), "labels": in_turn(19, 10).tolist()}))
    assert "100 images have 99 labels" in refused(Selection("torn"))
    batch.write_bytes(whole)
    assert manifest(Selection("torn")).num_train == 100


class Program:
    """Unpickled, it is run by the shell."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("name", ["cifar10", "mine"])
@pytest.mark.parametrize("file", ["data_batch_1", "test_batch", "batches.meta"])
@pytest.mark.parametrize("protocol", [0, 4])
def test_a_pickle_that_names_a_program_runs_nothing(data: Path, name: str, file: str, protocol: int) -> None:
    write_cifar10(data / name, noise(10, 32, 32), in_turn(10, 10), noise(10, 32, 32), in_turn(10, 10))
    batch = data / name / "cifar-10-batches-py" / file
    batch.write_bytes(pickle.dumps(Program(f"touch {data / 'ran'}"), protocol))
    text = refused(Selection(name))
    assert not (data / "ran").exists()
    assert "is not the published file" in text or "a pickle that names posix.system, which no data need" in text


def test_a_download_unpickles_nothing_that_lies_there(data: Path) -> None:
    """torchvision itself first opens what its early versions saved beside the published files."""
    folder = data / "fashion_mnist" / "FashionMNIST"
    write_idx(folder / "raw", small_idx())
    (folder / "processed").mkdir()
    for file in ("training.pt", "test.pt"):
        (folder / "processed" / file).write_bytes(pickle.dumps(Program(f"touch {data / 'ran'}")))
    download("fashion_mnist", data)
    assert not (data / "ran").exists()
    assert manifest(Selection("fashion_mnist")).num_train == 40


@pytest.mark.slow
@needs_fashion
def test_fashion_mnist_of_debian_and_of_torchvision_are_the_same(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "fashion_mnist").symlink_to(DEBIAN_FASHION)
    whole = opened(Selection("fashion_mnist"))
    assert whole.train_images.shape == (60_000, 28, 28, 1)
    assert whole.test_images.shape == (10_000, 28, 28, 1)
    assert np.bincount(whole.train_labels).tolist() == [6000] * 10
    assert np.bincount(whole.test_labels).tolist() == [1000] * 10
    assert whole.manifest.num_classes == 10
    assert whole.manifest.class_names[-1] == "Ankle boot"
    # The values everyone normalizes Fashion-MNIST by.
    assert (*whole.manifest.mean, *whole.manifest.std) == pytest.approx((0.2860, 0.3530), abs=1e-4)
    some = Selection("fashion_mnist", num_train=500, num_test=100, subset_seed=3)
    one = manifest(some)

    raw = data.parent / "unpacked" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in IDX_FILES:
        (raw / name).write_bytes(gzip.decompress((DEBIAN_FASHION / f"{name}.gz").read_bytes()))
    monkeypatch.setenv(image_data.DATA_VARIABLE, str(data.parent / "unpacked"))
    other = manifest(some)
    assert other.fingerprint != one.fingerprint
    assert other.digest == one.digest
    assert replace(other, fingerprint=one.fingerprint) == one


@pytest.mark.parametrize("place", ["own", "own/FashionMNIST/raw"])
def test_idx_files_are_read_packed_or_not(data: Path, place: str) -> None:
    arrays = small_idx()
    write_idx(data / place, arrays, packed=IDX_FILES[1:3])
    held = opened(Selection("own"))
    assert np.array_equal(held.train_images[..., 0], arrays[0])
    assert np.array_equal(held.train_labels, arrays[1])
    assert np.array_equal(held.test_images[..., 0], arrays[2])
    assert np.array_equal(held.test_labels, arrays[3])


def test_idx_files_of_another_data_set_do_not_get_the_names_of_clothes(data: Path) -> None:
    write_idx(data / "digits", small_idx())
    assert manifest(Selection("digits")).class_names == ()


@pytest.mark.parametrize("place", ["fashion_mnist", "fashion_mnist/FashionMNIST/raw", "FashionMNIST/raw"])
@pytest.mark.parametrize("file", IDX_FILES)
def test_a_missing_idx_file_is_named(data: Path, place: str, file: str) -> None:
    write_idx(data / place, small_idx())
    (data / place / file).unlink()
    assert f"lacks {file} (or {file}.gz)" in refused(Selection("fashion_mnist"))


@pytest.mark.parametrize("file", IDX_FILES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_truncated_idx_file_is_refused(data: Path, file: str, packed: bool) -> None:
    write_idx(data / "own", small_idx(), packed=IDX_FILES if packed else ())
    path = data / "own" / (f"{file}.gz" if packed else file)
    os.truncate(path, path.stat().st_size - 3)
    text = refused(Selection("own"))
    assert f"the images of 'own' in {data / 'own'} cannot be read (" in text
    assert "complete or replace the files" in text
    assert cached("own") == []


# The hub's Parquet files


@pytest.mark.parametrize(
    ("image", "label", "train", "test"),
    [
        ("img", "label", ["train.parquet"], ["test.parquet"]),
        ("image", "fine_label", ["train-0001.parquet"], ["validation.parquet"]),
        ("image", "labels", ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], ["data/val-0"]),
    ],
)
def test_parquet_gives_the_pixels_and_labels_as_written(
    data: Path, image: str, label: str, train: list[str], test: list[str]
) -> None:
    labels = np.random.default_rng(5).permutation(in_turn(40))
    for names, images in ((train, noise(40)), (test, noise(20, seed=1))):
        for i, name in enumerate(names):
            rows = np.array_split(np.arange(len(images)), len(names))[i]
            path = data / "own" / name
            contents = [file_of(images[row]) for row in rows]
            write_parquet(path.with_suffix(".parquet"), contents, labels[rows], image, label)
    held = opened(Selection("own"))
    assert np.array_equal(held.train_images, noise(40))
    assert np.array_equal(held.train_labels, labels)
    assert np.array_equal(held.test_images, noise(20, seed=1))
    assert np.array_equal(held.test_labels, labels[:20])
    assert held.manifest.class_names == ()


@pytest.mark.parametrize("row_group_size", [1, 3, 7, 100])
def test_row_groups_and_shards_of_any_size_are_one_split(data: Path, row_group_size: int) -> None:
    labels = np.random.default_rng(5).permutation(in_turn(40))
    contents = [file_of(image) for image in noise(40)]
    for shard, rows in enumerate((slice(0, 11), slice(11, 11), slice(11, 40))):
        path = data / "own" / f"train-{shard}.parquet"
        write_parquet(path, contents[rows], labels[rows], row_group_size=row_group_size)
    write_parquet(data / "own" / "test.parquet", contents[:8], in_turn(8))
    held = opened(Selection("own"))
    assert np.array_equal(held.train_images, noise(40))
    assert np.array_equal(held.train_labels, labels)
    few = opened(Selection("own", num_train=8))
    chosen = [int(np.flatnonzero((noise(40) == image).all((1, 2, 3)))[0]) for image in few.train_images]
    assert labels[chosen].tolist() == few.train_labels.tolist()


@pytest.mark.slow
def test_parquet_larger_than_memory_is_read_some_rows_at_a_time(data: Path) -> None:
    """The hub's ImageNet is 140 GB."""
    contents = [file_of(image) for image in noise(400, 128, 128)]
    write_parquet(data / "own" / "train.parquet", contents, in_turn(400), row_group_size=20)
    write_parquet(data / "own" / "test.parquet", contents[:4], in_turn(4))
    program = "import pyarrow; manifest(Selection('own')); print(pyarrow.default_memory_pool().max_memory())"
    peak = int(other_process(program).communicate(timeout=60)[0])
    whole = sum(map(len, contents))
    assert whole > 15e6
    assert peak < whole / 3


@pytest.mark.parametrize("place", ["plain_text", "cifar100"])
def test_shards_in_the_folder_of_a_hub_configuration_are_found(data: Path, place: str) -> None:
    """As the hub keeps CIFAR: NAME/plain_text/train-00000-of-00001.parquet, with hidden folders of its client."""
    parquet_set(data / "own" / place, noise(40), in_turn(40), noise(20, seed=1), in_turn(20))
    (data / "own" / ".cache").mkdir()
    assert np.array_equal(opened(Selection("own")).train_images, noise(40))
    parquet_set(data / "own" / "other", noise(8), in_turn(8), noise(8), in_turn(8))
    forget()
    line = f"{data / 'own'} has Parquet files in several folders ("
    assert line in refused(Selection("own"))
    parquet_set(data / "own" / "data", noise(16), in_turn(16), noise(8), in_turn(8))
    assert len(opened(Selection("own")).train_images) == 16, "`data` is the usual place"
    parquet_set(data / "own", noise(12), in_turn(12), noise(8), in_turn(8))
    forget()
    assert len(opened(Selection("own")).train_images) == 12, "shards of two places are not mixed"


@pytest.mark.parametrize(
    ("labels", "given"),
    [
        ([0.0, 1.7] * 4, "double"),
        (["cat", "dog"] * 4, "string"),
        ([0, 1, None, 1] * 2, "2 without a label"),
    ],
)
def test_labels_of_another_kind_are_refused(data: Path, labels: list[object], given: str) -> None:
    small_set(data)
    cells = [{"bytes": file_of(image), "path": None} for image in noise(8)]
    path = data / "own" / "train.parquet"
    path.unlink()
    pq.write_table(pa.table({"img": cells, "label": pa.array(labels)}), path)
    text = f"column label of {path} has to number the classes of all images from 0, got {given}"
    assert refused(Selection("own")) == text


@pytest.mark.parametrize(("labels", "gap"), [([1, 2, 3, 1], 0), ([0, 2, 3, 0], 1), ([0, 10**9, 0, 1], 2)], ids=str)
def test_labels_with_a_gap_are_refused(data: Path, labels: list[int], gap: int) -> None:
    """The network would have an output without images, and chance and the trivial loss would be wrong."""
    parquet_set(data / "own", noise(4), np.array(labels), noise(4), np.array(labels))
    line = f"labels of 'own' run up to {max(labels)}, but no training image has {gap}: number the classes from 0 "
    assert line in refused(Selection("own"))


def test_truth_values_number_two_classes(data: Path) -> None:
    contents = [file_of(image) for image in noise(8)]
    for split in ("train", "test"):
        write_parquet(data / "own" / f"{split}.parquet", contents, np.array([True, False] * 4))
    assert opened(Selection("own")).train_labels.tolist() == [1, 0] * 4


def test_a_folder_that_cannot_be_looked_at_is_one_line(data: Path) -> None:
    name = "x" * 300
    line = f"images of {name!r} cannot be read ({data / name / 'cifar-10-batches-py'}: File name too long)"
    assert refused(Selection(name)) == line


def test_a_hub_test_split_without_labels_gives_way_to_the_validation_split(data: Path) -> None:
    """ImageNet on the hub: its test labels are all -1."""
    shown = noise(8, seed=3)
    parquet_set(data / "own", noise(20), in_turn(20), noise(12, seed=2), np.full(12, -1))
    write_parquet(data / "own" / "validation.parquet", [file_of(image) for image in shown], in_turn(8))
    held = manifest(Selection("own"))
    assert held.num_test == 8
    assert np.array_equal(open_images(Selection("own"), held.digest).test_images, shown)


def test_grey_parquet_images_have_one_channel(data: Path) -> None:
    parquet_set(data / "grey", noise(20, 28, 28, 1), in_turn(20), noise(8, 28, 28, 1), in_turn(8))
    held = opened(Selection("grey"))
    assert held.manifest.channels == 1
    assert np.array_equal(held.train_images, noise(20, 28, 28, 1))


def test_a_test_split_is_not_mixed_with_a_validation_split(data: Path) -> None:
    small_set(data)
    write_parquet(data / "own" / "validation.parquet", [file_of(image) for image in noise(8, seed=9)], in_turn(8))
    held = opened(Selection("own"))
    assert np.array_equal(held.test_images, noise(20, seed=1))


@pytest.mark.slow
def test_real_cifar10_has_its_well_known_statistics(data: Path) -> None:
    folder = os.environ.get("LAMBDA_ATLAS_TEST_DATA")
    source = Path(folder) / "cifar10" if folder else None
    if source is None or not all((source / f"{split}.parquet").is_file() for split in ("train", "test")):
        pytest.skip("LAMBDA_ATLAS_TEST_DATA names no folder with cifar10/train.parquet and cifar10/test.parquet")
    (data / "cifar10").symlink_to(source)
    held = manifest(Selection("cifar10"))
    assert (held.num_train, held.num_test, held.num_classes) == (15_000, 3_000, 10)
    assert (held.image_size, held.channels) == (32, 3)
    assert held.mean == pytest.approx((0.491, 0.482, 0.447), abs=0.01)
    assert held.std == pytest.approx((0.247, 0.243, 0.262), abs=0.01)
    some = opened(Selection("cifar10", num_train=100, num_test=50))
    assert np.bincount(some.train_labels).tolist() == [10] * 10
    rows = pq.read_table(source / "test.parquet", columns=["img", "label"]).to_pylist()
    pairs = {(np.asarray(Image.open(io.BytesIO(row["img"]["bytes"]))).tobytes(), row["label"]) for row in rows}
    assert {(i.tobytes(), label) for i, label in zip(some.test_images, some.test_labels, strict=True)} <= pairs


# Trees of class folders


def imagenet_tree(folder: Path, sizes: Sequence[tuple[int, int]], image: Callable[[int, int, int], Pixels]) -> None:
    """Two classes with one training image of each size, and with the first two of them in val."""
    for split, chosen in (("train", sizes), ("val", sizes[:2])):
        contents = [file_of(image(i, *size), "JPEG") for i, size in enumerate([*chosen, *chosen])]
        write_tree(folder / split, contents, np.repeat([0, 1], len(chosen)), "JPEG")


def smooth(seed: int, height: int, width: int) -> Pixels:
    """Shapes at many scales, grey where `seed` is 1."""
    channels = 1 if seed == 1 else 3
    small = Image.fromarray(noise(1, max(2, height // 7), max(2, width // 7), seed=seed)[0])
    pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    return pixels[..., :channels]


SIZES = [(50, 75), (75, 50), (64, 64), (33, 90), (41, 37), (120, 61), (77, 101)]


@pytest.mark.parametrize("size", [32, 28])
def test_larger_images_are_resized_and_cut_as_torchvision_does(data: Path, size: int) -> None:
    from torchvision import transforms

    imagenet_tree(data / "photos", SIZES, smooth)
    held = opened(Selection("photos", image_size=size))
    bilinear = transforms.InterpolationMode.BILINEAR
    resized = transforms.Compose([transforms.Resize(round(size * 8 / 7), bilinear), transforms.CenterCrop(size)])
    for split, images in (("train", held.train_images), ("val", held.test_images)):
        paths = sorted((data / "photos" / split).glob("*/*.JPEG"))
        assert images.shape == (len(paths), size, size, 3)
        for path, pixels in zip(paths, images, strict=True):
            assert np.array_equal(pixels, np.asarray(resized(Image.open(path).convert("RGB")))), path.name
    assert held.manifest.class_names == ("n0000", "n0001")
    assert held.train_labels.tolist() == [0] * len(SIZES) + [1] * len(SIZES)


def test_at_224_pixels_the_shorter_side_becomes_256(data: Path) -> None:
    from torchvision import transforms

    imagenet_tree(data / "photos", [(300, 401), (500, 375)], smooth)
    held = opened(Selection("photos", image_size=224))
    resized = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    paths = sorted((data / "photos" / "train").glob("*/*.JPEG"))
    for path, pixels in zip(paths, held.train_images, strict=True):
        assert np.array_equal(pixels, np.asarray(resized(Image.open(path).convert("RGB"))))


# (height, width): both sides short of 224 pixels, one of them, neither, one just as long
UP_AND_DOWN = [(160, 200), (200, 160), (224, 500), (500, 224), (220, 220), (40, 900), (300, 401), (230, 224)]


@pytest.mark.parametrize("size", [65, 224])
def test_above_64_pixels_smaller_images_are_resized_as_well(data: Path, size: int) -> None:
    from torchvision import transforms

    sizes = [(round(h * size / 224), round(w * size / 224)) for h, w in UP_AND_DOWN]
    imagenet_tree(data / "photos", sizes, smooth)
    held = opened(Selection("photos", image_size=size))
    resized = transforms.Compose([transforms.Resize(round(size * 8 / 7)), transforms.CenterCrop(size)])
    paths = sorted((data / "photos" / "train").glob("*/*.JPEG"))
    for path, pixels in zip(paths, held.train_images, strict=True):
        assert np.array_equal(pixels, np.asarray(resized(Image.open(path).convert("RGB")))), path.name


@pytest.mark.parametrize("size", [64, 96])
def test_a_data_set_that_is_asked_for_at_its_own_size_is_the_same(data: Path, size: int) -> None:
    """A driver that plans with the images' own size and a worker that is given this size use the same content."""
    parquet_set(data / "own", noise(8, size, size), in_turn(8), noise(4, size, size, seed=1), in_turn(4))
    held = manifest(Selection("own"))
    assert manifest(Selection("own", image_size=size)).digest == held.digest
    assert np.array_equal(open_images(Selection("own"), held.digest).train_images, noise(8, size, size))


def test_at_64_pixels_smaller_images_keep_their_pixels(data: Path) -> None:
    parquet_set(data / "own", noise(8, 50, 64), in_turn(8), noise(4, 64, 70), in_turn(4))
    held = opened(Selection("own", image_size=64))
    assert np.array_equal(held.train_images[:, 7:57], noise(8, 50, 64))
    assert np.array_equal(held.test_images, noise(4, 64, 70)[:, :, 3:67])


def test_images_of_many_sizes_need_an_image_size(data: Path) -> None:
    imagenet_tree(data / "photos", SIZES, smooth)
    assert refused(Selection("photos")) == "images of 'photos' are 75x50, not square: set image_size"
    imagenet_tree(data / "mixed", [(40, 40), (50, 50)], smooth)
    assert refused(Selection("mixed")) == ("image 1 of 'mixed' is 50x50, the first one 40x40: set image_size")
    assert cached("photos") == cached("mixed") == []


def test_smaller_images_lie_within_a_zero_border(data: Path) -> None:
    write_idx(data / "grey", small_idx())
    images = opened(Selection("grey", image_size=32)).train_images
    assert np.array_equal(images[:, 2:-2, 2:-2, 0], small_idx()[0])
    assert images.sum(dtype=np.int64) == small_idx()[0].sum(dtype=np.int64)


def test_an_image_with_one_short_side_is_cut_on_one_and_padded_on_the_other(data: Path) -> None:
    parquet_set(data / "flat", noise(8, 11, 40), in_turn(8), noise(8, 40, 11), in_turn(8))
    held = opened(Selection("flat", image_size=16))
    assert np.array_equal(held.train_images[:, 2:13], noise(8, 11, 40)[:, :, 12:28])
    assert not held.train_images[:, :2].any()
    assert not held.train_images[:, 13:].any()
    assert np.array_equal(held.test_images[:, :, 2:13], noise(8, 40, 11)[:, 12:28])


# Subsets


UNEVEN = np.random.default_rng(7).permutation(np.repeat(np.arange(5), [30, 40, 20, 60, 50]))


@pytest.mark.parametrize("num", [3, 5, 37, 99])
def test_a_subset_has_equally_many_of_each_class_and_lies_in_each_larger_one(num: int) -> None:
    chosen = choose("own", "training", UNEVEN, 5, num, seed=1)
    counts = np.bincount(UNEVEN[chosen], minlength=5)
    assert len(chosen) == num
    assert counts.max() - counts.min() <= 1
    assert (np.diff(chosen) > 0).all()
    for larger in (num + 1, 100, 200):
        assert set(chosen) <= set(choose("own", "training", UNEVEN, 5, larger, seed=1))


def test_a_subset_depends_on_the_seed_and_is_spread_over_all_images() -> None:
    subsets = {choose("own", "training", UNEVEN, 5, 20, seed).tobytes() for seed in range(20)}
    assert len(subsets) == 20
    seen = {int(i) for seed in range(200) for i in choose("own", "training", UNEVEN, 5, 20, seed)}
    assert seen == set(range(200))


def test_all_images_are_chosen_where_their_number_or_none_is_asked() -> None:
    for num in (None, 200):
        assert np.array_equal(choose("own", "training", UNEVEN, 5, num, seed=1), np.arange(200))


def test_only_the_training_subset_depends_on_the_seed(data: Path) -> None:
    small_set(data)
    one, other = (opened(Selection("own", 12, 8, subset_seed=seed)) for seed in (0, 1))
    assert one.train_images.shape == (12, 8, 8, 3)
    assert not np.array_equal(one.train_images, other.train_images)
    assert np.array_equal(one.test_images, other.test_images)
    assert (one.manifest.subset_seed, other.manifest.subset_seed) == (0, 1)
    pairs = {(image.tobytes(), label) for image, label in zip(noise(40), in_turn(40), strict=True)}
    assert {(i.tobytes(), label) for i, label in zip(one.train_images, one.train_labels, strict=True)} <= pairs


def test_the_whole_data_set_has_one_digest_whatever_number_and_seed_name_it(data: Path) -> None:
    small_set(data)
    held = [manifest(Selection("own", num, None, seed)) for num, seed in ((None, 0), (40, 0), (40, 5))]
    assert len({m.digest for m in held}) == 1
    assert {m.subset_seed for m in held} == {None}


def test_more_images_than_there_are_is_refused_with_the_numbers(data: Path) -> None:
    labels = np.repeat([0, 1, 2, 3], [4, 12, 12, 12])
    parquet_set(data / "own", noise(40), labels, noise(20), in_turn(20))
    assert refused(Selection("own", num_train=41)) == "'own' has 40 training images, 41 are requested"
    assert refused(Selection("own", num_test=100)) == "'own' has 20 test images, 100 are requested"
    assert refused(Selection("own", num_train=20)) == (
        "'own' has 4 training images of class 0, 5 are requested: 20 over 4 classes"
    )
    assert manifest(Selection("own", num_train=16)).num_train == 16


@pytest.mark.parametrize(
    "values",
    [
        {"num_train": 0},
        {"num_train": -3},
        {"num_test": 0},
        {"subset_seed": -1},
        {"image_size": 7},
        {"image_size": 1025},
    ],
)
def test_a_senseless_selection_is_refused_before_anything_is_read(values: dict[str, int]) -> None:
    ((name, value),) = values.items()
    text = refusal(lambda: Selection("own", **values))
    assert name in text
    assert f"got {value}" in text


# Statistics and digests


def test_the_statistics_are_those_of_the_training_images(data: Path) -> None:
    small_set(data)
    held = manifest(Selection("own"))
    assert held.mean == pytest.approx(tuple((noise(40) / 255).mean((0, 1, 2))), rel=1e-12)
    assert held.std == pytest.approx(tuple((noise(40) / 255).std((0, 1, 2))), rel=1e-9)


def test_the_statistics_of_large_images_need_no_large_memory() -> None:
    images = noise(12, 512, 512)
    tracemalloc.start()
    try:
        mean, std = channel_statistics(images)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # All images at once would take twice 75 MB.
    assert peak < 60e6
    assert mean == pytest.approx(tuple(images.mean((0, 1, 2)) / 255), rel=1e-12)
    assert std == pytest.approx(tuple(images.std((0, 1, 2)) / 255), rel=1e-9)


def test_the_digest_names_the_content_and_not_the_layout(data: Path) -> None:
    train, test = noise(40, 32, 32), noise(20, 32, 32, seed=1)
    labels, test_labels = np.sort(in_turn(40)), np.sort(in_turn(20))
    parquet_set(data / "as_parquet", train, labels, test, test_labels)
    write_tree(data / "as_folders" / "train", [file_of(image) for image in train], labels)
    write_tree(data / "as_folders" / "test", [file_of(image) for image in test], test_labels)
    write_cifar10(data / "as_cifar", train, labels, test, test_labels)
    digests = {manifest(Selection(name)).digest for name in ("as_parquet", "as_folders", "as_cifar")}
    assert len(digests) == 1
    parquet_set(data / "relabelled", train, labels[::-1], test, test_labels)
    assert manifest(Selection("relabelled")).digest not in digests


def test_the_digest_of_given_images_never_changes(data: Path) -> None:
    # Trials are named by it: a new number here means that every image trial recorded so far gets another name.
    train = np.arange(4 * 8 * 8 * 3, dtype=np.int64).reshape(4, 8, 8, 3).astype(np.uint8)
    parquet_set(data / "own", train, in_turn(4, 2), train[:2, ::-1], in_turn(2, 2))
    assert manifest(Selection("own")).digest == "950c676b0e7abd56"
    assert manifest(Selection("own", num_train=2)).digest == "a1561ba08ae664bb"


# The cache


def spoil(path: Path) -> None:
    """Replace a file's content by other bytes, with the same size and time: only reading the file shows it."""
    before = path.stat()
    path.unlink()  # a table that is still mapped keeps the old file
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_images_are_decoded_once(data: Path) -> None:
    selection = small_set(data)
    held = manifest(selection)
    for split in ("train", "test"):
        spoil(data / "own" / f"{split}.parquet")
    forget()
    assert manifest(selection) == held
    assert np.array_equal(open_images(selection, held.digest).train_images, noise(40))
    forget()
    shutil.rmtree(data / "own")
    assert manifest(selection) == held
    assert np.array_equal(open_images(selection, held.digest).test_images, noise(20, seed=1))
    assert "unknown data set 'own'" in refused(replace(selection, num_train=8))


def test_the_arrays_are_mapped_and_writes_to_them_stay_in_the_process(data: Path) -> None:
    selection = small_set(data)
    held = opened(selection)
    arrays = (held.train_images, held.train_labels, held.test_images, held.test_labels)
    assert all(isinstance(array, np.memmap) for array in arrays)
    held.train_images[:] = 0
    assert is_intact(held.manifest)
    forget()
    assert np.array_equal(opened(selection).train_images, noise(40))


def test_a_changed_source_has_another_digest_and_the_old_images_stay(data: Path) -> None:
    selection = small_set(data)
    before = manifest(selection)
    small_set(data, seed=5)
    forget()
    after = manifest(selection)
    assert after.digest != before.digest
    assert np.array_equal(open_images(selection, after.digest).train_images, noise(40, seed=5))
    assert np.array_equal(open_images(selection, before.digest).train_images, noise(40))
    shutil.rmtree(data / "own")
    forget()
    text = refused(selection)
    assert all(
        part in text for part in ("several versions of 'own'", before.digest, after.digest, "delete the outdated ones")
    )


@pytest.mark.parametrize("place", ["n0001/00001.png", "n0004/images/a.png"])
def test_an_image_that_is_written_over_in_place_is_seen(data: Path, place: str) -> None:
    """The time of its folder does not change. Users often write their data sets again under the same names."""
    contents = [file_of(image) for image in noise(8)]
    for split in ("train", "test"):
        write_tree(data / "own" / split, contents, in_turn(8))
        write_tree(data / "own" / split / "n0004", contents[:1], in_turn(1))  # as Tiny ImageNet, in a subfolder
    path = data / "own" / "train" / place
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(contents[1])
    before = manifest(Selection("own"))
    folder_time = path.parent.stat().st_mtime_ns
    (path.parent / ".DS_Store").touch()  # what a file browser leaves is no image
    forget()
    assert manifest(Selection("own")) == before
    path.write_bytes(contents[2])
    os.utime(path.parent, ns=(folder_time, folder_time))
    forget()
    assert manifest(Selection("own")).digest != before.digest


def test_splits_that_change_places_are_seen(data: Path) -> None:
    write_tree(data / "own" / "train", [file_of(image) for image in noise(8)], in_turn(8))
    write_tree(data / "own" / "val", [file_of(image) for image in noise(8, seed=1)], in_turn(8))
    before = manifest(Selection("own"))
    (data / "own" / "val").rename(data / "own" / "other")
    (data / "own" / "train").rename(data / "own" / "val")
    (data / "own" / "other").rename(data / "own" / "train")
    forget()
    assert manifest(Selection("own")).digest != before.digest


@pytest.mark.parametrize("name", [".ipynb_checkpoints", ".cache"])
def test_hidden_folders_are_no_classes(data: Path, name: str) -> None:
    for split in ("train", "test"):
        write_tree(data / "own" / split, [file_of(image) for image in noise(8)], in_turn(8))
    (data / "own" / "train" / name).mkdir()
    assert manifest(Selection("own")).num_classes == 4


def test_hidden_files_are_no_images(data: Path) -> None:
    """They are not in the fingerprint either. On foreign disks macOS writes `._a.png`, not an image, beside `a.png`."""
    for split in ("train", "test"):
        write_tree(data / "own" / split, [file_of(image) for image in noise(8)], in_turn(8))
    before = manifest(Selection("own"))
    folder = data / "own" / "train" / "n0000"
    (folder / "._00000.png").write_bytes(b"Mac OS X")
    (folder / ".hidden.png").write_bytes(file_of(noise(1)[0]))
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "00000.png").write_bytes(file_of(noise(1)[0]))
    forget()
    assert manifest(Selection("own")) == before
    shutil.rmtree(cache.cache_root())
    forget()
    assert manifest(Selection("own")) == before
    for image in folder.glob("0*.png"):
        image.unlink()
    forget()
    assert f"{folder} has no image (it is empty): delete it, or put images there (.bmp " in refused(Selection("own"))


def test_a_new_file_in_a_class_folder_is_seen(data: Path) -> None:
    write_tree(data / "own" / "train", [file_of(image) for image in noise(8)], in_turn(8))
    write_tree(data / "own" / "test", [file_of(image) for image in noise(8)], in_turn(8))
    assert manifest(Selection("own")).num_train == 8
    (data / "own" / "train" / "n0000" / "another.png").write_bytes(file_of(noise(1)[0]))
    forget()
    assert manifest(Selection("own")).num_train == 9


@pytest.mark.parametrize("array", ["train_images", "train_labels", "test_images", "test_labels"])
def test_a_truncated_or_missing_array_is_made_anew(data: Path, array: str) -> None:
    selection = small_set(data)
    held = manifest(selection)
    (entry,) = cached("own")
    os.truncate(entry / f"{array}.npy", (entry / f"{array}.npy").stat().st_size - 1)
    assert not is_intact(held)
    forget()
    assert manifest(selection) == held
    assert is_intact(held)
    (entry / f"{array}.npy").unlink()
    forget()
    assert np.array_equal(open_images(selection, held.digest).train_images, noise(40))
    assert cached("own") == [entry]
    assert is_intact(held)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", f'{{"format": {cache.FORMAT}}}', "null"])
def test_a_foreign_manifest_is_made_anew(data: Path, content: str) -> None:
    selection = small_set(data)
    held = manifest(selection)
    (entry,) = cached("own")
    (entry / "manifest.json").write_text(content)
    forget()
    assert manifest(selection) == held
    assert is_intact(held)


def test_what_an_earlier_format_decoded_is_not_taken(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Format 1 padded images whose shorter side was below the requested size, at every size."""
    parquet_set(data / "own", noise(8, 80, 90), in_turn(8), noise(4, 80, 90, seed=1), in_turn(4))
    selection = Selection("own", image_size=96)
    held = manifest(selection)
    (entry,) = cached("own")
    found = find_images("own", data)
    assert found is not None
    with monkeypatch.context() as patch:
        patch.setattr(cache, "FORMAT", 1)
        old = entry.rename(cache.entry_of(found, selection, cache.cache_root()))
    values = json.loads((old / "manifest.json").read_text())
    (old / "manifest.json").write_text(json.dumps({**values, "format": 1, "digest": "0123456789abcdef"}))
    forget()
    assert manifest(selection) == held
    assert "planned with 0123456789abcdef" in refusal(lambda: open_images(selection, "0123456789abcdef"))


@pytest.mark.parametrize("array", ["train_images", "train_labels", "test_images", "test_labels"])
@pytest.mark.parametrize("place", [0, 20, 200, -1])
def test_an_array_damaged_in_place_is_never_trained_on(
    data: Path, array: str, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Damage anywhere from its header to its end, with unchanged size and manifest."""
    selection = small_set(data)
    held, images = manifest(selection), opened(selection)
    (entry,) = cached("own")
    path = entry / f"{array}.npy"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.unlink()  # `images` keeps what it has mapped
    path.write_bytes(content)
    assert not is_intact(held)
    forget()
    assert manifest(selection) == held, "planning reads no array"
    again = open_images(selection, held.digest)
    assert np.array_equal(getattr(again, array), getattr(images, array))
    assert [record.getMessage() for record in caplog.records] == [
        f"the decoded images in {entry} are damaged: they are decoded anew"
    ]
    assert is_intact(held)
    assert cached("own") == [entry]


@pytest.mark.parametrize("with_other_times", [False, True])
def test_a_damaged_twin_is_mended_once(data: Path, with_other_times: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Entries of two selections, or of files that were copied again, may hold the same images."""
    held = manifest(small_set(data))
    (first,) = cached("own")
    twin = Selection("own", num_train=40, num_test=20, image_size=8)
    if with_other_times:
        small_set(data)
        forget()
    assert manifest(twin).digest == held.digest
    (second,) = set(cached("own")) - {first}
    for entry in (first, second):
        content = bytearray((entry / "test_images.npy").read_bytes())
        content[-1] ^= 1
        (entry / "test_images.npy").write_bytes(content)
    for _ in range(2):
        forget()
        assert np.array_equal(open_images(twin, held.digest).test_images, noise(20, seed=1))
    warned = {record.getMessage() for record in caplog.records}
    assert warned == {f"the decoded images in {entry} are damaged: they are decoded anew" for entry in (first, second)}
    assert len(caplog.records) == 2
    assert first.exists() != with_other_times, "what is of files that are no more is deleted"
    assert is_intact(manifest(twin))


def test_an_intact_twin_is_taken_and_the_damaged_one_mended(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    held = manifest(small_set(data))
    twin = Selection("own", num_train=40, num_test=20, image_size=8)
    manifest(twin)
    entry = cached("own")[0]  # the first one that is looked at
    content = bytearray((entry / "train_labels.npy").read_bytes())
    content[-8] ^= 1
    (entry / "train_labels.npy").write_bytes(content)
    for selection in (Selection("own"), twin, Selection("own")):
        forget()
        assert open_images(selection, held.digest).train_labels.tolist() == in_turn(40).tolist()
    assert [record.getMessage() for record in caplog.records] == [
        f"the decoded images in {entry} are damaged: they are decoded anew"
    ]


def test_damaged_images_whose_files_are_gone_are_refused(data: Path) -> None:
    selection = small_set(data)
    held = manifest(selection)
    (entry,) = cached("own")
    content = bytearray((entry / "test_images.npy").read_bytes())
    content[-1] ^= 1
    (entry / "test_images.npy").write_bytes(content)
    shutil.rmtree(data / "own")
    forget()
    assert "unknown data set 'own'" in refusal(lambda: open_images(selection, held.digest))


def test_several_processes_at_once_make_one_entry(data: Path) -> None:
    selection = small_set(data)
    program = "print('ready', flush=True)\ninput()\nprint(manifest(Selection('own')).digest)"
    processes = [other_process(program) for _ in range(5)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    digests = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * 5
    (entry,) = cached("own")
    made = entry.stat().st_ino
    held = manifest(selection)
    assert digests == {held.digest}
    assert is_intact(held)
    assert entry.stat().st_ino == made, "the entry of the others is used"


def test_a_builder_killed_in_the_middle_leaves_nothing_that_counts_as_data(data: Path) -> None:
    for split in ("train", "val"):
        write_tree(data / "slow" / split, [file_of(image) for image in noise(40)], in_turn(40))
    path = data / "slow" / "train" / "n0001" / "00021.png"
    path.unlink()
    os.mkfifo(path)  # who reads it waits until somebody writes
    process = other_process("manifest(Selection('slow'))")
    deadline = time.monotonic() + 60
    while not [found for found in cached("slow") if (found / "train_images.npy").is_file()]:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    (left_behind,) = cached("slow")

    (data / "slow").rename(data.parent / "elsewhere")
    assert "unknown data set 'slow'" in refused(Selection("slow"))
    (data.parent / "elsewhere").rename(data / "slow")
    with ThreadPoolExecutor(1) as other:
        other.submit(path.write_bytes, file_of(noise(40)[21]))
        held = opened(Selection("slow"))
    in_order = np.argsort(in_turn(40), kind="stable")
    assert np.array_equal(held.train_images, noise(40)[in_order])
    assert is_intact(held.manifest)
    (entry,) = cached("slow")
    assert entry != left_behind


def copied_to_driver(held: Manifest, driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without images and arrays, which has only the entry's manifest."""
    (entry,) = cached(held.dataset)
    target = driver / "cache" / "images" / held.dataset / entry.name
    target.mkdir(parents=True)
    shutil.copy(entry / "manifest.json", target)
    monkeypatch.setenv(image_data.DATA_VARIABLE, str(driver / "data"))
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(driver / "cache"))


def test_a_driver_plans_with_a_copied_manifest_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    selection = small_set(data)
    held = manifest(selection)
    copied_to_driver(held, tmp_path / "driver", monkeypatch)
    assert manifest(selection) == held
    assert not is_intact(held), "its arrays are elsewhere"
    for other in (replace(selection, num_train=8), replace(selection, image_size=16), replace(selection, dataset="x")):
        assert "unknown data set" in refused(other)
    assert "unknown data set 'own'" in refusal(lambda: open_images(selection, held.digest))


def test_a_driver_that_gets_the_images_later_decodes_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    selection = small_set(data)
    held = manifest(selection)
    copied_to_driver(held, tmp_path / "driver", monkeypatch)
    assert manifest(selection) == held
    shutil.copytree(data, tmp_path / "driver" / "data")
    assert np.array_equal(open_images(selection, held.digest).train_images, noise(40))
    assert is_intact(held)


def test_other_images_than_the_trial_was_planned_with_are_refused(data: Path) -> None:
    selection = small_set(data)
    text = refusal(lambda: open_images(selection, "0123456789abcdef"))
    assert manifest(selection).digest in text
    assert "planned with 0123456789abcdef: use the same files on every machine" in text


@pytest.mark.parametrize("file", ["cache", "cache/images", "cache/images/own"])
def test_a_cache_that_cannot_be_written_is_one_line(data: Path, file: str) -> None:
    selection = small_set(data)
    path = data.parent / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file where a folder belongs")
    text = refused(selection)
    assert f"cannot write decoded images to {cache.cache_root() / 'own'} (" in text
    assert f"name another folder in {cache.CACHE_VARIABLE}" in text


# Faults


@pytest.mark.parametrize(
    ("given", "meant"), [("cifar01", "cifar10"), ("fashion-mnist", "fashion_mnist"), ("ow", "own")]
)
def test_the_nearest_name_is_offered_for_an_unknown_one(data: Path, given: str, meant: str) -> None:
    small_set(data)
    text = refused(Selection(given))
    known = "cifar10, cifar100, fashion_mnist, imagenet, own"
    assert f"unknown data set {given!r}; did you mean {meant!r}? (known: {known})" in text
    assert str(data / given) in text


@pytest.mark.parametrize("name", ["../data", "own/train", "/own", ".", "..", ".own"])
def test_a_name_is_that_of_a_folder_in_the_data_folder(data: Path, name: str) -> None:
    small_set(data)
    assert f"a data set's name is that of a folder in {data}, got {name!r}" in refused(Selection(name))
    assert not cache.cache_root().exists()


def test_a_missing_data_folder_is_one_line(data: Path) -> None:
    data.rmdir()
    text = refused(Selection("cifar10"))
    assert f"no images of 'cifar10' in {data / 'cifar10'}: put them there" in text
    assert "unknown data set 'own'" in refused(Selection("own"))


def test_a_folder_without_images_is_one_line(data: Path) -> None:
    (data / "own" / "train").mkdir(parents=True)
    assert f"no images of 'own' in {data / 'own'} (found an empty train/): put them there" in refused(Selection("own"))


def test_one_image_of_another_shape_is_named(data: Path) -> None:
    contents = [file_of(image) for image in noise(40)]
    contents[5] = file_of(noise(1, 8, 10)[0])
    write_parquet(data / "own" / "train.parquet", contents, in_turn(40))
    write_parquet(data / "own" / "test.parquet", contents[8:16], in_turn(8))
    assert refused(Selection("own")) == "image 5 of 'own' is 10x8, the first one 8x8: set image_size"
    assert cached("own") == []
    assert manifest(Selection("own", image_size=8)).image_size == 8


WHOLE = file_of(noise(1)[0])
SIXTEEN_BIT = io.BytesIO()
Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(SIXTEEN_BIT, "PNG")


@pytest.mark.parametrize("content", [WHOLE[: len(WHOLE) // 2], b"", b"no image", None, SIXTEEN_BIT.getvalue()])
def test_a_torn_or_foreign_image_in_parquet_is_named(data: Path, content: bytes | None) -> None:
    small_set(data)
    contents: list[bytes | None] = [file_of(image) for image in noise(40)]
    contents[7] = content
    write_parquet(data / "own" / "train.parquet", contents, in_turn(40))
    text = refused(Selection("own"))
    assert f"row 7 of {data / 'own' / 'train.parquet'} is not a usable image (" in text
    assert " object at 0x" not in text
    assert cached("own") == []


@pytest.mark.parametrize("grey", [([0], []), ([3], []), ([], [0]), ([0, 1], range(8)), (range(19), range(8))], ids=str)
def test_grey_images_among_coloured_ones_get_three_channels(data: Path, grey: tuple[Sequence[int], ...]) -> None:
    """Wherever the grey images are, even if the first one is grey: the hub's ImageNet has some."""
    images = [noise(20), noise(8, seed=1)]
    for name, split, positions in zip(("train", "test"), images, grey, strict=True):
        for i in positions:
            split[i] = split[i, ..., :1]
        contents = [file_of(image[..., :1] if i in positions else image) for i, image in enumerate(split)]
        write_parquet(data / "own" / f"{name}.parquet", contents, in_turn(len(split)))
    held = opened(Selection("own"))
    assert np.array_equal(held.train_images, images[0])
    assert np.array_equal(held.test_images, images[1])


@pytest.mark.parametrize("content", [WHOLE[: len(WHOLE) // 2], b"", b"no image", None, SIXTEEN_BIT.getvalue()])
def test_a_torn_or_missing_image_in_a_class_folder_is_named(data: Path, content: bytes | None) -> None:
    write_tree(data / "own" / "train", [file_of(image) for image in noise(8)], in_turn(8))
    write_tree(data / "own" / "val", [file_of(image) for image in noise(8)], in_turn(8))
    path = data / "own" / "val" / "n0002" / "00002.png"
    path.unlink()
    if content is None:
        path.symlink_to(data / "nowhere.png")
    else:
        path.write_bytes(content)
    text = refused(Selection("own"))
    assert f"{path} is not a usable image (" in text or f"cannot be read ({path}: No such file" in text
    assert " object at 0x" not in text
    assert cached("own") == []


def test_a_torn_parquet_file_is_refused(data: Path) -> None:
    selection = small_set(data)
    os.truncate(data / "own" / "train.parquet", 1000)
    assert f"the images of 'own' in {data / 'own'} cannot be read (" in refused(selection)


def test_a_link_to_nowhere_is_named(data: Path) -> None:
    selection = small_set(data)
    (data / "own" / "train-2.parquet").symlink_to(data / "nowhere.parquet")
    assert str(data / "own" / "train-2.parquet") in refused(selection)


def test_parquet_columns_of_other_names_are_refused_with_those_there_are(data: Path) -> None:
    small_set(data)
    write_parquet(data / "own" / "test.parquet", [WHOLE] * 4, in_turn(4), image="picture")
    assert "test.parquet has no column img or image (columns: picture, label)" in refused(Selection("own"))
    write_parquet(data / "own" / "test.parquet", [WHOLE] * 4, in_turn(4), label="kind")
    assert "test.parquet has no column label or fine_label or labels (columns: img, kind)" in refused(Selection("own"))


def test_a_missing_test_split_is_named(data: Path) -> None:
    small_set(data)
    (data / "own" / "test.parquet").unlink()
    assert f"{data / 'own'} has no test*.parquet or val*.parquet" in refused(Selection("own"))
    write_tree(data / "tree" / "train", [WHOLE] * 4, in_turn(4))
    assert f"{data / 'tree'} has class folders in train/ but none in test or val" in refused(Selection("tree"))


def test_class_folders_that_differ_are_named(data: Path) -> None:
    write_tree(data / "own" / "train", [WHOLE] * 4, in_turn(4))
    write_tree(data / "own" / "val", [WHOLE] * 3, np.array([0, 1, 7]))
    text = refused(Selection("own"))
    assert "have different classes: n0002, n0003, n0007" in text


@pytest.mark.parametrize(
    ("train", "test", "ranges"),
    [
        ([0, 1, 2, 3], [-1, 0, 1, 2], "run from 0 to 3 in training and from -1 to 2 in the test images"),
        ([0, 1, 2, 3], [0, 1, 2, 4], "run from 0 to 3 in training and from 0 to 4 in the test images"),
        ([0, 0, 0, 0], [0, 0, 0, 0], "run from 0 to 0 in training and from 0 to 0 in the test images"),
    ],
)
def test_labels_that_number_no_classes_are_refused(data: Path, train: list[int], test: list[int], ranges: str) -> None:
    parquet_set(data / "own", noise(4), np.array(train), noise(4), np.array(test))
    assert f"labels of 'own' {ranges}" in refused(Selection("own"))


def test_a_split_without_images_is_refused(data: Path) -> None:
    small_set(data)
    pq.write_table(pq.read_table(data / "own" / "test.parquet").slice(0, 0), data / "own" / "empty.parquet")
    (data / "own" / "empty.parquet").replace(data / "own" / "test.parquet")
    assert refused(Selection("own")) == "'own' has 40 training and 0 test images"
