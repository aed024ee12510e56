"""Writes figures as PNG and PDF files that are byte for byte reproducible."""

from __future__ import annotations

import io
import uuid
from pathlib import Path

from matplotlib.figure import Figure

from orchestrator.figures.style import our_style

_DPI = 200


def write(figure: Figure, name: str, folder: Path, note: str) -> list[Path]:
    """Write a figure as `folder`/name.png and .pdf, each in one rename; `note` is a line below the caption."""
    folder.mkdir(parents=True, exist_ok=True)
    with our_style():
        add_line(figure, note)
        png = _save(figure, folder / f"{name}.png")
        figure.set_layout_engine("none")  # laid out once: computing it again would double the time
        return [png, _save(figure, folder / f"{name}.pdf")]


def add_line(figure: Figure, text: str) -> None:
    """Add a line below the caption."""
    if text:
        figure.supxlabel(f"{figure.get_supxlabel()}\n{text}", fontsize=8.5, color="0.35")


def _save(figure: Figure, path: Path) -> Path:
    # No time stamps and no versions: equal data give equal files.
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
    suffix = path.suffix[1:]
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix, dpi=_DPI, metadata=metadata[suffix])
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
