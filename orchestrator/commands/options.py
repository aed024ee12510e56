"""The options that several commands of `launch` share, and the sweep that they choose."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.errors import DataError

if TYPE_CHECKING:
    from orchestrator.sweeps.value import Sweep

EXIT_FAILED_TRIALS, EXIT_USER_ERROR, EXIT_INTERRUPTED = 1, 2, 130
EXIT_DAMAGED = EXIT_DIFFERS = EXIT_LOST_OUTPUT = 1
"""Exit codes of `verify` where something is damaged, of `replay` where a number differs, and of any command but `run`
whose output was not all written."""

ALL_SWEEPS = "all"
SHOWN_ERRORS, SHOWN_KINDS_OF_ERROR = 20, 5


def _typed_folder_is_there(context: typer.Context, data: str | None) -> str | None:
    """Refuse a typed `--data` that is not a folder, unless a download is about to create it.

    One from the environment may be absent: for a cluster's driver, images may lie on the workers alone.
    """
    is_typed = data is not None and not is_from_environment(context, "data")
    if is_typed and not context.params.get("download") and not Path(str(data)).expanduser().is_dir():
        raise DataError(f"--data names the folder of image data sets, got {data!r}, which is not a folder")
    return data


SweepName = Annotated[str, typer.Argument(help="name of a sweep (see `launch list`)", metavar="SWEEP")]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="field=v1,v2 gives a field these values in every cell, field+=v1,v2 adds cells with them; repeatable",
        metavar="F=V",
    ),
]
Seeds = Annotated[str | None, typer.Option(help="seeds such as 0-9 or 0,3,5-7 (default: the sweep's)")]
Out = Annotated[str, typer.Option(help="folder or URI (s3://..., gs://...) of the results")]
Workload = Annotated[
    str | None,
    typer.Option(
        help="two_layer_cnn (the default), DATASET_ARCHITECTURE (cifar10_resnet18, ...), or a registered setup"
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        envvar="LAMBDA_ATLAS_DATA",
        help="folder of image data sets (default: data)",
        metavar="FOLDER",
        callback=_typed_folder_is_there,
    ),
]
Module = Annotated[
    str | None, typer.Option(help="a Python module that registers sweeps, workloads, figures, ... of your own")
]
MaxTrials = Annotated[int | None, typer.Option(min=1, help="run at most this many of the missing trials")]


def chosen_sweep(
    name: str,
    *,
    module: str | None = None,
    sets: list[str] | None = None,
    seeds: str | None = None,
    workload: str | None = None,
    data: str | None = None,
) -> Sweep:
    """The sweep that the options describe; `SweepError` for what they get wrong."""
    from orchestrator.sweeps.registry import find_sweep

    set_data_folder(data)
    return find_sweep(name, module, workload).with_overrides(sets or (), seeds)


def set_data_folder(data: str | None) -> None:
    """Set the environment variable that workers inherit; the path is absolute, because they run in other folders."""
    if data is not None:
        os.environ["LAMBDA_ATLAS_DATA"] = os.path.abspath(os.path.expanduser(data))  # noqa: PTH100, PTH111


def is_from_environment(ctx: typer.Context, option: str) -> bool:
    """Whether an option's value is its environment variable's, not typed."""
    source = ctx.get_parameter_source(option)
    return source is not None and source.name == "ENVIRONMENT"
