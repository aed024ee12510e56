"""The command that prepares images: `data` downloads, decodes and checks a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from orchestrator.commands.app import command
from orchestrator.commands.options import Data, Sets, set_data_folder

_CHOOSE_IMAGES = ("num_train", "num_test", "subset_seed", "image_size")


@command()
def data(
    name: Annotated[str, typer.Argument(help="a data set: cifar10, cifar100, fashion_mnist, or a folder of images")],
    sets: Sets = None,
    data: Data = None,
    download: Annotated[
        bool, typer.Option("--download", help="first download it into the data folder with torchvision", is_eager=True)
    ] = False,
) -> None:
    """Decode a data set into the cache, check it and print its digest; --set num_train=... selects as in a sweep."""
    set_data_folder(data)
    typer.echo(check_images(name, sets or (), download=download))


def check_images(name: str, sets: Sequence[str], *, download: bool) -> str:
    """Decode a data set into the cache (downloaded first if `download`) and read it back; a line that describes it."""
    from orchestrator.errors import DataError
    from trainables.image_data.cache import cache_root
    from trainables.image_data.images import data_root, manifest, missing, open_images, say_left_out
    from trainables.image_data.selection import Selection
    from trainables.image_data.sources import download as fetch_images
    from trainables.image_data.sources import find_images

    if download:
        fetch_images(name, data_root())
    fields = selected_images(sets)
    found = find_images(name, data_root())
    if found is None:
        raise DataError(missing(name, data_root()))
    selection = Selection(name, **fields)
    held = manifest(selection)
    open_images(selection, held.digest)
    say_left_out(found)
    size = f"{held.image_size}x{held.image_size}x{held.channels}"
    return (
        f"{name}: {held.num_train} training and {held.num_test} test images of {size} in {held.num_classes} classes, "
        f"digest {held.digest}, in {cache_root() / name}"
    )


def selected_images(sets: Sequence[str]) -> dict[str, int]:
    """The fields that choose images, parsed from `field=value` as for a sweep; `SweepError` for any other setting."""
    from orchestrator.errors import SweepError, unknown_name
    from orchestrator.sweeps.overrides import parse_setting
    from trainables.image_classifier.config import ImageClassifierConfig

    chosen: dict[str, int] = {}
    for text in sets:
        field = text.partition("=")[0].removesuffix("+").strip()
        if field not in _CHOOSE_IMAGES:
            raise SweepError(unknown_name("field", field, _CHOOSE_IMAGES))
        _, values, extend = parse_setting(text, ImageClassifierConfig)
        if extend or len(values) > 1 or field in chosen:
            raise SweepError(f"{field} has one value here, as {field}=number, got {text!r}")
        chosen[field] = values[0]
    return chosen
