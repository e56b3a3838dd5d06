"""Every block's formula once more, in plain torch, as its paper or its authors write it.

A formula takes the module (for its weights, options and mode), the map x (B, C, H, W) and the strength s, 1 for the
published block, and returns the output. It calls nothing of the module's own methods. The tests hold the blocks to
these formulas, output and gradients; the benchmark times the blocks against them.
"""

from __future__ import annotations

from formulas import channel, joint, mixing, pairs, spatial

FILES = (channel, spatial, joint, mixing, pairs)
FORMULAS = {block: getattr(file, block.replace("nonlocal", "non_local")) for file in FILES for block, _ in file.CASES}
"""The formulas by the names of the blocks."""
CASES = [case for file in FILES for case in file.CASES]
"""Blocks with options; together they take every path of every block."""
