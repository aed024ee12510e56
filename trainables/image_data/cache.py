"""Caches decoded images in entries that all processes of a machine map into memory.

An entry has the selected images of one data set, decoded once: `manifest.json` and four arrays. It is written under
another name and then renamed, so an entry is complete or absent. A process that opens an entry checks the hash of its
content, since a disk may be damaged without raising errors.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from trainables.errors import DataError
from trainables.image_data.decoding import ColourAmongGreyError, channel_statistics, choose, count_classes, decode
from trainables.image_data.image_files import Pixels
from trainables.image_data.selection import Selection
from trainables.image_data.sources import Found

CACHE_VARIABLE = "LAMBDA_ATLAS_CACHE"
"""Environment variable: the folder of decoded images."""

FORMAT = 2
"""Part of every entry's name and manifest; increased when the same files and selection decode to different pixels."""
_CHUNK = 4096
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Describes the content of an entry. The digest identifies the content; it is the same on every machine."""

    dataset: str
    digest: str
    num_train: int
    num_test: int
    subset_seed: int | None
    image_size: int
    channels: int
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    selection: Selection
    fingerprint: str
    file_sizes: dict[str, int]
    format: int = FORMAT


@dataclass(frozen=True, slots=True, eq=False)
class ImageData:
    """An opened entry: images (N, H, W, C) uint8 and labels (N,) int64, mapped into memory."""

    manifest: Manifest
    train_images: Pixels
    train_labels: npt.NDArray[np.int64]
    test_images: Pixels
    test_labels: npt.NDArray[np.int64]


def cache_root() -> Path:
    """The folder of decoded images: LAMBDA_ATLAS_CACHE, or the user's cache folder."""
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "lambda-atlas"
    return Path(os.environ.get(CACHE_VARIABLE) or user_cache).expanduser().absolute() / "images"


def entry_of(found: Found, selection: Selection, cache: Path) -> Path:
    """The folder of the entry for that selection of these files in their current version."""
    key = hashlib.sha256(repr((FORMAT, found.layout, found.fingerprint, selection)).encode()).hexdigest()[:16]
    return cache / selection.dataset / key


def entries(cache: Path, dataset: str) -> Iterator[tuple[Path, Manifest]]:
    """All entries of a data set that have a manifest of this format."""
    folder = cache / dataset
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        held = None if entry.name.startswith(".") else read_manifest(entry)
        if held is not None:
            yield entry, held


def read_manifest(entry: Path) -> Manifest | None:
    """The entry's manifest; None if the manifest is missing, unreadable or of another format."""
    try:
        values: dict[str, Any] = json.loads((entry / "manifest.json").read_text())
        if values.get("format") != FORMAT:
            return None
        values |= {name: tuple(values[name]) for name in ("mean", "std", "class_names")}
        return Manifest(**{**values, "selection": Selection(**values["selection"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # missing or foreign: the entry is built anew


def is_whole(entry: Path, held: Manifest) -> bool:
    """Whether every array's file has the size in the manifest."""
    sizes = {name: (entry / name).stat().st_size if (entry / name).is_file() else -1 for name in held.file_sizes}
    return sizes == held.file_sizes


def intact_images(entry: Path, held: Manifest) -> ImageData | None:
    """The entry's arrays if their digest is the manifest's, else None; reads all of their content."""
    try:
        images = mapped(entry, held)
        return images if _digest(images) == held.digest else None
    except (OSError, ValueError):  # a file is missing, or an array's header is damaged
        return None


def mapped(entry: Path, held: Manifest) -> ImageData:
    """The entry's arrays without reading them; raises OSError or ValueError if a file is missing or is not an array."""
    # "c": writes would stay in this process; torch warns about read-only arrays
    arrays = [np.load(entry / f"{name}.npy", mmap_mode="c", allow_pickle=False) for name in _ARRAYS]
    return ImageData(held, *arrays)


def build(found: Found, selection: Selection, entry: Path) -> Manifest:
    """Decode the selection into `entry`; if several processes try at once, one decodes and the others wait.

    Raises `DataError` if images are missing or corrupt, or if the cache cannot be written.
    """
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(entry.parent / f".{entry.name}.lock"):
            held = read_manifest(entry)
            if held is not None and intact_images(entry, held):
                return held
            for left_behind in entry.parent.glob(f".{entry.name}.tmp-*"):  # of killed processes, since we hold the lock
                shutil.rmtree(left_behind, ignore_errors=True)
            scratch = entry.parent / f".{entry.name}.tmp-{uuid.uuid4().hex}"
            scratch.mkdir()
            try:
                held = _write_entry(found, selection, scratch)
                shutil.rmtree(entry, ignore_errors=True)  # a damaged entry; processes that have mapped it keep it
                scratch.rename(entry)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            return held
    except OSError as error:
        raise DataError(
            f"cannot write decoded images to {entry.parent} ({error.strerror or error}): name another folder in "
            f"{CACHE_VARIABLE}"
        ) from error


def _write_entry(found: Found, selection: Selection, folder: Path) -> Manifest:
    source = found.open()
    num_classes = count_classes(found.name, source.train, source.test)
    chosen_train = choose(
        found.name,
        "training",
        source.train.labels,
        num_classes,
        num=selection.num_train,
        seed=selection.subset_seed,
    )
    chosen_test = choose(found.name, "test", source.test.labels, num_classes, selection.num_test, seed=0)
    first = source.train.read(int(chosen_train[0]))
    if selection.image_size is None and first.shape[0] != first.shape[1]:
        raise DataError(f"images of {found.name!r} are {first.shape[1]}x{first.shape[0]}, not square: set image_size")
    size, channels = selection.image_size or first.shape[0], first.shape[2]
    splits = (("train", source.train, chosen_train), ("test", source.test, chosen_test))

    def write(channels: int) -> None:
        for name, split, chosen in splits:
            images = _new_array(folder / f"{name}_images.npy", (len(chosen), size, size, channels))
            decode(found.name, split, chosen, images, selection.image_size)
            images.flush()
            np.save(folder / f"{name}_labels.npy", split.labels[chosen], allow_pickle=False)

    try:
        write(channels)
    except ColourAmongGreyError:  # the first image is grey, but another one is not
        channels = 3
        write(channels)
    sizes = {f"{name}.npy": (folder / f"{name}.npy").stat().st_size for name in _ARRAYS}
    is_subset = len(chosen_train) < len(source.train.labels)
    held = Manifest(
        dataset=selection.dataset,
        digest="",
        num_train=len(chosen_train),
        num_test=len(chosen_test),
        subset_seed=selection.subset_seed if is_subset else None,
        image_size=size,
        channels=channels,
        num_classes=num_classes,
        mean=(),
        std=(),
        class_names=source.class_names,
        selection=selection,
        fingerprint=found.fingerprint,
        file_sizes=sizes,
    )
    data = mapped(folder, held)
    mean, std = channel_statistics(data.train_images)
    held = replace(held, digest=_digest(data), mean=mean, std=std)
    (folder / "manifest.json").write_text(json.dumps(asdict(held), indent=1))
    for path in folder.iterdir():  # the content must be on disk before the rename, in case of a power cut
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return held


def _new_array(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.uint8]]:
    """An array of bytes in a file whose disk space is allocated now: a full disk raises here, not as SIGBUS later."""
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):  # macOS lacks it
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _digest(data: ImageData) -> str:
    """Hash of shapes, labels and pixels."""
    sha = hashlib.sha256()
    for name in _ARRAYS:
        array = getattr(data, name)
        sha.update(f"{name} {array.shape} {array.dtype.str}".encode())
        for start in range(0, len(array), _CHUNK):
            sha.update(np.ascontiguousarray(array[start : start + _CHUNK]).data)
    return sha.hexdigest()[:16]
