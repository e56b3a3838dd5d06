"""How a search went on, drawn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nas.front import Row
from nas.progress import history, last_gain
from nas.report.look import AXIS, BLUE, look


def progress_figure(rows: Iterable[Row], last_trial: int | None = None, gained: int | None = None) -> Any:
    """Draw the share of the dominated area over the trials, and mark the last trial by which it grew beyond noise.

    Args:
        rows: At least two finished trials.
        last_trial: Number of the last trial that was trained, if others than finished ones were.
        gained: Number of the trial to mark, if it is not to be found from the rows.

    Returns:
        A ``plotly.graph_objects.Figure``.
    """
    import plotly.graph_objects as go

    rows = list(rows)
    known = history(rows)
    if last_trial is not None and last_trial > known[-1][0]:
        known.append((last_trial, known[-1][1]))  # what was stopped did not move the front
    trials, shares = zip(*known, strict=True)
    percent = [100 * share for share in shares]
    text = [f"<b>trial {trial}</b><br>{value:.1f} %" for trial, value in zip(trials, percent, strict=True)]
    trace: dict[str, Any] = {"type": "scatter", "mode": "lines", "x": trials, "y": percent, "hovertext": text}
    trace |= {"line": {"color": BLUE, "width": 2, "shape": "hv"}, "hoverinfo": "text", "showlegend": False}
    margin = 0.03 * (trials[-1] - trials[0])
    low, high = trials[0] - margin, trials[-1] + margin
    across = {**AXIS, "title": {"text": "trial", "standoff": 8}, "range": (low, high), "nticks": 7}
    across |= {"dtick": 1} if trials[-1] - trials[0] < 7 else {}  # there is no trial 0.5
    # In two lines: in one it would be longer than the axis.
    up = {**AXIS, "title": {"text": "dominated area,<br>% of that of all trials"}, "range": (0, 105), "nticks": 6}
    # The label of the line has its place above the axes, and the menu above that.
    layout = look(across, up) | {"margin": {"l": 75, "r": 16, "t": 52, "b": 50}, "hovermode": "x"}
    gain = last_gain(rows) if gained is None else gained
    if gain is not None:
        dots = {"yref": "paper", "y0": 0, "y1": 1, "line": {"color": "#555555", "width": 1.5, "dash": "dot"}}
        layout["shapes"] = [{"type": "line", "x0": gain, "x1": gain, **dots}]
        place = {"x": gain, "yref": "paper", "y": 1, "yanchor": "bottom", "font": {"size": 12}, "showarrow": False}
        words = f"front last grew beyond noise: trial {gain}"
        layout["annotations"] = [{**place, "text": words, "xanchor": _anchor((gain - low) / (high - low))}]
    return go.Figure({"data": [trace], "layout": layout})


def _anchor(place: float) -> str:
    """Return which part of a label stands above a place of the axis, 0 to 1, so that it ends within a phone's screen.

    The label is up to 240 px wide, the axis on a phone 290 px; left of the axis are 75 px, right of it 16 px.
    """
    return "left" if place < 0.22 else "center" if place < 0.6 else "right"
