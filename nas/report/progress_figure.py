"""How a search went on, drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nas.front import Row
from nas.progress import history, last_gain
from nas.report.look import AXIS, BLUE, look


def progress_figure(rows: Iterable[Row], spent: Mapping[int, float] | None = None, gained: int | None = None) -> Any:
    """Draw the share of the dominated area over what was trained, and mark when it last grew beyond noise.

    Args:
        rows: At least two finished trials.
        spent: Whole trainings up to each trial that was trained, itself among them, by its number; by default every
            row is one.
        gained: Number of the trial to mark, if it is not to be found from the rows.

    Returns:
        A ``plotly.graph_objects.Figure``.
    """
    import plotly.graph_objects as go

    rows = list(rows)
    known = history(rows)
    spent = spent or {trial: count for count, (trial, _) in enumerate(known, 1)}
    costs = [spent[trial] for trial, _ in known]
    percent = [100 * share for _, share in known]
    text = [
        f"<b>trial {trial}</b><br>{cost:.4g} trainings<br>{value:.1f} %"
        for (trial, _), cost, value in zip(known, costs, percent, strict=True)
    ]
    most = max(spent.values())
    if most > costs[-1]:  # what was stopped did not move the front
        costs, percent, text = [*costs, most], [*percent, percent[-1]], [*text, text[-1]]
    trace: dict[str, Any] = {"type": "scatter", "mode": "lines", "x": costs, "y": percent, "hovertext": text}
    trace |= {"line": {"color": BLUE, "width": 2, "shape": "hv"}, "hoverinfo": "text", "showlegend": False}
    low, high = 0.0, 1.03 * most
    across = {**AXIS, "title": {"text": "whole trainings", "standoff": 8}, "range": (low, high), "nticks": 7}
    # In two lines: in one it would be longer than the axis.
    up = {**AXIS, "title": {"text": "dominated area,<br>% of that of all trials"}, "range": (0, 105), "nticks": 6}
    # The label of the line has its place above the axes, and the menu above that.
    layout = look(across, up) | {"margin": {"l": 75, "r": 16, "t": 52, "b": 50}, "hovermode": "x"}
    gain = last_gain(rows) if gained is None else gained
    if gain is not None:
        place = spent[gain]
        dots = {"yref": "paper", "y0": 0, "y1": 1, "line": {"color": "#555555", "width": 1.5, "dash": "dot"}}
        layout["shapes"] = [{"type": "line", "x0": place, "x1": place, **dots}]
        label = {"x": place, "yref": "paper", "y": 1, "yanchor": "bottom", "font": {"size": 12}, "showarrow": False}
        words = f"front last grew beyond noise: trial {gain}"
        layout["annotations"] = [{**label, "text": words, "xanchor": _anchor((place - low) / (high - low))}]
    return go.Figure({"data": [trace], "layout": layout})


def _anchor(place: float) -> str:
    """Return which part of a label stands above a place of the axis, 0 to 1, so that it ends within a phone's screen.

    The label is up to 240 px wide, the axis on a phone 290 px; left of the axis are 75 px, right of it 16 px.
    """
    return "left" if place < 0.22 else "center" if place < 0.6 else "right"
