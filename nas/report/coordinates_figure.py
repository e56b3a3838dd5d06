"""Every finished trial as a line across the stages, the latency and the accuracy.

plotly's own parallel coordinates need WebGL, which neither print nor every browser has; these are plain lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from nas.architecture import NONE
from nas.front import Row, most_accurate
from nas.report.look import look
from nas.report.story import Story

MOST = 300
"""So many trials are drawn at most, the most accurate ones: more would be one grey area."""
COLOURS = ("#FDE725", "#90D743", "#35B779", "#21918C", "#31688E", "#443983", "#440154")
"""From the least accurate to the most accurate (Viridis, light to dark)."""
AXIS_PX = 112
"""Least width of the space between two axes: on a phone the figure is scrolled."""
_SPREAD = 0.6
"""Share of a block's place over which the lines through it are spread, so that they do not hide each other."""


def coordinates_figure(story: Story) -> Any:
    """Draw a line a trial: which block it has at each stage, its latency ratio, its accuracy.

    Args:
        story: At least one trial has finished.

    Returns:
        A ``plotly.graph_objects.Figure``.
    """
    import plotly.graph_objects as go

    rows = sorted(story.rows, key=most_accurate)[:MOST]
    choices = [
        sorted({_choice(row, stage) for row in rows}, key=lambda name: (name != NONE, name))
        for stage, _ in story.stages
    ]
    heights = {row.trial: _heights(row, rank, rows, story, choices) for rank, row in enumerate(rows)}
    shade = {row.trial: (len(rows) - 1 - rank) * len(COLOURS) // len(rows) for rank, row in enumerate(rows)}
    traces = []
    for colour in range(len(COLOURS)):
        some = [row for row in rows if shade[row.trial] == colour]
        for on_front in (False, True):
            traces.append(_lines([row for row in some if row.on_front == on_front], heights, COLOURS[colour], on_front))
    heads = [f"<b>stage {index}</b>" for index, _ in story.stages] + ["<b>latency</b>", "<b>accuracy</b>"]
    place = {"showarrow": False, "font": {"size": 12}, "bgcolor": "rgba(255,255,255,0.75)", "borderpad": 1}
    labels = [
        {**place, "x": axis, "y": _place(number, len(names)), "text": escape(name), "xshift": 4, "xanchor": "left"}
        for axis, names in enumerate(choices)
        for number, name in enumerate(names)
    ]
    for axis, (low, high) in enumerate(_ends(rows), len(story.stages)):
        labels += [{**place, "x": axis, "y": -0.045, "text": low}, {**place, "x": axis, "y": 1.045, "text": high}]
    lines = [
        {"type": "line", "x0": axis, "x1": axis, "y0": 0, "y1": 1, "line": {"color": "#666666", "width": 1}}
        for axis in range(len(heads))
    ]
    hidden = {"showgrid": False, "zeroline": False, "fixedrange": True, "ticks": ""}
    across = {**hidden, "side": "top", "tickvals": list(range(len(heads))), "ticktext": heads, "tickangle": 0}
    across |= {"range": (-0.25, len(heads) - 0.6)}
    layout = look(across, {**hidden, "visible": False, "range": (-0.08, 1.1)})
    layout |= {"margin": {"l": 8, "r": 8, "t": 44, "b": 8}, "annotations": labels, "shapes": lines, "showlegend": False}
    return go.Figure({"data": [trace for trace in traces if trace["x"]], "layout": layout})


def _choice(row: Row, stage: int) -> str:
    """Return what a row has at a stage, in a word."""
    words = [
        placement.block if placement.position == "after_stage" else f"{placement.block} {placement.position}"
        for placement in row.architecture.placements
        if placement.stage == stage
    ]
    return " + ".join(words) or NONE


def _place(number: int, count: int) -> float:
    """Return the height of a block's place on an axis, 0 to 1: nothing is at the bottom."""
    return (number + 0.5) / count


def _heights(row: Row, rank: int, rows: Sequence[Row], story: Story, choices: Sequence[Sequence[str]]) -> list[float]:
    """Return where a row's line crosses the axes; on those of the stages the most accurate rows pass highest."""
    shift = _SPREAD * (0.5 - (rank + 0.5) / len(rows))
    found = [
        _place(names.index(_choice(row, stage)), len(names)) + shift / len(names)
        for (stage, _), names in zip(story.stages, choices, strict=True)
    ]
    for value, values in (
        (row.latency_ratio, [other.latency_ratio for other in rows]),
        (row.accuracy, [other.accuracy for other in rows]),
    ):
        extent = max(values) - min(values)
        found.append((value - min(values)) / extent if extent else 0.5)
    return found


def _ends(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return what stands at the lower and the upper end of the axes of latency and accuracy."""
    ratios, shares = [row.latency_ratio for row in rows], [100 * row.accuracy for row in rows]
    return [
        (f"{min(ratios):.2f}×", f"{max(ratios):.2f}×"),
        (f"{min(shares):.1f} %", f"{max(shares):.1f} %"),
    ]


def _lines(rows: Sequence[Row], heights: dict[int, list[float]], colour: str, on_front: bool) -> dict[str, Any]:
    """Return the lines of some rows as one trace, with a gap between two."""
    x: list[int | None] = []
    y: list[float | None] = []
    trials: list[int] = []
    for row in rows:
        crossed = heights[row.trial]
        x += [*range(len(crossed)), None]
        y += [*(round(height, 4) for height in crossed), None]
        trials += [row.trial] * (len(crossed) + 1)
    line = {"color": colour, "width": 3 if on_front else 1.2}
    trace = {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": line, "opacity": 1 if on_front else 0.6}
    return {**trace, "customdata": trials, "hovertemplate": "<b>trial %{customdata}</b><extra></extra>"}
