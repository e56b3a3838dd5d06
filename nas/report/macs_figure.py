"""Latency against multiply-accumulates: how far counting operations misleads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from statistics import median
from typing import Any

from scipy.stats import spearmanr

from nas.answer import percent_more
from nas.front import Row, bare_row
from nas.report.look import AXIS, BLUE, MUTED, look


def compared(rows: Sequence[Row]) -> list[tuple[Row, float, float]]:
    """Return each row with blocks, and by how much its multiply-accumulates and its latency grew, as shares."""
    bare = bare_row(rows)
    if bare is None or not bare.macs:
        return []
    return [(row, row.macs / bare.macs - 1, row.latency_ratio - 1) for row in rows if row.architecture.placements]


def macs_sentence(rows: Sequence[Row]) -> str:
    """Return by how much counted operations mislead about latency; empty where there is nothing to compare."""
    found = compared(rows)
    if len(found) < 2:
        return ""
    counted, timed = [macs for _, macs, _ in found], [latency for _, _, latency in found]
    row, macs, latency = max(found, key=lambda each: abs(math.log((1 + each[2]) / (1 + each[1]))))
    words = f"Over {len(found)} architectures with blocks the median change of the multiply-accumulates is "
    words += f"{median(counted):+.1%}, that of the latency {median(timed):+.1%}"
    if len(set(counted)) > 2 and len(set(timed)) > 2:
        words += f"; the rank correlation of the two is {spearmanr(counted, timed).statistic:.2f}"
    words += f". FLOPs mislead most about trial {row.trial}: {percent_more(1 + macs, 1)} multiply-accumulates, "
    return f"{words}{percent_more(1 + latency, 1)} latency."


def macs_figure(rows: Sequence[Row]) -> Any:
    """Draw the growth of the latency over that of the multiply-accumulates, with the line on which both are equal.

    Args:
        rows: The bare backbone, and at least one row with blocks.

    Returns:
        A ``plotly.graph_objects.Figure``.
    """
    import plotly.graph_objects as go

    found = compared(rows)
    traces: list[dict[str, Any]] = []
    for name, colour, wanted in (("other trials", MUTED, False), ("front", BLUE, True)):
        some = [each for each in found if each[0].on_front == wanted]
        text = [
            f"<b>trial {row.trial}</b><br>{escape(row.architecture.describe()).replace('; ', '<br>')}"
            f"<br>MACs {macs:+.2%}, latency {latency:+.1%}"
            for row, macs, latency in some
        ]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [100 * macs for _, macs, _ in some],
                "y": [100 * latency for _, _, latency in some],
                "marker": {"color": colour, "size": 9, "line": {"color": "white", "width": 1}},
                "hovertext": text,
                "hoverinfo": "text",
            }
        )
    most = 100 * max(macs for _, macs, _ in found)
    least = min(0.0, 100 * min(macs for _, macs, _ in found))
    equal: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines",
        "x": [least, most],
        "y": [least, most],
        "hoverinfo": "skip",
    }
    equal |= {"name": "if latency grew as MACs do", "line": {"color": "#555555", "width": 1.5, "dash": "dash"}}
    across = {**AXIS, "title": {"text": "multiply-accumulates, % more than bare", "standoff": 6}, "nticks": 6}
    up = {**AXIS, "title": {"text": "latency, % more than bare"}, "automargin": True, "rangemode": "tozero"}
    layout = look(across, up) | {"margin": {"l": 60, "r": 16, "t": 40, "b": 20}}
    layout |= {"legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.22, "yanchor": "top"}}
    return go.Figure({"data": [equal, *(trace for trace in traces if trace["x"])], "layout": layout})
