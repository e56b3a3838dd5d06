"""What each block does at each stage, drawn."""

from __future__ import annotations

from html import escape
from statistics import median
from typing import Any

from nas.effects import Effect, EffectMap, Estimate
from nas.report.look import look

ROW_PX = 30
"""Height of a line of the map."""
GAINS = ((0.0, "#B35806"), (0.25, "#F1A340"), (0.5, "#F7F7F7"), (0.75, "#998EC3"), (1.0, "#542788"))
"""Colours of what is worse and better, which colour-blind readers can tell apart (ColorBrewer's PuOr)."""
COSTS = ((0.0, "#FFFFFF"), (1.0, "#0072B2"))
"""Colours of what costs little and much."""
GUESSED = 0.5
"""Share of the variance before any training, from which on an effect is said to be mostly guessed."""
FIGURES = ("accuracy", "latency")
"""What a map may show."""


def effect_figure(effects: EffectMap, what: str) -> Any:
    """Draw blocks by stages; the number is the effect of putting the block there instead of nothing.

    Args:
        effects: What is to be drawn; at least one effect.
        what: ``accuracy``, in percentage points; or ``latency``, in % of the bare backbone's.

    Returns:
        A ``plotly.graph_objects.Figure``.
    """
    import plotly.graph_objects as go

    if what not in FIGURES:
        raise ValueError(f"the map shows {' or '.join(FIGURES)}, but got {what!r}")
    columns = sorted({(effect.stage, effect.position) for effect in effects.effects})
    cells = {((effect.stage, effect.position), effect.block): effect for effect in effects.effects}
    lines = [[cells.get((column, block)) for column in columns] for block in effects.blocks]
    values = [[None if cell is None else 100 * _of(cell, what).value for cell in line] for line in lines]
    estimates = [_of(effect, what) for effect in effects.effects]
    # What is as small as its interval is wide gets no strong colour: it may well be nothing.
    widths = [50 * (estimate.high - estimate.low) for estimate in estimates]
    most = max(median(widths), *(100 * abs(estimate.value) for estimate in estimates)) or 1.0
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": list(range(len(columns))),
        "y": list(range(len(lines))),
        "z": values,
        "text": [[_text(cell, what) for cell in line] for line in lines],
        "texttemplate": "%{text}",
        "textfont": {"size": 12},
        "hovertext": [["" if cell is None else _hover(cell) for cell in line] for line in lines],
        "hoverinfo": "text",
        "hoverongaps": False,
        "xgap": 2,
        "ygap": 2,
        "showscale": False,
    }
    if what == "accuracy":
        trace |= {"colorscale": GAINS, "zmin": -most, "zmax": most}
    else:
        trace |= {"colorscale": COSTS, "zmin": 0, "zmax": most}
    plain = {"showgrid": False, "zeroline": False, "fixedrange": True, "tickmode": "array", "ticks": ""}
    heads = [f"<b>stage {stage}</b>{_position_text(position)}" for stage, position in columns]
    across = {**plain, "side": "top", "tickvals": trace["x"], "ticktext": heads, "tickangle": 0}
    names = [escape(block) for block in effects.blocks]
    up = {**plain, "tickvals": trace["y"], "ticktext": names, "range": [len(lines) - 0.5, -0.5]}
    height = ROW_PX * len(lines) + (70 if any(_position_text(position) for _, position in columns) else 50)
    layout = look(across, up) | {
        "height": height,
        "margin": {"l": 80, "r": 8, "t": height - ROW_PX * len(lines), "b": 0},
    }
    return go.Figure({"data": [trace], "layout": layout})


def _of(effect: Effect, what: str) -> Estimate:
    return effect.accuracy if what == "accuracy" else effect.latency


def _position_text(position: str) -> str:
    return "" if position == "after_stage" else f"<br>{escape(position.replace('_', ' '))}"


def _text(effect: Effect | None, what: str) -> str:
    """Return what stands in a cell: the effect, in brackets where its interval holds 0."""
    if effect is None:
        return ""
    estimate = _of(effect, what)
    number = f"{round(100 * estimate.value, 1) + 0.0:+.1f}"  # + 0.0: there is no -0.0
    return number if is_sure(estimate) else f"({number})"


def is_sure(estimate: Estimate) -> bool:
    """Tell whether an interval leaves no doubt about the sign."""
    return estimate.low > 0 or estimate.high < 0


def interval_text(estimate: Estimate) -> str:
    """Return an effect in per cent or percentage points, such as ``+1.2 [0.3, 2.1]``."""
    return f"{100 * estimate.value:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"


def _hover(effect: Effect) -> str:
    """Return what is shown of a cell on touch."""
    lines = [f"<b>{escape(effect.block)} at stage {effect.stage}</b>{_position_text(effect.position)}"]
    lines += [f"accuracy {interval_text(effect.accuracy)} points"]
    lines += [f"latency {interval_text(effect.latency)} % of the bare backbone's"]
    of = f", the mean of {effect.options} settings" if effect.options > 1 else ""
    lines += [f"in {effect.n} trained architecture{'s' if effect.n != 1 else ''}{of}"]
    if effect.unsure > GUESSED:
        lines += ["which tell little of it: mostly what its block and its stage do elsewhere"]
    if effect.pair_accuracy is not None and effect.pair_latency is not None:
        lines += [f"{effect.pairs} matched pair{'s' if effect.pairs != 1 else ''}:"]
        lines += [f"  accuracy {interval_text(effect.pair_accuracy)} points"]
        lines += [f"  latency {interval_text(effect.pair_latency)} %"]
    return "<br>".join(lines)
