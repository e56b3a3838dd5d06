"""The front as one self-contained page: the recommendation, the plot, the table, the progress."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from nas import files
from nas.answer import recommend
from nas.front import Row, mark_front
from nas.report.look import drawn, plotly_js
from nas.report.page import HEAD
from nas.report.pareto_figure import pareto_figure
from nas.report.progress_figure import progress_figure
from nas.report.tables import front_table


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
        figure = f'<div class="plot">{drawn(pareto_figure(rows), "pareto")}</div>{_NOTE}{front_table(rows)}'
        if len(rows) > 1:
            progress = drawn(progress_figure(rows, last_trial, gained), "progress")
            figure += f'<h2>Progress</h2>{_PROGRESS_NOTE}<div class="plot low">{progress}</div>'
        script = b"<script>" + plotly_js() + b"</script>"
    entries = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>{HEAD}'
    body = f'</head><body><h1>{escape(title)}</h1><p class="answer">{escape(answer)}</p>{figure}'
    body += f"<h2>Facts</h2><dl>{entries}</dl></body></html>\n"
    files.replace(path, head.encode() + script + body.encode())


_NOTE = """<p class="note">Up and to the left is better. Bars are 95 % intervals: of the accuracy, for the number of
validation images and, where the table has ±, for the training seed; of the latency, that of its ratio to the bare
backbone. They do not hold that the best of many trials is shown. Move over a point, or touch it, to see where its
blocks stand.</p>
<noscript><p class="note">The plot needs JavaScript; the table holds the same front.</p></noscript>"""

_PROGRESS_NOTE = """<p class="note">The dominated area is what of the plot above lies below and to the right of the
trials so far, up to a reference point a tenth of the front's extent below its least accurate and beyond its slowest
member; the front grows beyond noise with a trial whose accuracy no trial that is at most as slow, up to the growth
before, reaches within one standard error.</p>"""
