"""Names the files in a data set's folder that are not read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from trainables.image_data.class_folders import class_folder, class_folders, files_of_class, is_hidden
from trainables.image_data.image_files import is_image
from trainables.image_data.names import TEST_NAMES, TRAIN_NAMES, few
from trainables.image_data.shard_names import of_no_split

_HIDDEN = "hidden or added by a system"


def left_out(folder: Path, layout: str) -> str:
    """How many files are not read and why, with the first names; empty if all are read."""
    reasons: dict[str, list[str]] = {}
    for reason, path in _unread(folder, layout):
        reasons.setdefault(reason, []).append(os.path.relpath(path, folder))
    return "; ".join(f"{len(files)} {reason} ({few(sorted(files))})" for reason, files in reasons.items())


def _unread(folder: Path, layout: str) -> Iterator[tuple[str, str]]:
    """(reason, path) of each file that is not read."""
    if layout == "parquet":
        yield from (("of no split", str(path)) for path in of_no_split(folder))
    if layout != "folders":
        return
    used = [class_folder(folder, names) for names in (TRAIN_NAMES, TEST_NAMES)]
    for name in (*TRAIN_NAMES, *TEST_NAMES):
        split = folder / name
        if split in used or (split.is_dir() and not class_folders(split)):
            yield from _unread_of_split(split)


def _unread_of_split(split: Path) -> Iterator[tuple[str, str]]:
    for place in sorted(split.iterdir()):
        if not place.is_dir():
            reason = _HIDDEN if is_hidden(place.name) else "outside of class folders"
            yield reason, str(place)
            continue
        visible = [] if is_hidden(place.name) else files_of_class(str(place))
        read = {entry.path for entry in visible if is_image(entry.name)}
        for root, _, names in os.walk(place):
            paths = (os.path.join(root, name) for name in names)  # noqa: PTH118  # faster, for a million files
            yield from ((_reason(os.path.relpath(path, split)), path) for path in paths if path not in read)


def _reason(place: str) -> str:
    """Why the file at that place in a split is not read."""
    if any(map(is_hidden, Path(place).parts)):
        return _HIDDEN
    return "in subfolders beside images" if is_image(place) else "with other endings than images have"
