"""Images from every layout that is read, the subsets of them, and the cache that several processes share."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from tests.images import make_images
from tests.launching import ROOT
from trainables import image_data
from trainables.errors import DataError
from trainables.image_data import Manifest, Selection, manifest, open_images, verify

Pixels = npt.NDArray[np.uint8]

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
REAL = Path(os.environ.get("LAMBDA_ATLAS_TEST_DATA", "/nonexistent"))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder and an empty cache."""
    monkeypatch.setenv("LAMBDA_ATLAS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("LAMBDA_ATLAS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def forget() -> None:
    """What this process remembers of manifests and opened entries."""
    image_data._manifest.cache_clear()
    image_data._open_images.cache_clear()


def opened(selection: Selection) -> image_data.ImageData:
    return open_images(selection, manifest(selection).digest)


def random_pixels(num: int, size: int = 32, channels: int = 3, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (num, size, size, channels), dtype=np.uint8)


def png(pixels: Pixels, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, kind)
    return buffer.getvalue()


def write_parquet(path: Path, images: Pixels, labels: list[int], image: str = "img", label: str = "label") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": png(pixels), "path": f"{i}.png"} for i, pixels in enumerate(images)]
    pq.write_table(pa.table({image: cells, label: labels}), path)


def write_cifar10(folder: Path, per_batch: int = 20) -> tuple[Pixels, list[int]]:
    """torchvision's layout: five training pickles and one of tests; returns the training set."""
    place = folder / "cifar-10-batches-py"
    place.mkdir(parents=True)
    images, labels = random_pixels(6 * per_batch), [i % 10 for i in range(6 * per_batch)]
    for k, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        part = slice(k * per_batch, (k + 1) * per_batch)
        rows = images[part].transpose(0, 3, 1, 2).reshape(per_batch, -1)
        (place / name).write_bytes(pickle.dumps({"data": rows, "labels": labels[part]}))
    (place / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    return images[: 5 * per_batch], labels[: 5 * per_batch]


# --- layouts ---


def test_a_cifar_10_folder_as_torchvision_lays_it_out(data: Path) -> None:
    images, labels = write_cifar10(data / "small")
    found = opened(Selection("small"))
    assert np.array_equal(found.train_images, images)
    assert found.train_labels.tolist() == labels
    assert (found.manifest.num_train, found.manifest.num_test, found.manifest.num_classes) == (100, 20, 10)
    assert found.manifest.class_names[3] == "class 3"


def test_under_its_own_name_cifar_10_is_the_published_one(data: Path) -> None:
    write_cifar10(data / "cifar10")
    with pytest.raises(DataError, match=r"^data_batch_1, .*is not the published file of cifar10.*another name"):
        manifest(Selection("cifar10"))
    (data / "cifar10" / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(DataError, match=r"lacks data_batch_3: download cifar10 again"):
        manifest(Selection("cifar10"))


def test_a_torn_pickle_is_one_line(data: Path) -> None:
    write_cifar10(data / "small")
    path = data / "small" / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(
        DataError, match=r"^the images of 'small' in [^\n]*cannot be read[^\n]*replace the damaged files$"
    ):
        manifest(Selection("small"))


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_from_debian_and_as_torchvision_lays_it_out(data: Path) -> None:
    (data / "fashion_mnist").symlink_to(DEBIAN)
    packed = manifest(Selection("fashion_mnist"))
    assert (packed.num_train, packed.num_test, packed.num_classes) == (60_000, 10_000, 10)
    assert (packed.image_size, packed.channels) == (28, 1)
    assert packed.mean[0] == pytest.approx(0.2860, abs=1e-4)
    assert packed.std[0] == pytest.approx(0.3530, abs=1e-4)
    assert packed.class_names[9] == "Ankle boot"
    raw = data / "unpacked" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in DEBIAN.glob("*.gz"):
        (raw / path.name.removesuffix(".gz")).write_bytes(gzip.decompress(path.read_bytes()))
    assert manifest(Selection("unpacked")).digest == packed.digest
    padded = opened(Selection("fashion_mnist", num_train=100, num_test=10, image_size=32))
    assert padded.train_images.shape == (100, 32, 32, 1)
    assert padded.train_images[:, :2].max() == padded.train_images[:, :, -2:].max() == 0
    (raw / "train-images-idx3-ubyte").write_bytes((raw / "train-images-idx3-ubyte").read_bytes()[:10_000])
    forget()
    with pytest.raises(DataError, match="replace the damaged files"):
        manifest(Selection("unpacked"))


@pytest.mark.skipif(not (REAL / "cifar10").is_dir(), reason="LAMBDA_ATLAS_TEST_DATA names no folder with cifar10")
def test_the_real_cifar_10_in_the_hubs_layout(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMBDA_ATLAS_DATA", str(REAL))
    held = manifest(Selection("cifar10"))
    assert (held.num_train, held.num_test, held.num_classes, held.image_size, held.channels) == (
        15_000,
        3_000,
        10,
        32,
        3,
    )
    assert held.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=5e-3)
    assert held.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=5e-3)
    found = open_images(Selection("cifar10"), held.digest)
    assert np.bincount(found.train_labels).tolist() == [1500] * 10
    assert verify(held)


def test_shards_in_the_hubs_layout_and_other_column_names(data: Path) -> None:
    images, labels = random_pixels(12, 8), [i % 3 for i in range(12)]
    for shard, part in enumerate((slice(0, 6), slice(6, 12))):
        name = f"train-{shard:05d}-of-00002.parquet"
        write_parquet(data / "hub" / "data" / name, images[part], labels[part], "image", "fine_label")
    write_parquet(
        data / "hub" / "data" / "validation-00000-of-00001.parquet", images[:3], labels[:3], "image", "fine_label"
    )
    found = opened(Selection("hub"))
    assert np.array_equal(found.train_images, images)
    assert found.train_labels.tolist() == labels
    grey = random_pixels(6, 8, channels=1)
    for split in ("train", "test"):
        write_parquet(data / "grey" / f"{split}.parquet", grey, [0, 1] * 3)
    assert np.array_equal(opened(Selection("grey")).train_images, grey)


def test_the_layout_is_not_part_of_the_digest(data: Path) -> None:
    images, labels = random_pixels(6, 8), [0, 0, 0, 1, 1, 1]
    for split in ("train", "test"):
        write_parquet(data / "rows" / f"{split}.parquet", images, labels)
        for i, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            place = data / "tree" / split / f"class{label}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{i}.png").write_bytes(png(pixels))
    assert manifest(Selection("rows")).digest == manifest(Selection("tree")).digest


def test_class_folders_of_any_size_are_resized_as_torchvision_does(data: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = [(50, 70), (70, 50), (64, 64), (200, 120), (33, 40), (45, 45)]
    pictures = []
    for i, (height, width) in enumerate(sizes):
        low = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        picture = Image.fromarray(low).resize((width, height), Image.Resampling.BICUBIC)
        pictures.append(picture.convert("L") if i == 5 else picture)
        for split in ("train", "val"):
            place = data / "tree" / split / f"n{i // 3:03d}"
            place.mkdir(parents=True, exist_ok=True)
            pictures[i].save(place / f"{i}.png")
    found = opened(Selection("tree", image_size=32)).train_images
    assert found.shape == (6, 32, 32, 3)
    resize, crop = Resize(round(32 * 8 / 7), InterpolationMode.BILINEAR), CenterCrop(32)
    for ours, picture in zip(found, pictures, strict=True):
        wanted = np.asarray(crop(resize(picture.convert("RGB")))).astype(int)
        # torchvision rounds the middle of an odd border the other way: one pixel aside is the same picture
        shifted = [
            np.abs(np.roll(ours.astype(int), s, (0, 1))[1:-1, 1:-1] - wanted[1:-1, 1:-1]).max()
            for s in ((0, 0), (1, 0), (0, 1))
        ]
        assert min(shifted) <= 1
    with pytest.raises(DataError, match=r"images of 'tree' are 70x50: give them an image_size"):
        manifest(Selection("tree"))


# --- what is refused ---


def test_what_is_missing_is_named(data: Path) -> None:
    make_images(data, "tiny")
    with pytest.raises(DataError, match=r"unknown data set 'tinny'; did you mean 'tiny'\? \(known: cifar10, cifar100"):
        manifest(Selection("tinny"))
    with pytest.raises(DataError, match=r"no images of 'cifar100' in .*torchvision's folder.*--data.*--download"):
        manifest(Selection("cifar100"))
    (data / "tiny" / "test.parquet").unlink()
    with pytest.raises(DataError, match=r"has no test\*\.parquet or val\*\.parquet"):
        manifest(Selection("tiny"))


def test_a_torn_image_another_shape_and_foreign_columns_are_named(data: Path) -> None:
    images, labels = random_pixels(6, 8), [0, 1] * 3
    for name in ("torn", "shape", "columns"):
        write_parquet(data / name / "test.parquet", images, labels)
    cells = [{"bytes": png(pixels), "path": ""} for pixels in images]
    cells[4]["bytes"] = bytes(cells[4]["bytes"])[:60]
    pq.write_table(pa.table({"img": cells, "label": labels}), data / "torn" / "train.parquet")
    with pytest.raises(DataError, match=r"row 4 of .*torn/train.* is no usable image"):
        manifest(Selection("torn"))
    cells[4]["bytes"] = png(random_pixels(1, 10)[0])
    pq.write_table(pa.table({"img": cells, "label": labels}), data / "shape" / "train.parquet")
    with pytest.raises(DataError, match=r"image 4 of 'shape' is 10x10x3, the first one 8x8x3: give them an image_size"):
        manifest(Selection("shape"))
    assert manifest(Selection("shape", image_size=10)).image_size == 10
    write_parquet(data / "columns" / "train.parquet", images, labels, image="picture")
    with pytest.raises(DataError, match=r"has no column img or image \(columns: picture, label\)"):
        manifest(Selection("columns"))


def test_classes_that_differ_between_the_splits_are_named(data: Path) -> None:
    for split, names in (("train", "ab"), ("val", "ac")):
        for name in names:
            (data / "tree" / split / name).mkdir(parents=True)
            (data / "tree" / split / name / "0.png").write_bytes(png(random_pixels(1, 8)[0]))
    with pytest.raises(DataError, match="different classes: b, c"):
        manifest(Selection("tree"))


def test_more_images_than_there_are(data: Path) -> None:
    make_images(data, "tiny")
    with pytest.raises(DataError, match="'tiny' has 48 training images, 49 are asked"):
        manifest(Selection("tiny", num_train=49))
    images, labels = random_pixels(10, 8), [0] * 8 + [1] * 2
    for split in ("train", "test"):
        write_parquet(data / "uneven" / f"{split}.parquet", images, labels)
    with pytest.raises(DataError, match="'uneven' has 2 training images of class 1, 3 are asked: 6 over 2 classes"):
        manifest(Selection("uneven", num_train=6))


# --- subsets ---


def test_subsets_are_balanced_nested_and_their_seeds(data: Path) -> None:
    make_images(data, "tiny")
    everything = opened(Selection("tiny"))
    found = {num: opened(Selection("tiny", num_train=num)) for num in (6, 13, 30)}
    for num, part in found.items():
        counts = np.bincount(part.train_labels)
        assert counts.sum() == num
        assert counts.max() - counts.min() <= 1
    kept = {num: {image.tobytes() for image in part.train_images} for num, part in found.items()}
    assert kept[6] < kept[13] < kept[30] < {image.tobytes() for image in everything.train_images}
    other = opened(Selection("tiny", num_train=30, subset_seed=1))
    assert {image.tobytes() for image in other.train_images} != kept[30]
    assert other.manifest.digest != found[30].manifest.digest
    whole = manifest(Selection("tiny", num_train=48, num_test=24, subset_seed=5))
    assert (whole.digest, whole.subset_seed) == (everything.manifest.digest, None)


# --- the cache ---


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("images/*/*") if not path.name.endswith(".lock"))


def test_images_are_decoded_once_and_mapped_into_memory(data: Path) -> None:
    make_images(data, "tiny")
    first = opened(Selection("tiny"))
    shutil.rmtree(data / "tiny")
    forget()
    again = opened(Selection("tiny"))
    assert again.manifest == first.manifest
    assert isinstance(again.train_images, np.memmap)
    assert np.array_equal(again.train_images, first.train_images)


def test_changed_images_are_decoded_anew(data: Path) -> None:
    make_images(data, "tiny")
    before = manifest(Selection("tiny"))
    write_parquet(data / "tiny" / "train.parquet", random_pixels(48, 16, seed=1), [i % 3 for i in range(48)])
    forget()
    assert manifest(Selection("tiny")).digest != before.digest
    with pytest.raises(DataError, match=rf"planned with {'0' * 16}: use the same files on every machine"):
        open_images(Selection("tiny"), "0" * 16)


def entry_of(data: Path, held: Manifest) -> Path:
    (entry,) = (data.parent / "cache" / "images" / held.dataset).glob("[!.]*")
    return entry


def test_a_truncated_entry_is_made_anew_and_a_corrupt_one_found(data: Path) -> None:
    make_images(data, "tiny")
    held = manifest(Selection("tiny"))
    assert verify(held)
    array = entry_of(data, held) / "train_images.npy"
    whole = array.read_bytes()
    array.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert not verify(held)
    array.write_bytes(whole[: len(whole) // 2])
    forget()
    assert manifest(Selection("tiny")) == held
    assert verify(held)


def test_a_driver_with_the_manifest_alone_plans(data: Path) -> None:
    make_images(data, "tiny")
    held = manifest(Selection("tiny"))
    for array in entry_of(data, held).glob("*.npy"):
        array.unlink()
    shutil.rmtree(data / "tiny")
    forget()
    assert manifest(Selection("tiny")) == held
    with pytest.raises(DataError, match="unknown data set 'tiny'"):
        open_images(Selection("tiny"), held.digest)


def test_a_cache_that_cannot_be_written_is_one_line(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images(data, "tiny")
    (data.parent / "file").write_text("")
    monkeypatch.setenv("LAMBDA_ATLAS_CACHE", str(data.parent / "file"))
    with pytest.raises(DataError, match=r"^cannot write decoded images to .*LAMBDA_ATLAS_CACHE$"):
        manifest(Selection("tiny"))


BUILD = "from trainables.image_data import *; print(manifest(Selection('many', image_size=64)).digest)"


def builder() -> subprocess.Popen[str]:
    """A process that decodes the data set `many`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", BUILD], env=environment, stdout=subprocess.PIPE, text=True)


def make_many(data: Path) -> None:
    """Images that take about a second to decode."""
    content = png(np.asarray(Image.fromarray(random_pixels(1, 16)[0]).resize((600, 600))))
    for split, num in (("train", 120), ("test", 6)):
        (data / "many").mkdir(exist_ok=True)
        cells = [{"bytes": content, "path": ""}] * num
        pq.write_table(
            pa.table({"img": cells, "label": [i % 3 for i in range(num)]}), data / "many" / f"{split}.parquet"
        )


def test_processes_that_start_at_once_end_with_one_entry(data: Path) -> None:
    make_many(data)
    builders = [builder() for _ in range(3)]
    digests = {process.communicate(timeout=120)[0] for process in builders}
    assert [process.returncode for process in builders] == [0, 0, 0]
    assert len(digests) == 1
    assert len(entries(data.parent / "cache")) == 1
    assert verify(manifest(Selection("many", image_size=64)))


def test_a_builder_that_is_killed_leaves_nothing_that_counts(data: Path) -> None:
    make_many(data)
    process = builder()
    deadline = time.monotonic() + 60
    while not list(data.parent.glob("cache/images/many/.*.tmp-*/train_images.npy")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (left_behind,) = entries(data.parent / "cache")
    assert left_behind.startswith(".")
    held = manifest(Selection("many", image_size=64))
    assert verify(held)
    (whole,) = entries(data.parent / "cache")
    assert not whole.startswith("."), "what the killed one left is gone"
