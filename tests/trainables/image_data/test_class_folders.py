"""Trees of class folders as people have them: other endings, thumbnails, folders that systems add."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.trainables.image_data.test_images import file_of, in_turn, noise, opened, refused, write_tree
from trainables.image_data.images import manifest
from trainables.image_data.selection import Selection

LATER = [("jfif", "JPEG"), ("JPE", "JPEG"), ("gif", "GIF"), ("jp2", "JPEG2000"), ("tga", "TGA"), ("pbm", "PPM")]


@pytest.fixture
def tree(data: Path) -> Path:
    """`own`: two classes of four images in each split."""
    for split in ("train", "test"):
        write_tree(data / "own" / split, [file_of(image) for image in noise(8)], in_turn(8, 2))
    return data / "own"


def put(path: Path, content: bytes | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file_of(noise(1, seed=9)[0]) if content is None else content)


def left_out(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(("ending", "kind"), LATER)
@pytest.mark.parametrize("is_only", [False, True])
def test_images_of_further_endings_are_read(
    data: Path, ending: str, kind: str, is_only: bool, caplog: pytest.LogCaptureFixture
) -> None:
    others = [] if is_only else [file_of(image) for image in noise(8)]
    for split in ("train", "test"):
        write_tree(data / "own" / split, others, in_turn(len(others), 2))
        write_tree(data / "own" / split, [file_of(image, kind) for image in noise(8)], in_turn(8, 2), ending)
    assert manifest(Selection("own")).num_train == len(others) + 8
    assert left_out(caplog) == []


def test_what_was_decoded_without_further_endings_is_not_taken(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by earlier versions, from the same files."""
    for split in ("train", "test"):
        write_tree(data / "own" / split, [file_of(image) for image in noise(8)], in_turn(8, 2))
        write_tree(data / "own" / split, [file_of(image, "GIF") for image in noise(8)], in_turn(8, 2), "gif")
    with monkeypatch.context() as earlier:
        for module in ("image_files", "sources"):
            earlier.setattr(f"trainables.image_data.{module}.LATER_ENDINGS", ())
        assert manifest(Selection("own")).num_train == 8
    forget_all()
    assert manifest(Selection("own")).num_train == 16


@pytest.mark.parametrize(
    ("places", "line"),
    [
        (
            ["train/n0000/a.heic", "train/n0000/notes.txt"],
            "2 with other endings than images have (train/n0000/a.heic, ",
        ),
        (
            ["train/n0000/@eaDir/a.png/THUMB_M.jpg"],
            "1 hidden or added by a system (train/n0000/@eaDir/a.png/THUMB_M.jpg",
        ),
        (["train/@eaDir/a.png", "test/@eaDir/a.png"], "2 hidden or added by a system (test/@eaDir/a.png, train/@eaDir"),
        (["train/__MACOSX/n0000/a.png"], "1 hidden or added by a system (train/__MACOSX/n0000/a.png)"),
        (["train/n0001/.DS_Store"], "1 hidden or added by a system (train/n0001/.DS_Store)"),
        (
            [f"train/n0001/thumbs/{i}.png" for i in range(9)],
            "9 in subfolders beside images (train/n0001/thumbs/0.png, ",
        ),
        (["test/a.png"], "1 outside of class folders (test/a.png)"),
    ],
    ids=str,
)
def test_what_is_left_out_is_counted_and_named(
    tree: Path, places: Sequence[str], line: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = manifest(Selection("own"))
    assert left_out(caplog) == []
    for place in places:
        put(tree / place)
    forget_all()
    held = manifest(Selection("own", num_test=8))
    assert (held.num_train, held.num_test, held.num_classes, held.digest) == (8, 8, 2, before.digest)
    (said,) = left_out(caplog)
    assert said.startswith(f"files left out of 'own': {line}")
    assert ("and 6 more" in said) == (len(places) == 9)


def test_a_class_that_has_images_in_subfolders_only_has_those(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As Tiny ImageNet, train/n01443537/images/*.JPEG beside a file of boxes; by folder, then by name."""
    in_order = ["images-2/d", "images/b/0", "images/b/c", "images/b-1/1"]
    pixels = noise(len(in_order))
    for split in ("train", "test"):
        for label in "ab":
            put(data / "own" / split / label / "images" / "b" / "beside" / "e.png")
            for place, image in zip(in_order, pixels, strict=True):
                put(data / "own" / split / label / f"{place}.png", file_of(image))
        put(data / "own" / split / "a" / "boxes.txt", b"")
    assert np.array_equal(opened(Selection("own")).train_images, np.concatenate([pixels, pixels]))
    (said,) = left_out(caplog)
    assert "2 with other endings than images have (test/a/boxes.txt, train/a/boxes.txt)" in said
    assert "4 in subfolders beside images (test/a/images/b/beside/e.png, " in said


def test_a_class_without_images_is_refused_with_what_it_has(tree: Path) -> None:
    for split in ("train", "test"):
        put(tree / split / "n0002" / "a.heic")
    text = refused(Selection("own"))
    assert text.startswith(f"{tree / 'train' / 'n0002'} has no image (only a.heic): delete it, or put images there (")


def forget_all() -> None:
    from tests.trainables.image_data.test_images import forget
    from trainables.image_data import images

    forget()
    images.say_left_out.cache_clear()
