"""How the figures look, and how they become HTML that needs no network."""

from __future__ import annotations

from functools import cache
from typing import Any

# Okabe and Ito's palette, which colour-blind readers can tell apart; every group has its own symbol as well.
MUTED, BLUE, ORANGE, BLACK = "#9A9A9A", "#0072B2", "#E69F00", "#000000"
CONTROL_STYLES = (("#009E73", "square"), ("#D55E00", "diamond"), ("#CC79A7", "triangle-up"), ("#56B4E9", "cross"))
# No menu entry may send the figure anywhere: plotly.js offers to upload it to its makers' server by default.
PLOT_CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "showSendToCloud": False,
    "modeBarButtonsToRemove": ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
}


AXIS = {"gridcolor": "#E6E6E6", "linecolor": "#666666", "showline": True, "zeroline": False, "ticks": "outside"}


def look(xaxis: dict[str, Any], yaxis: dict[str, Any]) -> dict[str, Any]:
    """Return what the layouts of the figures share."""
    layout: dict[str, Any] = {"template": "none", "font": {"size": 14, "color": "#222222"}, "hovermode": "closest"}
    layout |= {"xaxis": xaxis, "yaxis": yaxis, "paper_bgcolor": "white", "plot_bgcolor": "white"}
    layout |= {"hoverlabel": {"align": "left", "bgcolor": "white", "font": {"size": 13, "color": "#222222"}}}
    # Without dragging, a finger on the plot scrolls the page; zoom and pan stand in the menu.
    return layout | {"dragmode": False}


def drawn(figure: Any, name: str) -> str:
    """Return the HTML of a figure; plotly.js stands in the page already."""
    return str(
        figure.to_html(full_html=False, include_plotlyjs=False, config=PLOT_CONFIG, div_id=name, default_height="100%")
    )


@cache
def plotly_js() -> bytes:
    """Return plotly.js, 5 MB, read once per process: the page is written after every trial."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).encode()
