"""Accuracy against latency, drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from nas.front import BARE, Row
from nas.pareto import ParetoData, accuracy_interval, hover_text, label, latency_interval, pareto_data
from nas.report.look import AXIS, BLACK, BLUE, CONTROL_STYLES, MUTED, ORANGE, look


def pareto_figure(rows: Iterable[Row], *, title: str = "", subtitle: str = "") -> Any:
    """Draw accuracy against latency: the front, the controls, the recommended row, and every other trial behind them.

    Returns:
        A ``plotly.graph_objects.Figure``.
    """
    import plotly.graph_objects as go

    data = pareto_data(rows)
    trial = [row for row in data.front if not row.control]
    traces = [_dots(data, data.others, "other trials", {"color": MUTED, "size": 8, "opacity": 0.55})]
    steps = {"color": BLUE, "width": 2, "shape": "hv"}
    traces.append({**_points(data.front), "mode": "lines", "line": steps, "hoverinfo": "skip", "showlegend": False})
    traces.append(_with_errors(_dots(data, trial, "front", {"color": BLUE, "size": 10}), trial))
    styles = iter(CONTROL_STYLES * (1 + len(data.controls)))
    for row in data.controls:
        colour, symbol = (ORANGE, "star") if row.control == BARE else next(styles)
        marker = {"color": colour, "symbol": symbol, "size": 17 if row.control == BARE else 13}
        trace = _dots(data, [row], "bare backbone" if row.control == BARE else row.control, marker)
        traces.append(_with_errors(trace, [row]))
    if data.recommended:
        ring = {"symbol": "circle-open", "size": 27, "color": BLACK, "line": {"width": 2.5}}
        traces.append({**_points([data.recommended]), "name": "recommended", "marker": ring, "hoverinfo": "skip"})
    if data.ratio_ticks:  # plotly draws an axis only if a trace stands on it
        traces.append({"x": [None], "y": [None], "xaxis": "x2", "showlegend": False, "hoverinfo": "skip"})
    drawn = [{"type": "scatter", "mode": "markers", **trace} for trace in traces if trace["x"]]
    return go.Figure({"data": drawn, "layout": _layout(data, title, subtitle)})


def _points(rows: Sequence[Row]) -> dict[str, Any]:
    return {"x": [row.latency_ms for row in rows], "y": [100 * row.accuracy for row in rows]}


def _dots(data: ParetoData, rows: Sequence[Row], name: str, marker: dict[str, Any]) -> dict[str, Any]:
    outlined = {"line": {"color": "white" if name != "bare backbone" else BLACK, "width": 1}, **marker}
    text = [hover_text(row, data.stages, data.bare) for row in rows]
    return {**_points(rows), "name": escape(name), "marker": outlined, "hovertext": text, "hoverinfo": "text"}


def _with_errors(trace: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Return the trace with the 95 % intervals of accuracy and latency."""
    style = {"type": "data", "symmetric": False, "thickness": 1.2, "width": 3}
    style["color"] = f"rgba({', '.join(str(int(trace['marker']['color'][i : i + 2], 16)) for i in (1, 3, 5))}, 0.6)"
    low, high = zip(*map(latency_interval, rows), strict=True) if rows else ((), ())
    up_x = [max(0.0, end - row.latency_ms) for row, end in zip(rows, high, strict=True)]
    down_x = [max(0.0, row.latency_ms - end) for row, end in zip(rows, low, strict=True)]
    up_y = [100 * (accuracy_interval(row)[1] - row.accuracy) for row in rows]
    down_y = [100 * (row.accuracy - accuracy_interval(row)[0]) for row in rows]
    errors = {"error_x": {**style, "array": up_x, "arrayminus": down_x}}
    return {**trace, **errors, "error_y": {**style, "array": up_y, "arrayminus": down_y}}


def _layout(data: ParetoData, title: str, subtitle: str) -> dict[str, Any]:
    latency = {**AXIS, "title": {"text": "latency (ms)", "standoff": 8}, "range": data.axes.x, "nticks": 7}
    accuracy = {**AXIS, "title": {"text": "validation accuracy (%)"}, "range": data.axes.y, "automargin": True}
    layout = look(latency, accuracy) | {"margin": {"l": 60, "r": 16, "t": 115 if title else 64, "b": 20}}
    layout |= {"legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.17, "yanchor": "top"}}
    layout["annotations"] = [_annotation(row, data.labels[row.trial]) for row in data.controls]
    if title:
        layout["title"] = {"text": escape(title), "subtitle": {"text": escape(subtitle)}}
    if data.ratio_ticks:
        places, texts = zip(*data.ratio_ticks, strict=True)
        upper = {**AXIS, "overlaying": "x", "side": "top", "matches": "x", "showgrid": False, "range": data.axes.x}
        upper |= {"tickmode": "array", "tickvals": places, "ticktext": texts}
        layout["xaxis2"] = upper
        # Not the axis' own title, which is centred and would lie beneath the menu on a phone.
        place = {"xref": "paper", "yref": "paper", "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom", "yshift": 28}
        layout["annotations"] += [{**place, "text": "times the bare latency", "showarrow": False}]
    return layout


def _annotation(row: Row, shift: tuple[int, int]) -> dict[str, Any]:
    """Return the label of a control, tied to its marker by a thin line."""
    place = {"x": row.latency_ms, "y": 100 * row.accuracy, "ax": shift[0], "ay": -shift[1]}
    line = {"showarrow": True, "arrowhead": 0, "arrowwidth": 1, "arrowcolor": "#555555", "standoff": 8}
    return {**place, **line, "text": escape(label(row)), "bgcolor": "rgba(255, 255, 255, 0.8)", "borderpad": 1}
