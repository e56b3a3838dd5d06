"""A network drawn as a row of its stages, with the blocks that stand there."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from nas.architecture import Architecture
from nas.report.story import Stage

CSS = """
.strip { display: inline-flex; flex-wrap: wrap; gap: .3rem; }
.strip span { border: 1px solid #bbb; border-radius: 4px; padding: .05rem .4rem; color: #666; font-size: .8rem;
  line-height: 1.35; background: #fafafa; }
.strip span.on { border: 2px solid #0072b2; background: #e6f1f8; color: #111; }
.strip small { display: block; color: #444; }
"""


def strip_html(architecture: Architecture, stages: Sequence[Stage]) -> str:
    """Return a row of stages as HTML; those that hold a block are marked, and say which."""
    return f'<span class="strip">{"".join(map(_box, boxes(architecture, stages)))}</span>'


def _box(box: tuple[int, list[tuple[str, str]]]) -> str:
    index, blocks = box
    if not blocks:
        return f"<span>{index}</span>"
    words = "".join(f" <b>{escape(name)}</b><small>{escape(options)}</small>" for name, options in blocks)
    return f'<span class="on">{index}{words}</span>'


def boxes(architecture: Architecture, stages: Sequence[Stage]) -> list[tuple[int, list[tuple[str, str]]]]:
    """Return for each stage its index and its blocks: name, with the position if it is not after the stage; options."""
    indices = sorted({index for index, _ in stages} | {placement.stage for placement in architecture.placements})
    found: dict[int, list[tuple[str, str]]] = {index: [] for index in indices}
    for placement in architecture.placements:
        where = "" if placement.position == "after_stage" else f" {placement.position}"
        options = ", ".join(f"{name}={value}" for name, value in placement.options.items())
        found[placement.stage].append((f"{placement.block}{where}", options))
    return list(found.items())
