"""Finds a trial's images: their manifest for planning, and the arrays by digest; decodes them into the cache if needed.

The driver needs only manifests. On a machine without the images, it reads the digest from the `manifest.json` of a
cache entry, which can be copied there without its arrays.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from trainables.errors import DataError, unknown_name
from trainables.image_data.cache import (
    ImageData,
    Manifest,
    build,
    cache_root,
    entries,
    entry_of,
    intact_images,
    is_whole,
    mapped,
    read_manifest,
)
from trainables.image_data.class_folders import class_folder
from trainables.image_data.found_instead import found_instead
from trainables.image_data.names import IMAGENET, PUBLISHED, TRAIN_NAMES
from trainables.image_data.selection import Selection
from trainables.image_data.shard_names import split_files
from trainables.image_data.sources import Found, find_images, known_names

DATA_VARIABLE = "LAMBDA_ATLAS_DATA"
"""Environment variable: the folder of data sets (default `data`)."""

_logger = logging.getLogger(__name__)


def data_root() -> Path:
    """The folder of data sets: LAMBDA_ATLAS_DATA, or `data` in the current folder."""
    return Path(os.environ.get(DATA_VARIABLE) or "data").expanduser().absolute()


def manifest(selection: Selection) -> Manifest:
    """The manifest of that selection; decodes the images if no entry of the cache has them yet. Raises `DataError`.

    If this machine has no images, this is the manifest of the only cache entry with this selection.
    """
    return _manifest(selection, data_root(), cache_root())


@lru_cache(maxsize=256)
def _manifest(selection: Selection, data: Path, cache: Path) -> Manifest:
    found = find_images(selection.dataset, data)
    if found is None:
        known = [m for _, m in entries(cache, selection.dataset) if m.selection == selection]
        if len({m.digest for m in known}) > 1:
            digests = ", ".join(sorted({m.digest for m in known}))
            raise DataError(
                f"{cache} has several versions of {selection.dataset!r} ({digests}): delete the outdated ones"
            )
        if known:
            _logger.warning(
                "no images of %r in %s: those in the cache are used", selection.dataset, data / selection.dataset
            )
            return known[0]
        raise DataError(missing(selection.dataset, data))
    entry = entry_of(found, selection, cache)
    held = read_manifest(entry)
    if held is not None and is_whole(entry, held):
        return held
    held = build(found, selection, entry)
    say_left_out(found)
    return held


@lru_cache(maxsize=256)
def say_left_out(found: Found) -> None:
    """Warn, once in a process, of files in the data set's folder that are not read."""
    files = found.left_out()
    if files:
        _logger.warning("files left out of %r: %s", found.name, files)


def open_images(selection: Selection, digest: str) -> ImageData:
    """The images with that digest; decodes them from this machine's files if no entry of the cache has them.

    Raises `DataError` if they are missing, or if they are not the images that the driver planned with.
    """
    return _open_images(selection, digest, data_root(), cache_root())


@lru_cache(maxsize=4)
def _open_images(selection: Selection, digest: str, data: Path, cache: Path) -> ImageData:
    intact, damaged = _of_digest(digest, selection.dataset, cache)
    if intact is not None and not damaged:
        return intact
    found = find_images(selection.dataset, data)
    if found is not None:
        _mend(found, damaged, cache)
    if intact is not None:
        return intact
    if found is None:
        raise DataError(missing(selection.dataset, data))
    entry = entry_of(found, selection, cache)
    held = build(found, selection, entry)
    if held.digest != digest:
        raise DataError(
            f"the images of {selection.dataset!r} in {found.folder} have the digest {held.digest}, the trial was "
            f"planned with {digest}: use the same files on every machine"
        )
    return mapped(entry, held)


def _of_digest(digest: str, dataset: str, cache: Path) -> tuple[ImageData | None, list[tuple[Path, Selection]]]:
    """The first intact images with that digest, and the damaged entries found before them."""
    damaged: list[tuple[Path, Selection]] = []
    for entry, held in entries(cache, dataset):
        if held.digest == digest and is_whole(entry, held):
            images = intact_images(entry, held)
            if images is not None:
                return images, damaged
            damaged.append((entry, held.selection))
    return None, damaged


def _mend(found: Found, damaged: Sequence[tuple[Path, Selection]], cache: Path) -> None:
    """Decode damaged entries anew, each with its own selection, since other selections may have the same images."""
    for entry, selection in damaged:
        _logger.warning("the decoded images in %s are damaged: they are decoded anew", entry)
        if entry == entry_of(found, selection, cache):
            build(found, selection, entry)
        else:  # its files have changed or are gone
            shutil.rmtree(entry, ignore_errors=True)


def missing(name: str, data: Path) -> str:
    """The message for a data set without images in `data`: what is there instead, and what to do about it."""
    known = known_names(data)
    if name not in known:
        return unknown_name("data set", name, known) + f"; images of your own go into {data / name}{_too_deep(data)}"
    layouts = "torchvision's folder, as train*.parquet and test*.parquet or as train/CLASS/ and test/CLASS/"
    if name == IMAGENET:
        layouts = "train/CLASS/*.JPEG and val/CLASS/*.JPEG or as train*.parquet and validation*.parquet"
    instead = found_instead(data / name)
    return (
        f"no images of {name!r} in {data / name}{f' ({instead})' if instead else ''}: put them there as {layouts}, or "
        f"name their parent folder with --data{_too_deep(data)}"
        + (f", or let `launch data {name} --download` fetch them" if name in PUBLISHED else "")
    )


def _too_deep(data: Path) -> str:
    """What to say if the folder of data sets is itself one."""
    if not data.is_dir() or not (split_files(data, TRAIN_NAMES[0]) or class_folder(data, TRAIN_NAMES)):
        return ""
    return f" ({data} itself holds images: its parent folder is the one to name)"
