"""The answer of a study as files: the front as CSV, and as one self-contained page with the plot and the table.

Both are written under another name and then renamed, so that a reader never sees half a file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from nas import files
from nas.answer import accuracy_text, count_text, legend, ms_text, percent_more, probability_text, ratio_text, recommend
from nas.front import BARE, Row, bare_row, front, mark_front
from nas.pareto import ParetoData, accuracy_interval, hover_text, label, latency_interval, pareto_data
from nas.progress import history, last_gain

FIGURES = ("accuracy", "accuracy_low", "accuracy_high", "latency_ms", "latency_ratio", "ratio_low", "ratio_high")
LAST_FIGURES = ("seeds", "seed_error", "seed_degrees", "front_probability", "unstable", "graph_ratio", "memory_bytes")
CSV_COLUMNS = (
    *("trial", "architecture", *FIGURES, "parameters", "macs", "on_front", "control", "placements"),
    *LAST_FIGURES,
)
"""Columns of ``front.csv``; ``architecture`` is the id, ``placements`` the description in words. ``seed_error`` and
``front_probability`` are empty while the noise of the seed is unknown, ``graph_ratio`` where there is no CUDA graph."""

# Okabe and Ito's palette, which colour-blind readers can tell apart; every group has its own symbol as well.
MUTED, BLUE, ORANGE, BLACK = "#9A9A9A", "#0072B2", "#E69F00", "#000000"
CONTROL_STYLES = (("#009E73", "square"), ("#D55E00", "diamond"), ("#CC79A7", "triangle-up"), ("#56B4E9", "cross"))
# No menu entry may send the figure anywhere: plotly.js offers to upload it to its makers' server by default.
PLOT_CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "showSendToCloud": False,
    "modeBarButtonsToRemove": ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
}


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
    across = {**_AXIS, "title": {"text": "trial", "standoff": 8}, "range": (low, high), "nticks": 7}
    across |= {"dtick": 1} if trials[-1] - trials[0] < 7 else {}  # there is no trial 0.5
    # In two lines: in one it would be longer than the axis.
    up = {**_AXIS, "title": {"text": "dominated area,<br>% of that of all trials"}, "range": (0, 105), "nticks": 6}
    # The label of the line has its place above the axes, and the menu above that.
    layout = _look(across, up) | {"margin": {"l": 75, "r": 16, "t": 52, "b": 50}, "hovermode": "x"}
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


_AXIS = {"gridcolor": "#E6E6E6", "linecolor": "#666666", "showline": True, "zeroline": False, "ticks": "outside"}


def _look(xaxis: dict[str, Any], yaxis: dict[str, Any]) -> dict[str, Any]:
    """Return what the layouts of both figures share."""
    layout: dict[str, Any] = {"template": "none", "font": {"size": 14, "color": "#222222"}, "hovermode": "closest"}
    layout |= {"xaxis": xaxis, "yaxis": yaxis, "paper_bgcolor": "white", "plot_bgcolor": "white"}
    layout |= {"hoverlabel": {"align": "left", "bgcolor": "white", "font": {"size": 13, "color": "#222222"}}}
    # Without dragging, a finger on the plot scrolls the page; zoom and pan stand in the menu.
    return layout | {"dragmode": False}


def _layout(data: ParetoData, title: str, subtitle: str) -> dict[str, Any]:
    latency = {**_AXIS, "title": {"text": "latency (ms)", "standoff": 8}, "range": data.axes.x, "nticks": 7}
    accuracy = {**_AXIS, "title": {"text": "validation accuracy (%)"}, "range": data.axes.y, "automargin": True}
    layout = _look(latency, accuracy) | {"margin": {"l": 60, "r": 16, "t": 115 if title else 64, "b": 20}}
    layout |= {"legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.17, "yanchor": "top"}}
    layout["annotations"] = [_annotation(row, data.labels[row.trial]) for row in data.controls]
    if title:
        layout["title"] = {"text": escape(title), "subtitle": {"text": escape(subtitle)}}
    if data.ratio_ticks:
        places, texts = zip(*data.ratio_ticks, strict=True)
        upper = {**_AXIS, "overlaying": "x", "side": "top", "matches": "x", "showgrid": False, "range": data.axes.x}
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


def write_pareto(
    rows: Iterable[Row],
    path: str | Path,
    *,
    title: str,
    facts: Mapping[str, str],
    last_trial: int | None = None,
    gained: int | None = None,
) -> None:
    """Write one self-contained page: the recommendation, the plot, the front as a table, the progress, the facts.

    The page needs no network: plotly.js stands in it.

    Args:
        rows: The finished trials; there may be none yet.
        path: The file to write; its folder is made if it does not exist.
        title: Heading of the page.
        facts: What a reader needs to judge the figures: study, data, device, protocol, number of trials ...
        last_trial: As :func:`progress_figure` takes it.
        gained: As well.
    """
    rows = mark_front(rows)
    answer, figure, script = "No trial has finished yet.", "", b""
    if rows:
        answer = recommend(rows).sentence
        figure = f'<div class="plot">{_drawn(pareto_figure(rows), "pareto")}</div>{_NOTE}{_table(rows)}'
        if len(rows) > 1:
            progress = _drawn(progress_figure(rows, last_trial, gained), "progress")
            figure += f'<h2>Progress</h2>{_PROGRESS_NOTE}<div class="plot low">{progress}</div>'
        script = b"<script>" + _plotly_js() + b"</script>"
    entries = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>{_HEAD}'
    body = f'</head><body><h1>{escape(title)}</h1><p class="answer">{escape(answer)}</p>{figure}'
    body += f"<h2>Facts</h2><dl>{entries}</dl></body></html>\n"
    files.replace(path, head.encode() + script + body.encode())


def _drawn(figure: Any, name: str) -> str:
    """Return the HTML of a figure; plotly.js stands in the page already."""
    return str(
        figure.to_html(full_html=False, include_plotlyjs=False, config=PLOT_CONFIG, div_id=name, default_height="100%")
    )


def write_front_csv(rows: Iterable[Row], path: str | Path) -> None:
    """Write every finished trial as one line of CSV (columns: :data:`CSV_COLUMNS`), in the order of the trials."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in sorted(mark_front(rows), key=lambda row: row.trial):
        figures = [getattr(row, name) for name in FIGURES]
        tail = [row.parameters, row.macs, row.on_front, row.control, row.architecture.describe()]
        last = [getattr(row, name) for name in LAST_FIGURES]
        writer.writerow([row.trial, row.architecture.id, *figures, *tail, *last])
    files.replace(path, text.getvalue().encode())


@cache
def _plotly_js() -> bytes:
    """Return plotly.js, 5 MB, read once per process: the page is written after every trial."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).encode()


def _table(rows: Sequence[Row]) -> str:
    """Return the front, fastest first, and beneath it the controls that are not on it, as an HTML table."""
    members = front(rows)
    beaten = sorted((row for row in rows if row.control and not row.on_front), key=lambda row: -row.accuracy)
    best = recommend(rows).row.trial
    names = _TABLE_NAMES if rows[0].seed_error is None else (*_TABLE_NAMES[:-1], "seeds", "on front", "placements")
    bare = bare_row(rows)
    lines = "".join(_table_row(row, names, row.trial == best, bare) for row in members)
    if beaten:
        lines += f'<tr class="break"><td colspan="{len(names)}">controls that are not on the front</td></tr>'
        lines += "".join(_table_row(row, names, row.trial == best, bare) for row in beaten)
    header = "".join(f"<th>{name}</th>" for name in names)
    title = f"<h2>Front: {len(members)} of {len(rows)} finished trials</h2>"
    notes = ["From the fastest to the slowest; [low, high] is the 95 % interval.", legend([*members, *beaten])]
    title += f'<p class="note">{escape(" ".join(notes).strip())}</p>'
    return f"{title}<table><thead><tr>{header}</tr></thead><tbody>{lines}</tbody></table>"


def _table_row(row: Row, names: Sequence[str], recommended: bool, bare: Row | None) -> str:
    badges = [escape("bare backbone" if row.control == BARE else row.control)] if row.control else []
    badges += ["recommended"] if recommended else []
    number = " ".join([str(row.trial), *(f'<span class="badge">{badge}</span>' for badge in badges)])
    words = escape(row.architecture.describe()).replace("; ", "<br>") if row.control != BARE else "none"
    cells = [number, accuracy_text(row), ms_text(row.latency_ms), ratio_text(row)]
    cells += [count_text(row.parameters), count_text(row.macs)]
    if bare is not None and bare.macs and row is not bare:
        cells[-1] += f" ({percent_more(row.macs, bare.macs)})"
    cells += [str(row.seeds), probability_text(row), words] if row.seed_error is not None else [words]
    shown = (f'<td data-name="{name}"><span>{cell}</span></td>' for name, cell in zip(names, cells, strict=True))
    return f"<tr{' class=best' if recommended else ''}>{''.join(shown)}</tr>"


_TABLE_NAMES = ("trial", "accuracy %", "latency ms", "ratio to bare", "parameters", "MACs", "placements")
_NOTE = """<p class="note">Up and to the left is better. Bars are 95 % intervals: of the accuracy, for the number of
validation images and, where the table has ±, for the training seed; of the latency, that of its ratio to the bare
backbone. They do not hold that the best of many trials is shown. Move over a point, or touch it, to see where its
blocks stand.</p>
<noscript><p class="note">The plot needs JavaScript; the table holds the same front.</p></noscript>"""

_PROGRESS_NOTE = """<p class="note">The dominated area is what of the plot above lies below and to the right of the
trials so far, up to a reference point a tenth of the front's extent below its least accurate and beyond its slowest
member; the front grows beyond noise with a trial whose accuracy no trial that is at most as slow, up to the growth
before, reaches within one standard error.</p>"""

_HEAD = """<meta name="viewport" content="width=device-width, initial-scale=1"><style>
html { overflow-y: scroll; }
body { font: 16px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: #222; background: #fff;
  max-width: 1200px; margin: 0 auto; padding: 16px; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; } h2 { font-size: 1.15rem; margin: 1.75rem 0 .5rem; }
.answer { border-left: 4px solid #0072b2; background: #f3f7fa; padding: .6rem .9rem; margin: 0 0 1rem; }
.plot { height: 600px; } .plot.low { height: 300px; } .note { font-size: .875rem; color: #555; max-width: 80ch; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid #ddd; }
th { border-bottom: 2px solid #888; } tr.best { background: #f3f7fa; } tr.break td { color: #555; padding-top: 1rem; }
.badge { border: 1px solid #777; border-radius: 4px; padding: 0 .3rem; font-size: .8rem; white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0; font-size: .9rem; }
dt { color: #555; } dd { margin: 0; }
@media (max-width: 720px) {
  body { padding: 12px; } .plot { height: 560px; margin: 0 -8px; }
  thead { display: none; } tr { display: block; padding: .5rem 0; border-bottom: 1px solid #bbb; }
  td { display: flex; gap: .75rem; border: 0; padding: .1rem .25rem; }
  td[data-name]::before { content: attr(data-name); color: #555; flex: 0 0 7.5rem; }
}
@media print { .plot { break-inside: avoid; } }
</style>"""
