"""Decodes one image file with Pillow, and knows which files of a folder are images."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

from trainables.errors import DataError, first_line

Pixels = npt.NDArray[np.uint8]

FIRST_ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of image files in class folders; torchvision reads these, and so did our first versions."""

LATER_ENDINGS = (".apng", ".avif", ".dib", ".gif", ".j2k", ".jfif", ".jif", ".jp2", ".jpe", ".pbm", ".pnm", ".tga")
"""Further ones that Pillow reads. Of several pictures in a file, the first counts."""


def is_image(name: str) -> bool:
    """Whether a file of that name is read as an image."""
    return name.lower().endswith((*FIRST_ENDINGS, *LATER_ENDINGS))


def decoded(content: Callable[[], bytes], where: str, *, keeps_grey: bool) -> Pixels:
    """An image file's pixels, (H, W, 3), or (H, W, 1) if grey and `keeps_grey`; raises `DataError` naming the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content()), formats=_formats()) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"its pixels are {image.mode}, 8-bit ones are required")  # PIL would clip them
            if keeps_grey and image.mode == "L":
                return np.asarray(image)[..., None]
            # converting a palette with transparency directly to RGB makes PIL warn
            opaque = image.convert("RGBA") if image.mode == "P" else image
            return np.asarray(opaque.convert("RGB"))
    except UnidentifiedImageError as error:  # its message has only a buffer's address
        raise DataError(f"{where} is not a usable image (no known format): replace it") from error
    except Exception as error:  # whatever a damaged, foreign or missing file raises
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{where} cannot be read ({error.strerror})") from error
        raise DataError(f"{where} is not a usable image ({first_line(error)}): replace it") from error


@cache
def _formats() -> tuple[str, ...]:
    """Every format that Pillow decodes itself: of EPS it lets Ghostscript run the program in the file."""
    from PIL import Image

    Image.preinit()  # the usual formats first
    Image.init()
    return tuple(name for name in Image.ID if name != "EPS")
