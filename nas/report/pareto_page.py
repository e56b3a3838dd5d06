"""The front as one self-contained page: the recommendation, the plot, the table, the progress."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from nas.answer import recommend
from nas.front import Row, mark_front
from nas.report.look import drawn
from nas.report.page import FRONT_NOTE, PROGRESS_NOTE, facts_list, write_page
from nas.report.pareto_figure import pareto_figure
from nas.report.progress_figure import progress_figure
from nas.report.tables import front_table


def write_pareto(
    rows: Iterable[Row],
    path: str | Path,
    *,
    title: str,
    facts: Mapping[str, str],
    spent: Mapping[int, float] | None = None,
    gained: int | None = None,
) -> None:
    """Write one self-contained page: the recommendation, the plot, the front as a table, the progress, the facts.

    The page needs no network: plotly.js stands in it.

    Args:
        rows: The finished trials; there may be none yet.
        path: The file to write; its folder is made if it does not exist.
        title: Heading of the page.
        facts: What a reader needs to judge the figures: study, data, device, protocol, number of trials ...
        spent: As :func:`progress_figure` takes it.
        gained: As well.
    """
    rows = mark_front(rows)
    answer, figure = "No trial has finished yet.", ""
    if rows:
        answer = recommend(rows).sentence
        figure = f'<div class="plot">{drawn(pareto_figure(rows), "pareto")}</div>{FRONT_NOTE}{front_table(rows)}'
        if len(rows) > 1:
            progress = drawn(progress_figure(rows, spent, gained), "progress")
            figure += f'<h2>Progress</h2>{PROGRESS_NOTE}<div class="plot low">{progress}</div>'
    body = f'<h1>{escape(title)}</h1><p class="answer">{escape(answer)}</p>{figure}<h2>Facts</h2>{facts_list(facts)}'
    write_page(path, title=title, body=body, with_plots=bool(rows))
