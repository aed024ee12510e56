"""What a data folder can make a process do: nothing that a pickle, or a program in an image file, asks for."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy._core.multiarray import scalar
from PIL import EpsImagePlugin

from tests.trainables.image_data.test_images import (
    file_of,
    forget,
    in_turn,
    noise,
    opened,
    planes,
    refused,
    small_set,
    write_parquet,
    write_tree,
)
from trainables.image_data.plain_pickle import load_plain
from trainables.image_data.selection import Selection


class Calls:
    """Pickled as the call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_numbers_of_each_protocol_are_as_written(protocol: int) -> None:
    given = {
        "pixels": noise(3),
        "fortran": np.asfortranarray(noise(3)[..., 0]),
        "labels": [0, 1, np.int64(2)],
        "big endian": np.arange(4, dtype=">i4"),
        "rates": np.linspace(0, 1, 5),
        "names": ["a", "b"],
        "batch": "training batch 1 of 5",
    }
    found = load_plain(pickle.dumps(given, protocol))
    assert found.keys() == given.keys()
    for name, value in given.items():
        assert np.array_equal(found[name], np.asarray(value)), name
        assert np.asarray(found[name]).dtype == np.asarray(value).dtype


def test_the_published_pickles_of_python_2_are_read() -> None:
    """Written as Python 2 did, with its strings and numpy's module of that time."""
    rows = planes(noise(2, 32, 32))
    content = rows.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01bq\x03\x87R(K\x01K\x02M\x00\x0c\x86"
        b"cnumpy\ndtype\nq\x04U\x02u1q\x05K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<i", len(content))
        + content
        + b"tb"
    )
    found = load_plain(b"\x80\x02}(U\x04data" + array + b"U\x06labels](K\x06K\x09eu.")
    assert np.array_equal(found["data"], rows)
    assert found["labels"] == [6, 9]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Calls(np.ndarray, (1,), "O", b"AAAAAAAA"), "a pickle whose data are made by ndarray is not loaded"),
        (Calls(np.dtype, "O"), "a pickle whose data are made by dtype is not loaded"),
        (np.array([None, "a"]), "arrays of numbers are required, got '|''O8'"),
        (np.array([(1, 2)], "i4,i4"), "arrays of numbers are required"),
        (np.array(["a"]), "arrays of numbers are required"),
        ([Calls(scalar, np.dtype("O"), b"AAAAAAAA")], "arrays of numbers are required"),
        (Calls(np.load, "/etc/passwd"), "a pickle that names numpy.load"),
        (Calls(getattr, "a", "upper"), "a pickle that names builtins.getattr"),
        (Path("/"), "a pickle that names pathlib"),
    ],
    ids=lambda given: type(given).__name__ if not isinstance(given, str) else given,
)
def test_what_is_no_array_of_numbers_is_refused_unmade(value: Any, reason: str) -> None:
    """numpy would take bytes for addresses of objects: a process that makes the first one of these dies."""
    with pytest.raises(ValueError, match=r"a pickle|arrays of numbers") as caught:
        load_plain(pickle.dumps({"data": value}))
    assert reason in str(caught.value)


def test_a_pickle_changes_nothing_that_later_ones_use() -> None:
    """A pickle may set attributes of what it names."""
    changing = b"cnumpy\ndtype\n(dU\x03notK\x01sb."
    with pytest.raises(ValueError, match="a dictionary is required"):
        load_plain(changing)
    assert np.array_equal(load_plain(pickle.dumps({"data": noise(1)}))["data"], noise(1))


@pytest.mark.parametrize("place", ["folders", "parquet"])
def test_a_program_in_an_image_file_is_not_run(data: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow gives EPS, by whatever name, to Ghostscript: here a `gs` that leaves a file."""
    (data / "gs").write_text(f"#!/bin/sh\ntouch {data / 'ran'}\necho 9.0\n")
    (data / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{data}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    contents = [program, *(file_of(image) for image in noise(7))]
    if place == "parquet":
        small_set(data)
        write_parquet(data / "own" / "train.parquet", contents, in_turn(8))
    else:
        for split in ("train", "test"):
            write_tree(data / "own" / split, contents, in_turn(8))
    assert "is not a usable image (no known format): replace it" in refused(Selection("own"))
    assert not (data / "ran").exists()
    forget()
    small_set(data, "good")
    assert len(opened(Selection("good")).train_images) == 40
