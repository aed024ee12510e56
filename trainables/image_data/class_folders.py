"""Lists the images of a tree of class folders: train/CLASS/*.jpg and val/CLASS/*.jpg.

A class has the images of its own folder. Only if there are none does it have those of its subfolders, as in Tiny
ImageNet: subfolders beside images hold thumbnails, masks or copies.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainables.errors import DataError
from trainables.image_data.image_files import FIRST_ENDINGS, LATER_ENDINGS, is_image
from trainables.image_data.names import few

_OF_SYSTEMS = (
    *("@eaDir", "@Recycle", "#recycle", "#snapshot", "__MACOSX", "$RECYCLE.BIN"),
    *("System Volume Information", "lost+found", "__pycache__"),
)
"""Folders that a NAS, an operating system or an archive adds, some of them with thumbnails."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden and thus not part of a data set, e.g. macOS's `._` twin of an image."""
    return name.startswith(".") or name in _OF_SYSTEMS


def class_folder(folder: Path, names: Sequence[str]) -> Path | None:
    """The folder of the first of these splits that exists."""
    for name in names:
        if (folder / name).is_dir() and class_folders(folder / name):
            return folder / name
    return None


def class_folders(split: Path) -> list[Path]:
    """The class folders of a split, in the order of the labels."""
    return sorted(path for path in split.iterdir() if path.is_dir() and not is_hidden(path.name))


def files_of_class(folder: str) -> list[os.DirEntry[str]]:
    """The visible files of a class, images or not, in torchvision's order: by folder, then by name."""
    return sorted(_files(folder), key=lambda entry: os.path.split(entry.path))


def images_of_class(folder: Path) -> list[Path]:
    """The images of a class; raises `DataError` if it has none."""
    entries = files_of_class(str(folder))
    images = [Path(entry.path) for entry in entries if is_image(entry.name)]
    if not images:
        there = f"only {few([entry.name for entry in entries])}" if entries else "it is empty"
        endings = " ".join((*FIRST_ENDINGS, *LATER_ENDINGS))
        raise DataError(f"{folder} has no image ({there}): delete it, or put images there ({endings})")
    return images


def _files(folder: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not is_hidden(entry.name)]
    subfolders = [entry for entry in visible if entry.is_dir()]
    files = [entry for entry in visible if not entry.is_dir()]
    yield from files
    if not any(is_image(file.name) for file in files):
        for subfolder in subfolders:
            yield from _files(subfolder.path)
