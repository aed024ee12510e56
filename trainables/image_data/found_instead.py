"""Says what lies in a folder in which images are looked for and not found."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from trainables.errors import DataError
from trainables.image_data.class_folders import is_hidden
from trainables.image_data.layouts import layout_of
from trainables.image_data.names import CIFAR_FOLDERS, FASHION_FOLDER, IDX_FILES, TEST_NAMES, TRAIN_NAMES, few

_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_LOOKED_FOR = (*TRAIN_NAMES, *TEST_NAMES, *CIFAR_FOLDERS.values(), FASHION_FOLDER, *IDX_FILES)


def found_instead(folder: Path, but: Collection[str] = ()) -> str:
    """What is in the folder, with what to do about it; empty without such a folder. `but` names what is all right."""
    if not folder.is_dir():
        return ""
    there = sorted(path for path in folder.iterdir() if not is_hidden(path.name) and path.name not in but)
    if not there:
        return "" if but else "the folder is empty"
    deeper = [path.name for path in there if path.is_dir() and _has_images(path)]
    if deeper:
        return f"the images are one folder too deep, in {few(deeper)}: move the content of that folder up"
    archives = [path.name for path in there if path.is_file() and path.name.lower().endswith(_ARCHIVES)]
    if archives:
        return f"{few(archives)} has to be unpacked there"
    near = [f"{path.name} ({meant} is looked for)" for path in there if (meant := _meant(path))]
    return f"found {few(near or [_shown(path) for path in there])}"


def _has_images(folder: Path) -> bool:
    with suppress(OSError):
        try:
            return layout_of(folder.name, folder, is_own=True) is not None
        except DataError:  # images whose files are incomplete
            return True
    return False


def _meant(path: Path) -> str:
    """The name that is looked for and most like the path's; empty if none is alike, or if it is the path's own."""
    stem = path.name.removesuffix(".parquet")
    if stem in _LOOKED_FOR:
        return ""
    given, lower = stem.lower(), {name.lower(): name for name in _LOOKED_FOR}
    near = [lower[name] for name in get_close_matches(given, lower, n=1, cutoff=0.65)]
    near += [name for name in (*TRAIN_NAMES, *TEST_NAMES) if re.search(rf"(?<![a-z]){name}", given)]
    return near[0] + path.name.removeprefix(stem) if near else ""


def _shown(path: Path) -> str:
    """A path's name; of a folder also what is in it."""
    if not path.is_dir():
        return path.name
    try:
        content = [inner.name for inner in sorted(path.iterdir()) if not is_hidden(inner.name)]
    except OSError as error:  # no permission
        return f"{path.name}/ ({error.strerror})"
    return f"{path.name}/ with {few(content, 2)}" if content else f"an empty {path.name}/"
