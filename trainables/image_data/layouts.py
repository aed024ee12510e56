"""Tells in which layout a folder holds images, and in which files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trainables.image_data.class_folders import class_folder, class_folders
from trainables.image_data.names import CIFAR_FOLDERS, FASHION_FOLDER, IDX_FILES, TEST_NAMES, TRAIN_NAMES
from trainables.image_data.shard_names import parquet_files, parquet_place, split_files


def layout_of(name: str, folder: Path, *, is_own: bool) -> str | None:
    """The layout of a folder's images, None without any; in the data root (not `is_own`) only torchvision's folders.

    Raises `DataError` if names say that files are missing or there twice.
    """
    for layout, subfolder in CIFAR_FOLDERS.items():
        if (folder / subfolder).is_dir() and (is_own or name == layout):
            return layout
    if (folder / FASHION_FOLDER / "raw").is_dir() and (is_own or name == "fashion_mnist"):
        return "fashion_mnist"
    if not is_own:
        return None
    if any((folder / f"{file}{suffix}").is_file() for file in IDX_FILES for suffix in ("", ".gz")):
        return "idx"
    if parquet_files(folder, TRAIN_NAMES):
        parquet_files(folder, TEST_NAMES)  # checks their names, also where the images are in the cache already
        return "parquet"
    return "folders" if class_folder(folder, TRAIN_NAMES) is not None else None


def files_of(folder: Path, layout: str) -> Iterator[Path]:
    """The files of which the images are read; a class folder stands for the files in it."""
    if layout in CIFAR_FOLDERS:
        yield from (folder / CIFAR_FOLDERS[layout]).iterdir()
    elif layout == "fashion_mnist":
        yield from (folder / FASHION_FOLDER / "raw").iterdir()
    elif layout == "idx":
        yield from (path for path in folder.iterdir() if path.name.removesuffix(".gz") in IDX_FILES)
    elif layout == "parquet":
        place = parquet_place(folder)
        yield from (file for name in (*TRAIN_NAMES, *TEST_NAMES) if place for file in split_files(place, name))
    else:
        for names in (TRAIN_NAMES, TEST_NAMES):
            split = class_folder(folder, names)
            yield from class_folders(split) if split is not None else ()
