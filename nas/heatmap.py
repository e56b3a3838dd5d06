"""The table of costs as a picture: one self-contained page with a heat map, blocks by stages."""

from __future__ import annotations

import math
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from nas import files
from nas.answer import count_text
from nas.attention import BLOCKS
from nas.attention.options import options_text
from nas.catalogue import CLASSES
from nas.cost_table import Cell, Costs, by_block, conditions, percent_text, shape_text, warning
from nas.report import PLOT_CONFIG

LEAST_PERCENT, MOST_PERCENT = 0.1, 300.0
"""Where the colours begin and end."""
TICKS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
ROW_PX = 26
CONFIG = {**PLOT_CONFIG, "displayModeBar": False}
"""Nothing to zoom; on a phone the menu would cover the last stage."""


def write_heatmap(costs: Costs, path: str | Path) -> None:
    """Write the page; it needs no network: plotly.js stands in it.

    Args:
        costs: The table.
        path: The file to write; its folder is made if it does not exist.
    """
    from plotly.offline import get_plotlyjs

    drawn = figure(costs).to_html(full_html=False, include_plotlyjs=False, config=CONFIG, div_id="costs")
    title = f"What each block adds to {costs.backbone}, in % of a bare pass"
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>{_HEAD}'
    head += f"<script>{get_plotlyjs()}</script></head><body><h1>{escape(title)}</h1>"
    head += f'<p class="note">{escape(conditions(costs))}. <b>{escape(warning(costs))}</b></p>'
    files.replace(path, f"{head}{drawn}{_NOTE}</body></html>\n".encode())


def figure(costs: Costs) -> Any:
    """Draw blocks by stages; the colour is the logarithm of the added percentage.

    Returns:
        A ``plotly.graph_objects.Figure``.
    """
    import plotly.graph_objects as go

    lines = list(_lines(costs))
    columns = by_block(costs)[0]
    shown = [cells or [None] * len(columns) for _, cells in lines]
    trace = {
        "type": "heatmap",
        "x": list(range(len(columns))),
        "y": list(range(len(lines))),
        "z": [[_colour(cell) for cell in row] for row in shown],
        "text": [[_text(cell) for cell in row] for row in shown],
        "hovertext": [[_hover(cell) if cell else "" for cell in row] for row in shown],
        "texttemplate": "%{text}",
        "textfont": {"size": 12},
        "hoverinfo": "text",
        "hoverongaps": False,
        "colorscale": "Viridis",
        "zmin": math.log10(LEAST_PERCENT),
        "zmax": math.log10(MOST_PERCENT),
        "xgap": 2,
        "ygap": 2,
        "colorbar": _colorbar(),
    }
    grey = {"color": "#777777", "size": 12}
    impossible = [
        {"x": x, "y": y, "text": "–", "showarrow": False, "font": grey, "hovertext": escape(cell.note)}
        for y, row in enumerate(shown)
        for x, cell in enumerate(row)
        if cell and cell.added is None
    ]
    layout: dict[str, Any] = {"template": "none", "font": {"size": 13, "color": "#222222"}, "dragmode": False}
    layout |= {"paper_bgcolor": "white", "plot_bgcolor": "white", "annotations": impossible}
    layout |= {"height": ROW_PX * len(lines) + 150, "margin": {"l": 72, "r": 8, "t": 64, "b": 84}}
    layout |= {"hoverlabel": {"align": "left", "bgcolor": "white", "font": {"size": 13, "color": "#222222"}}}
    plain = {"showgrid": False, "zeroline": False, "fixedrange": True, "tickmode": "array", "ticks": ""}
    heads = [
        f"<b>stage {cell.stage.index}</b><br>{cell.stage.channels} ch<br>{cell.height}×{cell.width}" for cell in columns
    ]
    layout["xaxis"] = {**plain, "side": "top", "tickvals": trace["x"], "ticktext": heads, "tickangle": 0}
    names = [escape(name) if cells else f"<b>{escape(name)}</b>" for name, cells in lines]
    layout["yaxis"] = {**plain, "tickvals": trace["y"], "ticktext": names, "range": [len(lines) - 0.5, -0.5]}
    return go.Figure({"data": [trace], "layout": layout})


def _lines(costs: Costs) -> Any:
    """Yield the lines of the map: a cost class without cells, then its blocks with theirs."""
    for cost, rows in groupby(by_block(costs), key=lambda row: BLOCKS[row[0].block].cost):
        yield cost, []
        for row in rows:
            yield row[0].block, row


def _colour(cell: Cell | None) -> float | None:
    if cell is None or cell.added is None:
        return None
    return math.log10(min(MOST_PERCENT, max(LEAST_PERCENT, cell.added.percent)))


def _text(cell: Cell | None) -> str:
    return "" if cell is None or cell.added is None else percent_text(cell.added.percent)


def _hover(cell: Cell) -> str:
    """Return what is shown of a cell on touch."""
    call = f"<b>{cell.block}</b>({options_text(cell.options)})"
    where = f"{BLOCKS[cell.block].cost}: {CLASSES[BLOCKS[cell.block].cost]}"
    lines = [call, where, f"stage {cell.stage.index} ({cell.stage.name}), {shape_text(cell)}"]
    if cell.added is None:
        return "<br>".join([*lines, escape(cell.note)])
    added = cell.added
    ms = f"{added.ms:+.3f} ms [{added.ms_low:+.3f}, {added.ms_high:+.3f}]"
    percent = " ".join(
        [f"{percent_text(added.percent)} %", f"[{percent_text(added.percent_low)}, {percent_text(added.percent_high)}]"]
    )
    counts = f"{count_text(cell.parameters or 0)} parameters, {count_text(cell.macs or 0)} MACs"
    return "<br>".join([*lines, percent, ms, counts, f"{added.samples} samples"])


def _colorbar() -> dict[str, Any]:
    bar = {"orientation": "h", "x": 0.5, "y": 0, "yanchor": "top", "ypad": 12, "thickness": 12, "len": 1}
    ticks = {"tickvals": [math.log10(tick) for tick in TICKS], "ticktext": [f"{tick:g}" for tick in TICKS]}
    return {**bar, **ticks, "title": {"text": "added latency, % of a bare pass", "side": "bottom"}}


_NOTE = """<p class="note">Each number is what the block takes by itself, in % of a bare pass, right after such a pass
and on a map just written; default options, as published. Darker is cheaper. Touch a cell, or move over it, for
milliseconds, 95 % interval, parameters and MACs; all of it stands in costs.csv. "–": not measured; costs.csv says
why.</p>
<noscript><p class="note">The map needs JavaScript.</p></noscript>"""

_HEAD = """<meta name="viewport" content="width=device-width, initial-scale=1"><style>
html { overflow-y: scroll; }
body { font: 16px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: #222; background: #fff;
  max-width: 900px; margin: 0 auto; padding: 12px; overflow-wrap: break-word; }
h1 { font-size: 1.4rem; margin: 0 0 .5rem; } .note { font-size: .875rem; color: #555; }
</style>"""
