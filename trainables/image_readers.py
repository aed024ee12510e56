"""Image files of each layout: torchvision's pickles and idx files, the hub's Parquet, trees of class folders.

A reader lists labels without decoding an image, so that a subset is chosen first and only that is decoded.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trainables.errors import DataError

Pixels = npt.NDArray[np.uint8]

PUBLISHED = ("cifar10", "cifar100", "fashion_mnist")
"""Data sets that torchvision can download; CIFAR under its own name is checked against the published files."""

CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
FASHION_FOLDER = "FashionMNIST"
IDX_FILES = tuple(f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
TRAIN_NAMES, TEST_NAMES = ("train",), ("test", "val", "validation", "valid")


@dataclass(frozen=True, slots=True)
class Split:
    """Images of one split: `labels` (N,) int64, and `read`, which decodes image i as (H, W, C)."""

    labels: npt.NDArray[np.int64]
    read: Callable[[int], Pixels]


@dataclass(frozen=True, slots=True)
class Source:
    """Undecoded images; `class_names` may be empty where the files have none."""

    train: Split
    test: Split
    class_names: tuple[str, ...]


class Files(Protocol):
    """A data set's files, of a known layout."""

    @property
    def name(self) -> str:
        """The data set's name."""
        ...

    @property
    def folder(self) -> Path:
        """Where they lie."""
        ...

    @property
    def layout(self) -> str:
        """A key of `READERS`."""
        ...


def parquet_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """The shards of the first of these splits that is there."""
    for name in names:
        found = sorted(path for place in (folder, folder / "data") for path in place.glob(f"{name}*.parquet"))
        if found:
            return found
    return []


def class_folder(folder: Path, names: Sequence[str]) -> Path | None:
    """The folder of the first of these splits that is there."""
    for name in names:
        if (folder / name).is_dir() and any(path.is_dir() for path in (folder / name).iterdir()):
            return folder / name
    return None


def _of_arrays(images: Any, labels: Any) -> Split:
    """A split that is decoded already; grey images get their channel axis."""
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
    unchecked = type(
        kind.__name__,
        (kind,),
        {
            "train_list": [[file, None] for file, _ in kind.train_list],
            "test_list": [[file, None] for file, _ in kind.test_list],
            "meta": {**kind.meta, "md5": None},
        },
    )
    train, test = (unchecked(str(found.folder), train=is_train) for is_train in (True, False))
    return Source(_of_arrays(train.data, train.targets), _of_arrays(test.data, test.targets), tuple(train.classes))


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _open_idx(found: Files) -> Source:
    """Four idx files, packed or not: in torchvision's folder, or as Debian's dataset-fashion-mnist installs them."""
    from torchvision import datasets

    is_fashion = "fashion_mnist" in (found.layout, found.name)
    with _unpacked(found.folder / FASHION_FOLDER / "raw" if found.layout == "fashion_mnist" else found.folder) as root:
        train, test = (datasets.FashionMNIST(str(root), train=is_train) for is_train in (True, False))
    class_names = tuple(train.classes) if is_fashion else ()  # others come in these files too, MNIST for one
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
    # The hub's ImageNet hides the labels of its test split (all -1): the validation split is what it is tested on.
    if (test.labels < 0).all() and parquet_files(found.folder, TEST_NAMES[1:]):
        test = _parquet_split(found, TEST_NAMES[1:])
    return Source(train, test, ())


def _parquet_split(found: Files, names: Sequence[str]) -> Split:
    from trainables.image_parquet import Shards

    files = parquet_files(found.folder, names)
    if not files:
        raise DataError(f"{found.folder} has no {' or '.join(f'{name}*.parquet' for name in names)}")
    shards = Shards(files)
    is_grey = len(shards.labels) > 0 and _is_grey(shards.content(0))
    return Split(
        shards.labels, lambda i: _decoded(lambda: shards.content(i), f"row {i} of {shards.named}", is_grey=is_grey)
    )


def _open_folders(found: Files) -> Source:
    from torchvision.datasets import ImageFolder

    folders = [class_folder(found.folder, names) for names in (TRAIN_NAMES, TEST_NAMES)]
    if folders[1] is None:
        raise DataError(f"{found.folder} has class folders in train/ but none in {' or '.join(TEST_NAMES)}/")
    train, test = (ImageFolder(str(folder)) for folder in folders)
    if train.classes != test.classes:
        apart = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(f"train and test of {found.folder} have different classes: {', '.join(apart[:5])}")

    def split(listed: ImageFolder) -> Split:
        paths = [Path(path) for path, _ in listed.samples]
        labels = np.array(listed.targets, np.int64)
        return Split(labels, lambda i: _decoded(paths[i].read_bytes, str(paths[i]), is_grey=False))

    return Source(split(train), split(test), tuple(train.classes))


def _is_grey(content: bytes) -> bool:
    from PIL import Image

    try:
        return str(Image.open(io.BytesIO(content)).mode) == "L"
    except OSError:
        return False  # `_decoded` says which image it is


def _decoded(content: Callable[[], bytes], where: str, *, is_grey: bool) -> Pixels:
    """An image file's pixels, (H, W, 1) or (H, W, 3); raises `DataError` naming the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content())) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"its pixels are {image.mode}, 8-bit ones are needed")  # PIL would clip them
            if is_grey and image.mode != "L":
                raise ValueError(f"it is {image.mode}, and the first image is grey")
            pixels = np.asarray(image if is_grey else image.convert("RGB"))
    except UnidentifiedImageError as error:  # its text is a buffer's address
        raise DataError(f"{where} is no usable image (no known format): replace it") from error
    except Exception as error:  # whatever a torn, foreign or missing file raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{where} is no usable image ({reason}): replace it") from error
    return pixels[..., None] if is_grey else pixels


READERS: dict[str, Callable[[Files], Source]] = {
    "cifar10": _open_cifar,
    "cifar100": _open_cifar,
    "fashion_mnist": _open_idx,
    "idx": _open_idx,
    "parquet": _open_parquet,
    "folders": _open_folders,
}
"""How each layout is read."""
