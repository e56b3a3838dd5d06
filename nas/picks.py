"""Which finished trials are worth a look besides the recommended one, and by which word each is exported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nas.answer import noise, recommend
from nas.front import Row, at_least_one, bare_row, front, knee, most_accurate


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A finished trial that one may want to take."""

    row: Row
    """The trial."""
    names: tuple[str, ...]
    """What it is, in words: a trial may be several things."""
    how: str | None
    """What ``export --pick`` calls it; ``None`` for the recommended one, which is exported by default."""


def picks(rows: Iterable[Row]) -> list[Pick]:
    """Return what one may want to take, the recommended one first, then from the fastest to the slowest.

    The recommended one; the most accurate one (within the limits, as everything that was trained but for the bare
    backbone is); the cheapest that is within noise of that; the knee; and the bare backbone, which is to add nothing.

    Raises:
        ValueError: If there is no row.
    """
    rows = at_least_one(rows)
    allowed = [row for row in rows if not row.beyond] or rows
    best = min(allowed, key=most_accurate)
    near = next(row for row in front(allowed) if best.accuracy - row.accuracy <= noise(best, row))
    named: dict[int, list[str]] = {}
    found: dict[int, tuple[Row, str | None]] = {}
    chosen: list[tuple[str, Row, str | None]] = [
        ("recommended", recommend(rows).row, None),
        ("most accurate", best, "accuracy" if best is min(rows, key=most_accurate) else f"trial:{best.trial}"),
        ("cheapest within noise of the most accurate", near, f"trial:{near.trial}"),
    ]
    if len(front(rows)) > 2:  # with two there is nothing between the ends
        chosen.append(("knee of the front", knee(rows), "knee"))
    if (bare := bare_row(rows)) is not None:
        chosen.append(("bare backbone", bare, f"trial:{bare.trial}"))
    for name, row, how in chosen:
        named.setdefault(row.trial, []).append(name)
        found.setdefault(row.trial, (row, how))
    made = [Pick(row=row, names=tuple(named[trial]), how=how) for trial, (row, how) in found.items()]
    return made[:1] + sorted(made[1:], key=lambda pick: (pick.row.latency_ms, pick.row.trial))
