"""All figures of a study, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nas.report.coordinates_figure import coordinates_figure
from nas.report.curves_figure import curves_figure
from nas.report.effect_figure import effect_figure
from nas.report.macs_figure import compared, macs_figure
from nas.report.pareto_figure import pareto_figure
from nas.report.progress_figure import progress_figure
from nas.report.story import Story

Draw = Callable[[Story], Any]


def _effects(what: str) -> Draw:
    def draw(story: Story) -> Any:
        if story.effects is None:
            raise ValueError("no block has been trained yet, so that there is no effect to draw")
        return effect_figure(story.effects, what)

    return draw


FIGURES: dict[str, Draw] = {
    "pareto": lambda story: pareto_figure(story.rows, limits=story.limits, turned=story.turned, stages=story.stages),
    "accuracy effects": _effects("accuracy"),
    "latency effects": _effects("latency"),
    "progress": lambda story: progress_figure(story.rows, story.spent, story.gained),
    "curves": curves_figure,
    "coordinates": coordinates_figure,
    "macs": lambda story: macs_figure(story.rows),
}
"""How each figure is drawn from a story; the names are those of ``study.figure``."""

TITLES = {
    "pareto": "Accuracy against latency",
    "accuracy effects": "Accuracy that each block brings, in percentage points",
    "latency effects": "Latency that each block costs, in % of the bare backbone's",
    "progress": "How the front grew",
    "curves": "Learning curves",
    "coordinates": "Every trial across the stages",
    "macs": "Latency against counted operations",
}
"""What each figure shows, in words."""


def drawable(story: Story) -> list[str]:
    """Return the names of the figures for which enough is known."""
    if not story.rows:
        return []
    names = ["pareto"]
    names += ["accuracy effects", "latency effects"] if story.effects is not None else []
    names += ["progress"] if len(story.rows) > 1 else []
    names += ["curves", "coordinates"]
    return names + (["macs"] if compared(story.rows) else [])


def figures(story: Story) -> dict[str, Any]:
    """Return all figures for which enough is known, by name."""
    return {name: FIGURES[name](story) for name in drawable(story)}
