"""Finds the Parquet files of each split by their names, as the Hugging Face hub and others give them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from trainables.errors import DataError
from trainables.image_data.names import TEST_NAMES, TRAIN_NAMES, few

_WORDS = "of|part|shard|chunk|batch|snappy|gz|gzip|zst|zstd|lz4|brotli"
_PIECE = re.compile(rf"\d*(?:(?:{_WORDS})\d*)*|c\d+|(?=[a-f]*\d)[0-9a-f]{{4,}}")
"""What a shard's name may have after the split's, between `-`, `_` or `.`: numbers, digests, compressions, but no other
word. Each piece is matched alone: one expression for all of them takes years for a long name."""


def parquet_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """The shards of the first of these splits that exists; their names say what is missing or there twice.

    Raises:
        DataError: A shard is missing, or there in two versions.
    """
    place = parquet_place(folder)
    found = [(name, split_files(place, name)) for name in names] if place is not None else []
    split, files = next(((name, files) for name, files in found if files), ("", []))
    _check_numbers(split, files)
    return files


def split_files(place: Path, split: str) -> list[Path]:
    """The files in a folder with the name of exactly that split: `train_augmented` is another one than `train`."""
    return sorted(path for path in place.glob(f"{split}*.parquet") if _is_of(split, path))


def parquet_place(folder: Path) -> Path | None:
    """The folder with the training shards: the folder itself, its `data`, or the only other subfolder with shards.

    On the hub such a subfolder has the name of a configuration.
    """
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    with_shards = [path for path in (folder, *subfolders) if split_files(path, TRAIN_NAMES[0])]
    for usual in (folder, folder / "data"):
        if usual in with_shards:
            return usual
    if len(with_shards) > 1:
        names = ", ".join(path.name for path in with_shards)
        raise DataError(f"{folder} has Parquet files in several folders ({names}): make each a separate data set")
    return with_shards[0] if with_shards else None


def of_no_split(folder: Path) -> list[Path]:
    """The Parquet files in the folder and its subfolders that are not of a split in the place of the shards."""
    place = parquet_place(folder)
    known = {file for split in (*TRAIN_NAMES, *TEST_NAMES) if place for file in split_files(place, split)}
    return sorted({*folder.glob("*.parquet"), *folder.glob("*/*.parquet")} - known)


def _is_of(split: str, path: Path) -> bool:
    first, *others = re.split("[-_.]", path.name.removesuffix(".parquet").removeprefix(split))
    return all(others) and all(_PIECE.fullmatch(piece) for piece in (first, *others))


def _check_numbers(split: str, files: Sequence[Path]) -> None:
    """Raise `DataError` unless files named `train-00000-of-00003` are all there, each once, with no others."""
    numbers = [re.match(rf"{split}([-_.])(\d+)([-_.])of([-_.])(\d+)", file.name) for file in files]
    numbered = [number for number in numbers if number is not None]
    if not numbered:
        return
    place, first = files[0].parent, numbered[0]
    if len(numbered) < len(files) or len({number[5] for number in numbered}) > 1:
        names = few([file.name for file in files])
        raise DataError(f"{place} has the {split} images in two versions ({names}): keep the files of one of them")
    count = Counter(int(number[2]) for number in numbered)
    total = int(first[5])
    begin = 1 if total in count and 0 not in count else 0
    num_missing = total - sum(begin <= i < begin + total for i in count)
    if num_missing:  # of any number, as where a date stands in the place of the total
        missing = (
            f"{split}{first[1]}{i:0{len(first[2])}}{first[3]}of{first[4]}{first[5]}.parquet"
            for i in range(begin, begin + total)
            if i not in count
        )
        raise DataError(f"{place} lacks {few(list(islice(missing, 3)), num_names=num_missing)}: complete the folder")
    if max(count.values()) > 1:
        twice = [file.name for file, number in zip(files, numbered, strict=True) if count[int(number[2])] > 1]
        raise DataError(f"{place} has the same shard of {split} twice ({few(twice)}): keep one of each")
