"""The attention blocks: one table of what there is, and one function that builds.

Importing this package does not import torch; ``build`` does.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from nas.attention.options import OptionValue, nearest
from nas.attention.spec import INITS, BlockSpec
from nas.attention.tables import SPECS

if TYPE_CHECKING:
    from torch import nn

__all__ = ["BLOCKS", "INITS", "BlockSpec", "build", "spec_of"]

BLOCKS: Mapping[str, BlockSpec] = MappingProxyType({spec.name: spec for spec in SPECS})
"""Every block by name."""


def spec_of(name: object) -> BlockSpec:
    """Return a block's row of the table.

    Raises:
        ValueError: If there is no such block, with the nearest name.
    """
    if not isinstance(name, str) or name not in BLOCKS:
        raise ValueError(f"unknown block {name!r}{nearest(name, BLOCKS)}; known: {', '.join(BLOCKS)}")
    return BLOCKS[name]


def build(name: str, channels: int, *, init: str = "paper", **options: OptionValue) -> nn.Module:
    """Build a block that takes and returns maps of shape (B, channels, H, W).

    Args:
        name: A key of ``BLOCKS``.
        channels: Width of the map.
        init: ``paper`` for the published initialisation, ``identity`` for an exact pass-through at the start.
        **options: The block's own options; see ``BLOCKS[name].options``.

    Raises:
        ValueError: On an unknown block, option or init, or a value that is impossible at that width.
    """
    spec = spec_of(name)
    spec.check(options, channels)
    block_class = getattr(importlib.import_module(spec.module), spec.class_name)
    block: nn.Module = block_class(channels, init=init, **options)
    return block
