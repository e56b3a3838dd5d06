"""Blocks in which every place may look at many others: all pairs of pixels or channels."""

from __future__ import annotations

from nas.attention.spec import BlockSpec

SPECS: tuple[BlockSpec, ...] = ()
"""In the order in which they are listed."""
