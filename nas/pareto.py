"""What the plot of accuracy against latency shows, worked out before anything is drawn; needs no plotly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from nas.answer import (
    accuracy_text,
    change_text,
    count_text,
    ms_text,
    probability_text,
    ratio_text,
    recommend,
    seed_half_width,
)
from nas.front import BARE, Row, bare_row, front, mark_front
from nas.limits import Limits

PLOT_SIZES_PX = ((290.0, 330.0), (1090.0, 420.0))
"""Width and height of the plotting area on a phone and on a desk; a label must be free on both."""
DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0.4, 1), (-0.4, 1), (0.4, -1), (-0.4, -1))
"""Where a label may stand: to the right of its marker, and above it."""
Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""


class Axes(NamedTuple):
    """The ranges of the two axes."""

    x: tuple[float, float]
    """Latency, in ms."""
    y: tuple[float, float]
    """Accuracy, in percent."""

    def pixels(self, latency_ms: float, accuracy: float, size: tuple[float, float]) -> tuple[float, float]:
        """Return where a point lies, from the lower left corner of a plotting area of that size."""
        x = (latency_ms - self.x[0]) / (self.x[1] - self.x[0]) * size[0]
        return x, (100 * accuracy - self.y[0]) / (self.y[1] - self.y[0]) * size[1]


@dataclass(frozen=True, kw_only=True)
class ParetoData:
    """What the plot of accuracy against latency shows, before anything is drawn."""

    others: list[Row]
    """Finished trials that are neither on the front nor a control."""
    front: list[Row]
    """The front, from the fastest to the slowest; controls may be among it."""
    bare: Row | None
    """The bare backbone, if it has finished."""
    controls: list[Row]
    """The bare backbone first, then the uniform controls."""
    recommended: Row | None
    """The recommended row, ``None`` where nothing has finished."""
    stages: tuple[int, ...]
    """Every stage at which any row has a block, and those that were named besides."""
    limit_ms: float | None
    """The latency beyond which nothing is trained; ``None`` for no such limit."""
    axes: Axes
    """Ranges that hold every point and every interval that is drawn."""
    ratio_ticks: list[tuple[float, str]]
    """Ticks of the upper axis: position in ms, and ratio to the bare backbone in words; empty without a bare row."""
    labels: dict[int, tuple[int, int]]
    """Where the label of each control stands, by trial: pixels to the right of its marker and above it."""


def limit_ms(rows: Iterable[Row], limits: Limits | None) -> float | None:
    """Return the latency beyond which nothing is trained, in ms; ``None`` for no such limit, or an unknown one."""
    if limits is None:
        return None
    found = [] if limits.latency_ms is None else [limits.latency_ms]
    bare = bare_row(rows)
    if limits.slowdown is not None and bare is not None:
        found.append(bare.latency_ms / bare.latency_ratio * (1 + limits.slowdown))
    return min(found, default=None)


def pareto_data(
    rows: Iterable[Row], *, stages: Iterable[int] = (), limit_ms: float | None = None, turned_ms: Sequence[float] = ()
) -> ParetoData:
    """Sort the rows into what the plot shows; needs no plotly.

    Args:
        rows: The finished trials.
        stages: Those that are named where nothing stands, besides those that any row uses.
        limit_ms: Latency beyond which nothing is trained.
        turned_ms: Latencies of what was timed and turned away.
    """
    rows = mark_front(rows)
    bare = bare_row(rows)
    controls = sorted((row for row in rows if row.control), key=lambda row: (row.control != BARE, row.trial))
    marked = [row for row in rows if row.on_front or row.control]
    # The limit belongs into the picture, unless everything is far from it.
    slowest = max((row.latency_ms for row in rows), default=0.0)
    near = [limit_ms] if limit_ms is not None and limit_ms <= 1.5 * slowest else []
    near += [min(max(turned_ms), 1.2 * limit) for limit in near if turned_ms]
    axes = Axes(
        _padded([row.latency_ms for row in rows] + [end for row in marked for end in latency_interval(row)] + near),
        _padded([100 * row.accuracy for row in rows] + [100 * end for row in marked for end in accuracy_interval(row)]),
    )
    return ParetoData(
        others=[row for row in rows if not (row.on_front or row.control)],
        front=front(rows),
        bare=bare,
        controls=controls,
        recommended=recommend(rows).row if rows else None,
        stages=tuple(sorted({*stages, *(each.stage for row in rows for each in row.architecture.placements)})),
        limit_ms=limit_ms,
        axes=axes,
        ratio_ticks=_ratio_ticks(axes.x, bare.latency_ms / bare.latency_ratio) if bare else [],
        labels=_place_labels(controls, rows, axes),
    )


def accuracy_interval(row: Row) -> tuple[float, float]:
    """Return the 95 % interval for the validation images and, where their noise is known, the training seeds."""
    seeds = seed_half_width(row) or 0.0
    low = row.accuracy - math.hypot(row.accuracy - row.accuracy_low, seeds)
    return max(0.0, low), min(1.0, row.accuracy + math.hypot(row.accuracy_high - row.accuracy, seeds))


def latency_interval(row: Row) -> tuple[float, float]:
    """Return the interval of the ratio, scaled to the row's latency in ms."""
    unit = row.latency_ms / row.latency_ratio
    return unit * row.ratio_low, unit * row.ratio_high


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """Return a range that holds the values with a margin, also where they are all equal or there are none."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.07 * (high - low) or 0.05 * abs(high) or 0.05
    return low - margin, high + margin


def _ratio_ticks(x_range: tuple[float, float], unit_ms: float) -> list[tuple[float, str]]:
    """Return at most six round ratios within the axis, each with its place in ms."""
    low, high = x_range[0] / unit_ms, x_range[1] / unit_ms
    power = 10.0 ** math.floor(math.log10(high - low))
    step = next(power * factor for factor in (0.1, 0.2, 0.5, 1, 2) if (high - low) / (power * factor) <= 5)
    ratios = [round(step * k, 9) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [(ratio * unit_ms, f"{ratio:g}×") for ratio in ratios]


def _place_labels(controls: Sequence[Row], rows: Sequence[Row], axes: Axes) -> dict[int, tuple[int, int]]:
    """Choose for each control's label, one after the other, the near place with the fewest collisions."""
    obstacles = [_obstacles(rows, axes, size) for size in PLOT_SIZES_PX]
    chosen = {}
    for row in controls:
        options = []
        for distance, (right, up) in itertools.product((24, 40, 60, 84), DIRECTIONS):
            shift = round(distance * right), round(distance * up)
            cost = distance / 30  # a longer line is worth less than one collision avoided
            for size, weighted in zip(PLOT_SIZES_PX, obstacles, strict=True):
                box = label_box(row, shift, axes, size)
                outside = box[0] < 0 or box[1] < 0 or box[2] > size[0] or box[3] > size[1]
                cost += 20 * outside + sum(weight for weight, other in weighted if overlap(box, other))
            options.append((cost, shift))
        _, chosen[row.trial] = min(options, key=lambda option: option[0])
        for size, weighted in zip(PLOT_SIZES_PX, obstacles, strict=True):
            weighted.append((10.0, label_box(row, chosen[row.trial], axes, size)))
    return chosen


def _obstacles(rows: Sequence[Row], axes: Axes, size: tuple[float, float]) -> list[tuple[float, Box]]:
    """Return the markers, and the accuracy bars of those that have one, each with what covering it costs."""
    boxes = []
    for row in rows:
        x, y = axes.pixels(row.latency_ms, row.accuracy, size)
        drawn_large = row.on_front or row.control
        boxes.append((2.0 if drawn_large else 1.0, (x - 7, y - 7, x + 7, y + 7)))
        if drawn_large:
            low, high = (axes.pixels(row.latency_ms, end, size)[1] for end in accuracy_interval(row))
            boxes.append((1.2, (x - 2, low - 2, x + 2, high + 2)))
    return boxes


def label_box(row: Row, shift: tuple[int, int], axes: Axes, size: tuple[float, float]) -> Box:
    x, y = axes.pixels(row.latency_ms, row.accuracy, size)
    half = 4.5 * len(label(row)) + 3
    return x + shift[0] - half, y + shift[1] - 10, x + shift[0] + half, y + shift[1] + 10


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def label(row: Row) -> str:
    return row.control.removesuffix(" everywhere")


def hover_text(row: Row, stages: Sequence[int], bare: Row | None = None) -> str:
    """Return what the plot tells about one row, one line per stage; every name is escaped."""
    blocks: dict[int, list[str]] = {stage: [] for stage in stages}
    for placement in row.architecture.placements:
        where = [] if placement.position == "after_stage" else [placement.position]
        options = [f"{name}={value}" for name, value in placement.options.items()]
        blocks.setdefault(placement.stage, []).append(" ".join([placement.block, *where, *options]))
    named = f" ({row.control})" if row.control else ""
    lines = [f"<b>trial {row.trial}{escape(named)}</b>"]
    lines += (
        ["  ".join(f"{stage} {'■' if names else '□'}" for stage, names in sorted(blocks.items()))] if blocks else []
    )
    lines += [f"stage {stage}: {escape(' + '.join(names) or 'none')}" for stage, names in sorted(blocks.items())]
    seeds = f" (mean of {row.seeds} seeds)" if row.seeds > 1 else ""
    lines += [f"accuracy {accuracy_text(row)} %{seeds}", f"latency {ms_text(row.latency_ms)} ms"]
    lines += [f"ratio to bare {ratio_text(row)}"]
    if row.graph_ratio is not None:
        lines += [f"as CUDA graphs {row.graph_ratio:.3f}"]
    lines += [f"{count_text(row.parameters)} parameters, {count_text(row.macs)} MACs"]
    if row.memory_bytes:
        lines += [f"{row.memory_bytes / 2**20:.1f} MiB in a forward pass"]
    if changed := change_text(row, bare):
        lines += [changed]
    if row.front_probability is not None:
        lines += [f"on the front with probability {probability_text(row)}"]
    return "<br>".join(lines)
