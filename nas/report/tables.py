"""The tables of the pages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from nas.answer import accuracy_text, count_text, legend, ms_text, percent_more, probability_text, ratio_text, recommend
from nas.front import BARE, Row, bare_row, front


def front_table(rows: Sequence[Row]) -> str:
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
