"""The answer in words: which architecture to take, what it gains and costs, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

from nas.front import BARE, Row, at_least_one, bare_row, front, most_accurate
from nas.seeds import degrees_text, half_width

TABLE_WIDTH = 120
_COLUMNS = "{:>5}  {:<19}  {:>10}  {:<20}  {:>6}  {}"
_COLUMNS_WITH_SEEDS = "{:>5}  {:<23}  {:>10}  {:<20}  {:>8}  {:>6}  {}"


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The row to take, and why, in one sentence."""

    row: Row
    sentence: str


def noise(row: Row, other: Row, comparisons: int = 1) -> float:
    """Return how large a difference in accuracy chance can make (95 %), as a fraction.

    The root of the sum of squares of what the choice of validation images can make and of what the training seeds can;
    while the noise of the seed is unknown, the former alone. See :func:`image_noise` and :func:`seed_noise`.

    Args:
        row: One finished trial.
        other: Another one.
        comparisons: Among how many differences this one was picked.
    """
    return min(1.0, math.hypot(image_noise(row, other, comparisons), seed_noise(row, other, comparisons)))


def image_noise(row: Row, other: Row, comparisons: int = 1) -> float:
    """Return how large a difference in accuracy the choice of validation images alone can make (95 %), as a fraction.

    The distance from the better row to its interval's lower end and from the worse row to its upper end, added as
    independent errors; and widened where the difference is the largest of several, as one of many equals looks better
    by chance. It is conservative, as both models saw the same images.

    Sources: R. G. Newcombe, "Interval estimation for the difference between independent proportions", Statistics in
    Medicine 17 (1998), method 10; Z. Sidak, "Rectangular confidence regions for the means of multivariate normal
    distributions", JASA 62 (1967).
    """
    better, worse = (row, other) if row.accuracy >= other.accuracy else (other, row)
    single = math.hypot(better.accuracy - better.accuracy_low, worse.accuracy_high - worse.accuracy)
    quantile = NormalDist().inv_cdf
    return single * quantile((1 + 0.95 ** (1 / comparisons)) / 2) / quantile(0.975)


def seed_noise(row: Row, other: Row, comparisons: int = 1) -> float:
    """Return how large a difference in accuracy the training seeds alone can make (95 %), as a fraction; 0 if unknown.

    The standard errors of both means, s / sqrt(seeds) each, times the quantile of Student's t for the degrees of
    freedom of s. Where the difference is the largest of several, with Sidak's correction, for one s that all of them
    share: see :func:`nas.ranking.quantile_of_largest`.
    """
    if row.seed_error is None or other.seed_error is None:
        return 0.0
    return half_width(math.hypot(row.seed_error, other.seed_error), row.seed_degrees, comparisons)


def seed_half_width(row: Row) -> float | None:
    """Return half the 95 % interval of a row's accuracy for its training seeds; ``None`` while that is unknown."""
    return None if row.seed_error is None else half_width(row.seed_error, row.seed_degrees)


def recommend(rows: Iterable[Row]) -> Recommendation:
    """Recommend one row: the fastest of those that beat the bare backbone beyond noise, if not clearly below the best.

    Among the front's members that beat the bare backbone by more than :func:`noise`, the fastest whose accuracy is
    within noise of the most accurate of them. Where none does, the bare backbone itself: adding nothing is an answer.

    Raises:
        ValueError: If there is no row.
    """
    rows = at_least_one(rows)
    bare, members = bare_row(rows), front(rows)
    others = [row for row in rows if row is not bare]
    if bare is not None and bare.beyond:
        return _without_bare(bare, others)
    if bare is not None:
        count = _compared(others)
        members = [row for row in members if row.accuracy - bare.accuracy > noise(row, bare, count)]
        if not members:
            return Recommendation(row=bare, sentence=_add_nothing(bare, others))
    best = min(members, key=most_accurate)
    row = next(row for row in members if best.accuracy - row.accuracy <= noise(best, row))
    sentence = _take(row)
    if bare is None:
        return Recommendation(
            row=row,
            sentence=f"{sentence}; the bare backbone was not evaluated, so it is open whether adding a block pays.",
        )
    gain, limit = _points(row.accuracy - bare.accuracy, noise(row, bare, count))
    sentence += f", with {percent_more(row.macs, bare.macs)} multiply-accumulates" if bare.macs else ""
    sentence += f"; it is {gain} percentage points more accurate than the bare backbone. "
    sentence += _limit(limit, row, bare, count)
    return Recommendation(row=row, sentence=sentence)


def _compared(others: list[Row]) -> int:
    """Return among how many one was picked: those that were finished, and those that were stopped as less promising."""
    return max(1, len(others) + max((row.left for row in others), default=0))


def _take(row: Row) -> str:
    sentence = f"Take trial {row.trial} ({row.architecture.describe()}): {accuracy_text(row)} % accuracy at "
    return f"{sentence}{ms_text(row.latency_ms)} ms, {ratio_text(row)} times the latency of the bare backbone"


def _without_bare(bare: Row, others: list[Row]) -> Recommendation:
    """Recommend the fastest of the others that is as accurate as the best, where the bare backbone may not be taken."""
    if not others:
        sentence = f"Nothing is within the limits: even the bare backbone (trial {bare.trial}) has {bare.beyond}."
        return Recommendation(row=bare, sentence=sentence)
    members = front(others)
    best = min(members, key=most_accurate)
    row = next(row for row in members if best.accuracy - row.accuracy <= noise(best, row))
    return Recommendation(row=row, sentence=f"{_take(row)}, which itself is beyond the limits: {bare.beyond}.")


def _add_nothing(bare: Row, others: list[Row]) -> str:
    """Return the sentence that recommends the bare backbone."""
    sentence = f"Add nothing: the bare backbone (trial {bare.trial}) has {accuracy_text(bare)} % accuracy at "
    sentence += f"{ms_text(bare.latency_ms)} ms"
    if not others:
        return f"{sentence}, and no other trial has finished yet."
    best = min(others, key=most_accurate)
    count = _compared(others)
    gain, limit = _points(best.accuracy - bare.accuracy, noise(best, bare, count))
    named = (
        f"trial {best.trial} ({best.architecture.describe()}) with {accuracy_text(best)} % at {ratio_text(best)} times"
    )
    sentence += f", and the most accurate alternative, {named} the latency, "
    if best.accuracy <= bare.accuracy:
        return f"{sentence}is not more accurate."
    return f"{sentence}is only {gain} percentage points more accurate. {_limit(limit, best, bare, count)}"


def _limit(points: str, row: Row, bare: Row, count: int) -> str:
    """Return the sentence that says what chance can do, and what of it is covered."""
    of_how_many = "" if count == 1 else f" in the best of {count}"
    if row.seed_error is not None:
        sentence = f"Validation images and training seeds can make {points} points{of_how_many} (95 %)"
        if seed_noise(row, bare, count) > image_noise(row, bare, count):
            sentence += "; further seeds (--repeats, --confirm) narrow that"
        return f"{sentence}."
    return (
        f"The choice of validation images alone can make {points} points{of_how_many} (95 %); "
        "each was trained with one seed, whose effect comes on top."
    )


def _points(gain: float, limit: float) -> tuple[str, str]:
    """Return two fractions in percentage points, with as many decimals as tell them apart."""
    for digits in (1, 2, 3):
        texts = f"{gain * 100:.{digits}f}", f"{limit * 100:.{digits}f}"
        if texts[0] != texts[1]:
            break
    return texts


def accuracy_text(row: Row) -> str:
    """Return the accuracy in percent, such as ``94.2 [92.1, 95.8] ±2.6``.

    The brackets are for the validation images; ± is for the training seeds, and left out while that is unknown.
    """
    half = seed_half_width(row)
    seeds = f" ±{half * 100:.1f}" if half is not None else ""
    return f"{row.accuracy * 100:.1f} [{row.accuracy_low * 100:.1f}, {row.accuracy_high * 100:.1f}]{seeds}"


def ratio_text(row: Row) -> str:
    """Return the latency ratio and its interval, such as ``1.083 [1.071, 1.094]``; ``?`` marks an unstable one."""
    mark = "?" if row.unstable else ""
    return f"{row.latency_ratio:.3f} [{row.ratio_low:.3f}, {row.ratio_high:.3f}]{mark}"


def ms_text(milliseconds: float) -> str:
    """Return a time with four significant digits and no exponent, such as ``3.214``."""
    return f"{milliseconds:.{max(0, 3 - math.floor(math.log10(milliseconds)))}f}"


def probability_text(row: Row) -> str:
    """Return the probability of being on the front, such as ``63 %``; a dash while it is unknown."""
    return "-" if row.front_probability is None else f"{row.front_probability * 100:.0f} %"


def count_text(count: int) -> str:
    """Return a count with three significant digits and its unit, such as ``11.2 M``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size * 0.9995:  # 999,600 is 1.00 M, not 1000 k
            return f"{count / size:#.3g} {unit}".replace(". ", " ")
    return str(count)


def change_text(row: Row, bare: Row | None) -> str:
    """Return how parameters, multiply-accumulates and latency differ from the bare backbone's; nothing for itself."""
    if bare is None or row.trial == bare.trial:
        return ""
    counts = {"parameters": (row.parameters, bare.parameters), "MACs": (row.macs, bare.macs)}
    parts = [f"{name} {percent_more(mine, base)}" for name, (mine, base) in counts.items() if base]
    return ", ".join([*parts, f"latency {percent_more(row.latency_ratio, 1)}"])


def percent_more(value: float, base: float) -> str:
    """Return by how much a figure is larger than a base above 0, such as ``+0.2%``."""
    return f"{value / base - 1:+.1%}"


def front_table(rows: Iterable[Row]) -> str:
    """Return the front as plain text, fastest first, and the controls that are dominated beneath it."""
    rows = list(rows)
    if not rows:
        return "No trial has finished yet."
    members = front(rows)
    on_front = {row.trial for row in members}
    beaten = sorted((row for row in rows if row.control and row.trial not in on_front), key=most_accurate)
    known = any(row.seed_error is not None for row in rows)
    lines = [f"front: {len(members)} of {len(rows)} finished trials; [low, high] is the 95 % interval"]
    lines += [text] if (text := legend([*members, *beaten])) else []
    names = ["trial", "accuracy %", "latency ms", "ratio to bare", "params", "architecture"]
    if known:
        names.insert(4, "on front")
    lines += [(_COLUMNS_WITH_SEEDS if known else _COLUMNS).format(*names).rstrip()]
    lines += [line for row in members for line in _table_lines(row, known)]
    if beaten:
        lines += ["controls that are not on the front:", *(line for row in beaten for line in _table_lines(row, known))]
    return "\n".join(lines)


def legend(rows: Iterable[Row]) -> str:
    """Return in one line what the signs mean that a table of these rows has; empty if it has none."""
    rows = list(rows)
    degrees = max((row.seed_degrees for row in rows), default=0)
    parts = []
    if degrees:
        parts.append(
            f"accuracy: [low, high] for the validation images, ± for the training seed ({degrees_text(degrees)})"
        )
        parts.append("on front: probability")
    if any(row.unstable for row in rows):
        parts.append("?: the machine was too busy to time it well")
    return "; ".join(parts)


def _table_lines(row: Row, known: bool) -> list[str]:
    """Return the lines of one row; the placements continue beneath each other where they exceed the width."""
    latency = (ms_text(row.latency_ms), ratio_text(row))
    figures: tuple[object, ...] = (row.trial, accuracy_text(row), *latency, count_text(row.parameters))
    if known:
        figures = (*figures[:-1], probability_text(row), figures[-1])
    columns = _COLUMNS_WITH_SEEDS if known else _COLUMNS
    words = [f"{row.control}:"] if row.control not in ("", BARE) else []
    words += row.architecture.describe().replace("; ", ";\n").split("\n")
    room = TABLE_WIDTH - len(columns.format(*figures, ""))
    wrapped = words[:1]
    for word in words[1:]:
        if len(wrapped[-1]) + 1 + len(word) <= room:
            wrapped[-1] += f" {word}"
        else:
            wrapped.append(word)
    blank = [""] * len(figures)
    return [columns.format(*figures, wrapped[0]), *(columns.format(*blank, line) for line in wrapped[1:])]
