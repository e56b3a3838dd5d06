"""The figures as pictures, where a browser is there to draw them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nas import files
from nas.report.figures import figures
from nas.report.story import Story

WIDTH_PX, HEIGHT_PX, SCALE = 1000, 560, 2
"""Size of a picture, and how many dots a pixel of it has."""


class PictureError(ValueError):
    """Pictures cannot be drawn here; the message says what is missing."""


def write_pictures(story: Story, folder: Path) -> Iterator[Path]:
    """Write each figure as a PNG, and yield its path.

    Raises:
        PictureError: If kaleido or a browser is missing.
    """
    try:
        import kaleido  # noqa: F401
    except ImportError as error:
        raise PictureError('pictures take kaleido: pip install "kaleido>=1"') from error
    for name, figure in figures(story).items():
        height = figure.layout.height or HEIGHT_PX
        try:
            picture = figure.to_image("png", width=WIDTH_PX, height=height, scale=SCALE)
        except RuntimeError as error:  # kaleido's word for a browser that is not there
            raise PictureError(f"pictures take Chrome or Chromium: {' '.join(str(error).split())[:200]}") from error
        path = folder / f"{name.replace(' ', '-')}.png"
        files.replace(path, picture)
        yield path
