"""Markdown as optuna-dashboard shows it: names are escaped, tables have a head, nothing is HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SIGNS = re.compile(r"([\\`*_{}\[\]<>()#+\-!|~&$])")
_NO_BREAK = "\N{NO-BREAK SPACE}"
_BARS = "▁▂▃▄▅▆▇█"


def escape(text: str) -> str:
    """Return a text in one line whose signs stand for themselves, also in a cell of a table."""
    return _SIGNS.sub(r"\\\1", " ".join(text.split()))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, align: str = "") -> str:
    """Return a table. In all columns but the last, the words of a cell stay in one line.

    Args:
        head: The names of the columns, as Markdown.
        rows: The cells of each row, as Markdown.
        align: ``l``, ``c`` or ``r`` for each column; left for those that are not said.
    """
    marks = {"l": ":---", "c": ":---:", "r": "---:"}
    rule = [marks[sign] for sign in align.ljust(len(head), "l")]
    # The dashboard's tables have no space between their columns.
    spaced = ([*(f"{cell}  ".replace(" ", _NO_BREAK) for cell in cells[:-1]), cells[-1]] for cells in (head, *rows))
    lines = [f"| {' | '.join(cells)} |" for cells in spaced]
    return "\n".join([lines[0], f"| {' | '.join(rule)} |", *lines[1:]])


def fenced(lines: Iterable[str]) -> str:
    """Return lines as they are, in a fence that none of them can end."""
    text = "\n".join(" ".join(line.splitlines()) for line in lines)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def bars(values: Sequence[float]) -> str:
    """Return a row of bars, the lowest for the smallest value and the highest for the largest."""
    low, span = min(values), max(values) - min(values)
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1)) if span else 0] for value in values)
