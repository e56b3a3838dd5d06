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

BARE = "bare"
"""The control that is the backbone without any block."""
PICKS = ("knee", "accuracy", "fastest", "trial:N", "latency<=X", "slowdown<=P%")
"""The forms that :func:`pick` understands; X is in milliseconds, P is relative to the bare backbone."""
TABLE_WIDTH = 120
_COLUMNS = "{:>5}  {:<19}  {:>10}  {:<20}  {:>6}  {}"


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
    """Validation accuracy, 0 to 1."""
    accuracy_low: float
    """Lower end of its 95 % Wilson interval."""
    accuracy_high: float
    """Upper end of its 95 % Wilson interval."""
    latency_ms: float
    """Median time of one forward pass, in milliseconds."""
    latency_ratio: float
    """Latency over that of the bare backbone, timed in the same call."""
    ratio_low: float
    """Lower end of the 95 % interval of the ratio."""
    ratio_high: float
    """Upper end of the 95 % interval of the ratio."""
    parameters: int
    """Number of parameters."""
    macs: int
    """Multiply-accumulate operations of one forward pass of one image."""
    on_front: bool = False
    """Whether no other trial dominates this one; set by :func:`mark_front`."""

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy_low <= self.accuracy <= self.accuracy_high <= 1:
            got = f"{self.accuracy_low!r}, {self.accuracy!r}, {self.accuracy_high!r}"
            raise ValueError(f"trial {self.trial}: 0 <= accuracy_low <= accuracy <= accuracy_high <= 1, but got {got}")
        for name in ("latency_ms", "latency_ratio", "ratio_low", "ratio_high"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"trial {self.trial}: {name} must be a positive finite number, but got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The row to take, and why, in one sentence."""

    row: Row
    sentence: str


def non_dominated(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Tell which points no other point dominates, in O(n log n).

    A point dominates another if it is at least as accurate and at least as fast, and better in one of the two. Equal
    points do not dominate each other: both are on the front, or neither.

    Args:
        points: (accuracy, latency) pairs; accuracy is better high, latency is better low.

    Raises:
        ValueError: If a value is not a number (NaN), which has no place in an order.
    """
    for point in points:
        if math.isnan(point[0]) or math.isnan(point[1]):
            raise ValueError(f"accuracy and latency must be numbers, but got {point!r}")
    survives = [False] * len(points)
    best = (-math.inf, math.inf)  # the last survivor; of one latency, the most accurate point comes first
    for index in sorted(range(len(points)), key=lambda i: (points[i][1], -points[i][0])):
        if points[index][0] > best[0] or points[index] == best:
            survives[index] = True
            best = points[index]
    return survives


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
    members = front(_some(rows))
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
    rows = _some(rows)
    text = how.replace(" ", "")
    if text == "knee":
        return knee(rows)
    if text == "accuracy":
        return min(rows, key=_most_accurate)
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


def _some(rows: Iterable[Row]) -> list[Row]:
    rows = list(rows)
    if not rows:
        raise ValueError("at least one trial must have finished, but there is none yet")
    return rows


def _most_accurate(row: Row) -> tuple[float, float, int]:
    """Sort key: the most accurate first, the faster of two equals, then the earlier trial."""
    return -row.accuracy, row.latency_ms, row.trial


def _trial(rows: list[Row], number: int) -> Row:
    for row in rows:
        if row.trial == number:
            return row
    known = sorted(sorted(row.trial for row in rows), key=lambda trial: abs(trial - number))[:8]
    raise ValueError(
        f"no finished trial has the number {number}; the nearest ones: {', '.join(map(str, sorted(known)))}"
    )


def _within(rows: list[Row], value: Callable[[Row], float], limit: float, words: Callable[[float], str]) -> Row:
    feasible = [row for row in rows if value(row) <= limit]
    if feasible:
        return min(feasible, key=_most_accurate)
    nearest = min(rows, key=lambda row: (value(row), row.trial))
    raise ValueError(
        f"no trial keeps to {words(limit)}; the nearest is trial {nearest.trial} with {words(value(nearest))}; "
        "allow more, or pick fastest"
    )


def noise(row: Row, other: Row) -> float:
    """Return how large a difference in accuracy the choice of validation images alone can make (95 %), as a fraction.

    The distance from the better row to its interval's lower end and from the worse row to its upper end, added as
    independent errors. It is conservative, as both models saw the same images; it covers neither the training seed nor
    that the best of many trials was taken.

    Source: R. G. Newcombe, "Interval estimation for the difference between independent proportions", Statistics in
    Medicine 17 (1998), method 10.
    """
    better, worse = (row, other) if row.accuracy >= other.accuracy else (other, row)
    return math.hypot(better.accuracy - better.accuracy_low, worse.accuracy_high - worse.accuracy)


def recommend(rows: Iterable[Row]) -> Recommendation:
    """Recommend one row: the fastest of those that beat the bare backbone beyond noise, if not clearly below the best.

    Among the front's members that beat the bare backbone by more than :func:`noise`, the fastest whose accuracy is
    within noise of the most accurate of them. Where none does, the bare backbone itself: adding nothing is an answer.

    Raises:
        ValueError: If there is no row.
    """
    rows = _some(rows)
    bare, members = bare_row(rows), front(rows)
    if bare is not None:
        members = [row for row in members if row.accuracy - bare.accuracy > noise(row, bare)]
        if not members:
            return Recommendation(row=bare, sentence=_add_nothing(bare, [row for row in rows if row.control != BARE]))
    best = min(members, key=_most_accurate)
    row = next(row for row in members if best.accuracy - row.accuracy <= noise(best, row))
    sentence = f"Take trial {row.trial} ({row.architecture.describe()}): {accuracy_text(row)} % accuracy at "
    sentence += f"{ms_text(row.latency_ms)} ms, {ratio_text(row)} times the latency of the bare backbone"
    if bare is None:
        return Recommendation(
            row=row,
            sentence=f"{sentence}; the bare backbone has not finished yet, so it is open whether adding a block pays.",
        )
    gain, limit = _points(row.accuracy - bare.accuracy, noise(row, bare))
    sentence += f"; it is {gain} percentage points more accurate than the bare backbone, and the choice of validation "
    return Recommendation(row=row, sentence=f"{sentence}images alone explains at most {limit} points (95 %).")


def _add_nothing(bare: Row, others: list[Row]) -> str:
    """Return the sentence that recommends the bare backbone."""
    sentence = f"Add nothing: the bare backbone (trial {bare.trial}) has {accuracy_text(bare)} % accuracy at "
    sentence += f"{ms_text(bare.latency_ms)} ms"
    if not others:
        return f"{sentence}, and no other trial has finished yet."
    best = min(others, key=_most_accurate)
    gain, limit = _points(best.accuracy - bare.accuracy, noise(best, bare))
    named = (
        f"trial {best.trial} ({best.architecture.describe()}) with {accuracy_text(best)} % at {ratio_text(best)} times"
    )
    sentence += f", and the most accurate alternative, {named} the latency, "
    if best.accuracy <= bare.accuracy:
        return f"{sentence}is not more accurate."
    return (
        f"{sentence}is only {gain} percentage points more accurate, while the choice of validation images alone can "
        f"make {limit} points (95 %)."
    )


def _points(gain: float, limit: float) -> tuple[str, str]:
    """Return two fractions in percentage points, with as many decimals as tell them apart."""
    for digits in (1, 2, 3):
        texts = f"{gain * 100:.{digits}f}", f"{limit * 100:.{digits}f}"
        if texts[0] != texts[1]:
            break
    return texts


def accuracy_text(row: Row) -> str:
    """Return the accuracy and its interval in percent, such as ``94.2 [92.1, 95.8]``."""
    return f"{row.accuracy * 100:.1f} [{row.accuracy_low * 100:.1f}, {row.accuracy_high * 100:.1f}]"


def ratio_text(row: Row) -> str:
    """Return the latency ratio and its interval, such as ``1.083 [1.071, 1.094]``."""
    return f"{row.latency_ratio:.3f} [{row.ratio_low:.3f}, {row.ratio_high:.3f}]"


def ms_text(milliseconds: float) -> str:
    """Return a time with four significant digits and no exponent, such as ``3.214``."""
    return f"{milliseconds:.{max(0, 3 - math.floor(math.log10(milliseconds)))}f}"


def count_text(count: int) -> str:
    """Return a count with three significant digits and its unit, such as ``11.2 M``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size * 0.9995:  # 999,600 is 1.00 M, not 1000 k
            return f"{count / size:#.3g} {unit}".replace(". ", " ")
    return str(count)


def front_table(rows: Iterable[Row]) -> str:
    """Return the front as plain text, fastest first, and the controls that are dominated beneath it."""
    rows = list(rows)
    if not rows:
        return "No trial has finished yet."
    members = front(rows)
    on_front = {row.trial for row in members}
    beaten = sorted((row for row in rows if row.control and row.trial not in on_front), key=_most_accurate)
    lines = [f"front: {len(members)} of {len(rows)} finished trials; [low, high] is the 95 % interval"]
    lines += [_COLUMNS.format("trial", "accuracy %", "latency ms", "ratio to bare", "params", "architecture").rstrip()]
    lines += [line for row in members for line in _table_lines(row)]
    if beaten:
        lines += ["controls that are not on the front:", *(line for row in beaten for line in _table_lines(row))]
    return "\n".join(lines)


def _table_lines(row: Row) -> list[str]:
    """Return the lines of one row; the placements continue beneath each other where they exceed the width."""
    figures = (row.trial, accuracy_text(row), ms_text(row.latency_ms), ratio_text(row), count_text(row.parameters))
    words = [f"{row.control}:"] if row.control not in ("", BARE) else []
    words += row.architecture.describe().replace("; ", ";\n").split("\n")
    room = TABLE_WIDTH - len(_COLUMNS.format(*figures, ""))
    wrapped = words[:1]
    for word in words[1:]:
        if len(wrapped[-1]) + 1 + len(word) <= room:
            wrapped[-1] += f" {word}"
        else:
            wrapped.append(word)
    return [_COLUMNS.format(*figures, wrapped[0]), *(_COLUMNS.format("", "", "", "", "", line) for line in wrapped[1:])]
