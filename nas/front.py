"""The front of the finished trials, and the choice of one architecture from it: pure functions over plain rows."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.architecture import Architecture

Point = tuple[float, float]
"""Accuracy and latency; accuracy is better high, latency is better low."""
BARE = "bare"
"""The control that is the backbone without any block."""
PICKS = ("knee", "accuracy", "fastest", "trial:N", "latency<=X", "slowdown<=P%")
"""The forms that :func:`pick` understands; X is in milliseconds, P is relative to the bare backbone."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One finished trial, as tables and plots need it."""

    trial: int
    """Number of the trial in its study."""
    architecture: Architecture
    """What was evaluated."""
    control: str = ""
    """Name of the control (``bare``, ``se everywhere``, ...), empty for a trial of the search."""
    accuracy: float
    """Validation accuracy, 0 to 1: the mean over the trainings."""
    accuracy_low: float
    """Lower end of its 95 % Wilson interval, which is for the number of validation images alone."""
    accuracy_high: float
    """Upper end of its 95 % Wilson interval."""
    latency_ms: float
    """Latency of one forward pass, in milliseconds: the ratio times that of the bare backbone."""
    latency_ratio: float
    """Latency over that of the bare backbone, timed in the same call."""
    ratio_low: float
    """Lower end of the 95 % interval of the ratio."""
    ratio_high: float
    """Upper end of the 95 % interval of the ratio."""
    unstable: bool = False
    """Whether the machine was too busy for the ratio to be relied on."""
    graph_ratio: float | None = None
    """The ratio of the replays of CUDA graphs, where nothing waits for Python; None where there are none."""
    memory_bytes: int = 0
    """Bytes that one forward pass needs at most, counted; 0 where that is not known."""
    beyond: str = ""
    """Which limits it exceeds, in words: the bare backbone is evaluated all the same."""
    parameters: int
    """Number of parameters."""
    macs: int
    """Multiply-accumulate operations of one forward pass of one image."""
    on_front: bool = False
    """Whether no other trial dominates this one; set by :func:`mark_front`."""
    seeds: int = 1
    """Trainings that the accuracy is the mean of, each with another seed."""
    seed_error: float | None = None
    """Standard error of that mean because of the seeds; ``None`` while the noise of the seed is unknown."""
    seed_degrees: int = 0
    """Degrees of freedom of the noise of the seed, from which the standard error was computed; 0 while unknown."""
    left: int = 0
    """Architectures of the study whose training was stopped: among so many more this one may be the luckiest."""
    front_probability: float | None = None
    """Chance to be on the front of the true accuracies and ratios; see :func:`nas.confirm.with_probabilities`."""

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy_low <= self.accuracy <= self.accuracy_high <= 1:
            got = f"{self.accuracy_low!r}, {self.accuracy!r}, {self.accuracy_high!r}"
            raise ValueError(f"trial {self.trial}: 0 <= accuracy_low <= accuracy <= accuracy_high <= 1, but got {got}")
        for name in ("latency_ms", "latency_ratio", "ratio_low", "ratio_high"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"trial {self.trial}: {name} must be a positive finite number, but got {value!r}")


def non_dominated(points: Sequence[Point]) -> list[bool]:
    """Tell which points no other point dominates, in O(n log n).

    A point dominates another if it is at least as accurate and at least as fast, and better in one of the two. Equal
    points do not dominate each other: both are on the front, or neither.

    Args:
        points: Any number of points.

    Raises:
        ValueError: If a value is not a number (NaN), which has no place in an order.
    """
    _refuse_nan(points)
    survives = [False] * len(points)
    best = (-math.inf, math.inf)  # the last survivor; of one latency, the most accurate point comes first
    for index in sorted(range(len(points)), key=lambda i: (points[i][1], -points[i][0])):
        if points[index][0] > best[0] or points[index] == best:
            survives[index] = True
            best = points[index]
    return survives


def dominated_area(points: Sequence[Point], reference: Point) -> float:
    """Return the area that the points dominate within a reference point, exactly and in O(n log n).

    It is the hypervolume in two dimensions: the area of the union of the rectangles between each point and the
    reference. A point that is not better than the reference in both figures adds nothing.

    Args:
        points: Any number of points, dominated ones and equal ones among them.
        reference: An accuracy below, and a latency above, which nothing counts.

    Returns:
        The area, in units of accuracy times units of latency; 0 where no point is inside, infinite where one that is
        has an infinite figure.

    Raises:
        ValueError: If a value is not a number (NaN), or if the reference is not finite.
    """
    _refuse_nan(points)
    if not (math.isfinite(reference[0]) and math.isfinite(reference[1])):
        raise ValueError(f"the reference point must be finite, but got {reference!r}")
    area, best = 0.0, reference[0]
    for accuracy, latency in sorted(points, key=lambda point: point[1]):  # each adds what lies above those before
        if latency < reference[1] and accuracy > best:
            area += (accuracy - best) * (reference[1] - latency)
            best = accuracy
    return area


def _refuse_nan(points: Sequence[Point]) -> None:
    for point in points:
        if math.isnan(point[0]) or math.isnan(point[1]):
            raise ValueError(f"accuracy and latency must be numbers, but got {point!r}")


def mark_front(rows: Iterable[Row]) -> list[Row]:
    """Return the rows in their order, each with ``on_front`` set from all of them."""
    rows = list(rows)
    flags = non_dominated([(row.accuracy, row.latency_ms) for row in rows])
    return [dataclasses.replace(row, on_front=flag) for row, flag in zip(rows, flags, strict=True)]


def front(rows: Iterable[Row]) -> list[Row]:
    """Return the non-dominated rows, from the fastest to the slowest."""
    return sorted((row for row in mark_front(rows) if row.on_front), key=lambda row: (row.latency_ms, row.trial))


def bare_row(rows: Iterable[Row]) -> Row | None:
    """Return the row of the bare backbone, ``None`` where it has not finished."""
    return next((row for row in rows if row.control == BARE), None)


def knee(rows: Iterable[Row]) -> Row:
    """Return the front's knee: the member that lies farthest above the chord between the front's two ends.

    Both axes are scaled to 0..1 between the ends, so the chord is the diagonal and the distance is proportional to
    (scaled accuracy - scaled latency). The ends have distance 0 and ties go to the faster row; hence a front of one
    row gives that row, and a front of two rows, or one that bulges nowhere above its chord, gives its fastest row.

    Source: I. Das, "On characterizing the 'knee' of the Pareto curve based on normal-boundary intersection",
    Structural Optimization 18 (1999).

    Raises:
        ValueError: If there is no row.
    """
    members = front(at_least_one(rows))
    first, last = members[0], members[-1]
    latency_span, accuracy_span = last.latency_ms - first.latency_ms, last.accuracy - first.accuracy
    if latency_span <= 0 or accuracy_span <= 0:
        return first  # one row, or several equal ones

    def bulge(row: Row) -> float:
        return (row.accuracy - first.accuracy) / accuracy_span - (row.latency_ms - first.latency_ms) / latency_span

    return max(members, key=bulge)  # the first of equals: members are sorted by latency


def pick(rows: Iterable[Row], how: str) -> Row:
    """Return one row.

    Args:
        rows: The finished trials.
        how: ``knee``; ``accuracy``, the most accurate; ``fastest``; ``trial:N``; ``latency<=X``, the most accurate
            in at most X ms; ``slowdown<=P%``, the most accurate at a ratio to the bare backbone of at most 1 + P/100.

    Raises:
        ValueError: If ``how`` is none of these, if the trial has not finished, or if no row keeps to the limit.
    """
    rows = at_least_one(rows)
    text = how.replace(" ", "")
    if text == "knee":
        return knee(rows)
    if text == "accuracy":
        return min(rows, key=most_accurate)
    if text == "fastest":
        return front(rows)[0]
    if match := re.fullmatch(r"trial:(\d+)", text):
        return _trial(rows, int(match[1]))
    if match := re.fullmatch(r"latency<=(\d+\.?\d*|\.\d+)(ms)?", text):
        limit = float(match[1])
        return _within(rows, lambda row: row.latency_ms, limit, lambda ms: f"a latency of {ms:.6g} ms")
    if match := re.fullmatch(r"slowdown<=(\d+\.?\d*|\.\d+)%", text):
        limit = 1 + float(match[1]) / 100
        return _within(rows, lambda row: row.latency_ratio, limit, lambda x: f"a slowdown of {(x - 1) * 100:.4g} %")
    raise ValueError(f"pick must be one of {', '.join(PICKS)} (X in ms), but got {how!r}")


def at_least_one(rows: Iterable[Row]) -> list[Row]:
    rows = list(rows)
    if not rows:
        raise ValueError("at least one trial must have finished, but there is none yet")
    return rows


def most_accurate(row: Row) -> tuple[float, float, int]:
    """Sort key: the most accurate first, the faster of two equals, then the earlier trial."""
    return -row.accuracy, row.latency_ms, row.trial


def _trial(rows: list[Row], number: int) -> Row:
    for row in rows:
        if row.trial == number:
            return row
    known = sorted(sorted(row.trial for row in rows), key=lambda trial: abs(trial - number))[:3]
    nearest = ", ".join(map(str, sorted(known)))
    raise ValueError(f"no finished trial has the number {number}; {len(rows)} have finished, the nearest: {nearest}")


def _within(rows: list[Row], value: Callable[[Row], float], limit: float, words: Callable[[float], str]) -> Row:
    feasible = [row for row in rows if value(row) <= limit]
    if feasible:
        return min(feasible, key=most_accurate)
    nearest = min(rows, key=lambda row: (value(row), row.trial))
    raise ValueError(
        f"no trial keeps to {words(limit)}; the nearest is trial {nearest.trial} with {words(value(nearest))}; "
        "allow more, or pick fastest"
    )
