"""Accuracy against latency, drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from nas.front import BARE, Row
from nas.limits import Limits
from nas.pareto import ParetoData, accuracy_interval, hover_text, label, latency_interval, limit_ms, pareto_data
from nas.report.look import AXIS, BLACK, BLUE, CONTROL_STYLES, MUTED, ORANGE, look
from nas.report.story import Stage, Turned


def pareto_figure(
    rows: Iterable[Row],
    *,
    title: str = "",
    subtitle: str = "",
    limits: Limits | None = None,
    turned: Sequence[Turned] = (),
    stages: Sequence[Stage] = (),
) -> Any:
    """Draw accuracy against latency: the front, the controls, the recommended row, and every other trial behind them.

    Args:
        rows: The finished trials.
        title: Heading above the plot.
        subtitle: A line beneath it.
        limits: What an architecture may cost: the region beyond is shaded.
        turned: What was timed and turned away: marked at the foot of the plot, as it has no accuracy.
        stages: Those that are named where nothing stands, besides those that any row uses.

    Returns:
        A ``plotly.graph_objects.Figure``.
    """
    import plotly.graph_objects as go

    rows = list(rows)
    data = pareto_data(
        rows,
        stages=[index for index, _ in stages],
        limit_ms=limit_ms(rows, limits),
        turned_ms=[each.latency_ms for each in turned],
    )
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
    if turned:
        traces.append(_foot(data, turned))
    if data.ratio_ticks:  # plotly draws an axis only if a trace stands on it
        traces.append({"x": [None], "y": [None], "xaxis": "x2", "showlegend": False, "hoverinfo": "skip"})
    drawn = [{"type": "scatter", "mode": "markers", **trace} for trace in traces if trace["x"]]
    return go.Figure({"data": drawn, "layout": _layout(data, title, subtitle)})


def _points(rows: Sequence[Row]) -> dict[str, Any]:
    return {"x": [row.latency_ms for row in rows], "y": [100 * row.accuracy for row in rows]}


def _dots(data: ParetoData, rows: Sequence[Row], name: str, marker: dict[str, Any]) -> dict[str, Any]:
    outlined = {"line": {"color": "white" if name != "bare backbone" else BLACK, "width": 1}, **marker}
    text = [hover_text(row, data.stages, data.bare) for row in rows]
    trials = [row.trial for row in rows]  # by which a page finds what it tells of a point
    named = {"name": escape(name), "marker": outlined, "customdata": trials}
    return {**_points(rows), **named, "hovertext": text, "hoverinfo": "text"}


def _foot(data: ParetoData, turned: Sequence[Turned]) -> dict[str, Any]:
    """Return the marks of what was turned away, as far as the axis reaches."""
    shown = [each for each in turned if data.axes.x[0] <= each.latency_ms <= data.axes.x[1]]
    text = [
        f"<b>trial {each.rejected.trial}: not trained</b><br>{escape(each.rejected.architecture.describe())}"
        f"<br>{escape(each.rejected.reason)}".replace("; ", "<br>")
        for each in shown
    ]
    marker = {"color": "#777777", "symbol": "x-thin-open", "size": 8, "line": {"width": 1.5}}
    low, high = data.axes.y
    places = {"x": [each.latency_ms for each in shown], "y": [low + 0.02 * (high - low)] * len(shown)}
    return {
        **places,
        "name": "beyond the limits, not trained",
        "marker": marker,
        "hovertext": text,
        "hoverinfo": "text",
    }


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
    if data.limit_ms is not None and data.limit_ms < data.axes.x[1]:
        _shade(layout, data.limit_ms, data.axes.x[1])
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


def _shade(layout: dict[str, Any], low: float, high: float) -> None:
    """Shade what is beyond a latency, and say why."""
    area = {"type": "rect", "yref": "paper", "x0": low, "x1": high, "y0": 0, "y1": 1, "layer": "below"}
    layout["shapes"] = [{**area, "fillcolor": "#777777", "opacity": 0.15, "line": {"width": 0}}]
    place = {"x": low, "yref": "paper", "y": 0, "xanchor": "left", "yanchor": "bottom", "yshift": 14, "textangle": -90}
    layout["annotations"].append(
        {**place, "text": "beyond the limit", "showarrow": False, "font": {"color": "#555555"}}
    )


def _annotation(row: Row, shift: tuple[int, int]) -> dict[str, Any]:
    """Return the label of a control, tied to its marker by a thin line."""
    place = {"x": row.latency_ms, "y": 100 * row.accuracy, "ax": shift[0], "ay": -shift[1]}
    line = {"showarrow": True, "arrowhead": 0, "arrowwidth": 1, "arrowcolor": "#555555", "standoff": 8}
    return {**place, **line, "text": escape(label(row)), "bgcolor": "rgba(255, 255, 255, 0.8)", "borderpad": 1}
