"""The learning curves, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from nas.front import BARE
from nas.report.look import AXIS, BLUE, CONTROL_STYLES, MUTED, ORANGE, look
from nas.report.story import Story

Curve = tuple[int, Sequence[float]]
"""A trial, and the accuracy after each epoch."""


def curves_figure(story: Story) -> Any:
    """Draw the validation accuracy after each epoch: finished trials, the front's, the bare backbone's, the stopped.

    Args:
        story: At least one trial has finished.

    Returns:
        A ``plotly.graph_objects.Figure``.
    """
    import plotly.graph_objects as go

    rows = sorted(story.rows, key=lambda row: row.trial)
    named = {row.trial: (row.trial, story.curves[row.trial]) for row in rows}
    others = [named[row.trial] for row in rows if not (row.on_front or row.control)]
    stopped = [(each.trial, each.curve) for each in story.stopped]
    members = [named[row.trial] for row in rows if row.on_front and not row.control]
    traces = [
        _lines(stopped, "stopped early", {"color": "#C77C5A", "width": 1, "dash": "dot"}, ends="x"),
        _lines(others, "other trials", {"color": MUTED, "width": 1}),
        _lines(members, "front", {"color": BLUE, "width": 2}),
    ]
    styles = iter(CONTROL_STYLES * (1 + len(rows)))
    for row in rows:
        if row.control:
            colour = ORANGE if row.control == BARE else next(styles)[0]
            label = "bare backbone" if row.control == BARE else row.control
            traces.append(
                _lines([named[row.trial]], label, {"color": colour, "width": 2.5 if row.control == BARE else 1.5})
            )
    epochs = max((len(curve) for curve in story.curves.values()), default=1)
    across = {**AXIS, "title": {"text": "epoch", "standoff": 6}, "range": (0.8, epochs + 0.2)}
    across |= {"dtick": 1} if epochs <= 10 else {"nticks": 10}  # there is no epoch 0.5
    up = {**AXIS, "title": {"text": "validation accuracy (%)"}, "automargin": True}
    layout = look(across, up) | {"margin": {"l": 60, "r": 16, "t": 40, "b": 50}}
    layout |= {"legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.2, "yanchor": "top"}}
    return go.Figure({"data": [trace for trace in traces if trace["x"]], "layout": layout})


def _lines(curves: Sequence[Curve], name: str, line: dict[str, Any], ends: str = "") -> dict[str, Any]:
    """Return many curves as one trace, with a gap between two; ``ends`` is the marker of their last point."""
    x: list[int | None] = []
    y: list[float | None] = []
    sizes: list[int] = []
    trials: list[int] = []
    for trial, curve in curves:
        x += [*range(1, len(curve) + 1), None]
        y += [*(round(100 * accuracy, 4) for accuracy in curve), None]
        sizes += [*[0] * (len(curve) - 1), 7, 0]
        trials += [trial] * (len(curve) + 1)
    text = "<b>trial %{customdata}</b><br>epoch %{x}: %{y:.1f} %<extra></extra>"
    trace: dict[str, Any] = {"type": "scatter", "mode": "lines", "x": x, "y": y, "customdata": trials}
    if ends or any(len(curve) == 1 for _, curve in curves):
        marker = {"symbol": ends or "circle", "size": sizes, "color": line["color"]}
        trace |= {"mode": "lines+markers", "marker": marker}
    return {**trace, "hovertemplate": text, "name": escape(name), "line": line}
