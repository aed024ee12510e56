"""Turns a source into arrays: chooses images, decodes and resizes them, and computes channel statistics."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from trainables.errors import DataError
from trainables.image_data.image_files import Pixels
from trainables.image_data.readers import Split
from trainables.image_data.selection import LARGEST_SMALL_IMAGE
from trainables.random_streams import Purpose, stream

_PIXELS_AT_ONCE = 1024 * 32 * 32
"""Number of pixels converted to 8-byte integers at once."""
_IMAGES_AT_ONCE = 4096
"""Number of images submitted to the threads at once: a million waiting tasks alone would need gigabytes."""
_RESIZE_MARGIN = 8 / 7
"""Images are resized to this multiple of the requested size before the centre is cropped, as 256 is of 224."""


def count_classes(name: str, train: Split, test: Split) -> int:
    """Return the number of classes.

    Raises `DataError` if a split is empty, the labels do not number the classes from 0, or a class has no training
    image.
    """
    if not len(train.labels) or not len(test.labels):
        raise DataError(f"{name!r} has {len(train.labels)} training and {len(test.labels)} test images")
    num_classes = int(train.labels.max()) + 1
    if min(train.labels.min(), test.labels.min()) < 0 or test.labels.max() >= num_classes or num_classes < 2:
        train_range, test_range = (f"{split.labels.min()} to {split.labels.max()}" for split in (train, test))
        raise DataError(
            f"labels of {name!r} run from {train_range} in training and from {test_range} in the test images: they "
            "have to number two or more classes from 0, the same in both"
        )
    present = np.unique(train.labels)
    if len(present) < num_classes:
        gap = int(np.argmax(present != np.arange(len(present))))
        raise DataError(
            f"labels of {name!r} run up to {num_classes - 1}, but no training image has {gap}: number the classes from "
            "0 without a gap"
        )
    return num_classes


def choose(
    name: str, split: str, labels: npt.NDArray[np.int64], num_classes: int, num: int | None, seed: int
) -> npt.NDArray[np.int64]:
    """Indices of `num` images, equally many of each class (to within one), in rising order.

    A smaller subset is contained in every larger one. If `num` is None or the number of images, all are chosen.
    """
    if num is None or num == len(labels):
        return np.arange(len(labels))
    if num > len(labels):
        raise DataError(f"{name!r} has {len(labels)} {split} images, {num} are requested")
    chosen = []
    for label in range(num_classes):
        of_class = np.flatnonzero(labels == label)
        wanted = num // num_classes + (label < num % num_classes)
        if wanted > len(of_class):
            raise DataError(
                f"{name!r} has {len(of_class)} {split} images of class {label}, {wanted} are requested: {num} over "
                f"{num_classes} classes"
            )
        chosen.append(stream(seed, Purpose.SUBSET, label).permutation(of_class)[:wanted])
    return np.sort(np.concatenate(chosen))


class ColourAmongGreyError(Exception):
    """An image has three channels, but the array has only one."""


def decode(name: str, split: Split, chosen: npt.NDArray[np.int64], images: Pixels, image_size: int | None) -> None:
    """Fill `images` (N, H, W, C) with the chosen images; raises `ColourAmongGreyError` if C is too few for an image."""

    def fill(position: int) -> None:
        index = int(chosen[position])
        pixels = split.read(index)
        if image_size is not None:
            pixels = _sized(pixels, image_size)
        (height, width, channels), wanted = pixels.shape, images.shape[1:]
        if (height, width) != wanted[:2]:
            raise DataError(
                f"image {index} of {name!r} is {width}x{height}, the first one {wanted[1]}x{wanted[0]}: set image_size"
            )
        if channels > wanted[2]:
            raise ColourAmongGreyError
        images[position] = pixels  # a grey image is copied to each channel

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, len(chosen), _IMAGES_AT_ONCE):
            for _ in threads.map(fill, range(start, min(start + _IMAGES_AT_ONCE, len(chosen)))):
                pass


def _sized(pixels: Pixels, size: int) -> Pixels:
    """Resize an image and crop its centre to `size` pixels, exactly as torchvision's Resize and CenterCrop do.

    An image that already has this size is returned unchanged, so passing the data set's own size equals passing None.
    If `size` is up to 64, an image with a side no longer than `size` is not resized but padded with zeros, e.g. from 28
    to 32 pixels.
    """
    height, width = pixels.shape[:2]
    if (height, width) == (size, size):
        return pixels
    if min(height, width) > size or size > LARGEST_SMALL_IMAGE:
        from PIL import Image

        shorter = round(size * _RESIZE_MARGIN)
        target = shorter * width // min(height, width), shorter * height // min(height, width)
        grey = pixels.shape[2] == 1
        resized = Image.fromarray(pixels[..., 0] if grey else pixels).resize(target, Image.Resampling.BILINEAR)
        pixels = np.asarray(resized)[..., None] if grey else np.asarray(resized)
        height, width = pixels.shape[:2]
    top, left = max(0, round((height - size) / 2)), max(0, round((width - size) / 2))
    pixels = pixels[top : top + size, left : left + size]
    missing = [(size - extent) for extent in pixels.shape[:2]]
    return np.pad(pixels, [(m // 2, m - m // 2) for m in missing] + [(0, 0)])


def channel_statistics(images: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, with pixels scaled to [0, 1], from exact integer sums."""
    sums = np.zeros((2, images.shape[-1]), np.uint64)
    at_once = max(1, _PIXELS_AT_ONCE // (images.shape[1] * images.shape[2]))
    for start in range(0, len(images), at_once):
        chunk = images[start : start + at_once].astype(np.uint64)
        sums += np.stack([chunk.sum(axis=(0, 1, 2)), np.square(chunk).sum(axis=(0, 1, 2))])
    mean, square = (sums / (images.size // images.shape[-1])).tolist()
    std = [float(np.sqrt(max(s - m * m, 1.0))) for m, s in zip(mean, square, strict=True)]
    return tuple(m / 255 for m in mean), tuple(s / 255 for s in std)
