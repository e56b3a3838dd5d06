"""How a search went on: the area that its front dominates, trial by trial, and when the front last grew beyond noise.

Pure functions over the finished trials. Every accuracy is the one that is known now: where an architecture was trained
again, its mean counts from its trial on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from nas.front import BARE, Point, Row, dominated_area, front

MARGIN = 0.1
"""How far beyond the front's ends the reference point lies, as a share of the front's extent."""
_ROUNDING = 1e-9
"""An extent of less than this share of the figures is rounding: a margin made of it would vanish when it is added."""


def history(rows: Iterable[Row]) -> list[tuple[int, float]]:
    """Return what share of the area that all trials dominate those up to each trial dominate.

    The area lies between the front and a reference point, see :func:`reference_point`.

    Args:
        rows: The finished trials, in any order.

    Returns:
        A pair for each row, by trial: its number, and the share, 0 to 1. The shares never fall, and the last one is 1.
        They are 0 as long as no trial is better than the reference point in both figures.
    """
    rows = _by_trial(rows)
    if not rows:
        return []
    reference = reference_point(rows)
    members: list[Point] = []  # the front of the rows so far
    areas = [0.0]
    for row in rows:
        point = row.accuracy, row.latency_ms
        if not any(accuracy >= point[0] and ms <= point[1] for accuracy, ms in members):
            members = [other for other in members if other[0] > point[0] or other[1] < point[1]] + [point]
            # The sum over one point more may be rounded to a little less.
            areas.append(max(areas[-1], dominated_area(members, reference)))
        else:
            areas.append(areas[-1])
    return [(row.trial, area / areas[-1]) for row, area in zip(rows, areas[1:], strict=True)]


def reference_point(rows: Sequence[Row]) -> Point:
    """Return the accuracy and the latency in ms up to which the area of :func:`history` reaches.

    A tenth of the front's extent beyond its least accurate and its slowest member. It is the final front's, and not
    that of all trials: one hopeless architecture would stretch the area so far that every front fills nearly all of
    it, and nothing that happens at the front would show. Where the front has no extent, as with one member, it is the
    extent of all rows that counts, and where they have none either, the figure itself.

    Raises:
        ValueError: If there is no row.
    """
    if not rows:
        raise ValueError("a reference point needs at least one row")
    members = front(rows)
    accuracies, latencies = [row.accuracy for row in members], [row.latency_ms for row in members]
    below = _margin(accuracies, [row.accuracy for row in rows])
    above = _margin(latencies, [row.latency_ms for row in rows])
    return min(accuracies) - below, max(latencies) + above


def _margin(members: Sequence[float], everything: Sequence[float]) -> float:
    """Return a positive distance by which the reference point lies beyond the front's end."""
    size = max(members)
    choices = (max(members) - min(members), max(everything) - min(everything), size, 1.0)
    return MARGIN * next(extent for extent in choices if extent > _ROUNDING * size)


def last_gain(rows: Iterable[Row]) -> int | None:
    """Return the number of the last trial by which the front grew beyond noise; ``None`` where there is no row.

    Each row, by trial, is compared with the rows up to the last gain. It is a gain if it is more accurate than the
    best of those that are at most as slow, within the interval of its ratio, by more than one standard error of the
    difference; or if none is as fast. The first row is a gain.

    The rows since the last gain are not compared with, so that many small steps add up to a gain; otherwise each of
    them would be within the noise of the one before. One standard error is little, as the best of many trials is
    compared: it errs towards a search that still moves.

    Args:
        rows: The finished trials, in any order.
    """
    gained: int | None = None
    known: list[tuple[float, float, float]] = []  # accuracy, -error, ratio of the rows up to the last gain
    since: list[tuple[float, float, float]] = []
    for row in _by_trial(rows):
        error = accuracy_error(row)
        # The bare backbone's ratio is to itself; what its clock says instead is noise.
        ratio = 1.0 if row.control == BARE else row.latency_ratio
        since.append((row.accuracy, -error, ratio))
        # Of equally accurate ones the surest. All of them are looked at: at most 40 ms for 1,000 rows.
        best = max((other for other in known if other[2] <= row.ratio_high), default=None)
        if best is None or row.accuracy - best[0] > math.hypot(error, best[1]):
            gained = row.trial
            known += since
            since = []
    return gained


def accuracy_error(row: Row) -> float:
    """Return one standard error of a row's accuracy because of the choice of images, as a fraction.

    That of the training's seed is left out: it becomes known when a search has ended, and what counts as a gain must
    not depend on when one asks.
    """
    return (row.accuracy_high - row.accuracy_low) / 2 / 1.96


def _by_trial(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row.trial)
