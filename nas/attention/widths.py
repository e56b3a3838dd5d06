"""Rules of widths: hidden units, groups, heads and kernels at a number of channels.

Plain functions, called by the table of blocks and by the blocks themselves, so that what is offered and what is built
cannot drift apart. Nothing here needs torch.
"""

from __future__ import annotations

HIDDEN_FLOOR = 4
"""Fewest hidden units of a bottleneck: ``channels // reduction`` alone reaches 0, a gate that ignores its input."""
COORD_FLOOR = 8
"""Fewest hidden units in coordinate attention, from its paper."""
GROUP_LIMIT = 64
"""Groups where none are asked for, in SGE and in shuffle attention, if that many fit the width."""

SK_FLOOR = 32
"""Fewest hidden units in selective kernels, the paper's L."""
SK_GROUPS = 32
"""Groups of their convolutions where none are asked for, if that many fit the width."""

ELA_NORM_GROUPS = 16
"""Groups of ELA's normalisation where none are asked for, if that many fit the width."""
LOCAL_EXTENTS = (2, 4, 8, 16, 32)
"""Extents of gather-excite that are not global, in pixels."""

HEAD_LIMIT = 8
"""Heads of an attention where none are asked for, if that many fit the width."""
HEAD_WIDTH = 8
"""Fewest channels of such a head."""
POSITION_ENTRIES = 16
"""Entries of a learned table of places, for each axis."""


def is_int(value: object) -> bool:
    """Return whether a value is an integer; ``True`` and ``False`` are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def hidden_width(channels: int, reduction: int, floor: int = HIDDEN_FLOOR) -> int:
    """Return the hidden units of a bottleneck, never fewer than ``floor`` unless the map itself is narrower."""
    return max(channels // reduction, min(floor, channels))


def eca_kernel(channels: int) -> int:
    """Return ECA's adaptive kernel size: the odd number nearest to (log2(channels) + 1) / 2, ties upward.

    The rule of arXiv 1910.03151 with its gamma = 2 and b = 1. The half's whole part is ``bit_length // 2`` exactly.
    """
    whole = channels.bit_length() // 2
    return whole if whole % 2 else whole + 1


def is_odd_kernel(size: object) -> bool:
    """Return whether a kernel size is an odd integer >= 1; an even one cannot keep the map's shape."""
    return isinstance(size, int) and is_int(size) and size >= 1 and size % 2 == 1


def splits(channels: int, groups: int, multiple: int) -> bool:
    """Return whether each of the groups gets the same number of channels, a multiple of ``multiple``."""
    return channels % (multiple * groups) == 0


def largest_group(channels: int, multiple: int, limit: int = GROUP_LIMIT) -> int:
    """Return the largest number of groups, at most ``limit``, that splits the channels; 0 if none does.

    Args:
        channels: Width of the map.
        multiple: What the channels of one group must be a multiple of.
        limit: Most groups.
    """
    return max((groups for groups in range(1, limit + 1) if splits(channels, groups, multiple)), default=0)


def fitting_heads(channels: int) -> int:
    """Return the largest number of heads, at most 8, that splits the channels into at least 8 each; or else 1."""
    fitting = (heads for heads in range(1, HEAD_LIMIT + 1) if splits(channels, heads, 1))
    return max((heads for heads in fitting if channels // heads >= HEAD_WIDTH), default=1)
