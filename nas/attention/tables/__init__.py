"""The table of blocks, one file for each cost class; needs no torch."""

from __future__ import annotations

from nas.attention.spec import BlockSpec
from nas.attention.tables import channel, joint, mixing, pairs, spatial

SPECS: tuple[BlockSpec, ...] = (*channel.SPECS, *spatial.SPECS, *joint.SPECS, *mixing.SPECS, *pairs.SPECS)
"""Every block, the cheap classes first."""
