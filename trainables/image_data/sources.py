"""Finds a data set's files in the data folder, with their layout and fingerprint, and downloads published data sets."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trainables.errors import DataError, first_line
from trainables.image_data.class_folders import files_of_class
from trainables.image_data.image_files import LATER_ENDINGS
from trainables.image_data.layouts import files_of, layout_of
from trainables.image_data.left_out import left_out
from trainables.image_data.names import IMAGENET, PUBLISHED
from trainables.image_data.readers import READERS, Source

_LOOKS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Found:
    """A data set's files: their layout, and a fingerprint of names, sizes and times that changes if they do."""

    name: str
    folder: Path
    layout: str
    fingerprint: str

    def open(self) -> Source:
        """List the images; raises `DataError` if files are missing or corrupt."""
        try:
            return READERS[self.layout](self)
        except DataError:
            raise
        except Exception as error:  # whatever a torn pickle, archive, Parquet or image file raises
            raise DataError(
                f"the images of {self.name!r} in {self.folder} cannot be read ({first_line(error)}): "
                "complete or replace the files"
            ) from error

    def left_out(self) -> str:
        """Which files in the folder are not read, and why; empty if all are read."""
        return left_out(self.folder, self.layout)


def find_images(name: str, data_root: Path) -> Found | None:
    """The files of that data set in `data_root/name` or, for torchvision's, in `data_root`; None if there are none."""
    if Path(name).name != name or name.startswith("."):
        raise DataError(f"a data set's name is that of a folder in {data_root}, got {name!r}")
    try:
        for folder in (data_root / name, data_root):
            layout = layout_of(name, folder, is_own=folder != data_root)
            if layout is not None:
                return Found(name, folder, layout, _fingerprint(files_of(folder, layout)))
    except OSError as error:  # a dangling link, or no permission
        raise DataError(f"images of {name!r} cannot be read ({error.filename}: {error.strerror})") from error
    return None


def known_names(data_root: Path) -> list[str]:
    """The published data sets, ImageNet and the folders of `data_root`."""
    folders = [path.name for path in data_root.iterdir() if path.is_dir()] if data_root.is_dir() else []
    return sorted({*PUBLISHED, IMAGENET, *(name for name in folders if not name.startswith("."))})


def download(name: str, data_root: Path) -> None:
    """Let torchvision download a published data set into `data_root/name`; raises `DataError` if that fails."""
    from torchvision import datasets

    kinds = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100, "fashion_mnist": datasets.FashionMNIST}
    if name not in kinds:
        raise DataError(
            f"only {', '.join(PUBLISHED)} can be downloaded, got {name!r}: put its images in {data_root / name}"
        )
    dataset = kinds[name].__new__(kinds[name])  # without its constructor, which would also unpickle what lies there
    dataset.root = str(data_root / name)
    try:
        dataset.download()
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            (data_root / name).rmdir()  # succeeds only if nothing was downloaded
        raise DataError(
            f"{name} could not be downloaded ({first_line(error)}): put its files in {data_root / name}"
        ) from error


def _fingerprint(paths: Iterator[Path]) -> str:
    # In threads: a network file system is slow to answer for each of a million files.
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as threads:
        facts = sorted(threads.map(_facts, paths))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _facts(path: Path) -> tuple[str, str]:
    """The path of a file or folder, and a digest of the names, sizes and times of all files in it."""
    if path.is_dir():
        lines = [_line(entry.path.removeprefix(f"{path}{os.sep}"), entry.stat()) for entry in files_of_class(str(path))]
    else:
        lines = [_line("", path.stat())]
    text = "\n".join(sorted(lines)).encode(errors="surrogateescape")
    return f"{path.parent.name}/{path.name}", hashlib.sha256(text).hexdigest()


def _line(name: str, stat: os.stat_result) -> str:
    # what was cached by versions that did not read these files is not taken
    also_read = " read" if name.lower().endswith(LATER_ENDINGS) else ""
    return f"{name} {stat.st_size} {stat.st_mtime_ns}{also_read}"
