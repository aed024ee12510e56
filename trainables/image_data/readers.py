"""Reads image files of each layout: torchvision's pickles and idx files, the hub's Parquet, and class folders.

A reader lists the labels without decoding image files, so that a subset can be chosen first and only it is decoded.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trainables.errors import DataError
from trainables.image_data.class_folders import class_folder, class_folders, images_of_class
from trainables.image_data.found_instead import found_instead
from trainables.image_data.image_files import Pixels, decoded
from trainables.image_data.names import FASHION_FOLDER, IDX_FILES, PUBLISHED, TEST_NAMES, TRAIN_NAMES
from trainables.image_data.plain_pickle import load_plain
from trainables.image_data.shard_names import parquet_files, parquet_place


@dataclass(frozen=True, slots=True)
class Split:
    """Images of one split: `labels` (N,) int64, and `read`, which decodes image i as (H, W, C).

    A grey image may have one channel even if others have three.
    """

    labels: npt.NDArray[np.int64]
    read: Callable[[int], Pixels]


@dataclass(frozen=True, slots=True)
class Source:
    """Undecoded images; `class_names` is empty if the files have no class names."""

    train: Split
    test: Split
    class_names: tuple[str, ...]


class Files(Protocol):
    """A data set's files, with a known layout."""

    @property
    def name(self) -> str:
        """The data set's name."""
        ...

    @property
    def folder(self) -> Path:
        """The folder with the files."""
        ...

    @property
    def layout(self) -> str:
        """A key of `READERS`."""
        ...


def _of_arrays(images: Any, labels: Any) -> Split:
    """A split of arrays that are already decoded; grey images get a channel axis."""
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images have {len(labels)} labels")
    pixels = np.asarray(images, np.uint8)
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    return Split(np.asarray(labels, np.int64), pixels.__getitem__)


def _open_cifar(found: Files) -> Source:
    from torchvision import datasets

    kind: Any = datasets.CIFAR10 if found.layout == "cifar10" else datasets.CIFAR100
    listed = [*kind.train_list, *kind.test_list, [kind.meta["filename"], kind.meta["md5"]]]
    batches = found.folder / kind.base_folder
    missing = [file for file, _ in listed if not (batches / file).is_file()]
    if missing:
        raise DataError(f"{batches} lacks {', '.join(missing)}: download {found.name} again or complete the folder")
    if found.name in PUBLISHED:
        wrong = [file for file, md5 in listed if _md5(batches / file) != md5]
        if wrong:
            raise DataError(
                f"{', '.join(wrong)} in {batches} is not the published file of {found.name}: download it again; images "
                f"of your own in this layout go under another name than {found.name}"
            )
    train = [load_plain((batches / file).read_bytes()) for file, _ in kind.train_list]
    test = [load_plain((batches / file).read_bytes()) for file, _ in kind.test_list]
    class_names = load_plain((batches / kind.meta["filename"]).read_bytes())[kind.meta["key"]]
    return Source(_of_batches(train), _of_batches(test), tuple(class_names))


def _of_batches(batches: Sequence[Mapping[str, Any]]) -> Split:
    """A split of CIFAR's batches, whose rows are an image's red, green and blue plane."""
    planes = np.vstack([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    labels = [batch["labels"] if "labels" in batch else batch["fine_labels"] for batch in batches]
    return _of_arrays(planes.transpose(0, 2, 3, 1), np.concatenate(labels))


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _open_idx(found: Files) -> Source:
    """Four idx files, gzipped or not: in torchvision's folder, or as Debian's dataset-fashion-mnist installs them."""
    from torchvision import datasets

    is_fashion = "fashion_mnist" in (found.layout, found.name)
    with _unpacked(found.folder / FASHION_FOLDER / "raw" if found.layout == "fashion_mnist" else found.folder) as root:
        train, test = (datasets.FashionMNIST(str(root), train=is_train) for is_train in (True, False))
    class_names = tuple(train.classes) if is_fashion else ()  # other data sets have idx files too, e.g. MNIST
    return Source(_of_arrays(train.data, train.targets), _of_arrays(test.data, test.targets), class_names)


@contextmanager
def _unpacked(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch) / FASHION_FOLDER / "raw"
        raw.mkdir(parents=True)
        for file in IDX_FILES:
            plain, packed = folder / file, folder / f"{file}.gz"
            if not plain.is_file() and not packed.is_file():
                raise DataError(f"{folder} lacks {file} (or {file}.gz): complete the folder")
            if plain.is_file():
                (raw / file).symlink_to(plain)
                continue
            with gzip.open(packed) as given, (raw / file).open("wb") as copy:
                shutil.copyfileobj(given, copy)
        yield Path(scratch)


def _open_parquet(found: Files) -> Source:
    train, test = (_parquet_split(found, names) for names in (TRAIN_NAMES, TEST_NAMES))
    # The hub's ImageNet hides the labels of its test split (all -1), so the validation split is used for testing.
    if (test.labels < 0).all() and parquet_files(found.folder, TEST_NAMES[1:]):
        test = _parquet_split(found, TEST_NAMES[1:])
    return Source(train, test, ())


def _parquet_split(found: Files, names: Sequence[str]) -> Split:
    from trainables.image_data.parquet_shards import Shards

    files = parquet_files(found.folder, names)
    if not files:
        wanted = " or ".join(f"{name}*.parquet" for name in names)
        train = [file.name for file in parquet_files(found.folder, TRAIN_NAMES)]
        raise _lacking(f"{found.folder} has no {wanted}", parquet_place(found.folder) or found.folder, train)
    shards = Shards(files)
    return Split(
        shards.labels, lambda i: decoded(lambda: shards.content(i), f"row {i} of {shards.named}", keeps_grey=True)
    )


def _open_folders(found: Files) -> Source:
    train, test = (class_folder(found.folder, names) for names in (TRAIN_NAMES, TEST_NAMES))
    assert train is not None
    if test is None:
        text = f"{found.folder} has class folders in train/ but none in {' or '.join(TEST_NAMES)}/"
        raise _lacking(text, found.folder, TRAIN_NAMES)
    train_names, test_names = ([path.name for path in class_folders(split)] for split in (train, test))
    if train_names != test_names:
        apart = sorted(set(train_names) ^ set(test_names))
        raise DataError(f"train and test of {found.folder} have different classes: {', '.join(apart[:5])}")
    return Source(_of_folders(train), _of_folders(test), tuple(train_names))


def _of_folders(split: Path) -> Split:
    images = [images_of_class(folder) for folder in class_folders(split)]
    paths = [path for of_class in images for path in of_class]
    labels = np.repeat(np.arange(len(images)), [len(of_class) for of_class in images])
    return Split(labels, lambda i: decoded(paths[i].read_bytes, str(paths[i]), keeps_grey=False))


def _lacking(text: str, place: Path, there: Sequence[str]) -> DataError:
    """The error for a split that is missing: `there` are the names of another one."""
    other = found_instead(place, but=there)
    return DataError(f"{text}{f': {other}' if other else ''}")


READERS: dict[str, Callable[[Files], Source]] = {
    "cifar10": _open_cifar,
    "cifar100": _open_cifar,
    "fashion_mnist": _open_idx,
    "idx": _open_idx,
    "parquet": _open_parquet,
    "folders": _open_folders,
}
"""The reader of each layout."""
