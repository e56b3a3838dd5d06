"""The table of costs, blocks by stages: its data, as CSV and as plain text. Needs no torch."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from nas import files
from nas.answer import count_text, ms_text
from nas.architecture import Stage
from nas.attention import BLOCKS
from nas.attention.options import OptionValue, options_text
from nas.catalogue import CLASSES

CSV_FIGURES = ("added_ms", "added_ms_low", "added_ms_high", "added_percent", "added_percent_low", "added_percent_high")
CSV_COLUMNS = (
    *(
        "block",
        "options",
        "stage",
        "channels",
        "height",
        "width",
        *CSV_FIGURES,
        "parameters",
        "macs",
        "note",
        "samples",
    ),
    *("backbone", "resolution", "batch", "precision", "bare_ms", "bare_best_ms", "device"),
)
"""Columns of ``costs.csv``."""
BUSY = 1.3
"""A cell whose bare pass took so many times the tenth percentile of all is disturbed."""
STAGES_A_LINE = 5
"""Columns of the plain table that fit a terminal of 100."""


@dataclass(frozen=True, kw_only=True)
class Added:
    """What a block adds to a forward pass, with the 95 % intervals of the medians."""

    ms: float
    ms_low: float
    ms_high: float
    percent: float
    """Of the bare pass."""
    percent_low: float
    percent_high: float
    bare_ms: float
    """Median of the bare passes among the samples."""
    samples: int


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One block at one stage."""

    block: str
    stage: Stage
    height: int
    """Rows of the stage's map."""
    width: int
    """Columns of the stage's map."""
    options: dict[str, OptionValue]
    """The effective values of the defaults at that width; none where the block is impossible."""
    parameters: int | None
    """Parameters that the block adds; None where it is impossible."""
    macs: int | None
    """Multiply-accumulates that it adds for one image; None where it is impossible."""
    added: Added | None
    """None where nothing was measured."""
    note: str
    """Why nothing was measured; empty otherwise."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Blocks by stages."""

    backbone: str
    resolution: int
    batch_size: int
    precision: str
    device: str
    """The device in words."""
    bare_ms: float
    """A bare pass: median over the cells."""
    bare_best_ms: float
    """Tenth percentile of all bare passes."""
    cells: tuple[Cell, ...]
    """Block by block in order of cost class, and within a block by stage."""


def write_csv(costs: Costs, path: str | Path) -> None:
    """Write one line of CSV a cell (columns: :data:`CSV_COLUMNS`)."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    names = ("backbone", "resolution", "precision", "bare_best_ms", "device")
    head = {name: getattr(costs, name) for name in names}
    for cell in costs.cells:
        line = {name: getattr(cell, name) for name in ("block", "height", "width", "parameters", "macs", "note")}
        line |= {"stage": cell.stage.index, "channels": cell.stage.channels, "options": options_text(cell.options)}
        if cell.added is not None:
            line |= {name: getattr(cell.added, name.removeprefix("added_")) for name in CSV_FIGURES}
            line |= {"samples": cell.added.samples, "bare_ms": cell.added.bare_ms}
        row = {**head, "batch": costs.batch_size, **line}
        writer.writerow({name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()})
    files.replace(path, text.getvalue().encode())


def shape_text(cell: Cell) -> str:
    """Return the shape of a stage's map, such as ``64x32x32``."""
    return f"{cell.stage.channels}x{cell.height}x{cell.width}"


def percent_text(percent: float) -> str:
    """Return an added percentage with its sign and as many digits as are worth reading, such as ``+0.83``."""
    size = abs(percent)
    return f"{percent:+.{2 if size < 0.995 else 1 if size < 99.95 else 0}f}"


def conditions(costs: Costs) -> str:
    """Return how the table was measured, in one line."""
    size = f"{costs.resolution}x{costs.resolution}"
    return (
        f"{costs.backbone} on {size} images, batch {costs.batch_size}, {costs.precision}, {costs.device}; "
        f"a bare pass takes {ms_text(costs.bare_ms)} ms"
    )


def warning(costs: Costs) -> str:
    """Return a sentence if other programs disturbed the clock so much that the table should not be trusted, or ""."""
    measured = [cell.added.bare_ms for cell in costs.cells if cell.added is not None]
    disturbed = [bare_ms for bare_ms in measured if bare_ms > BUSY * costs.bare_best_ms]
    if len(disturbed) <= len(measured) / 10:
        return ""
    return (
        f"The machine was busy in {len(disturbed)} of {len(measured)} cells: there a bare pass took up to "
        f"{ms_text(max(disturbed))} ms, but {ms_text(costs.bare_best_ms)} ms when undisturbed. "
        "Do not trust these figures; repeat the command when nothing else runs."
    )


def table(costs: Costs) -> str:
    """Return one row a block and one column a stage, as plain text of at most 100 columns."""
    lines = [
        "Added latency in % of a bare pass ± half its 95 % interval, then in ms: the block's own time, right",
        'after a pass of the bare backbone. Default options, as published. "-": not measured, see costs.csv.',
        conditions(costs),
        *textwrap.wrap(warning(costs), 100),
    ]
    lines += _parts(by_block(costs), _cell_text)
    lines += ["", "Added parameters / multiply-accumulates of one image."]
    lines += _parts(by_block(costs), _count_text)
    return "\n".join(lines)


def by_block(costs: Costs) -> list[list[Cell]]:
    """Return the cells as rows, one a block."""
    return [list(cells) for _, cells in groupby(costs.cells, key=lambda cell: cell.block)]


def _parts(rows: Sequence[Sequence[Cell]], text: Callable[[Cell], str]) -> Iterator[str]:
    """Yield the lines of as many tables, one below the other, as the stages need."""
    for first in range(0, len(rows[0]) if rows else 0, STAGES_A_LINE):
        yield ""
        yield from _part([row[first : first + STAGES_A_LINE] for row in rows], text)


def _part(rows: Sequence[Sequence[Cell]], text: Callable[[Cell], str]) -> Iterator[str]:
    """Yield the lines of a table that is not too wide."""
    names = max(len(row[0].block) for row in rows)
    texts = [[text(cell) for cell in row] for row in rows]
    heads = [f"{cell.stage.index}: {shape_text(cell)}" for cell in rows[0]]
    widths = [max(map(len, column)) for column in zip(heads, *texts, strict=True)]

    def line(name: str, entries: Sequence[str]) -> str:
        cells = (entry.rjust(width) for entry, width in zip(entries, widths, strict=True))
        return "  ".join([name.ljust(names), *cells])

    yield line("", heads)
    cost = ""
    for row, entries in zip(rows, texts, strict=True):
        if (found := BLOCKS[row[0].block].cost) != cost:
            cost = found
            yield f"{cost}: {CLASSES[cost]}"
        yield line(row[0].block, entries)


def _count_text(cell: Cell) -> str:
    if cell.parameters is None or cell.macs is None:
        return "-"
    return f"{count_text(cell.parameters)} / {count_text(cell.macs):>6}"


def _cell_text(cell: Cell) -> str:
    if cell.added is None:
        return "-"
    added = cell.added
    half = max(added.percent_high - added.percent, added.percent - added.percent_low)
    spread = f"{half:.{2 if half < 0.995 else 1 if half < 9.95 else 0}f}"
    digits = 3 if abs(added.ms) < 0.0995 else 2 if abs(added.ms) < 9.995 else 1
    return f"{percent_text(added.percent)}±{spread:<4} {added.ms:>5.{digits}f}"
